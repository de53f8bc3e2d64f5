"""What a column can hold: checks, and the JSON text of nested values."""

from __future__ import annotations

import datetime
import decimal
import math
import uuid
from collections.abc import Callable
from typing import Any

import msgspec

from strata.errors import EncodeError
from strata.model.fields import Field, Kind
from strata.model.markers import UNLOADED

BIGINT_MAX = 2**63 - 1
BIGINT_MIN = -(2**63)
_NOUNS = {
    Kind.TEXT: "a str",
    Kind.BIGINT: "an int",
    Kind.DOUBLE: "a float",
    Kind.BOOLEAN: "a bool",
    Kind.TIMESTAMPTZ: "an aware datetime",
    Kind.BYTEA: "bytes",
    Kind.UUID: "a UUID",
    Kind.NUMERIC: "a Decimal",
    Kind.DATE: "a date",
    Kind.TIME: "a time without a time zone",
    Kind.INTERVAL: "a timedelta",
}
_CLASSES: dict[Kind, type] = {
    Kind.TEXT: str,
    Kind.BIGINT: int,
    Kind.BOOLEAN: bool,
    Kind.TIMESTAMPTZ: datetime.datetime,
    Kind.BYTEA: bytes,
    Kind.UUID: uuid.UUID,
    Kind.NUMERIC: decimal.Decimal,
    Kind.DATE: datetime.date,
    Kind.TIME: datetime.time,
    Kind.INTERVAL: datetime.timedelta,
}


def checker(model: str, field: Field) -> Callable[[Any], None]:
    """A function that raises `EncodeError` for a value that the column cannot hold, never naming the value."""
    where = f"{model}.{field.name}"
    problem = _problem_of(field)

    def check(value: Any) -> None:
        if value is UNLOADED and not field.primary_key:
            return
        if value is None:
            if not field.nullable and not (field.auto_now or field.auto_now_add):
                raise EncodeError(f"{where} is None; annotate it `| None` if it may be, or give it a value")
            return
        found = problem(value)
        if found:
            raise EncodeError(f"{where} {found}")

    return check


def _problem_of(field: Field) -> Callable[[Any], str]:
    if field.choices is not None:
        return _choice(field)
    if field.kind is Kind.JSONB:
        return _json(field.annotation)
    assert field.kind is not None
    return {
        Kind.TEXT: _text,
        Kind.BIGINT: _bigint,
        Kind.DOUBLE: _double,
        Kind.TIMESTAMPTZ: _timestamp,
        Kind.TIME: _time,
        Kind.NUMERIC: _numeric,
    }.get(field.kind) or _plain(field.kind)


def text_problem(value: str) -> str:
    """What is wrong with a text, or nothing."""
    if "\0" in value:
        return "holds a NUL character, which PostgreSQL cannot store; remove it"
    if not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError:
            return "holds a lone surrogate, which is no text; remove it"
    return ""


def _wrong(value: Any, kind: Kind) -> str:
    return f"is of type {type(value).__name__}; it must be {_NOUNS[kind]}"


def _plain(kind: Kind) -> Callable[[Any], str]:
    return lambda value: "" if type(value) is _CLASSES[kind] else _wrong(value, kind)


def _text(value: Any) -> str:
    return text_problem(value) if type(value) is str else _wrong(value, Kind.TEXT)


def _bigint(value: Any) -> str:
    if type(value) is not int:
        return _wrong(value, Kind.BIGINT)
    return "" if BIGINT_MIN <= value <= BIGINT_MAX else "is outside BIGINT (64 bits); it must be smaller"


def _double(value: Any) -> str:
    if type(value) is float:
        return ""
    if type(value) is not int:
        return _wrong(value, Kind.DOUBLE)
    try:
        return "" if int(float(value)) == value else "is an int that a float cannot hold exactly; give a float"
    except OverflowError:
        return "is an int too large for a float; give a float"


def _timestamp(value: Any) -> str:
    if type(value) is not datetime.datetime:
        return _wrong(value, Kind.TIMESTAMPTZ)
    if value.utcoffset() is None:
        return "is a naive datetime; give it a time zone, as in datetime.now(UTC)"
    try:
        value.astimezone(datetime.UTC)
    except OverflowError:
        return "is outside the years 1 to 9999 in UTC"
    return ""


def _time(value: Any) -> str:
    return _wrong(value, Kind.TIME) if type(value) is not datetime.time or value.tzinfo is not None else ""


def _numeric(value: Any) -> str:
    if type(value) is not decimal.Decimal:
        return _wrong(value, Kind.NUMERIC)
    if value.is_snan():
        return "is a signaling NaN, which NUMERIC cannot hold"
    _, digits, exponent = value.as_tuple()
    if isinstance(exponent, int) and (len(digits) + exponent > 131_000 or exponent < -16_000):
        return "has more digits than NUMERIC can hold"
    return ""


def _choice(field: Field) -> Callable[[Any], str]:
    assert field.choices is not None
    members = list(field.choices.values())
    kind = type(members[0])
    allowed = ", ".join(field.choices)
    problems = [text_problem(text) for text in field.choices]
    unstorable = next((problem for problem in problems if problem), "")

    def problem(value: Any) -> str:
        if type(value) is not kind or value not in members:
            return f"is none of the choices; it must be one of {allowed}"
        return unstorable

    return problem


def _json(annotation: Any) -> Callable[[Any], str]:
    decode = msgspec.json.Decoder(annotation).decode
    shape = getattr(annotation, "__name__", str(annotation))

    def problem(value: Any) -> str:
        try:
            text = json_encode(value)
            back = decode(text)
        except (TypeError, ValueError, OverflowError, RecursionError, msgspec.MsgspecError) as error:
            return f"cannot be stored as JSON ({type(error).__name__}); it must be a {shape} of plain values"
        if not _same(back, value):
            return (
                f"would not come back from JSON as it is; it must be a {shape} of plain values: text keys, finite numbers, "
                "no tuples where lists are annotated"
            )
        if b"\\u0000" in text and _holds_nul(value):
            return "holds a NUL character inside, which PostgreSQL cannot store; remove it"
        return ""

    return problem


def _same(left: Any, right: Any) -> bool:
    # Equality alone takes True for 1 and a subclass for its base; both would come back as something else.
    if type(left) is not type(right):
        return False
    if isinstance(left, dict):
        return left.keys() == right.keys() and all(_same(left[key], right[key]) for key in left)
    if isinstance(left, list | tuple):
        return len(left) == len(right) and all(map(_same, left, right))
    if isinstance(left, float):
        return left == right and math.isfinite(left)
    return bool(left == right)


def _holds_nul(value: Any) -> bool:
    if isinstance(value, str):
        return "\0" in value
    if isinstance(value, dict):
        return any(_holds_nul(item) for pair in value.items() for item in pair)
    if isinstance(value, list | tuple | set):
        return any(map(_holds_nul, value))
    return (
        _holds_nul(msgspec.to_builtins(value)) if hasattr(value, "__dict__") or hasattr(value, "__slots__") else False
    )


json_encode = msgspec.json.Encoder().encode
"""JSON as JSONB takes it; sets become arrays, nested dataclasses objects."""
