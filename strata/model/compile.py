"""The one place that generates source: functions over the fields of one model, without loops or look-ups.

The source is made of the names `a0, a1, ...`, of the model's own field names, which are identifiers, and of nothing
that a user wrote; values and functions come in through the namespace.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import msgspec

Function = Callable[..., Any]


def function(name: str, arguments: str, body: Sequence[str], namespace: dict[str, Any]) -> Function:
    """A function from its lines."""
    source = f"def {name}({arguments}):\n" + "".join(f"    {line}\n" for line in body)
    scope = dict(namespace)
    exec(compile(source, f"<strata {name}>", "exec"), scope)  # noqa: S102 see above
    made: Function = scope[name]
    return made


def builder(model: Any, names: Sequence[str]) -> tuple[list[str], dict[str, Any]]:
    """Lines that make an instance `o` from `a0, a1, ...` without running `__init__` or `__post_init__`."""
    space: dict[str, Any] = {"_cls": model, "_new": object.__new__, "_set": object.__setattr__}
    if issubclass(model, msgspec.Struct):
        if hasattr(model, "__post_init__"):
            space |= {"_new": model.__new__, "_set": msgspec.structs.force_setattr}
            return ["o = _new(_cls)", *(f"_set(o, {name!r}, a{place})" for place, name in enumerate(names))], space
        arguments = ", ".join(f"{name}=a{place}" for place, name in enumerate(names))
        return [f"o = _cls({arguments})"], space
    if model.__setattr__ is object.__setattr__:
        return ["o = _new(_cls)", *(f"o.{name} = a{place}" for place, name in enumerate(names))], space
    if hasattr(model, "__dict__") and not _slotted(model):
        pairs = ", ".join(f"{name!r}: a{place}" for place, name in enumerate(names))
        return ["o = _new(_cls)", f"_set(o, '__dict__', {{{pairs}}})"], space
    return ["o = _new(_cls)", *(f"_set(o, {name!r}, a{place})" for place, name in enumerate(names))], space


def _slotted(model: Any) -> bool:
    return all("__slots__" in vars(base) for base in model.__mro__[:-1])


def immutable(model: Any) -> bool:
    """Whether the class forbids changing its fields."""
    if issubclass(model, msgspec.Struct):
        return bool(model.__struct_config__.frozen)
    parameters: Any = getattr(model, "__dataclass_params__", None)
    return bool(parameters and parameters.frozen)
