"""What is done with the values of a JSONB column: check, copy, pack for L1, JSON text for PostgreSQL."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import msgspec

from strata.errors import DecodeError, InvalidModelError
from strata.model.atoms import Unfit
from strata.model.compile import Function, Source, same
from strata.model.shapes import Shape
from strata.model.wide import decoder, widened

# What msgspec, and the generated functions over values that nobody has checked yet, may raise.
UNREADABLE = (msgspec.MsgspecError, ValueError, TypeError, AttributeError, OverflowError, RecursionError)
_SAFE = re.compile(r"Expected `[^`]*`, got `[^`]*`|Object missing required field `[^`]*`")
_PLACE = re.compile(r" - at `([^`]*)`\Z")
_NUL = re.compile(rb"(?<!\\)(?:\\\\)*\\u0000")
_EXPONENT = re.compile(rb"e\d")
_NESTING = re.compile(rb'"(?:[^"\\]|\\.)*"|([\[{])|([\]}])')
_LARGE = re.compile(rb'"(?:[^"\\]|\\.)*"|(-?)(\d+)(?:\.(\d+))?e(\d+)')

DEEPEST = 500  # levels of lists and objects; Python gives up at about twice as many
to_json = msgspec.json.Encoder().encode
to_msgpack = msgspec.msgpack.Encoder().encode


class Jsonb:
    """The operations on the values of one JSONB column. None and UNLOADED are the caller's business."""

    def __init__(self, shape: Shape, where: str) -> None:
        self._shape = shape
        self._where = where
        self.down = _function(shape.down)
        self.up = _function(shape.up)
        try:
            self._from_json = msgspec.json.Decoder(shape.wire).decode
            self._from_msgpack = decoder(shape.wire).decode
        except (TypeError, ValueError) as error:
            raise InvalidModelError(f"{where} has a type that JSONB cannot hold: {error}") from None
        self.unpack: Callable[[bytes], Any] = _chain(self._from_msgpack, self.up)
        self.copy: Callable[[Any], Any] = _chain(self.pack, self.unpack)
        self.text = self._loose_text if shape.loose else self._text

    def normal(self, value: Any) -> Any:
        """The value, if it comes back from every tier as it went in. Raises `Unfit` otherwise."""
        self.taken(value)
        return value

    def taken(self, value: Any) -> bytes:
        """As `normal`; the value as L1 keeps it."""
        try:
            plain = value if self.down is same else self.down(value)
            data = to_json(plain)
            returned = self._from_json(data)
            packed = self._packed(plain)
            equal = bool(returned == plain)
        except Unfit as problem:
            raise Unfit(f"holds a value that {problem}") from None
        except UnicodeEncodeError:
            raise Unfit("holds a lone surrogate in a text, which is no text; remove it") from None
        except UNREADABLE as error:
            raise Unfit(f"cannot be stored as JSON{said(error)}; it must be {self._shape.noun}") from None
        if not equal:
            raise Unfit(
                f"would not come back from JSON as it is; it must be {self._shape.noun}, with str keys, finite "
                "numbers, and lists rather than tuples where nothing else is annotated"
            )
        if b"\\u0000" in data and _NUL.search(data):
            raise Unfit("holds a NUL character in a text, which PostgreSQL cannot store; remove it")
        _check_depth(data)
        return packed

    def read(self, text: str | bytes) -> Any:
        """The value of JSON text. Raises `Unfit`, or what is in `UNREADABLE`."""
        if len(text) > 2 * DEEPEST:
            _check_depth(text.encode() if isinstance(text, str) else text)
        plain = self._from_json(text)
        self._packed(plain)  # a number beyond 64 bits, where the type is int, is nothing that L1 could keep
        return plain if self.up is same else self.up(plain)

    def pack(self, value: Any) -> bytes:
        """The value as L1 keeps it. Raises `DecodeError` for what only a row can hold: `normal` lets it not pass."""
        plain = value if self.down is same else self.down(value)
        try:
            return self._packed(plain)
        except UNREADABLE as error:
            message = f"{self._where} cannot be read back from its row{said(error)}"
            raise DecodeError(message, column=self._where.rpartition(".")[2]) from None

    def _packed(self, plain: Any) -> bytes:
        try:
            return to_msgpack(plain)
        except OverflowError:
            data = to_msgpack(widened(plain))
            self._from_msgpack(data)  # not so where the type is int, which has 64 bits
            return data

    def _text(self, value: Any) -> str:
        return to_json(value if self.down is same else self.down(value)).decode()

    def _loose_text(self, value: Any) -> str:
        # JSONB writes 1e23 as an integer, which would come back as an int, and as another number: 1e23 is not 10**23.
        data = to_json(self.down(value))
        return (_LARGE.sub(_written_out, data) if _EXPONENT.search(data) else data).decode()


def _check_depth(data: bytes) -> None:
    if data.count(b"[") + data.count(b"{") <= DEEPEST:
        return
    depth = 0
    for found in _NESTING.finditer(data):
        depth += bool(found[1]) - bool(found[2])
        if depth > DEEPEST:
            raise Unfit(f"is nested too deeply; it must have at most {DEEPEST} levels")


def said(error: Exception) -> str:
    """The part of msgspec's message that names types and places, never values."""
    message = str(error) if isinstance(error, msgspec.MsgspecError) else ""
    expected, place = _SAFE.match(message), _PLACE.search(message)
    words = ([expected.group()] if expected else []) + ([f"at {place[1]}"] if place else [])
    return f" ({' '.join(words)})" if words else ""


def _written_out(found: re.Match[bytes]) -> bytes:
    sign, whole, fraction, exponent = found.groups()
    if exponent is None:
        return found.group()
    digits = whole + (fraction or b"")
    return sign + digits.ljust(len(whole) + int(exponent), b"0") + b".0"


def _function(step: Any) -> Function:
    if step is None:
        return same
    source = Source("step", "value")
    source.line(f"return {source.plain(step, 'value')}")
    return source.function()


def _chain(first: Function, second: Function) -> Function:
    if first is same:
        return second
    return first if second is same else lambda value: second(first(value))
