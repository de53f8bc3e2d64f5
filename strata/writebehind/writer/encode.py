"""One deferred write, encoded for the ledger and for L2."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import chain
from typing import Any

import msgspec
from msgspec.structs import replace

from strata import waits
from strata.bound import Bound
from strata.errors import DecodeError
from strata.model.plan import UnknownColumnError
from strata.protocol.added import Added, beyond, joined
from strata.protocol.entry import IN_PARTS, Entry, EntryOp, decode, whole
from strata.protocol.messages import Announcer
from strata.protocol.messages import MessageOp as Said
from strata.protocol.versions import MERGED_NODES, above, text
from strata.waits.clock import Clock
from strata.writebehind.dirty import changes
from strata.writebehind.dirty.orphan import JournalRecord
from strata.writebehind.dirty.slot import Buffered, Slot
from strata.writebehind.ledger.answers import ANY, NEVER, WHATEVER, LedgerBatch, LedgerPut
from strata.writebehind.ledger.shard import Shard

STEPS = 32  # versions just above another, of which one is taken


class EncodedWrite(msgspec.Struct, frozen=True, gc=False, eq=False):
    """A write on its way."""

    slot: Slot
    item: Buffered
    bound: Bound
    shard: Shard
    entry: Entry
    put: LedgerPut


Writes = Sequence[tuple[Slot, Buffered]]


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
        if not item.ages and not item.added:
            return slot.shard, Entry(item.version, _op(item), now, origin, row)
        return slot.shard, Entry(item.version, _op(item), now, origin, row, item.ages, changes.in_text(item.added))

    def entry(self, bound: Bound, slot: Slot, item: Buffered) -> Entry:
        """The entry of a write. Raises what the codec raises."""
        entry = self.address(slot, item, b"" if item.deletes else _row(bound, item.record))[1]
        if item.default is None and not item.deleted:
            return entry
        return replace(entry, default=_row(bound, item.default), deleted=item.deleted)

    def record(self, bound: Bound, slot: Slot, item: Buffered) -> JournalRecord:
        """What the journal gets of a write. Raises what the codec raises."""
        entry, ends = self.entry(bound, slot, item), item.ends
        if ends is not None:
            left = ends - self._clock.monotonic()
            ends = 0 if left == math.inf else round((self._clock.wall() + left) * 1000)
        return JournalRecord(bound.name, slot.key_text, entry, ends)

    def ends_here(self, ends: int | None) -> float | None:
        """When the life ends of a record that another process has written to its journal (monotonic)."""
        if not ends:
            return None if ends is None else math.inf
        return self._clock.monotonic() + ends / 1000 - self._clock.wall()

    def pack(self, bound: Bound, slot: Slot, item: Buffered) -> EncodedWrite:
        """A write, encoded. Raises what the codec raises."""
        shard, entry = slot.shard, self.entry(bound, slot, item)
        if slot.overtaken and not (item.added and item.partial):  # what is added counts beside what is newer
            # If what overtook it is gone from the ledger, this must not stand there, nor in L2, as the newest.
            return EncodedWrite(slot, item, bound, shard, entry, LedgerPut(slot.key_text, entry.encode(), NEVER))
        expected = "" if entry.op in IN_PARTS else ANY
        life = None if item.ends is None else item.ends - self._clock.monotonic()
        put = self._put(bound, slot.key_text, entry, item.record, expected, life)
        return EncodedWrite(slot, item, bound, shard, entry, put)

    def plain(self, bound: Bound, shard: Shard, writes: Writes) -> LedgerBatch:
        """As `pack`, of plain writes of one shard that nothing newer was met of, for L2 on the ledger's server: in
        columns, since what is made for each record by itself costs more than to encode it. Raises what the codec
        raises."""
        plan, l2 = bound.plan, bound.l2
        assert l2 is not None
        to_row, pack_row, cipher = plan.to_row, plan.pack_row, bound.cipher
        key_texts, versions = [slot.key_text for slot, _ in writes], [item.version for _, item in writes]
        made = [item.record for _, item in writes]
        rows = [pack_row(to_row(record, cipher)) for record in made]
        entries = whole(versions, rows, int(self._clock.wall() * 1000), self._announcer.source)
        cached = [*map(plan.cached, made)]
        contents, lives = l2.held_each(versions, cached, pending=True, since=l2.since)
        records = [*chain.from_iterable(zip(key_texts, entries, contents, lives, strict=True))]
        return LedgerBatch(shard, records, [*map(l2.key, key_texts)], ANY, self._announcer.head(bound.name, Said.SET))

    def merge(self, encoded: EncodedWrite, raw: bytes) -> EncodedWrite:
        """The write and the entry that the ledger holds, b"" being none, one laid over the other: each column keeps the
        version of the write that gave it. The version is one just above both, which either has alone elsewhere; it is
        by chance which, since the same two, or one of them and another, may have met before.

        Raises `GivenUpError` over a deletion, `DecodeError` where a newer process wrote the entry.
        """
        bound, key = encoded.bound, encoded.slot.key
        own = self.entry(bound, encoded.slot, encoded.item)
        if not raw:
            return self._again(encoded, own, None, "")
        base = decode(raw)
        version = above(max(own.version, base.version), MERGED_NODES, waits.chance().randrange(STEPS) + 1)
        if base.op is EntryOp.DELETE and own.default:
            own = _above(bound, own, base.version, version)
        elif base.op is EntryOp.DELETE and (own.op is EntryOp.PARTIAL or own.oldest < base.version):
            raise GivenUpError("some columns were not loaded, and the record was deleted")
        try:
            if base.op is not EntryOp.DELETE:
                changes.of_entry(bound, key, encoded.slot.key_text, base)
                own = _laid(bound, [base, own], replace(own, version=version))
        except UnknownColumnError:
            raise
        except DecodeError:
            pass  # nobody's: what takes its place is not to be lost with it
        whole = bound.record(*reversed(bound.plan.unpack_row(own.row))) if own.op is EntryOp.SET else None
        return self._again(encoded, own, whole, text(base.version))

    def _again(self, encoded: EncodedWrite, entry: Entry, record: Any, expected: str) -> EncodedWrite:
        put = self._put(encoded.bound, encoded.slot.key_text, entry, record, expected)
        return replace(encoded, entry=entry, put=put)

    def _put(
        self, bound: Bound, key_text: str, entry: Entry, record: Any, expected: str, life: float | None = None
    ) -> LedgerPut:
        # What was added is in no copy of the row, of whatever version.
        adds = bool(entry.added) or bool(entry.default)
        said = Said.INVALIDATE if adds else Said.DELETE if entry.op is EntryOp.DELETE else Said.SET
        l2 = bound.l2
        if l2 is None:
            return LedgerPut(key_text, entry.encode(), expected, said=said)
        if entry.op in IN_PARTS:
            px = WHATEVER if adds else 0
            return LedgerPut(key_text, entry.encode(), expected, l2.key(key_text), px=px, said=said)
        cached = None if record is None else bound.plan.cached(record)
        content, px = l2.held(entry.version, cached, life, pending=True, since=l2.since)
        if life is not None and life <= 0:
            content = b""  # its life is over: what is older goes, and L3, or the ledger, is asked
        return LedgerPut(key_text, entry.encode(), expected, l2.key(key_text), content, px, said)


def _row(bound: Bound, record: Any) -> bytes:
    return bound.plan.pack_row(bound.plan.to_row(record, bound.cipher))


def _op(item: Buffered) -> EntryOp:
    if item.deletes:
        return EntryOp.DELETE
    if item.partial:
        return EntryOp.PARTIAL
    return EntryOp.MIXED if item.ages or item.added else EntryOp.SET


def _above(bound: Bound, entry: Entry, deleted: int, version: int) -> Entry:
    """What is left, at a version, of an entry that makes its row, over a deletion."""
    if entry.deleted >= deleted:
        return entry
    return _laid(bound, [replace(entry, deleted=deleted)], replace(entry, version=version))


def _laid(bound: Bound, entries: Sequence[Entry], like: Entry) -> Entry:
    """Entries of one key together, later ones being preferred at the same version; version and origin are those of
    `like`."""
    deleted = max(entry.deleted for entry in entries)
    whole = max((entry.oldest for entry in entries if entry.op is not EntryOp.PARTIAL), default=0)
    deleted, whole = (deleted, 0) if deleted > whole else (0, whole)
    bottom, keys = deleted or whole, bound.plan.key.names
    values: dict[str, Any] = {}
    versions: dict[str, int] = {}
    added: Added = ()
    for entry in entries:
        added = joined(added, entry.added)
        ages = dict(entry.ages)
        for name, value in zip(*bound.plan.unpack_row(entry.row), strict=True):
            version = ages.get(name, entry.version)
            if version >= max(bottom, versions.get(name, 0)) or name in keys:
                values[name], versions[name] = value, version
    for name in keys:
        del versions[name]
    added = beyond(added, lambda column: max(bottom, versions.get(column, 0)))
    older = tuple(sorted((name, at) for name, at in versions.items() if at != like.version))
    op = EntryOp.PARTIAL if not whole else EntryOp.MIXED if older or added else EntryOp.SET
    row = bound.plan.pack_row(tuple(values.values()), tuple(values))
    default = b"" if whole else next((entry.default for entry in entries if entry.default), b"")
    return Entry(like.version, op, like.since, like.origin, row, older, added, default, deleted)
