"""Between buffer and journal: what is put is appended, what dead processes left is put once more."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from strata.bound import Bound
from strata.errors import DecodeError
from strata.observe.log import SafeLogger
from strata.observe.metrics import SafeMetrics
from strata.writebehind.buffer import Buffered, DirtyBuffer
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
    ) -> None:
        self._journal = journal
        self._buffer = buffer
        self._packer = packer
        self._schemas = schemas
        self._log = log
        self._metrics = metrics
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
        """Put what dead processes left into the buffer; returns how many writes. Raises `OSError`."""
        count = 0
        for orphan in self._journal.orphans():
            if self._later.get(orphan.path.name) == len(self._schemas):
                orphan.leave()
                continue
            taken, whole = self._take(orphan)
            count += taken
            if whole:
                orphan.done()
            else:
                self._later[orphan.path.name] = len(self._schemas)
                orphan.leave()
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

    def _take(self, orphan: Orphan) -> tuple[int, bool]:
        """How many writes of a segment were put, and whether these were all."""
        newest: dict[tuple[str, str], Entry] = {}
        whole = True
        try:
            for schema, key_text, entry in orphan.records():
                place = (schema, key_text)
                if place not in newest or newest[place].version <= entry.version:
                    newest[place] = entry
        except DecodeError:
            whole = False  # a newer process wrote it
        taken = 0
        for (schema, key_text), entry in newest.items():
            bound = self._schemas.get(schema)
            if bound is not None and self._put(bound, key_text, entry):
                taken += 1
            else:
                whole = False
        return taken, whole

    def _put(self, bound: Bound, key_text: str, entry: Entry) -> bool:
        try:
            key = bound.plan.parse_key(key_text)
            item = restored(bound, entry)
        except (DecodeError, ValueError) as error:
            self._log.warning("a write in a journal cannot be read", schema=bound.name, error=type(error).__name__)
            return False
        if not self._buffer.put(bound.name, key, key_text, item).room:
            return False
        self.note(bound, key)
        return True


def restored(bound: Bound, entry: Entry) -> Buffered:
    """The write of an entry. Raises `DecodeError` where this process cannot read it."""
    if entry.op is Op.DELETE:
        return Buffered(entry.version, None, False)
    names, values = bound.plan.unpack_row(entry.row)
    record = bound.plan.from_row(values, bound.cipher, names)
    return Buffered(entry.version, record, bool(bound.plan.unloaded(record)))


