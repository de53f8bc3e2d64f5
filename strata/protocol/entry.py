"""An entry of the ledger: a header that Lua can read, and a packed row with ciphertext for Encrypted columns."""

from __future__ import annotations

import enum
import re
from collections.abc import Iterable

import msgspec

from strata.errors import DecodeError
from strata.model.plan import UnknownColumnError
from strata.protocol.added import Added, origins


class EntryOp(enum.StrEnum):
    """What an entry does: stores a whole row, or deletes it, or changes some of its columns; MIXED: a whole row, over
    which newer writes of some columns were laid."""

    SET = "s"
    DELETE = "d"
    PARTIAL = "p"
    MIXED = "m"


_OPS = {ord(op.value): op for op in EntryOp}
IN_PARTS = (EntryOp.PARTIAL, EntryOp.MIXED)  # those that do not speak for every column at their version
Ages = tuple[tuple[str, int], ...]
"""The columns of a write that are older than its version, with theirs."""


def oldest(version: int, ages: Ages) -> int:
    """The version of the oldest column of a write."""
    return min((at for _, at in ages), default=version)


class Body(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """What follows the header of an entry that adds to columns."""

    op: str
    ages: Ages
    added: Added
    default: bytes
    deleted: int
    row: bytes


_pack = msgspec.msgpack.Encoder().encode
_unpack = msgspec.msgpack.Decoder(Body).decode


_FIRST = b"E1:%019d:%s:%013d:%s:%s"


class Entry(msgspec.Struct, frozen=True, gc=False):
    """One pending write. `since` is ms since 1970 of the first write that L3 does not have, `origin` an instance.

    `ages`: where writes in part of one row wait together each column keeps the version of its own write. `added` is
    what is added to columns, its totals as text; `default` the packed row to which, where there is none, or where it
    was `deleted`, at that version.
    """

    version: int
    op: EntryOp
    since: int
    origin: str
    row: bytes
    ages: Ages = ()
    added: Added = ()
    default: bytes = b""
    deleted: int = 0

    @property
    def oldest(self) -> int:
        """The version of its oldest column."""
        return oldest(self.version, self.ages)

    def versions(self) -> dict[str, int]:
        """Who waits to hear of it, and of which version of its own: all who have added, or the one that wrote it."""
        return {self.origin: self.version} | origins(self.added)

    def encode(self) -> bytes:
        """`E1:<version>:<op>:<since>:<origin>:<row>`, all but the last two of fixed width. Before the row of a write in
        parts stand its ages, `<column>=<version>` each, and another colon. One that adds to columns is
        `E2:<version>:a:<since>:<origin>:<body>`, which a release that cannot add leaves to one that can."""
        row = self.row
        if self.added or self.default or self.deleted:
            body = _pack(Body(self.op, self.ages, self.added, self.default, self.deleted, row))
            return b"E2:%019d:a:%013d:%s:%s" % (self.version, self.since, self.origin.encode(), body)
        if self.op in IN_PARTS:
            row = b"%s:%s" % (",".join(f"{name}={version:019d}" for name, version in self.ages).encode(), row)
        return _FIRST % (self.version, self.op.encode(), self.since, self.origin.encode(), row)


def whole(versions: Iterable[int], rows: Iterable[bytes], since: int, origin: str) -> list[bytes]:
    """The bytes of entries that store whole rows, at these versions."""
    op, source = EntryOp.SET.encode(), origin.encode()
    return [_FIRST % (version, op, since, source, row) for version, row in zip(versions, rows, strict=True)]


UNDECODABLE = (msgspec.MsgspecError, ValueError, RecursionError)
"""What msgspec's decoders raise for bytes that nobody of ours wrote."""


class NewerError(UnknownColumnError):
    """A newer release wrote it, and can read it: it waits for that one."""


# As in `scripts/ledger.lua`. Every format has its number and the version in the same place.
_OURS = re.compile(rb"E1:(\d{19}):([sdpm]):(\d{13}):([^:]*):", re.DOTALL)
_AGES = re.compile(rb"((?:[a-z0-9_]+=\d{19}(?:,(?!:)|(?=:)))*):")
_ADDING = re.compile(rb"E2:(\d{19}):a:(\d{13}):([^:]*):", re.DOTALL)
_LATER = re.compile(rb"E[02-9]:\d{19}:")
_VERSION = re.compile(rb"\d{19}")


def version_of(raw: bytes) -> int:
    """The version of an entry, of whatever format; 0 where there is none."""
    return int(raw[3:22]) if _VERSION.fullmatch(raw[3:22]) else 0


def is_newer(raw: bytes) -> bool:
    """Whether the bytes are an entry of a later format, which a newer process has written."""
    return _LATER.match(raw) is not None and _ADDING.match(raw) is None


def decode(raw: bytes) -> Entry:
    """The entry of its bytes. Raises `NewerError` for what a newer process wrote, and `DecodeError` for what nobody
    did."""
    found = _OURS.match(raw)
    if found is None and (adding := _ADDING.match(raw)) is not None:
        return _adding(adding, raw)
    if found is None and is_newer(raw):
        raise NewerError("an entry of the ledger has another format; a newer process can read it")
    if found is None:
        raise DecodeError("what the ledger holds is no entry; something else wrote it, or it is damaged")
    version, code, since, origin = found.groups()
    op, end = _OPS[code[0]], found.end()
    ages: Ages = ()
    if op in IN_PARTS:
        ages, end = _ages(raw, end)
    return Entry(int(version), op, int(since), origin.decode(errors="replace"), raw[end:], ages)


def _adding(found: re.Match[bytes], raw: bytes) -> Entry:
    version, since, origin = found.groups()
    try:
        body = _unpack(raw[found.end() :])
        op = EntryOp(body.op)
    except UNDECODABLE:
        raise DecodeError("what the ledger holds is no entry; what it adds to columns is damaged") from None
    if op is EntryOp.DELETE or not all(series.points for series in body.added):
        raise DecodeError("what the ledger holds is no entry; what it adds to columns adds up to nothing")
    sender = origin.decode(errors="replace")
    return Entry(int(version), op, int(since), sender, body.row, body.ages, body.added, body.default, body.deleted)


def _ages(raw: bytes, at: int) -> tuple[Ages, int]:
    """The ages that begin there, and where they end."""
    found = _AGES.match(raw, at)
    if found is None:
        raise DecodeError("what the ledger holds is no entry; the versions of its columns are damaged")
    pairs = (pair.split("=") for pair in found[1].decode().split(",") if pair)
    return tuple((name, int(version)) for name, version in pairs), found.end()
