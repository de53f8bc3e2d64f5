"""The plain types of columns: what each can hold, and how a value is brought into its exact form.

A subclass (a StrEnum's member, a numpy float, a frozen clock's datetime) is stored as its plain base, which is what
every tier gives back; a bool is no int, a datetime no date.
"""

from __future__ import annotations

import datetime
import decimal
import gc
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any

import msgspec

from strata.model.compile import CALL, Step
from strata.model.fields import Kind

BIGINT_MIN, BIGINT_MAX = -(1 << 63), (1 << 63) - 1
# PostgreSQL manual, "Numeric Types": digits before and after the decimal point.
NUMERIC_BEFORE, NUMERIC_AFTER = 131_072, 16_383

AwareDatetime = Annotated[datetime.datetime, msgspec.Meta(tz=True)]
BigInt = Annotated[int, msgspec.Meta(ge=BIGINT_MIN, le=BIGINT_MAX)]
PlainTime = Annotated[datetime.time, msgspec.Meta(tz=False)]


class Unfit(Exception):
    """A value does not fit; the message goes on from the field's name and never holds the value."""


@dataclass(frozen=True, slots=True)
class Atom:
    """One plain type. `sound` is true of values that need no closer look, `exact` of values in their final form, which
    is the one that PostgreSQL gives back; `normal` brings any other into it, or raises `Unfit`. `plain` is true of what
    a row holds and needs no look, where that is more than `exact`. `wire` is the type that msgspec decodes."""

    kind: Kind
    noun: str
    sound: str
    exact: str
    normal: Callable[[Any], Any]
    wire: Any
    freeze: Step | None = None
    thaw: Step | None = None
    plain: str = ""


def wrong(value: Any, noun: str) -> Unfit:
    """The type of a value is not the one wanted."""
    return Unfit(f"is of type {type(value).__name__}; it must be {noun}")


def check_text(value: str) -> None:
    """Raise `Unfit` for what is no text to PostgreSQL."""
    if "\0" in value:
        raise Unfit("holds a NUL character, which PostgreSQL cannot store; remove it")
    try:
        if not value.isascii():
            value.encode()
    except UnicodeEncodeError:
        raise Unfit("holds a lone surrogate, which is no text; remove it") from None


def text(value: Any) -> str:
    """A `str` that PostgreSQL can hold."""
    if not isinstance(value, str):
        raise wrong(value, "a str")
    plain = str.__str__(value)
    check_text(plain)
    return plain


def integer(value: Any) -> int:
    """An `int` within BIGINT."""
    if not isinstance(value, int) or isinstance(value, bool):
        raise wrong(value, "an int")
    if not BIGINT_MIN <= value <= BIGINT_MAX:
        raise Unfit("is outside BIGINT; it must be within 64 bits, from -2**63 to 2**63 - 1")
    return int.__int__(value)


def floating(value: Any) -> float:
    """A `float`; an `int` where a float can hold it exactly."""
    if isinstance(value, float):
        return float.__float__(value)
    if not isinstance(value, int) or isinstance(value, bool):
        raise wrong(value, "a float")
    try:
        number = float(value)
    except OverflowError:
        raise Unfit("is an int too large for a float; it must be a float") from None
    if int(number) != value:
        raise Unfit("is an int that no float holds exactly; it must be a float")
    return number


def boolean(value: Any) -> bool:
    """A `bool`."""
    if type(value) is not bool:
        raise wrong(value, "a bool")
    return value


def moment(value: Any) -> datetime.datetime:
    """An aware `datetime`, in UTC."""
    if not isinstance(value, datetime.datetime):
        raise wrong(value, "an aware datetime")
    try:
        if value.utcoffset() is None:
            raise Unfit("is a naive datetime; it must have a time zone, as datetime.now(UTC) has")
        there = value.astimezone(datetime.UTC).replace(fold=0)
    except (OverflowError, ValueError):
        raise Unfit("is a datetime outside the years 1 to 9999 in UTC; it must be within") from None
    if type(there) is datetime.datetime:
        return there
    return datetime.datetime.combine(day(there.date()), there.time(), datetime.UTC)


def octets(value: Any) -> bytes:
    """`bytes`."""
    if not isinstance(value, bytes):
        raise wrong(value, "bytes")
    return bytes(memoryview(value))


def identity(value: Any) -> uuid.UUID:
    """A `UUID`."""
    if not isinstance(value, uuid.UUID):
        raise wrong(value, "a UUID")
    return uuid.UUID(int=value.int)


