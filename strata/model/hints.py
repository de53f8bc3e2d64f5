"""What a class declares: its fields with resolved annotations and defaults, whatever kind of model it is."""

from __future__ import annotations

import builtins
import dataclasses
import inspect
import keyword
import sys
import types
import typing
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import msgspec
from msgspec._core import Factory  # type: ignore[import-not-found] # msgspec has no public name for it

from strata.errors import InvalidModelError
from strata.model import pydantic_models
from strata.model.markers import Marker
from strata.model.pydantic_models import is_pydantic


@dataclass(frozen=True, slots=True)
class Declared:
    """One field as the class declares it; `factory` makes its default, where it has one."""

    name: str
    hint: Any
    factory: Callable[[], Any] | None


@dataclass(frozen=True, slots=True)
class Constant:
    """The factory of a plain default: the same value each time."""

    value: Any

    def __call__(self) -> Any:
        return self.value


@dataclass(frozen=True, slots=True)
class Stripped:
    """A type hint taken apart: the bare type, the metadata of every `Annotated` around it, whether None is allowed."""

    bare: Any
    metadata: tuple[Any, ...]
    nullable: bool

    @property
    def markers(self) -> list[Any]:
        """Strata's markers, each as an instance or as the class itself."""
        return [mark for mark in self.metadata if isinstance(mark, Marker) or _is_class(mark, Marker)]


def is_record(model: Any) -> bool:
    """Whether this is a dataclass, a msgspec Struct or a pydantic model."""
    kinds = dataclasses.is_dataclass(model) or _is_class(model, msgspec.Struct) or is_pydantic(model)
    return _is_class(model, object) and kinds


def is_frozen(model: Any) -> bool:
    """Whether the class forbids assignment to its fields, and keeps nothing else in an instance."""
    if is_pydantic(model):
        frozen = model.model_config.get("frozen", False) and not model.__private_attributes__
    elif issubclass(model, msgspec.Struct):
        frozen = model.__struct_config__.frozen
    else:
        frozen = model.__dataclass_params__.frozen
    return frozen and not any(_caches(value) for base in model.__mro__ for value in vars(base).values())


def _caches(value: Any) -> bool:
    # As functools.cached_property: told its name, it puts what it computed in its own place.
    kind = type(value)
    return hasattr(kind, "__set_name__") and hasattr(kind, "__get__") and not hasattr(kind, "__set__")


def declared(model: Any) -> tuple[Declared, ...]:
    """The fields in the order of their declaration. Raises `InvalidModelError` for what cannot be read."""
    if is_pydantic(model):
        pydantic_models.check(model)
        hints = _resolved(model)  # which may have to bring its fields about
        found = _of_pydantic(model)
    else:
        found = _of_struct(model) if issubclass(model, msgspec.Struct) else _of_dataclass(model)
        hints = _resolved(model)
    for name, _ in found:
        if not name.isidentifier() or keyword.iskeyword(name):
            raise InvalidModelError(f"{model.__name__} has a field named {name!r}; it must be a name in Python")
    return tuple(Declared(name, hints[name], factory) for name, factory in found)


def returned(function: Any) -> Any:
    """What a function says that it returns, resolved; `inspect.Parameter.empty` where it says nothing. Raises
    `InvalidModelError` for what cannot be resolved."""
    try:
        said = inspect.get_annotations(function)
        if "return" not in said:
            return inspect.Parameter.empty
        alone = types.SimpleNamespace(__annotations__={"return": said["return"]})
        names = _enclosing(function)
        return typing.get_type_hints(alone, function.__globals__, names, include_extras=True)["return"]
    except Exception as error:  # noqa: BLE001 annotations are code of the user's
        raise InvalidModelError(
            f"the return annotation of {function.__qualname__} cannot be resolved ({type(error).__name__}: {error}); "
            "use names that its module knows"
        ) from None


