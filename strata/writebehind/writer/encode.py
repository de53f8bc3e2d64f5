"""One deferred write, encoded for the ledger and for L2."""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec.structs import replace

from strata.bound import Bound
from strata.errors import DecodeError
from strata.model.plan import UnknownColumnError
from strata.protocol.entry import IN_PARTS, Entry, EntryOp, decode
from strata.protocol.messages import Announcer
from strata.protocol.messages import MessageOp as Said
from strata.protocol.versions import LEDGER_NODE, NODE_BITS, text
from strata.waits.clock import Clock
from strata.writebehind.dirty import changes
from strata.writebehind.dirty.slot import Buffered, Slot
from strata.writebehind.ledger.answers import ANY, NEVER, LedgerPut
from strata.writebehind.ledger.shard import Shard


class EncodedWrite(msgspec.Struct, frozen=True, gc=False, eq=False):
    """A write on its way."""

    slot: Slot
    item: Buffered
    bound: Bound
    shard: Shard
    entry: Entry
    put: LedgerPut


class GivenUpError(Exception):
    """A write that can never be handed off; the text, for its dead letter, shows nothing of the record."""


class Encoder:
    """Encodes writes. Thread-safe: it keeps no state."""

    def __init__(self, announcer: Announcer, clock: Clock) -> None:
        self._announcer = announcer
        self._clock = clock

    def address(self, slot: Slot, item: Buffered, row: bytes = b"") -> tuple[Shard, Entry]:
        """Where a write goes, and its entry."""
        now, origin = int(self._clock.wall() * 1000), self._announcer.source
        return slot.shard, Entry(item.version, _op(item), now, origin, row, item.ages)

    def entry(self, bound: Bound, slot: Slot, item: Buffered) -> Entry:
        """The entry of a write."""
        return self.address(slot, item, b"" if item.record is None else _row(bound, item.record))[1]

    def pack(self, bound: Bound, slot: Slot, item: Buffered) -> EncodedWrite:
        """A write, encoded. Raises what the codec raises."""
        shard, entry = self.address(slot, item, b"" if item.record is None else _row(bound, item.record))
        if slot.overtaken:
            # If what overtook it is gone from the ledger, this must not stand there, nor in L2, as the newest.
            return EncodedWrite(slot, item, bound, shard, entry, LedgerPut(slot.key_text, entry.encode(), NEVER))
        expected = "" if entry.op in IN_PARTS else ANY
        put = self._put(bound, slot.key_text, entry, item.record, expected)
        return EncodedWrite(slot, item, bound, shard, entry, put)

    def merge(self, encoded: EncodedWrite, raw: bytes) -> EncodedWrite:
        """The write and the entry that the ledger holds, b"" being none, one laid over the other: each column keeps the
        version of the write that gave it. Where the entry is the newer one the version is the one just above it, since
        both would be lost to whoever has the entry already.

        Raises `GivenUpError` over a deletion, `DecodeError` where a newer process wrote the entry.
        """
        bound, key = encoded.bound, encoded.slot.key
        own = self.entry(bound, encoded.slot, encoded.item)
        if not raw:
            return self._again(encoded, own, None, "")
        base = decode(raw)
        if base.op is EntryOp.DELETE and (own.op is EntryOp.PARTIAL or own.oldest < base.version):
            raise GivenUpError("some columns were not loaded, and the record was deleted")
        try:
            if base.op is not EntryOp.DELETE:
                changes.row_of(bound, key, base)
                own = _both(bound, own, base)
        except UnknownColumnError:
            raise
        except DecodeError:
            pass  # nobody's: what takes its place is not to be lost with it
        whole = bound.record(*reversed(bound.plan.unpack_row(own.row))) if own.op is EntryOp.SET else None
        return self._again(encoded, own, whole, text(base.version))

    def _again(self, encoded: EncodedWrite, entry: Entry, record: Any, expected: str) -> EncodedWrite:
        put = self._put(encoded.bound, encoded.slot.key_text, entry, record, expected)
        return replace(encoded, entry=entry, put=put)

    def _put(self, bound: Bound, key_text: str, entry: Entry, record: Any, expected: str) -> LedgerPut:
        said = Said.DELETE if entry.op is EntryOp.DELETE else Said.SET
        message = self._announcer.message(bound.name, key_text, said, entry.version)
        l2 = bound.l2
        if l2 is None:
            return LedgerPut(key_text, entry.encode(), expected, message=message)
        if entry.op in IN_PARTS:
            return LedgerPut(key_text, entry.encode(), expected, l2.key(key_text), message=message)
        cached = None if record is None else bound.plan.cached(record)
        content = l2.content(entry.version, cached, pending=True)
        return LedgerPut(key_text, entry.encode(), expected, l2.key(key_text), content, l2.px(record), message)


def _row(bound: Bound, record: Any) -> bytes:
    return bound.plan.pack_row(bound.plan.to_row(record, bound.cipher))


def _op(item: Buffered) -> EntryOp:
    if item.record is None:
        return EntryOp.DELETE
    if item.partial:
        return EntryOp.PARTIAL
    return EntryOp.MIXED if item.ages else EntryOp.SET


def _both(bound: Bound, own: Entry, base: Entry) -> Entry:
    """The newest of each column, none being older than what was written whole."""
    bottom = max((entry.oldest for entry in (own, base) if entry.op is not EntryOp.PARTIAL), default=0)
    values: dict[str, Any] = {}
    versions: dict[str, int] = {}
    for entry in (base, own):
        ages = dict(entry.ages)
        for name, value in zip(*bound.plan.unpack_row(entry.row), strict=True):
            version = ages.get(name, entry.version)
            if version >= max(bottom, versions.get(name, 0)):
                values[name], versions[name] = value, version
    del versions[bound.plan.key.name]
    version = own.version
    if base.version > version:
        version = ((base.version >> NODE_BITS) + 1) << NODE_BITS | LEDGER_NODE
    older = tuple(sorted((name, at) for name, at in versions.items() if at != version))
    op = EntryOp.PARTIAL if not bottom else EntryOp.MIXED if older else EntryOp.SET
    row = bound.plan.pack_row(tuple(values.values()), tuple(values))
    return Entry(version, op, own.since, own.origin, row, older)
