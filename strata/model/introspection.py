"""From a class of any kind, with markers in `Annotated`, to its fields and columns."""

from __future__ import annotations

import datetime
import uuid
from dataclasses import replace
from typing import Any

from strata.errors import EncodeError, InvalidModelError, MissingPrimaryKeyError, NoPrimaryKeyError, shown
from strata.model.choices import choices_of, is_choice
from strata.model.columns import Column, form_of
from strata.model.fields import Field, check_column_name
from strata.model.hints import Constant, Declared, declared, is_record, spelled, strip
from strata.model.keys import KEYS
from strata.model.markers import (
    AutoNow,
    AutoNowAdd,
    Default,
    Encrypted,
    Generated,
    Ignore,
    Indexed,
    Marker,
    OmitCache,
    OmitL1,
    PrimaryKey,
    Unique,
)
from strata.model.pydantic_models import is_version_1

_FLAGS: dict[type[Marker], str] = {
    PrimaryKey: "primary_key",
    Generated: "generated",
    Unique: "unique",
    Indexed: "indexed",
    OmitCache: "omit_cache",
    OmitL1: "omit_l1",
    AutoNowAdd: "auto_now_add",
    AutoNow: "auto_now",
    Encrypted: "encrypted",
    Ignore: "ignore",
}
_ASSIGNED = (int, uuid.UUID)  # of which the database makes keys


def inspect(model: Any) -> tuple[tuple[Field, ...], tuple[Column, ...]]:
    """All fields of a model, and its columns, in the order of their declaration.

    Raises `InvalidModelError` naming class, field and type, and `NoPrimaryKeyError` where no field is the key.
    """
    if not is_record(model):
        name = getattr(model, "__name__", None) or f"a {type(model).__name__}"
        wanted = "it must be a dataclass, a msgspec.Struct or a pydantic.BaseModel"
        if is_version_1(model):
            raise InvalidModelError(f"{name} is a model of pydantic.v1; {wanted}, of pydantic 2")
        raise InvalidModelError(f"{name} is not a model; {wanted}")
    parts = [_field(model.__name__, item) for item in declared(model)]
    keys = [part for part, _ in parts if part.primary_key]
    if not keys:
        raise NoPrimaryKeyError(f"{model.__name__} has no primary key; annotate one field Annotated[str, PrimaryKey]")
    generated = [part.name for part in keys if part.generated]
    if generated and len(keys) > 1:
        raise InvalidModelError(
            f"{model.__name__}.{generated[0]} is Generated and one of several fields of the key "
            f"({', '.join(part.name for part in keys)}); the database assigns keys of one field only: leave Generated "
            "out, and give each record its key"
        )
    return tuple(part for part, _ in parts), tuple(column for _, column in parts if column is not None)


def _field(model: str, item: Declared) -> tuple[Field, Column | None]:
    where = f"{model}.{item.name}"
    stripped = strip(item.hint)
    default, flags = _flags(where, stripped.markers)
    if "ignore" in flags:
        if len(stripped.markers) > 1:
            raise InvalidModelError(f"{where} is Ignore; no other marker can stand beside it")
        if item.factory is None:
            raise InvalidModelError(f"{where} is Ignore and has no default; give it one, for reads to fill in")
        return Field(item.name, stripped.bare, None, stripped.nullable, ignore=True, factory=item.factory), None
    check_column_name(item.name, model)
    form = form_of(stripped.bare, where)
    choices = choices_of(stripped.bare, where) if is_choice(stripped.bare) else None
    field = Field(
        item.name, stripped.bare, form.kind, stripped.nullable, choices=choices, factory=item.factory, **flags
    )
    _check_markers(where, field, default)
    column = Column(where, replace(field, nullable=field.nullable and not field.generated), form)
    if default is not None:
        column = replace(column, field=replace(column.field, default=_in_row(column, default)))
    return column.field, column


def _flags(where: str, markers: list[Any]) -> tuple[Default | None, dict[str, Any]]:
    flags: dict[str, Any] = {}
    default: Default | None = None
    for mark in markers:
        kind = mark if isinstance(mark, type) else type(mark)
        if mark is Default or (kind is Default and default is not None):
            raise InvalidModelError(f"{where}: Default takes one value, as in Default(1) or Default(sql='now()')")
        if isinstance(mark, Default):
            default = mark
        elif kind in _FLAGS:
            flags[_FLAGS[kind]] = True
        else:
            raise InvalidModelError(f"{where}: {shown(mark)} is not a marker of Strata's; it must be one of its own")
    return default, flags


def _check_markers(where: str, field: Field, default: Default | None) -> None:
    typed = spelled(field.annotation) + (" | None" if field.nullable else "")
    if field.generated:
        _check_generated(where, typed, field, default)
    if field.primary_key:
        if field.annotation not in KEYS or (field.nullable and not field.generated):
            raise InvalidModelError(
                f"{where} is the primary key and of type {typed}; it must be a str, an int or a UUID"
            )
        if field.omit_cache or field.omit_l1 or field.encrypted:
            raise InvalidModelError(f"{where} is the primary key; it can be neither left out of a tier nor Encrypted")
    if field.encrypted and field.annotation is not str:
        raise InvalidModelError(f"{where} is Encrypted and a {typed}; it must be a str or a str | None")
    if field.encrypted and (field.unique or field.indexed or default is not None):
        raise InvalidModelError(
            f"{where} is Encrypted; its ciphertext differs at every write, so it can have no Unique, Indexed or Default"
        )
    if field.stamped and field.annotation is not datetime.datetime:
        raise InvalidModelError(f"{where} is stamped and a {typed}; it must be a datetime or a datetime | None")
    if field.auto_now and field.auto_now_add:
        raise InvalidModelError(f"{where} is both AutoNow and AutoNowAdd; it must be one of them")


def _check_generated(where: str, typed: str, field: Field, default: Default | None) -> None:
    if not field.primary_key:
        raise InvalidModelError(f"{where} is Generated and of type {typed}, but not the key; only a PrimaryKey can be")
    if field.annotation not in _ASSIGNED:
        raise InvalidModelError(
            f"{where} is Generated and of type {typed}; the database assigns keys of int and UUID: it must be an "
            "int | None or a UUID | None"
        )
    if not field.nullable and not (isinstance(field.factory, Constant) and field.factory.value is None):
        raise InvalidModelError(
            f"{where} is Generated and of type {typed}, which has no value before it is assigned; make it "
            f"{typed} | None"
        )
    if default is not None:
        raise InvalidModelError(f"{where} is Generated, and has a Default; it must have one of them")


def _in_row(column: Column, default: Default) -> Default:
    """The default as its column holds it. Raises `InvalidModelError` for one that it cannot hold."""
    if default.sql is not None:
        return default
    try:
        value = column.settle(default.value)
    except (EncodeError, MissingPrimaryKeyError) as error:
        raise InvalidModelError(f"Default: {error}") from None
    return Default(column.to_row(value))
