"""pydantic models: how they are told apart, what they declare, and what an instance of theirs consists of.

Strata never imports pydantic: a class can be such a model only where the application has imported it.
"""

from __future__ import annotations

import copy
import datetime
import enum
import functools
import sys
import types
import typing
from collections.abc import Callable, Mapping
from typing import Any

from strata.errors import InvalidModelError

OLDEST = (2, 12)  # before, the fields of a base that was not complete may be left unresolved in its heirs
# Stand-ins of pydantic's for plain types: what their fields hold is the plain type.
PLAIN: Mapping[str, Any] = {
    "pydantic.networks.EmailStr": str,
    "pydantic.types.AwareDatetime": datetime.datetime,
    "pydantic.types.PastDatetime": datetime.datetime,
    "pydantic.types.FutureDatetime": datetime.datetime,
    "pydantic.types.PastDate": datetime.date,
    "pydantic.types.FutureDate": datetime.date,
}
_PARSED = {f"pydantic.types.{name}" for name in ("Json", "EncodedBytes", "EncodedStr")}


def is_pydantic(model: Any) -> bool:
    """Whether this is a class of pydantic's `BaseModel`, other than that itself."""
    base = getattr(sys.modules.get("pydantic.main"), "BaseModel", None)
    return base is not None and isinstance(model, type) and issubclass(model, base) and model is not base


def is_version_1(model: Any) -> bool:
    """Whether this is a model of what pydantic 2 keeps of its first version, `pydantic.v1`."""
    return isinstance(model, type) and any(base.__module__ == "pydantic.v1.main" for base in model.__mro__)


def core() -> Any:
    """The module `pydantic_core`, which pydantic has imported."""
    return sys.modules["pydantic_core"]


def check(model: Any) -> None:
    """Raise `InvalidModelError` for a model that no columns can hold."""
    version = str(sys.modules["pydantic"].VERSION)
    if tuple(int(number) for number in version.split(".")[:2]) < OLDEST:
        wanted = ".".join(map(str, OLDEST))
        raise InvalidModelError(f"{model.__name__} is a model of pydantic {version}; Strata takes {wanted} and later")
    if model.__pydantic_root_model__:
        raise InvalidModelError(
            f"{model.__name__} is a RootModel, which has no fields; annotate the type that it holds"
        )
    if model.model_config.get("extra") == "allow":
        raise InvalidModelError(
            f"{model.__name__} allows extra fields, for which there are no columns; declare them, or a field of type "
            "dict, and set extra to 'ignore' or 'forbid'"
        )


def annotations_of(model: Any, names: Mapping[str, Any]) -> dict[str, Any]:
    """The annotations by field, `Annotated` as they were. `names` are known where the class was made.

    Raises what pydantic raises for a name that it does not know, and `InvalidModelError` for what is not kept as it is
    given: its own validator would refuse it, or decode it once more, whenever the record is written again.
    """
    if not model.__pydantic_complete__:
        model.model_rebuild(_types_namespace=dict(names))
    found = {}
    for name, item in model.__pydantic_fields__.items():
        hint = typing.Annotated[(item.annotation, *item.metadata)] if item.metadata else item.annotation
        parsed = _parsed(hint)
        if parsed is not None:
            raise InvalidModelError(
                f"{model.__name__}.{name} is marked {parsed}, which reads the value from another form; annotate the "
                "type of what is read, and read it before the record is made"
            )
        found[name] = _by_value(hint) if model.model_config.get("use_enum_values") else hint
    return found


def default_of(item: Any) -> tuple[Any, Callable[[], Any] | None]:
    """The default of a field that all records may share, or else the factory of those that may not; `MISSING` for none.

    A factory that takes the validated data makes nothing without them, and counts as none.
    """
    if item.is_required() or (item.default_factory is not None and item.default_factory_takes_validated_data):
        return MISSING, None
    if item.default_factory is not None:
        return MISSING, item.default_factory
    shared = item.default is None or isinstance(item.default, _SHARED)
    return (item.default, None) if shared else (MISSING, functools.partial(copy.deepcopy, item.default))


def privates_of(model: Any) -> Callable[[Mapping[str, Any]], dict[str, Any] | None] | None:
    """A function of a record's fields that makes its private attributes by their defaults; None where it has none."""
    attributes = model.__private_attributes__
    if not attributes:
        return None
    undefined = core().PydanticUndefined

    def privates(fields: Mapping[str, Any]) -> dict[str, Any]:
        made: dict[str, Any] = {}
        for name, item in attributes.items():
            if item.default_factory is None:
                if item.default is not undefined:
                    made[name] = copy.deepcopy(item.default)
            elif getattr(item, "default_factory_takes_validated_data", False):
                made[name] = item.default_factory({**fields, **made})
            else:
                made[name] = item.default_factory()
        return made

    return privates


def blank_of(model: Any) -> Any:
    """A class beside the model, of its layout in most cases, whose instances take any assignment."""
    return _blank(next(base for base in model.__mro__ if base.__module__ == "pydantic.main"))


@functools.cache
def _blank(base: Any) -> Any:
    # Made by `type`, for pydantic's metaclass would see a model in it.
    plain = {"__setattr__": object.__setattr__, "__delattr__": object.__delattr__}
    return type.__new__(type(base), "Blank", (base,), plain)


MISSING: Any = object()
_SHARED = (bool, int, float, str, bytes, enum.Enum, datetime.date, datetime.time, datetime.timedelta)


def _parsed(hint: Any) -> str | None:
    """The mark in a hint, at any depth, of a value that is read from another form."""
    if typing.get_origin(hint) is typing.Annotated:
        for mark in hint.__metadata__:
            kind = mark if isinstance(mark, type) else type(mark)
            if f"{kind.__module__}.{kind.__qualname__}" in _PARSED:
                return kind.__qualname__
        return _parsed(hint.__origin__)
    return next(filter(None, map(_parsed, typing.get_args(hint))), None)


def _by_value(hint: Any) -> Any:
    """A hint with the values of each Enum in its place, as `use_enum_values` keeps them."""
    if isinstance(hint, type) and issubclass(hint, enum.Enum):
        return typing.Literal[tuple(member.value for member in hint)]
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Annotated:
        return typing.Annotated[(_by_value(hint.__origin__), *hint.__metadata__)]
    if origin is None or origin is typing.Literal or not args:
        return hint
    inner = tuple(_by_value(arg) for arg in args)
    return typing.Union[inner] if origin in (typing.Union, types.UnionType) else origin[inner]  # noqa: UP007 as known
