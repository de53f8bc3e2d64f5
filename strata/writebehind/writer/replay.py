"""Between buffer and journal: what is put is appended, what dead processes left is put once more."""

from __future__ import annotations

import enum
from collections.abc import Callable, Sequence
from typing import Any

from msgspec.structs import replace

from strata.bound import Bound
from strata.errors import WITHOUT_L2, DecodeError, StrataError
from strata.protocol.entry import Entry, EntryOp
from strata.waits.seats import Turn, Turns
from strata.writebehind.dirty import changes
from strata.writebehind.dirty.buffer import DirtyBuffer
from strata.writebehind.dirty.journal import SEGMENTS, Journal
from strata.writebehind.dirty.orphan import JournalRecord, Orphan, SegmentContents
from strata.writebehind.dirty.slot import Buffered, Slot
from strata.writebehind.ledger.common import Common
from strata.writebehind.writer.encode import Encoder


class Lacking(enum.Enum):
    """What some writes of a segment lack: nothing, room in the buffer (or time), or a process that can read them."""

    NOTHING = enum.auto()
    ROOM = enum.auto()
    READER = enum.auto()


class Replay:
    """Thread-safe but for `take_over`, which the flusher's thread alone calls and for which `_later` is.

    It runs in a turn of `_turns`; `_ended` is written by whoever closes, once.

    `_later` has the files in which something waits for another schema, another key of encryption, or a newer release,
    with the number of schemas that there were then.
    """

    def __init__(
        self, common: Common, journal: Journal, buffer: DirtyBuffer, encoder: Encoder, hand_off: Callable[[], object]
    ) -> None:
        self._journal = journal
        self._buffer = buffer
        self._encoder = encoder
        self._schemas = common.schemas
        self._versions = common.versions
        self._log = common.log
        self._metrics = common.metrics
        self._hand_off = hand_off
        self._later: dict[str, int] = {}
        self._turns = Turns()
        self._ended = False

    def note(self, bound: Bound, key: Any) -> None:
        """Append the key's write, as the buffer has it now. Raises `OSError`."""
        slot = self._buffer.slot(bound.name, key)
        if slot is None:
            return  # L3 has it already
        self._journal.append(slot, lambda: self._encoder.record(bound, slot, slot.item))
        if self._buffer.slot(bound.name, key) is not slot:
            self._journal.release(slot)  # it went while it was appended

    def take_over(self) -> int:
        """Put what dead processes left into the buffer; returns how many writes.

        Raises `OSError`, and `L2UnavailableError` where neither the own journal nor the ledger takes them; the
        files stay then.
        """
        turn = Turn()
        try:
            self._turns.take(turn)
            return self._take_all_over()
        finally:
            self._turns.leave(turn)

    def end(self, timeout: float) -> None:
        """Put nothing more into the buffer, since nobody would flush it; the files stay. Returns once that holds, or
        after `timeout` seconds."""
        self._ended = True
        turn = Turn()
        try:
            self._turns.take(turn, timeout)
        finally:
            self._turns.leave(turn)

    def _take_all_over(self) -> int:
        count = 0
        for orphan in self._journal.orphans():
            try:
                count += self._take_over(orphan)
            except (OSError, *WITHOUT_L2):
                raise
            except Exception as error:  # noqa: BLE001 a file that makes this process stumble must not hold up others
                self._wait(orphan, type(error).__name__)
            finally:
                orphan.leave()  # locked by a process that lives, nobody would ever take it over
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
        if self._ended or self._later.get(orphan.path.name) == len(self._schemas):
            return 0
        self._versions.reference.ensure()  # the buffer may have to stamp what it merges
        contents = orphan.read()
        taken, left = self._take(contents)
        if left is Lacking.ROOM or not self._safe(taken):
            return len(taken)
        if contents.newer or left is Lacking.READER:
            self._wait(orphan, "a newer release wrote it" if contents.newer else "its schema, or key, is not here")
        elif contents.damaged:
            self._journal.set_aside(orphan.path, "damaged; what stands before was taken over")
        else:
            orphan.remove()
        return len(taken)

    def _wait(self, orphan: Orphan, reason: str) -> None:
        self._later[orphan.path.name] = len(self._schemas)
        self._log.warning("a journal waits for a process that can read it", file=orphan.path.name, reason=reason)

    def _safe(self, taken: Sequence[Slot]) -> bool:
        """Whether something other than the old segment has each write: where the disk is full, the ledger has to."""
        for slot in taken:
            try:
                self.note(self._schemas[slot.schema], slot.key)
            except OSError as error:
                self._log.error("the journal takes nothing; the ledger gets what was in it", error=type(error).__name__)
                self._hand_off()
                return all(slot.sent >= slot.item.version or self._gone(slot) for slot in taken)
        return True

    def _gone(self, slot: Slot) -> bool:
        return self._buffer.slot(slot.schema, slot.key) is not slot

    def _take(self, contents: SegmentContents) -> tuple[list[Slot], Lacking]:
        """The places of the writes of a segment that were put, and what the others lack."""
        newest: dict[tuple[str, str], JournalRecord] = {}
        for record in contents.records:
            place = (record.schema, record.key_text)
            if not self._versions.believed(record.entry.version):
                contents.damaged = True
            elif place not in newest or newest[place].entry.version <= record.entry.version:
                newest[place] = record
        taken: list[Slot] = []
        left = Lacking.NOTHING
        for record in newest.values():
            bound = self._schemas.get(record.schema)
            try:
                if bound is None:
                    left = Lacking.READER
                elif not self._put(bound, record, taken):
                    return taken, Lacking.ROOM
            except WITHOUT_L2:
                raise
            except DecodeError:
                left = Lacking.READER
            except (StrataError, ValueError):
                contents.damaged = True
        return taken, left

    def _put(self, bound: Bound, record: JournalRecord, taken: list[Slot]) -> bool:
        """Whether there was room for it. Raises `DecodeError` where this process cannot read it, `ValueError` or
        another `StrataError` where none can; `L2UnavailableError`."""
        if self._ended:
            return False
        key_text = record.key_text
        key = changes.key_of(bound, key_text)
        item = replace(restored(bound, key, key_text, record.entry), ends=self._encoder.ends_here(record.ends))
        if not self._buffer.put(bound.name, key, key_text, item).room:
            self._hand_off()  # what the ledger has makes room
            if not self._buffer.put(bound.name, key, key_text, item).room:
                return False
        bound.l1.forget(key, below=item.version)  # nobody tells this process of what it hands off itself
        slot = self._buffer.slot(bound.name, key)
        if slot is not None:
            taken.append(slot)
        return True


def restored(bound: Bound, key: Any, key_text: str, entry: Entry) -> Buffered:
    """The write of an entry. Raises `DecodeError` where this process cannot read it, or it does not fit the schema."""
    if entry.op is EntryOp.DELETE:
        return Buffered(entry.version, None, False)
    names, values = changes.row_of(bound, key, entry)
    record = bound.record(values, names)
    made = changes.default_of(bound, key, key_text, entry)
    default = None if made is None else bound.record(made)
    added, partial = changes.added_of(bound, entry.added), bool(bound.plan.unloaded(record))
    return Buffered(entry.version, record, partial, entry.ages, added, default, entry.deleted)