def number(value: Any) -> decimal.Decimal:
    """A `Decimal` within NUMERIC."""
    if not isinstance(value, decimal.Decimal):
        raise wrong(value, "a Decimal")
    if value.is_snan():
        raise Unfit("is a signaling NaN, which NUMERIC does not have; it must be another Decimal")
    exponent = value.as_tuple().exponent
    if isinstance(exponent, int) and (value.adjusted() >= NUMERIC_BEFORE or -exponent > NUMERIC_AFTER):
        raise Unfit(f"has more digits than NUMERIC; it must have at most {NUMERIC_BEFORE} before the point")
    if value.is_nan():
        return decimal.Decimal("NaN")
    if isinstance(exponent, int) and exponent > 0:  # NUMERIC has no exponents: 1E+3 is 1000
        return decimal.Decimal(f"{value:f}")
    return decimal.Decimal(value if value else value.copy_abs())  # and no negative zero


def day(value: Any) -> datetime.date:
    """A `date` that is no datetime."""
    if not isinstance(value, datetime.date) or isinstance(value, datetime.datetime):
        raise wrong(value, "a date")
    return datetime.date(value.year, value.month, value.day)


def clock_time(value: Any) -> datetime.time:
    """A `time` without a time zone."""
    if not isinstance(value, datetime.time):
        raise wrong(value, "a time")
    if value.tzinfo is not None:
        raise Unfit("is a time with a time zone; it must have none, as TIME has none")
    return datetime.time(value.hour, value.minute, value.second, value.microsecond)


def span(value: Any) -> datetime.timedelta:
    """A `timedelta`."""
    if not isinstance(value, datetime.timedelta):
        raise wrong(value, "a timedelta")
    return datetime.timedelta(value.days, value.seconds, value.microseconds)


def _simple(kind: Kind, python: type, noun: str, normal: Callable[[Any], Any]) -> Atom:
    test = f"type({{v}}) is {python.__name__}"
    return Atom(kind, noun, test, test, normal, python)


def _packed(python: type) -> tuple[Step, Step]:
    """freeze and thaw of a type that the collector tracks: to bytes and back, both in C."""
    decoder: Any = msgspec.msgpack.Decoder(python)
    return Step(CALL, msgspec.msgpack.Encoder(uuid_format="bytes").encode), Step(CALL, decoder.decode)


def _packed_if_tracked(value: Any) -> tuple[Step | None, Step | None]:
    return _packed(type(value)) if gc.is_tracked(value) else (None, None)


_IN_UTC = "type({v}) is datetime and {v}.tzinfo is UTC and not {v}.fold"
ATOMS: dict[Any, Atom] = {
    str: Atom(
        Kind.TEXT, "a str", "type({v}) is str and {v}.isascii() and '\\0' not in {v}", "type({v}) is str", text, str
    ),
    int: Atom(
        Kind.BIGINT,
        "an int",
        f"type({{v}}) is int and {BIGINT_MIN} <= {{v}} <= {BIGINT_MAX}",
        "type({v}) is int",
        integer,
        int,
    ),
    float: _simple(Kind.DOUBLE, float, "a float", floating),
    bool: _simple(Kind.BOOLEAN, bool, "a bool", boolean),
    datetime.datetime: Atom(Kind.TIMESTAMPTZ, "an aware datetime", _IN_UTC, _IN_UTC, moment, AwareDatetime),
    bytes: _simple(Kind.BYTEA, bytes, "bytes", octets),
    uuid.UUID: Atom(
        Kind.UUID,
        "a UUID",
        "type({v}) is UUID",
        "type({v}) is UUID",
        identity,
        uuid.UUID,
        *_packed(uuid.UUID),
    ),
    decimal.Decimal: Atom(
        Kind.NUMERIC,
        "a Decimal",
        "False",
        "False",
        number,
        decimal.Decimal,
        *_packed_if_tracked(decimal.Decimal()),  # from Python 3.13 on
        "type({v}) is Decimal and {v} == {v}",  # not a NaN, of which NUMERIC has one and Decimal many
    ),
    datetime.date: _simple(Kind.DATE, datetime.date, "a date", day),
    datetime.time: Atom(
        Kind.TIME,
        "a time without a time zone",
        "type({v}) is time and {v}.tzinfo is None",
        "type({v}) is time and not {v}.fold",
        clock_time,
        PlainTime,
    ),
    datetime.timedelta: _simple(Kind.INTERVAL, datetime.timedelta, "a timedelta", span),
}
