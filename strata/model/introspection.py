"""From a class to its fields: dataclasses and msgspec Structs with markers in `Annotated`."""

from __future__ import annotations

import collections.abc
import dataclasses
import datetime
import decimal
import enum
import inspect
import sys
import types
import typing
import uuid
from typing import Any

import msgspec

from strata.errors import InvalidModelError, NoPrimaryKeyError
from strata.model.fields import Field, Kind, check_identifier
from strata.model.markers import (
    AutoNow,
    AutoNowAdd,
    Default,
    Encrypted,
    Ignore,
    Indexed,
    Marker,
    OmitCache,
    OmitL1,
    PrimaryKey,
    Unique,
)

KINDS: dict[Any, Kind] = {
    str: Kind.TEXT,
    int: Kind.BIGINT,
    float: Kind.DOUBLE,
    bool: Kind.BOOLEAN,
    datetime.datetime: Kind.TIMESTAMPTZ,
    bytes: Kind.BYTEA,
    uuid.UUID: Kind.UUID,
    decimal.Decimal: Kind.NUMERIC,
    datetime.date: Kind.DATE,
    datetime.time: Kind.TIME,
    datetime.timedelta: Kind.INTERVAL,
}
CONTAINERS = (dict, list, tuple, set)
SUPPORTED = (
    "str, int, float, bool, datetime, bytes, UUID, Decimal, date, time, timedelta, Enum, Literal, a dataclass, dict, "
    "list, tuple or set, and each of them | None"
)
_FLAGS: dict[type[Marker], str] = {
    PrimaryKey: "primary_key",
    Unique: "unique",
    Indexed: "indexed",
    OmitCache: "omit_cache",
    OmitL1: "omit_l1",
    AutoNowAdd: "auto_now_add",
    AutoNow: "auto_now",
    Encrypted: "encrypted",
    Ignore: "ignore",
}


def fields_of(model: Any) -> tuple[Field, ...]:
    """The fields of a model in the order of their declaration.

    Raises `InvalidModelError` naming class, field and type, `NoPrimaryKeyError` where no field is the key.
    """
    if not is_model(model):
        raise InvalidModelError(
            f"{getattr(model, '__name__', type(model).__name__)} is not a model; it must be a dataclass or a msgspec.Struct"
        )
    hints = _hints(model)
    fields = tuple(_field(model, name, hints[name], factory) for name, factory in _declared(model))
    keys = [field for field in fields if field.primary_key]
    if not keys:
        raise NoPrimaryKeyError(f"{model.__name__} has no primary key; mark one field Annotated[str, PrimaryKey]")
    if len(keys) > 1:
        names = ", ".join(field.name for field in keys)
        raise InvalidModelError(f"{model.__name__} has several primary keys ({names}); mark exactly one")
    return fields


def is_model(model: Any) -> bool:
    """Whether the class is a dataclass or a msgspec Struct."""
    return isinstance(model, type) and (dataclasses.is_dataclass(model) or issubclass(model, msgspec.Struct))


def _hints(model: type) -> dict[str, Any]:
    # Names of a class made inside a function are looked up in the frames that lead here.
    frames: dict[str, Any] = {}
    frame = inspect.currentframe()
    while frame is not None:
        frames = {**frame.f_locals, **frames} if frame.f_code.co_name != "<module>" else frames
        frame = frame.f_back
    try:
        return typing.get_type_hints(
            model, localns={**frames, **vars(sys.modules[model.__module__])}, include_extras=True
        )
    except (NameError, TypeError) as error:
        raise InvalidModelError(
            f"the annotations of {model.__name__} cannot be resolved ({error}); use names that its module knows"
        ) from None


def _declared(model: Any) -> list[tuple[str, Any]]:
    """Names with a callable that gives the default, or None where there is none."""
    if issubclass(model, msgspec.Struct):
        return [
            (item.name, _factory(item.default, item.default_factory, msgspec.NODEFAULT))
            for item in msgspec.structs.fields(model)
        ]
    declared = []
    for item in dataclasses.fields(model):
        if not item.init and not any(_is_ignore(m) for m in _metadata(model, item.name)):
            raise InvalidModelError(
                f"{model.__name__}.{item.name} has init=False; a column must be a field of __init__"
            )
        declared.append((item.name, _factory(item.default, item.default_factory, dataclasses.MISSING)))
    return declared


def _metadata(model: type, name: str) -> tuple[Any, ...]:
    return getattr(_hints(model)[name], "__metadata__", ())


def _is_ignore(mark: Any) -> bool:
    return mark is Ignore or isinstance(mark, Ignore)


def _factory(default: Any, factory: Any, missing: Any) -> Any:
    if factory is not missing:
        return factory
    return None if default is missing else (lambda: default)


