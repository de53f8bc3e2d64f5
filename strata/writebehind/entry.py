"""An entry of the ledger: a header that Lua can read, and a packed row with ciphertext for Encrypted columns."""

from __future__ import annotations

import enum

import msgspec

from strata.errors import DecodeError

FORMAT = b"E1:"


class Op(enum.StrEnum):
    """What an entry does: stores a whole row, deletes it, or changes some of its columns."""

    SET = "s"
    DELETE = "d"
    PARTIAL = "p"


_OPS = {ord(op.value): op for op in Op}


class Entry(msgspec.Struct, frozen=True, gc=False):
    """One pending write. `since` is ms since 1970 of the first write that L3 does not have, `origin` an instance."""

    version: int
    op: Op
    since: int
    origin: str
    row: bytes

    def encode(self) -> bytes:
        """`E1:<version>:<op>:<since>:<origin>:<row>`, all but the last two of fixed width."""
        return b"E1:%019d:%s:%013d:%s:%s" % (self.version, self.op.encode(), self.since, self.origin.encode(), self.row)


def version_of(raw: bytes) -> int:
    """The version of an entry, of whatever format; 0 where there is none."""
    return int(raw[3:22] or 0)


def is_newer(raw: bytes) -> bool:
    """Whether the bytes are an entry of a later format, which a newer process has written."""
    head, colon, _ = raw[:6].partition(b":")
    return bool(colon) and head[:1] == b"E" and head[1:].isdigit() and head + colon != FORMAT


def decode(raw: bytes) -> Entry:
    """The entry of its bytes. Raises `DecodeError` for what a newer process wrote, or nobody."""
    try:
        if raw[:3] != FORMAT or not raw[3:22].isdigit():
            raise ValueError("format")
        origin, _, row = raw[39:].partition(b":")
        return Entry(int(raw[3:22]), _OPS[raw[23]], int(raw[25:38]), origin.decode(), row)
    except (ValueError, LookupError):
        raise DecodeError("an entry of the ledger has another format; a newer process can read it") from None
