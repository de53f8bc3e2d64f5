"""Between buffer and journal: what is put is appended, what dead processes left is put once more."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from strata.bound import Bound
from strata.errors import DecodeError
from strata.observe.log import SafeLogger
from strata.observe.metrics import SafeMetrics
from strata.writebehind.buffer import Buffered, DirtyBuffer, Slot
from strata.writebehind.entry import Entry, Op
from strata.writebehind.journal import SEGMENTS, Journal, Orphan
from strata.writebehind.parcels import Packer


class Replay:
    """Thread-safe but for `take_over`, which the flusher's thread alone calls and for which `_later` is."""

    def __init__(
        self,
        journal: Journal,
        buffer: DirtyBuffer,
        packer: Packer,
        schemas: Mapping[str, Bound],
        log: SafeLogger,
        metrics: SafeMetrics,
        hand_off: Callable[[], object],
    ) -> None:
        self._journal = journal
        self._buffer = buffer
        self._packer = packer
        self._schemas = schemas
        self._log = log
        self._metrics = metrics
        self._hand_off = hand_off
        self._later: dict[str, int] = {}  # files that wait for another schema: how many there were then

    def note(self, bound: Bound, key: Any) -> None:
        """Append the key's write, as the buffer has it now. Raises `OSError`."""
        slot = self._buffer.slot(bound.name, key)
        if slot is None:
            return  # L3 has it already
        self._journal.append(slot, lambda: (bound.name, slot.key_text, self._packer.entry(bound, slot)))
        if self._buffer.slot(bound.name, key) is not slot:
            self._journal.release(slot)  # it went while it was appended

    def take_over(self) -> int:
        """Put what dead processes left into the buffer; returns how many writes.

        Raises `OSError`, and `L2UnavailableError` where neither the own journal nor the ledger takes them; the
        files stay then.
        """
        count = 0
        for orphan in self._journal.orphans():
            try:
                count += self._take_over(orphan)
            except BaseException:
                orphan.leave()  # locked by a process that lives, nobody would ever take it over
                raise
        if count:
            self._log.info("deferred writes of processes that are gone were taken over", count=count)
            self._metrics.count("strata_write_behind_replayed", count)
        return count

    def tidy(self) -> None:
        """Append once more what pins the oldest of too many segments. Raises `OSError`."""
        for _ in range(SEGMENTS):
            segment = self._journal.crowded()
            if segment is None:
                return
            for slot, _ in self._buffer.pending():
                if slot.segment is segment:
                    self.note(self._schemas[slot.schema], slot.key)

    def _take_over(self, orphan: Orphan) -> int:
        if self._later.get(orphan.path.name) == len(self._schemas):
            orphan.leave()
            return 0
        taken, whole = self._take(orphan)
        if whole and self._safe(taken):
            orphan.done()
        else:
            if not whole:
                self._later[orphan.path.name] = len(self._schemas)
            orphan.leave()
        return len(taken)

    def _safe(self, taken: Sequence[Slot]) -> bool:
        """Whether something other than the old segment has each write: where the disk is full, the ledger has to."""
        for slot in taken:
            try:
                self.note(self._schemas[slot.schema], slot.key)
            except OSError as error:
                self._log.error("the journal takes nothing; the ledger gets what was in it", error=type(error).__name__)
                self._hand_off()
                return all(slot.sent >= slot.item.version or slot.overtaken or self._gone(slot) for slot in taken)
        return True

    def _gone(self, slot: Slot) -> bool:
        return self._buffer.slot(slot.schema, slot.key) is not slot

    def _take(self, orphan: Orphan) -> tuple[list[Slot], bool]:
        """The places of the writes of a segment that were put, and whether these were all."""
        newest: dict[tuple[str, str], Entry] = {}
        whole = True
        try:
            for schema, key_text, entry in orphan.records():
                place = (schema, key_text)
                if place not in newest or newest[place].version <= entry.version:
                    newest[place] = entry
        except DecodeError:
            whole = False  # a newer process wrote it
        taken: list[Slot] = []
        for (schema, key_text), entry in newest.items():
            bound = self._schemas.get(schema)
            if bound is None or not self._put(bound, key_text, entry, taken):
                whole = False
        return taken, whole

    def _put(self, bound: Bound, key_text: str, entry: Entry, taken: list[Slot]) -> bool:
        try:
            key = bound.plan.parse_key(key_text)
            item = restored(bound, entry)
        except (DecodeError, ValueError) as error:
            self._log.warning("a write in a journal cannot be read", schema=bound.name, error=type(error).__name__)
            return False
        if not self._buffer.put(bound.name, key, key_text, item).room:
            return False
        slot = self._buffer.slot(bound.name, key)
        if slot is not None:
            taken.append(slot)
        return True


def restored(bound: Bound, entry: Entry) -> Buffered:
    """The write of an entry. Raises `DecodeError` where this process cannot read it."""
    if entry.op is Op.DELETE:
        return Buffered(entry.version, None, False)
    names, values = bound.plan.unpack_row(entry.row)
    record = bound.record(values, names)
    return Buffered(entry.version, record, bool(bound.plan.unloaded(record)))