def _field(model: type, name: str, hint: Any, factory: Any) -> Field:
    where = f"{model.__name__}.{name}"
    hint, marks = _unwrap(hint)
    hint, nullable = _optional(where, hint)
    if nullable and typing.get_origin(hint) is typing.Annotated:
        hint, more = _unwrap(hint)
        marks += more
    flags, default = _flags(where, marks)
    if flags.get("ignore"):
        if len(flags) > 1 or default is not None:
            raise InvalidModelError(f"{where} is Ignore, so no other marker can be on it")
        if factory is None:
            raise InvalidModelError(f"{where} is Ignore and has no default; give it one")
        return Field(name, hint, None, nullable, default_factory=factory, ignore=True)
    check_identifier(name, f"column name of {model.__name__}")
    if name.lower().startswith("_strata"):
        raise InvalidModelError(f"{where}: names beginning with _strata are Strata's own; choose another")
    kind, choices = _kind(where, hint)
    field = Field(name, hint, kind, nullable, default=default, choices=choices, default_factory=factory, **flags)
    _check_marks(where, field)
    return field


def _unwrap(hint: Any) -> tuple[Any, tuple[Any, ...]]:
    if typing.get_origin(hint) is typing.Annotated:
        return hint.__origin__, tuple(hint.__metadata__)
    return hint, ()


def _optional(where: str, hint: Any) -> tuple[Any, bool]:
    if typing.get_origin(hint) not in (typing.Union, types.UnionType):
        return hint, False
    arms = [arm for arm in typing.get_args(hint) if arm is not type(None)]
    if len(arms) != 1 or len(arms) == len(typing.get_args(hint)):
        raise InvalidModelError(f"{where} has the type {_name(hint)}; it must be one of {SUPPORTED}")
    return arms[0], True


def _flags(where: str, marks: tuple[Any, ...]) -> tuple[dict[str, bool], Default | None]:
    flags: dict[str, bool] = {}
    default = None
    for mark in marks:
        if isinstance(mark, Default):
            default = mark
        elif mark is Default:
            raise InvalidModelError(f"{where}: Default needs a value, as in Default(1) or Default(sql='now()')")
        elif (kind := mark if isinstance(mark, type) else type(mark)) in _FLAGS:
            flags[_FLAGS[kind]] = True
        elif isinstance(mark, Marker) or (isinstance(mark, type) and issubclass(mark, Marker)):
            raise InvalidModelError(f"{where}: {mark!r} is not a marker that can stand on a field")
    return flags, default


def _kind(where: str, hint: Any) -> tuple[Kind, dict[str, Any] | None]:
    if hint in KINDS:
        return KINDS[hint], None
    if isinstance(hint, type) and issubclass(hint, enum.Enum):
        choices = {str(member.value): member for member in hint}
        if len(choices) != len(hint) or not all(isinstance(member.value, str | int) for member in hint):
            raise InvalidModelError(
                f"{where}: the values of {hint.__name__} must be texts or numbers that differ as text"
            )
        return Kind.TEXT, choices
    if typing.get_origin(hint) is typing.Literal:
        values = typing.get_args(hint)
        if not all(isinstance(value, str) for value in values):
            raise InvalidModelError(f"{where} is a Literal of other things than texts; only texts can be stored")
        return Kind.TEXT, {value: value for value in values}
    base = typing.get_origin(hint) or hint
    if base in CONTAINERS or base in (collections.abc.Mapping, collections.abc.Sequence) or is_model(base):
        try:
            msgspec.json.Decoder(hint)
        except (TypeError, ValueError) as error:
            raise InvalidModelError(f"{where} has the type {_name(hint)}, which JSONB cannot hold: {error}") from None
        return Kind.JSONB, None
    raise InvalidModelError(f"{where} has the type {_name(hint)}; it must be one of {SUPPORTED}")


def _check_marks(where: str, field: Field) -> None:
    if field.primary_key:
        if field.annotation not in (str, int, uuid.UUID) or field.nullable:
            raise InvalidModelError(f"{where} is the primary key; it must be a str, an int or a UUID")
        if field.omit_cache or field.omit_l1 or field.encrypted:
            raise InvalidModelError(f"{where} is the primary key; it can be neither omitted nor encrypted")
    if field.encrypted and field.annotation is not str:
        raise InvalidModelError(f"{where} is Encrypted; only str and str | None can be")
    if field.encrypted and (field.unique or field.indexed or field.default is not None):
        raise InvalidModelError(
            f"{where} is Encrypted; its ciphertext is different each time, so no index, UNIQUE or Default"
        )
    if (field.auto_now or field.auto_now_add) and field.annotation is not datetime.datetime:
        raise InvalidModelError(f"{where} is stamped automatically; it must be a datetime (or datetime | None)")
    if field.auto_now and field.auto_now_add:
        raise InvalidModelError(f"{where} is both AutoNow and AutoNowAdd; choose one")


def _name(hint: Any) -> str:
    return getattr(hint, "__name__", None) if isinstance(hint, type) else str(hint)  # type: ignore[return-value]
