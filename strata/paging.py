"""`Page`, what `search_page` returns, and its token: where the next page begins."""

from __future__ import annotations

import base64
import binascii
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import msgspec

from strata.errors import QueryError
from strata.query import Order, Query

T = TypeVar("T")

_FORMAT = 1
_SUM, _DIGEST = 4, 8  # bytes
_pack = msgspec.msgpack.Encoder().encode
_unpack = msgspec.msgpack.Decoder(tuple[int, bytes, list[str | None]]).decode


@dataclass(frozen=True, slots=True)
class Page(Generic[T]):
    """One page of a query.

    Attributes:
        records: The records, in order.
        next: What to give `search_page` as `after` for the page that follows; None where this is the last one. It is
            text of letters, digits, `-` and `_`, made of the last row's values in the columns of the order: whoever
            has it can read these, and get no others by changing it than the query finds.
    """

    records: list[T]
    next: str | None


class Bookmark:
    """Where a page of one query begins, as text. The text is good for the same schema, condition, types of arguments
    and order; the arguments themselves, the limit and the fields may change from page to page."""

    def __init__(self, schema_name: str, query: Query, order: Sequence[Order]) -> None:
        kinds = [type(value).__name__ for value in query.args]
        by = [(item.column, item.desc, item.led_by_null) for item in order]
        self._digest = _digest(_pack((schema_name, query.where, kinds, by)), _DIGEST)
        self._width = len(order)

    def text(self, values: Sequence[str | None]) -> str:
        """The place after the row that has these values in the columns of the order."""
        packed = _pack((_FORMAT, self._digest, values))
        return _text(_digest(packed, _SUM) + packed)

    def values(self, after: Any) -> list[str | None]:
        """The values that a text was made of. Raises `QueryError` for one that was not made by `text`, or for another
        query."""
        if not isinstance(after, str):
            kind = type(after).__name__
            raise QueryError(f"after is a {kind}; it must be the text in Page.next, or None for the first page")
        number, digest, values = _read(after)
        if number != _FORMAT:
            raise QueryError(f"after has format {number}, and this release reads {_FORMAT}; begin with the first page")
        if digest != self._digest or len(values) != self._width:
            raise QueryError(
                "after is of another query; schema, condition, types of the arguments and order must be those of the "
                "page that gave it"
            )
        return values


def _read(text: str) -> tuple[int, bytes, list[str | None]]:
    try:
        raw = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
        found = _unpack(raw[_SUM:])
        if _text(raw) != text or raw[:_SUM] != _digest(raw[_SUM:], _SUM) or any("\0" in v for v in found[2] if v):
            raise ValueError
    except (ValueError, binascii.Error, msgspec.MsgspecError):
        raise QueryError(
            "after is no text of Page.next, or was changed on its way; give it as it was, or None for the first page"
        ) from None
    return found


def _text(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).decode().rstrip("=")


def _digest(data: bytes, size: int) -> bytes:
    return hashlib.blake2b(data, digest_size=size).digest()
