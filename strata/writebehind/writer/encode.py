"""One deferred write, encoded for the ledger and for L2."""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec.structs import replace

from strata.bound import Bound
from strata.errors import DecodeError
from strata.model.plan import UnknownColumnError
from strata.protocol.entry import Entry, EntryOp, decode
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
        op = EntryOp.DELETE if item.record is None else EntryOp.PARTIAL if item.partial else EntryOp.SET
        entry = Entry(item.version, op, int(self._clock.wall() * 1000), self._announcer.source, row)
        return slot.shard, entry

    def entry(self, bound: Bound, slot: Slot, item: Buffered) -> Entry:
        """The entry of a write."""
        return self.address(slot, item, b"" if item.record is None else _row(bound, item.record))[1]

    def pack(self, bound: Bound, slot: Slot, item: Buffered) -> EncodedWrite:
        """A write, encoded. Raises what the codec raises."""
        shard, entry = self.address(slot, item, b"" if item.record is None else _row(bound, item.record))
        if slot.overtaken:
            # If what overtook it is gone from the ledger, this must not stand there, nor in L2, as the newest.
            return EncodedWrite(slot, item, bound, shard, entry, LedgerPut(slot.key_text, entry.encode(), NEVER))
        expected = "" if entry.op is EntryOp.PARTIAL else ANY
        put = self._put(bound, slot.key_text, entry, item.record, expected)
        return EncodedWrite(slot, item, bound, shard, entry, put)

    def merge(self, encoded: EncodedWrite, raw: bytes) -> EncodedWrite:
        """The partial write laid over the entry that the ledger holds, b"" being none; or a newer partial entry laid
        over the write, at the version just above it, since both would be lost to whoever has the entry already.

        Raises `GivenUpError` over a deletion, `DecodeError` where a newer process wrote the entry.
        """
        bound, record = encoded.bound, encoded.item.record
        own = _row(bound, record)
        if not raw:
            return self._again(encoded, replace(encoded.entry, op=EntryOp.PARTIAL, row=own), None, "")
        base = decode(raw)
        if base.op is EntryOp.DELETE:
            raise GivenUpError("some columns were not loaded, and the record was deleted")
        try:
            changes.row_of(bound, encoded.slot.key, base)
        except UnknownColumnError:
            raise
        except DecodeError:  # nobody's: what takes its place is not to be lost with it
            return self._again(encoded, replace(encoded.entry, op=EntryOp.PARTIAL, row=own), None, text(base.version))
        if base.version > encoded.entry.version:
            version = ((base.version >> NODE_BITS) + 1) << NODE_BITS | LEDGER_NODE
            op = EntryOp.PARTIAL if encoded.item.partial else EntryOp.SET
            return self._merged(encoded, replace(encoded.entry, version=version, op=op), own, base)
        return self._merged(encoded, replace(encoded.entry, op=base.op), base.row, replace(base, row=own))

    def _merged(self, encoded: EncodedWrite, entry: Entry, under: bytes, base: Entry) -> EncodedWrite:
        """A write of `entry`, with the columns of `under` and those of the row of `base` over them."""
        bound = encoded.bound
        columns = _columns(bound, under) | _columns(bound, base.row)
        names, values = tuple(columns), tuple(columns.values())
        entry = replace(entry, row=bound.plan.pack_row(values, names))
        whole = bound.record(values, names) if entry.op is EntryOp.SET else None
        return self._again(encoded, entry, whole, text(base.version))

    def _again(self, encoded: EncodedWrite, entry: Entry, record: Any, expected: str) -> EncodedWrite:
        put = self._put(encoded.bound, encoded.slot.key_text, entry, record, expected)
        return replace(encoded, entry=entry, put=put)

    def _put(self, bound: Bound, key_text: str, entry: Entry, record: Any, expected: str) -> LedgerPut:
        said = Said.DELETE if entry.op is EntryOp.DELETE else Said.SET
        message = self._announcer.message(bound.name, key_text, said, entry.version)
        l2 = bound.l2
        if l2 is None:
            return LedgerPut(key_text, entry.encode(), expected, message=message)
        if entry.op is EntryOp.PARTIAL:
            return LedgerPut(key_text, entry.encode(), expected, l2.key(key_text), message=message)
        cached = None if record is None else bound.plan.cached(record)
        content = l2.content(entry.version, cached, pending=True)
        return LedgerPut(key_text, entry.encode(), expected, l2.key(key_text), content, l2.px(record), message)


def _row(bound: Bound, record: Any) -> bytes:
    return bound.plan.pack_row(bound.plan.to_row(record, bound.cipher))


def _columns(bound: Bound, row: bytes) -> dict[str, Any]:
    return dict(zip(*bound.plan.unpack_row(row), strict=True))
