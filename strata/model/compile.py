"""The one place that generates source: functions over the fields of one model, or of one signature, without loops.

The source is made of names that are numbered here, and of those of fields and parameters, which `check_column_name` has
passed, or the statement that made the class, or the function, has. All else comes in as objects bound to names.
"""

from __future__ import annotations

import datetime
import decimal
import uuid
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any

from strata.model.unloaded import UNLOADED

Function = Callable[..., Any]
# What the source of every function may name, besides what is bound for it.
COMMON: dict[str, Any] = {
    "U": UNLOADED,
    "datetime": datetime.datetime,
    "date": datetime.date,
    "time": datetime.time,
    "timedelta": datetime.timedelta,
    "UTC": datetime.UTC,
    "UUID": uuid.UUID,
    "Decimal": decimal.Decimal,
}


@dataclass(frozen=True, slots=True)
class Step:
    """One operation on a value: code over `{v}`, a variable, and `{f}`, the helper."""

    code: str
    helper: Any = None


CALL = "{f}({v})"


class Source:
    """A function in the making."""

    def __init__(self, name: str, arguments: str = "", taken: Collection[str] = ()) -> None:
        """`taken` are names that the arguments have, and nothing else may."""
        self._name = name
        self._arguments = arguments
        self._taken = taken
        self._lines: list[str] = []
        self._bound: dict[str, Any] = {}
        self._fresh = 0

    def bind(self, value: Any) -> str:
        """A name for an object."""
        name = f"b{len(self._bound)}"
        while name in self._taken:
            name += "_"
        self._bound[name] = value
        return name

    def fresh(self) -> str:
        """The name of a variable that nothing else uses."""
        self._fresh += 1
        name = f"x{self._fresh}"
        while name in self._taken:
            name += "_"
        return name

    def line(self, code: str, depth: int = 1) -> None:
        """One more line."""
        self._lines.append("    " * depth + code)

    def plain(self, step: Step, variable: str) -> str:
        """The step as an expression."""
        helper = "" if step.helper is None else self.bind(step.helper)
        return step.code.format(v=variable, f=helper)

    def apply(self, step: Step | None, variable: str) -> str:
        """The step as an expression that passes None and UNLOADED through; no step is the variable itself."""
        if step is None:
            return variable
        return f"({variable} if {variable} is None or {variable} is U else {self.plain(step, variable)})"

    def function(self, arguments: str | None = None, begin: str = "def") -> Function:
        """The function; `arguments` where they were not known before."""
        scope = COMMON | self._bound
        head = f"{begin} {self._name}({self._arguments if arguments is None else arguments}):"
        exec(compile("\n".join([head, *self._lines]), f"<strata {self._name}>", "exec"), scope)  # noqa: S102 see above
        made: Function = scope[self._name]
        return made


def same(value: Any) -> Any:
    """The identity."""
    return value
