"""The DEFAULT of a column as Python: a value where it is a literal of a simple type."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from decimal import Decimal, InvalidOperation

from strata.cli.inspect_table.text import quoted

# As PostgreSQL writes them: 'text'::type, 5, true. Other expressions have operators, calls or parentheses in them.
_LITERAL = re.compile(r"""(?:'((?:[^']|'')*)'|([0-9.]+)|(true|false))(?:::[\w ."\[\](),]+)?\Z""")
_NULL = re.compile(r"NULL(?:::|\Z)")


def is_null(expression: str) -> bool:
    """Whether it is as good as no DEFAULT."""
    return _NULL.match(expression) is not None


def literal(expression: str) -> str | None:
    """The text of the value that the expression is; None where it has to be computed."""
    found = _LITERAL.match(expression)
    if found is None:
        return None
    inside, number, truth = found.groups()
    return number or truth or inside.replace("''", "'")


def source(text: str, python: type) -> str:
    """What makes the value of this type, as source; empty where no literal does."""
    try:
        return _SOURCES[python](text) if python in _SOURCES else ""
    except (ValueError, InvalidOperation):  # such as the 1.5 that PostgreSQL rounds to an INTEGER
        return ""


def _decimal(text: str) -> str:
    return f'Decimal("{text}")' if Decimal(text).is_finite() else ""


def _float(text: str) -> str:
    return repr(float(text)) if math.isfinite(float(text)) else ""


_SOURCES: Mapping[type, Callable[[str], str]] = {
    str: quoted,
    int: lambda text: str(int(text)),
    bool: lambda text: {"true": "True", "false": "False"}.get(text, ""),
    Decimal: _decimal,
    float: _float,
    dict: lambda text: "dataclasses.field(default_factory=dict)" if text == "{}" else "",
    list: lambda text: "dataclasses.field(default_factory=list)" if text == "[]" else "",
}
