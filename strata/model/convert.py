"""Per column: how a value looks in L1, in a row of L3, and on the wire, and how it comes back."""

from __future__ import annotations

import datetime
import typing
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import msgspec

from strata.model.fields import Field, Kind
from strata.model.introspection import KINDS
from strata.model.markers import UNLOADED
from strata.model.values import json_encode

Convert = Callable[[Any], Any]
ATOMS = frozenset(KINDS)


@dataclass(frozen=True, slots=True)
class Conversions:
    """Functions of one column; None stands for the identity. Each passes None and UNLOADED through.

    `copy` makes a private value; `freeze` a compact one that the collector need not track, `thaw` its inverse;
    `to_row` and `from_row` are what psycopg takes and gives; `wire` is the type by which msgspec decodes a packed row.
    """

    copy: Convert | None = None
    freeze: Convert | None = None
    thaw: Convert | None = None
    normalise: Convert | None = None
    to_row: Convert | None = None
    from_row: Convert | None = None
    wire: Any = None


def conversions(field: Field) -> Conversions:
    """The functions of a column."""
    wire = field.annotation
    if field.choices is not None:
        texts = {id(member): text for text, member in field.choices.items()}
        choices = field.choices
        if field.annotation in (str,) or typing.get_origin(field.annotation) is typing.Literal:
            return Conversions(wire=str, from_row=through(lambda text: choices[text]))
        return Conversions(
            wire=str,
            to_row=through(lambda member: texts[id(member)]),
            from_row=through(lambda text: choices[text]),
        )
    if field.kind is Kind.JSONB:
        return _json(field)
    if field.kind is Kind.DOUBLE:
        return Conversions(wire=wire, normalise=through(float))
    if field.kind is Kind.TIMESTAMPTZ:
        return Conversions(wire=wire, normalise=through(_utc), from_row=through(_utc))
    return Conversions(wire=wire)


def through(convert: Convert) -> Convert:
    """`convert` for values, the identity for None and UNLOADED."""

    def passing(value: Any) -> Any:
        return value if value is None or value is UNLOADED else convert(value)

    return passing


def _utc(value: datetime.datetime) -> datetime.datetime:
    return value if value.tzinfo is datetime.UTC else value.astimezone(datetime.UTC)


def _json(field: Field) -> Conversions:
    decode = msgspec.json.Decoder(field.annotation).decode
    copy, freeze, thaw = _nested(field.annotation)
    return Conversions(
        copy=None if copy is None else through(copy),
        freeze=None if freeze is None else through(freeze),
        thaw=None if thaw is None else through(thaw),
        to_row=through(lambda value: json_encode(value).decode()),
        from_row=through(decode),
        wire=str,
    )


def _nested(annotation: Any) -> tuple[Convert | None, Convert | None, Convert | None]:
    """copy, freeze and thaw of a nested value: by hand where it is flat, through msgpack where it is not."""
    base, inner = typing.get_origin(annotation), typing.get_args(annotation)
    atoms = bool(inner) and all(arm in ATOMS or arm is Ellipsis for arm in inner)
    if base is tuple and atoms:
        return None, None, None
    if base is list and atoms:
        return list, tuple, list
    if base is set and atoms:
        return set, tuple, set
    if base is dict and atoms:
        return dict, lambda value: (tuple(value), tuple(value.values())), lambda pair: dict(zip(*pair, strict=True))
    encode = msgspec.msgpack.Encoder().encode
    decode = msgspec.msgpack.Decoder(annotation).decode
    return lambda value: decode(encode(value)), encode, decode
