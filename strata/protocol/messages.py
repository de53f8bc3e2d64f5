"""The messages of the bus: JSON, readable by a person, and lenient towards what others send."""

from __future__ import annotations

import enum
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


class Message(msgspec.Struct, frozen=True, omit_defaults=True):
    """One message. Without `v` (the version, as text) the entry is dropped unconditionally; `src` is the sender's
    instance, `db` the Redis database, 0 being left out."""

    schema: str
    id: str
    op: str
    v: str | None = None
    src: str | None = None
    db: int = 0

    @property
    def version(self) -> int | None:
        """The version as a number; None where the message has none that can be read."""
        v = self.v
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
        stamp = None if version is None else text(version)
        return _encode(Message(schema, key_text, op, stamp, self.source if signed else None, self.database))


def parse(data: Any) -> Message | None:
    """The message, or None where it cannot be read."""
    try:
        return _decode(data)
    except UNREADABLE:
        return None
