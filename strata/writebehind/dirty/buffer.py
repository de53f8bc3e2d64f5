"""The dirty buffer of one process: the newest write of each key that L3 is not known to have.

A slot is *unsent* until the ledger has its version, then *kept* until L3 has it, so that a ledger that was lost can
be filled again. A newer write of a key takes the place of the older one and keeps its place in the queue.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable
from itertools import islice, takewhile
from typing import Any

from msgspec.structs import replace

from strata import _compiled
from strata.waits.clock import Clock
from strata.waits.locks import is_inside, memory_lock
from strata.writebehind.dirty.gate import Gate
from strata.writebehind.dirty.laying import coalesced
from strata.writebehind.dirty.owner import Limits, Owner
from strata.writebehind.dirty.queues import Left, Queues
from strata.writebehind.dirty.slot import Accepted, Addition, Buffered, OwnWrite, Slot
from strata.writebehind.dirty.tally import Tallies
from strata.writebehind.ledger.shard import Shard


class DirtyBuffer:
    """Thread-safe: `_lock` guards every field; `peek`, `slot` and the counts read without it, in one call each. After
    fork the child makes another one.

    A change that a signal's handler breaks off midway leaves `_torn` set, and whoever comes next mends what it left.
    """

    def __init__(self, limits: Limits, clock: Clock, owner: Owner) -> None:
        self.limits = limits
        self._clock, self._owner = clock, owner
        self.gate = Gate(clock)
        self._lock = memory_lock()
        self._torn = False  # whether a change is under way, or was broken off
        self._due = False  # whether `wake` is still to be called; set again where nobody could be woken
        self._slots: dict[tuple[str, Hashable], Slot] = {}
        self._met: dict[Slot, None] = {}  # those of which a newer version was met, whatever they hold by now
        self._queues = Queues()
        self._left = Left()
        self.tallies = Tallies(owner, clock, self._lock)
        self.since = 0.0  # monotonic time at which the oldest unsent write came, or was tried
        self.sent_at = 0.0  # monotonic time at which the ledger last took some
        # Writes since the last hand-off whose keys were not in it: those that come again wait their time.
        self.fresh = 0

    def write(self, schema: str, key: Hashable, key_text: str, item: Buffered) -> Accepted:
        """Take a new write, and stamp it, in one step: whoever tells of a newer version has moved the clock on before,
        so that it finds this write here, or this one's stamp is above it. Raises `ClosedError` where the process is
        about to end."""
        return self._take(self._write, schema, key, key_text, item)

    def touch(self, schema: str, key: Hashable, ends: float | None) -> bool:
        """What L2 gets of the write of a key ends then; whether it is yet to get it."""
        with self._lock:
            slot = self._slots.get((schema, key))
            if slot is not None:
                slot.item = replace(slot.item, ends=ends)
            return slot is not None and slot in self._queues.unsent

    def add(self, schema: str, key: Hashable, key_text: str, what: Addition) -> Accepted:
        """Take what is added to columns of a record, and stamp it. Raises as `write` does."""
        return self._take(self._add, schema, key, key_text, what)

    def add_on(self, schema: str, key: Hashable, what: Addition) -> Accepted | None:
        """As `add`, in short, where the key was added to before, nothing else is pending of it, and the record is
        known; None, nothing being done, where that is not so, or cannot be seen at once."""
        with self._lock:
            self._begin()
            slot = self._slots.get((schema, key))
            accepted = None if slot is None or not self.gate.is_open else self.tallies.on_top(slot, what)
            if slot is not None and accepted is not None and accepted.item is not None:
                self._replace(slot, accepted.item)
            self._torn = False
        self._tell()
        return accepted

    def put(self, schema: str, key: Hashable, key_text: str, item: Buffered, *, safe: bool = True) -> Accepted:
        """Take a write that was stamped before. Raises as `write` does where it is not `safe` elsewhere."""
        return self._take(self._put, schema, key, key_text, item, safe=safe)

    def _take(self, put: Callable[..., Accepted], *what: Any, safe: bool = False) -> Accepted:
        while True:
            with self._lock:
                if safe or self.gate.is_open:
                    self._begin()
                    taken = put(*what)
                    self._torn = False
                    break
            self.gate.wait()
        self._tell()
        return taken

    def shut(self, seconds: float) -> None:
        """What was taken until now is to be flushed by the calling thread, and the process to end: other writes wait so
        many seconds, and are refused then. Nothing is taken before the gate is open again."""
        with self._lock:
            self.gate.shut(seconds)

    def restamp(self, slot: Slot, item: Buffered) -> Buffered | None:
        """The write with a version of now, where a clock that has been put back since stamped it; None where it is not
        the slot's any more."""
        with self._lock:
            if slot.item is not item or self._slots.get((slot.schema, slot.key)) is not slot:
                return None
            self._begin()
            self._restamp(slot)
            self._torn = False
            fresh = slot.item
        self._tell()
        return fresh

    @property
    def interrupted(self) -> bool:
        """Whether the caller is a signal's handler that has interrupted a change of this buffer."""
        return is_inside(self._lock)

    def peek(self, schema: str, key: Hashable) -> OwnWrite | None:
        """This process's write of the key, unless it was given up."""
        return None if (slot := self._slots.get((schema, key))) is None else slot.own_write()

    def holds(self, schema: str, key: Hashable, version: int) -> bool:
        """Whether a version is this process's write of the key, unless it was given up, or something newer was met."""
        return (slot := self._slots.get((schema, key))) is not None and slot.holds(version)

    def slot(self, schema: str, key: Hashable) -> Slot | None:
        """The slot of a key, if it has a write that L3 is not known to have."""
        return self._slots.get((schema, key))

    def shown(self, schema: str, key: Hashable) -> tuple[Slot, Buffered] | None:
        """As `slot`, with its write, which is about to leave: what is added later is a point of its own."""
        with self._lock:
            return None if (slot := self._slots.get((schema, key))) is None else slot.leaving()

    def take(self, most: int) -> list[tuple[Slot, Buffered]]:
        """The oldest unsent writes, which stay unsent."""
        with self._lock:
            self.fresh = 0
            return [slot.leaving() for slot in islice(self._queues.unsent, most)]

    def find(self, schema: str, keys: Iterable[Hashable]) -> list[tuple[Slot, Buffered]]:
        """The unsent writes of some keys."""
        with self._lock:
            slots = (self._slots.get((schema, key)) for key in keys)
            return [slot.leaving() for slot in slots if slot is not None and slot in self._queues.unsent]

    def sent(self, versions: Iterable[tuple[Slot, int]], now: float) -> None:
        """The ledger has these versions."""
        with self._lock:
            self._begin()
            for slot, version in versions:
                slot.sent = max(slot.sent, version)
                slot.sent_at = self.sent_at = now
                if slot.item.version <= slot.sent and slot in self._queues.unsent:
                    self._queues.sent(slot)
            self.since = now
            self._torn = False

    def tried(self, slots: Iterable[Slot], now: float) -> None:
        """These could not be handed off, or were asked after: others go first the next time."""
        with self._lock:
            self._begin()
            for slot in slots:
                slot.sent_at = now
                self._queues.last(slot)
            self.since = now
            self._torn = False

    def confirm(
        self, schema: str, versions: Iterable[tuple[Hashable, int]], *, outcome: bool = False
    ) -> list[tuple[Hashable, int]]:
        """L3 has these versions; returns those that took the place of an older write of this process.

        `outcome`: they are outcomes of writes of this process, those that left for want of room among them.
        """
        overtook = []
        with self._lock:
            self._begin()
            for key, version in versions:
                if (slot := self._slots.get((schema, key))) is None:
                    if outcome:
                        self._left.ended()
                elif slot.item.version <= version:
                    self.tallies.settle((schema, key), slot.item.version)
                    self._remove(slot)
                    if slot.item.version < version:
                        overtook.append((key, version))
                elif version > slot.persisted:
                    slot.persisted = version
                    slot.born = self._clock.monotonic()  # what it lacks now came while that was under way
                    slot.item = self.tallies.settled((schema, key), slot.item, version)
            self._torn = False
        return overtook

    def give_up(self, schema: str, key: Hashable, version: int) -> None:
        """The write of this version is given up: reads do not get it any more. It stays until that was told. An older
        one, which may have been its base, or another's, is not: L3 has not refused that."""
        with self._lock:
            slot = self._slots.get((schema, key))
            if slot is not None and slot.item.version == version:
                self._owner.uncover(schema, key)
                self.tallies.forget((schema, key))
                slot.given_up = version

    def drop(self, schema: str, key: Hashable, version: int) -> None:
        """The write of this version was given up, and whoever wrote it was told."""
        with self._lock:
            self._begin()
            if (slot := self._slots.get((schema, key))) is not None and slot.item.version == version:
                self.tallies.forget((schema, key))
                self._remove(slot)
            self._torn = False

    def supersede(self, schema: str, key: Hashable, version: int, *, adding: bool = False) -> None:
        """A newer version was met: reads get it where they can, and this one otherwise, until L3 has the newer one.
        `adding`: it only adds to columns."""
        place = (schema, key)
        if place in self._slots or place in self.tallies:
            with self._lock:
                if not adding:
                    self.tallies.unknow(place)
                if (slot := self._slots.get(place)) is not None:
                    self._owner.uncover(schema, key)
                    self._met[slot] = None
                    slot.superseded = max(slot.superseded, version)

    def lost(self, shard: Shard) -> int:
        """The ledger of the shard was lost: everything kept is unsent again. Returns how many."""
        with self._lock:
            self._begin()
            again = [slot for slot in self._queues.kept if slot.shard == shard]
            for slot in again:
                slot.sent = 0
                self._replace(slot, slot.item)
            self._torn = False
        self._tell()
        return len(again)

    def again(self, slot: Slot, version: int) -> None:
        """The ledger does not have this version after all."""
        with self._lock:
            self._begin()
            if slot in self._queues.kept and slot.item.version == version:
                slot.sent = 0
                self._replace(slot, slot.item)
            self._torn = False
        self._tell()

    def kept(self, before: float, most: int) -> list[tuple[Slot, Buffered]]:
        """Writes handed off before a monotonic time and not confirmed, oldest first."""
        with self._lock:
            kept = self._queues.kept
            return [slot.leaving() for slot in islice(takewhile(lambda s: s.sent_at <= before, kept), most)]

    def pending(self) -> list[tuple[Slot, Buffered]]:
        """Every write that L3 is not known to have."""
        with self._lock:
            return [slot.leaving() for slot in self._slots.values()]

    def overtaken(self, shard: Shard | None = None) -> list[tuple[Slot, Buffered]]:
        """Writes of which a newer version was met, in one shard or everywhere."""
        with self._lock:
            met = [slot for slot in self._met if slot.overtaken and (shard is None or shard == slot.shard)]
            return [slot.leaving() for slot in met]

    def kept_in(self) -> set[Shard]:
        """Where writes were handed off and not confirmed."""
        with self._lock:
            return set(self._queues.kept_in) | set(self._left.newest)

    def left(self) -> dict[Shard, int]:
        """Where writes left for want of room, and the newest version of them."""
        with self._lock:
            return dict(self._left.newest)

    def drained(self, shard: Shard, version: int) -> None:
        """L3 has everything of the shard up to this version."""
        with self._lock:
            self._left.drained(shard, version)

    @property
    def unsent(self) -> int:
        """How many writes the ledger has neither as they are nor a newer one of, be it that one was heard of: with the
        process they would be lost."""
        return len(self._queues.unsent)

    @property
    def unconfirmed(self) -> int:
        """How many writes were handed off and not confirmed."""
        return len(self._queues.kept) + self._left.count

    def age(self, now: float) -> float:
        """Seconds since the oldest write that L3 is not known to have came; 0 without such."""
        born = now
        with self._lock:
            for slot in self._slots.values():
                born = min(born, slot.born)
                if not slot.persisted:
                    break  # those behind it came after it
        return now - born

    def __len__(self) -> int:
        """How many writes L3 is not known to have."""
        return len(self._slots) + self._left.count

    def _begin(self) -> None:
        if self._torn:
            self._mend()
        self._torn = True

    def _tell(self) -> None:
        if self._due:
            self._due = False  # before the waking: a write that comes meanwhile is not to be forgotten
            if not self._owner.wake():
                self._due = True

    def _mend(self) -> None:
        """Every slot, and nothing else, is in one of the queues; what may be in neither goes to the ledger again."""
        self._met = {slot: None for slot in self._met if self._slots.get((slot.schema, slot.key)) is slot}
        self._queues.mend(list(self._slots.values()))
        self._due = bool(self._queues.unsent)

    def _write(self, schema: str, key: Hashable, key_text: str, item: Buffered) -> Accepted:
        item.version = self._stamp(schema, key)
        return self._put(schema, key, key_text, item, newest=True)

    def _put(self, schema: str, key: Hashable, key_text: str, item: Buffered, newest: bool = False) -> Accepted:
        place = (schema, key)
        if not item.added:
            self.tallies.unknow(place)
        if (slot := self._slots.get(place)) is not None:
            laid, accepted = coalesced(self._owner, slot, item)
            if laid is not None:
                slot.shown = max(slot.shown, 0 if newest else item.version)
                if not laid.added:
                    self.tallies.forget(place)
                self._replace(slot, laid)
            return accepted
        if len(self._slots) >= self.limits.most and not self._make_room():
            return Accepted(item.version, room=False)
        slot = self._slots[place] = Slot(schema, key, key_text, item, self._clock.monotonic())
        slot.shown = 0 if newest else item.version
        self._enqueue(slot)
        return Accepted(item.version)

    def _add(self, schema: str, key: Hashable, key_text: str, what: Addition) -> Accepted:
        version, place, slot = self._stamp(schema, key), (schema, key), self._slots.get((schema, key))
        if slot is not None and slot.item.deletes and not slot.overtaken and what.default is None:
            return Accepted(version, orphan=True)
        # Without a slot it has gone around the ledger, or ended; and a newer write of others comes between.
        shown = version if slot is None else max(slot.shown, slot.superseded)
        added = self.tallies.add(place, what.deltas, version, shown)
        item = Buffered(version, what.part, True, (), added, what.default, span=what.span)
        taken = self._put(schema, key, key_text, item, newest=True)
        known = self.tallies.count(place, self._slots.get(place), what)
        return Accepted(version, taken.room, taken.orphan, item, known)

    def _stamp(self, schema: str, key: Hashable) -> int:
        """A version for a new write of the key, above that of the one that is here."""
        version, slot = self._owner.stamp(), self._slots.get((schema, key))
        if slot is not None and slot.item.version > version:  # by a clock that has been put back since
            self._restamp(slot)
            version = self._owner.stamp()
        return version

    def _restamp(self, slot: Slot) -> None:
        self.tallies.forget((slot.schema, slot.key))
        self._replace(slot, slot.item.restamped(self._owner.stamp()))

    def _replace(self, slot: Slot, item: Buffered) -> None:
        slot.item = item
        if slot in self._queues.kept:
            self._queues.unkeep(slot)
            self._enqueue(slot)

    def _enqueue(self, slot: Slot) -> None:
        self._queues.unsent[slot] = None
        self.fresh += not slot.sent
        if len(self._queues.unsent) == 1:
            self.since = self._clock.monotonic()
            self._due = True
        elif self.fresh == self.limits.threshold and not slot.sent:
            self._due = True

    def _remove(self, slot: Slot) -> None:
        self._queues.remove(slot)
        self._met.pop(slot, None)
        self._owner.uncover(slot.schema, slot.key)
        del self._slots[slot.schema, slot.key]
        self._owner.gone(slot)

    def _make_room(self) -> bool:
        """Let the oldest write go that is safe in the ledger; it is still waited for, by shard and version."""
        if (slot := next(iter(self._queues.kept), None)) is None:
            return False
        self._left.add(slot)
        self.tallies.forget((slot.schema, slot.key))
        self._remove(slot)
        return True


_compiled.replace(globals(), "buffer", "DirtyBuffer")