def strip(hint: Any) -> Stripped:
    """A hint without `Annotated`, `NewType`, type aliases and `| None`."""
    metadata: tuple[Any, ...] = ()
    nullable = False
    while True:
        origin = typing.get_origin(hint)
        if origin is typing.Annotated:
            metadata += hint.__metadata__
            hint = hint.__origin__
        elif isinstance(hint, typing.NewType):
            hint = hint.__supertype__
        elif type(hint).__name__ == "TypeAliasType":  # `type X = ...`, which Python 3.11 does not have
            hint = hint.__value__
        elif origin in (typing.Union, types.UnionType) and type(None) in typing.get_args(hint):
            nullable = True
            arms = tuple(arm for arm in typing.get_args(hint) if arm is not type(None))
            hint = arms[0] if len(arms) == 1 else typing.Union[arms]  # noqa: UP007 the arms are known at run time only
        elif origin is typing.Literal and None in typing.get_args(hint) and len(typing.get_args(hint)) > 1:
            nullable = True
            hint = typing.Literal[tuple(arm for arm in typing.get_args(hint) if arm is not None)]
        elif isinstance(hint, type) and f"{hint.__module__}.{hint.__qualname__}" in pydantic_models.PLAIN:
            hint = pydantic_models.PLAIN[f"{hint.__module__}.{hint.__qualname__}"]
        else:
            return Stripped(hint, metadata, nullable)


def spelled(hint: Any) -> str:
    """A type's name as a person would write it."""
    if isinstance(hint, type) and not typing.get_args(hint):
        return hint.__qualname__
    try:
        return str(hint)
    except Exception:  # noqa: BLE001 whatever stands in an annotation, with a __str__ of its own
        return f"a {type(hint).__name__}"


def _is_class(value: Any, base: type) -> bool:
    return isinstance(value, type) and not typing.get_args(value) and issubclass(value, base)


def _of_struct(model: Any) -> list[tuple[str, Callable[[], Any] | None]]:
    # Not msgspec.structs.fields, which cannot resolve the names of a class inside a function.
    names, defaults = model.__struct_fields__, model.__struct_defaults__
    padded = (msgspec.NODEFAULT,) * (len(names) - len(defaults)) + defaults
    return [
        (name, default.factory if isinstance(default, Factory) else _factory(default, None, msgspec.NODEFAULT))
        for name, default in zip(names, padded, strict=True)
    ]


def _of_dataclass(model: Any) -> list[tuple[str, Callable[[], Any] | None]]:
    shown = {item.name for item in dataclasses.fields(model)}
    for name, item in model.__dataclass_fields__.items():
        if name not in shown and item._field_type.name == "_FIELD_INITVAR":
            raise InvalidModelError(
                f"{model.__name__}.{name} is an InitVar, which no record keeps; make it a field, or leave it out"
            )
    return [
        (item.name, _factory(item.default, item.default_factory, dataclasses.MISSING))
        for item in dataclasses.fields(model)
    ]


def _of_pydantic(model: Any) -> list[tuple[str, Callable[[], Any] | None]]:
    return [
        (name, _factory(*pydantic_models.default_of(item), pydantic_models.MISSING))
        for name, item in model.__pydantic_fields__.items()
    ]


def _factory(default: Any, factory: Any, missing: Any) -> Callable[[], Any] | None:
    if factory is not None and factory is not missing:
        return factory  # type: ignore[no-any-return]
    return None if default is missing else Constant(default)


def _resolved(model: Any) -> dict[str, Any]:
    try:
        names = {**_within(model), **_enclosing(model)}
        if is_pydantic(model):
            return pydantic_models.annotations_of(model, names)
        return typing.get_type_hints(model, localns=names, include_extras=True)
    except InvalidModelError:
        raise
    except Exception as error:  # noqa: BLE001 annotations are code of the user's
        raise InvalidModelError(
            f"the annotations of {model.__name__} cannot be resolved ({type(error).__name__}: {error}); use names that "
            "its module knows, or leave out `from __future__ import annotations`"
        ) from None


def _within(model: Any) -> dict[str, Any]:
    """The names that a class body defines beside its fields, such as an Enum's; a module's own names go before them."""
    names: dict[str, Any] = {}
    for base in reversed(model.__mro__):
        known = {
            *vars(builtins),
            *vars(sys.modules.get(base.__module__, builtins)),
            *vars(base).get("__annotations__", ()),
        }
        names |= {name: value for name, value in vars(base).items() if name not in known and not name.startswith("__")}
    return names


def _enclosing(model: Any) -> dict[str, Any]:
    """The names that the functions around a class know, while they still run."""
    outer, local, _ = model.__qualname__.rpartition(".<locals>.")
    names: dict[str, Any] = {}
    frame = inspect.currentframe() if local else None
    while frame is not None:
        here = frame.f_code.co_qualname
        if frame.f_globals.get("__name__") == model.__module__ and f"{outer}.".startswith(f"{here}."):
            names = {**frame.f_locals, **names}
        frame = frame.f_back
    return {model.__name__: model, **names}
