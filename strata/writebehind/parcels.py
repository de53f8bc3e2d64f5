"""One deferred write, encoded for the ledger and for L2."""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec.structs import replace

from strata.bound import Bound
from strata.clock import Clock
from strata.coherence.messages import Announcer
from strata.coherence.messages import Op as Said
from strata.versions import NODE_BITS, text
from strata.writebehind.buffer import Buffered, Slot
from strata.writebehind.entry import Entry, Op, decode
from strata.writebehind.ledger import ANY, NEVER, Handing
from strata.writebehind.shard import Shard


class Parcel(msgspec.Struct, frozen=True, gc=False, eq=False):
    """A write on its way."""

    slot: Slot
    item: Buffered
    bound: Bound
    shard: Shard
    entry: Entry
    handing: Handing


class GivenUpError(Exception):
    """A write that can never be handed off; the text, for its dead letter, shows nothing of the record."""


class Packer:
    """Encodes writes. Thread-safe: it keeps no state."""

    def __init__(self, announcer: Announcer, clock: Clock) -> None:
        self._announcer = announcer
        self._clock = clock

    def address(self, slot: Slot, item: Buffered, row: bytes = b"") -> tuple[Shard, Entry]:
        """Where a write goes, and its entry."""
        op = Op.DELETE if item.record is None else Op.PARTIAL if item.partial else Op.SET
        entry = Entry(item.version, op, int(self._clock.wall() * 1000), self._announcer.source, row)
        return slot.shard, entry

    def entry(self, bound: Bound, slot: Slot, item: Buffered) -> Entry:
        """The entry of a write."""
        return self.address(slot, item, b"" if item.record is None else _row(bound, item.record))[1]

    def pack(self, bound: Bound, slot: Slot, item: Buffered) -> Parcel:
        """A write, encoded. Raises what the codec raises."""
        shard, entry = self.address(slot, item, b"" if item.record is None else _row(bound, item.record))
        if slot.overtaken:
            # If what overtook it is gone from the ledger, this must not stand there, nor in L2, as the newest.
            return Parcel(slot, item, bound, shard, entry, Handing(slot.key_text, entry.encode(), NEVER))
        expected = "" if entry.op is Op.PARTIAL else ANY
        handing = self._handing(bound, slot.key_text, entry, item.record, expected)
        return Parcel(slot, item, bound, shard, entry, handing)

    def merge(self, parcel: Parcel, raw: bytes, node: int) -> Parcel:
        """The partial write laid over the entry that the ledger holds, b"" being none; or a newer partial entry laid
        over the write, at the version just above it, since both would be lost to whoever has the entry already.

        Raises `GivenUpError` over a deletion, `DecodeError` where a newer process wrote the entry.
        """
        bound, record = parcel.bound, parcel.item.record
        own = _row(bound, record)
        if not raw:
            return self._again(parcel, replace(parcel.entry, op=Op.PARTIAL, row=own), None, "")
        base = decode(raw)
        if base.op is Op.DELETE:
            raise GivenUpError("some columns were not loaded, and the record was deleted")
        if base.version > parcel.entry.version:
            version = ((base.version >> NODE_BITS) + 1) << NODE_BITS | node
            op = Op.PARTIAL if parcel.item.partial else Op.SET
            return self._merged(parcel, replace(parcel.entry, version=version, op=op), own, base)
        return self._merged(parcel, replace(parcel.entry, op=base.op), base.row, replace(base, row=own))

    def _merged(self, parcel: Parcel, entry: Entry, under: bytes, base: Entry) -> Parcel:
        """A parcel of `entry`, with the columns of `under` and those of the row of `base` over them."""
        bound = parcel.bound
        columns = _columns(bound, under) | _columns(bound, base.row)
        names, values = tuple(columns), tuple(columns.values())
        entry = replace(entry, row=bound.plan.pack_row(values, names))
        whole = bound.record(values, names) if entry.op is Op.SET else None
        return self._again(parcel, entry, whole, text(base.version))

    def _again(self, parcel: Parcel, entry: Entry, record: Any, expected: str) -> Parcel:
        handing = self._handing(parcel.bound, parcel.slot.key_text, entry, record, expected)
        return replace(parcel, entry=entry, handing=handing)

    def _handing(self, bound: Bound, key_text: str, entry: Entry, record: Any, expected: str) -> Handing:
        said = Said.DELETE if entry.op is Op.DELETE else Said.SET
        message = self._announcer.message(bound.name, key_text, said, entry.version)
        l2 = bound.l2
        if l2 is None:
            return Handing(key_text, entry.encode(), expected, message=message)
        if entry.op is Op.PARTIAL:
            return Handing(key_text, entry.encode(), expected, l2.key(key_text), message=message)
        cached = None if record is None else bound.plan.cached(record)
        content = l2.content(entry.version, cached, pending=True)
        return Handing(key_text, entry.encode(), expected, l2.key(key_text), content, l2.px(record), message)


def _row(bound: Bound, record: Any) -> bytes:
    return bound.plan.pack_row(bound.plan.to_row(record, bound.cipher))


def _columns(bound: Bound, row: bytes) -> dict[str, Any]:
    return dict(zip(*bound.plan.unpack_row(row), strict=True))
