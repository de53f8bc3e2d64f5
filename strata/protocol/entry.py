"""An entry of the ledger: a header that Lua can read, and a packed row with ciphertext for Encrypted columns."""

from __future__ import annotations

import enum
import re

import msgspec

from strata.errors import DecodeError
from strata.model.plan import UnknownColumnError


class EntryOp(enum.StrEnum):
    """What an entry does: stores a whole row, deletes it, or changes some of its columns."""

    SET = "s"
    DELETE = "d"
    PARTIAL = "p"


_OPS = {ord(op.value): op for op in EntryOp}


class Entry(msgspec.Struct, frozen=True, gc=False):
    """One pending write. `since` is ms since 1970 of the first write that L3 does not have, `origin` an instance."""

    version: int
    op: EntryOp
    since: int
    origin: str
    row: bytes

    def encode(self) -> bytes:
        """`E1:<version>:<op>:<since>:<origin>:<row>`, all but the last two of fixed width."""
        return b"E1:%019d:%s:%013d:%s:%s" % (self.version, self.op.encode(), self.since, self.origin.encode(), self.row)


UNDECODABLE = (msgspec.MsgspecError, ValueError, RecursionError)
"""What msgspec's decoders raise for bytes that nobody of ours wrote."""


class NewerError(UnknownColumnError):
    """A newer release wrote it, and can read it: it waits for that one."""


# As in `scripts/ledger.lua`. Every format has its number and the version in the same place.
_OURS = re.compile(rb"E1:(\d{19}):([sdp]):(\d{13}):([^:]*):", re.DOTALL)
_LATER = re.compile(rb"E[02-9]:\d{19}:")
_VERSION = re.compile(rb"\d{19}")


def version_of(raw: bytes) -> int:
    """The version of an entry, of whatever format; 0 where there is none."""
    return int(raw[3:22]) if _VERSION.fullmatch(raw[3:22]) else 0


def is_newer(raw: bytes) -> bool:
    """Whether the bytes are an entry of a later format, which a newer process has written."""
    return _LATER.match(raw) is not None


def decode(raw: bytes) -> Entry:
    """The entry of its bytes. Raises `NewerError` for what a newer process wrote, and `DecodeError` for what nobody
    did."""
    found = _OURS.match(raw)
    if found is None and is_newer(raw):
        raise NewerError("an entry of the ledger has another format; a newer process can read it")
    if found is None:
        raise DecodeError("what the ledger holds is no entry; something else wrote it, or it is damaged")
    version, op, since, origin = found.groups()
    return Entry(int(version), _OPS[op[0]], int(since), origin.decode(errors="replace"), raw[found.end() :])
