"""The messages of the bus: JSON, readable by a person, and lenient towards what others send."""

from __future__ import annotations

import enum
from collections.abc import Sequence
from typing import Any

import msgspec

from strata.model.jsonb import UNREADABLE
from strata.protocol.versions import VERSION_DIGITS, text


class MessageOp(enum.StrEnum):
    """What happened to a key.

    `SET`, `DELETE`, `INVALIDATE` are the contract's; `INTENT`: a synchronous writer is about to commit; `PURGE`: a
    deferred write up to this version was given up; `CLEAR`: everything of the schema; `TAG`: everything, of any
    schema, that has the tag which stands in the place of the id. With a version, `CLEAR` and `TAG` are markers: its
    microseconds are the marker's number.
    """

    SET = "set"
    DELETE = "delete"
    INVALIDATE = "invalidate"
    INTENT = "intent"
    PURGE = "purge"
    CLEAR = "clear"
    TAG = "tag"


class Message(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """One message. Without `v` (the version, as text) the entry is dropped unconditionally; `src` is the sender's
    instance, `db` the Redis database, 0 being left out. `many`, in the place of `id` and `v`: keys and their versions
    in turn, of one bulk write or hand-off."""

    schema: str
    id: str = ""
    op: str
    v: str | None = None
    src: str | None = None
    db: int = 0
    many: list[str] = []

    @property
    def version(self) -> int | None:
        """The version as a number; None where the message has none that can be read."""
        return _number(self.v)

    def each(self) -> list[tuple[str, int | None]]:
        """The keys that it is about, with their versions."""
        if not self.many:
            return [(self.id, self.version)]
        return list(zip(self.many[::2], map(_number, self.many[1::2]), strict=False))


def _number(v: str | None) -> int | None:
    return int(v) if v is not None and len(v) <= VERSION_DIGITS and v.isascii() and v.isdigit() else None


_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(Message).decode


class Announcer:
    """Makes the messages of one instance. Immutable, but that the child of a fork gives it another `source`."""

    def __init__(self, channel: str, source: str, database: int) -> None:
        self.channel = channel
        self.source = source
        self.database = database

    def message(
        self, schema: str, key_text: str, op: MessageOp, version: int | None = None, *, signed: bool = True
    ) -> bytes:
        """The bytes to publish; where they are not `signed`, this instance hears them as everybody else does."""
        stamp, source = None if version is None else text(version), self.source if signed else None
        return _encode(Message(schema=schema, id=key_text, op=op, v=stamp, src=source, db=self.database))

    def about(
        self, schema: str, op: MessageOp, versions: Sequence[tuple[str, int | None]], *, signed: bool = True
    ) -> bytes:
        """As `message`, of several keys with their versions."""
        if len(versions) == 1:
            return self.message(schema, versions[0][0], op, versions[0][1], signed=signed)
        source, many = self.source if signed else None, list[str]()
        for key_text, version in versions:
            many += (key_text, "" if version is None else text(version))
        return _encode(Message(schema=schema, op=op, src=source, db=self.database, many=many))

    def head(self, schema: str, op: MessageOp) -> bytes:
        """A message but for its keys and versions, and the last brace, which scripts put to it."""
        return _encode(Message(schema=schema, op=op, src=self.source, db=self.database))[:-1]


def parse(data: Any) -> Message | None:
    """The message, or None where it cannot be read."""
    try:
        return _decode(data)
    except UNREADABLE:
        return None
