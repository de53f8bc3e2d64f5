"""The dirty buffer of one process: the newest write of each key that L3 is not known to have.

A slot is *unsent* until the ledger has its version, then *kept* until L3 has it, so that a ledger that was lost can
be filled again. A newer write of a key takes the place of the older one and keeps its place in the queue.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Hashable, Iterable
from itertools import islice, takewhile
from typing import Any

import msgspec

from strata.clock import Clock
from strata.writebehind.journal import Segment
from strata.writebehind.shard import Shard, home_of


class Buffered(msgspec.Struct, frozen=True, gc=False):
    """A pending write; `record` is None for a deletion, `partial` where it has columns that were not loaded."""

    version: int
    record: Any
    partial: bool


class Own(msgspec.Struct, frozen=True, gc=False):
    """What reads of a key get from the buffer; `newest`: nothing newer was met. Where something newer was met, it is
    the least that a read may show: the newer one may be lost with the process, or the Redis, that has it."""

    version: int
    record: Any
    partial: bool
    newest: bool = True


class Slot(msgspec.Struct, gc=False, eq=False):
    """One key. `item` is replaced as a whole, never changed, so that it can be read without the lock.

    `sent` is the version that the ledger has, `sent_at` when it was asked last (monotonic); `persisted` the version
    that L3 has, `born` when the write that it lacks came (monotonic), `superseded` the newest one met elsewhere,
    `given_up` the one that was given up. `home` is written by whoever asks for `shard` first, always to the same.
    `segment` belongs to the journal.
    """

    schema: str
    key: Any
    key_text: str
    item: Buffered
    born: float
    sent: int = 0
    sent_at: float = 0.0
    persisted: int = 0
    home: Shard | None = None
    superseded: int = 0
    given_up: int = 0
    segment: Segment | None = None

    @property
    def shard(self) -> Shard:
        """Where it goes."""
        if self.home is None:
            self.home = home_of(self.schema, self.key_text)
        return self.home

    @property
    def overtaken(self) -> bool:
        """Whether a newer version was met elsewhere."""
        return self.superseded > self.item.version


class Put(msgspec.Struct, frozen=True, gc=False):
    """What became of a write, by its version: whether there was room for it, and whether it was refused since it
    changes some columns of a record that is pending deletion."""

    version: int
    room: bool = True
    orphan: bool = False


class DirtyBuffer:
    """Thread-safe: `_lock` guards every field. After fork the child makes another one.

    Writers of any thread, the flusher, the bus's thread and `flush` come here. Only `merge`, `stamp`, `uncover` and
    `gone`, which are quick, are called while the lock is held. `wake`, which may start a thread: the first write came,
    or `threshold` of them wait; `gone`: a slot is not needed any more. `uncover`: reads of the key are about to go
    below again; what was read there while the write covered it may be older than the write, and must reach nobody else.

    A change that a signal's handler breaks off midway leaves `_torn` set, and whoever comes next mends what it left.
    """

    def __init__(
        self,
        most: int,
        threshold: int,
        clock: Clock,
        *,
        merge: Callable[[str, Any, Any], Any],
        stamp: Callable[[], int],
        wake: Callable[[], None],
        uncover: Callable[[str, Hashable], None],
        gone: Callable[[Slot], None] | None = None,
    ) -> None:
        self._most = most
        self._threshold = threshold
        self._clock = clock
        self._merge = merge
        self._stamp = stamp
        self._wake = wake
        self._uncover = uncover
        self._gone = gone
        self._lock = threading.Lock()
        self._torn = False  # whether a change is under way, or was broken off
        self._due = False  # whether `wake` is to be called
        self._slots: dict[tuple[str, Hashable], Slot] = {}
        self._unsent: dict[Slot, None] = {}
        self._kept: dict[Slot, None] = {}
        self._kept_in: Counter[Shard] = Counter()
        self._left: dict[Shard, int] = {}  # the newest version of the writes that left for want of room
        self._left_count = 0
        self.since = 0.0  # monotonic time at which the oldest unsent write came, or was tried

    def write(self, schema: str, key: Hashable, key_text: str, record: Any, partial: bool) -> Put:
        """Take a new write, and stamp it.

        In one step: whoever tells of a newer version has moved the clock on before, so that it either finds this
        write here, or this one's stamp is above it.
        """
        with self._lock:
            self._begin()
            put = self._put(schema, key, key_text, Buffered(self._stamp(), record, partial), newest=True)
            self._torn = False
        self._tell()
        return put

    def put(self, schema: str, key: Hashable, key_text: str, item: Buffered) -> Put:
        """Take a write that was stamped before."""
        with self._lock:
            self._begin()
            put = self._put(schema, key, key_text, item)
            self._torn = False
        self._tell()
        return put

    def restamp(self, slot: Slot, item: Buffered) -> Buffered | None:
        """The write with a version of now, where a clock that has been put back since stamped it; None where it is not
        the slot's any more."""
        with self._lock:
            if slot.item is not item or self._slots.get((slot.schema, slot.key)) is not slot:
                return None
            self._begin()
            self._replace(slot, Buffered(self._stamp(), item.record, item.partial))
            self._torn = False
            fresh = slot.item
        self._tell()
        return fresh

    def peek(self, schema: str, key: Hashable) -> Own | None:
        """This process's write of the key, unless it was given up."""
        slot = self._slots.get((schema, key))
        if slot is None:
            return None
        item = slot.item
        if slot.given_up >= item.version:
            return None
        return Own(item.version, item.record, item.partial, slot.superseded <= item.version)

    def slot(self, schema: str, key: Hashable) -> Slot | None:
        """The slot of a key, if it has a write that L3 is not known to have."""
        return self._slots.get((schema, key))

    def take(self, most: int) -> list[tuple[Slot, Buffered]]:
        """The oldest unsent writes, which stay unsent."""
        with self._lock:
            return [(slot, slot.item) for slot in islice(self._unsent, most)]

    def find(self, schema: str, keys: Iterable[Hashable]) -> list[tuple[Slot, Buffered]]:
        """The unsent writes of some keys."""
        with self._lock:
            slots = [self._slots.get((schema, key)) for key in keys]
            return [(slot, slot.item) for slot in slots if slot is not None and slot in self._unsent]

    def sent(self, versions: Iterable[tuple[Slot, int]], now: float) -> None:
        """The ledger has these versions."""
        with self._lock:
            self._begin()
            for slot, version in versions:
                slot.sent = max(slot.sent, version)
                slot.sent_at = now
                if slot.item.version <= slot.sent and slot in self._unsent:
                    del self._unsent[slot]
                    self._keep(slot)
            self.since = now
            self._torn = False

    def tried(self, slots: Iterable[Slot], now: float) -> None:
        """These could not be handed off, or were asked after: others go first the next time."""
        with self._lock:
            self._begin()
            for slot in slots:
                slot.sent_at = now
                for queue in (self._unsent, self._kept):
                    if slot in queue:
                        del queue[slot]
                        queue[slot] = None
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
                slot = self._slots.get((schema, key))
                if slot is None:
                    self._left_count = max(0, self._left_count - outcome)
                elif slot.item.version <= version:
                    self._remove(slot)
                    if slot.item.version < version:
                        overtook.append((key, version))
                else:
                    slot.persisted = max(slot.persisted, version)
                    slot.born = self._clock.monotonic()  # what it lacks now came while that was under way
            self._torn = False
        return overtook

    def give_up(self, schema: str, key: Hashable, version: int) -> None:
        """The write, up to this version, is given up: reads do not get it any more. It stays until that was told."""
        with self._lock:
            slot = self._slots.get((schema, key))
            if slot is not None:
                self._uncover(schema, key)
                slot.given_up = max(slot.given_up, version)

    def drop(self, schema: str, key: Hashable, version: int) -> None:
        """The write, up to this version, was given up, and whoever wrote it was told."""
        with self._lock:
            self._begin()
            slot = self._slots.get((schema, key))
            if slot is not None and slot.item.version <= version:
                self._remove(slot)
            self._torn = False

    def supersede(self, schema: str, key: Hashable, version: int) -> None:
        """A newer version was met: reads get it where they can, and this one otherwise, until L3 has the newer one."""
        if (schema, key) in self._slots:
            with self._lock:
                slot = self._slots.get((schema, key))
                if slot is not None:
                    self._uncover(schema, key)
                    slot.superseded = max(slot.superseded, version)

    def lost(self, shard: Shard) -> int:
        """The ledger of the shard was lost: everything kept is unsent again. Returns how many."""
        with self._lock:
            self._begin()
            again = [slot for slot in self._kept if slot.shard == shard]
            for slot in again:
                slot.sent = 0
                self._unkeep(slot)
                self._enqueue(slot)
            self._torn = False
        self._tell()
        return len(again)

    def again(self, slot: Slot, version: int) -> None:
        """The ledger does not have this version after all."""
        with self._lock:
            self._begin()
            if slot in self._kept and slot.item.version == version:
                slot.sent = 0
                self._unkeep(slot)
                self._enqueue(slot)
            self._torn = False
        self._tell()

    def kept(self, before: float, most: int) -> list[tuple[Slot, Buffered]]:
        """Writes handed off before a monotonic time and not confirmed, oldest first."""
        with self._lock:
            return [(slot, slot.item) for slot in islice(takewhile(lambda s: s.sent_at <= before, self._kept), most)]

    def pending(self) -> list[tuple[Slot, Buffered]]:
        """Every write that L3 is not known to have."""
        with self._lock:
            return [(slot, slot.item) for slot in self._slots.values()]

    def overtaken(self, shard: Shard | None = None) -> list[tuple[Slot, Buffered]]:
        """Writes of which a newer version was met, in one shard or everywhere."""
        with self._lock:
            return [
                (slot, slot.item)
                for slot in self._slots.values()
                if slot.overtaken and (shard is None or shard == slot.shard)
            ]

    def kept_in(self) -> set[Shard]:
        """Where writes were handed off and not confirmed."""
        with self._lock:
            return set(self._kept_in) | set(self._left)

    def left(self) -> dict[Shard, int]:
        """Where writes left for want of room, and the newest version of them."""
        with self._lock:
            return dict(self._left)

    def drained(self, shard: Shard, version: int) -> None:
        """L3 has everything of the shard up to this version."""
        with self._lock:
            if self._left.get(shard, version + 1) <= version:
                del self._left[shard]
            if not self._left:
                self._left_count = 0

    @property
    def unsent(self) -> int:
        """How many writes the ledger has neither as they are nor a newer one of: with the process they would be lost.

        Those of which a newer version was only heard of are among them.
        """
        return len(self._unsent)

    @property
    def unconfirmed(self) -> int:
        """How many writes were handed off and not confirmed."""
        return len(self._kept) + self._left_count

    def age(self, now: float) -> float:
        """Seconds since the oldest write that L3 is not known to have came; 0 without such."""
        born = min([slot.born for slot in list(self._slots.values())], default=now)
        return max(0.0, now - born)

    def __len__(self) -> int:
        """How many writes L3 is not known to have."""
        return len(self._slots) + self._left_count

    def _begin(self) -> None:
        if self._torn:
            self._mend()
        self._torn = True

    def _tell(self) -> None:
        if self._due:
            self._due = False
            self._wake()

    def _mend(self) -> None:
        """Every slot, and nothing else, is in one of the queues; what may be in neither goes to the ledger again."""
        for queue in (self._unsent, self._kept):
            for slot in [slot for slot in queue if self._slots.get((slot.schema, slot.key)) is not slot]:
                del queue[slot]
        for slot in self._slots.values():
            if slot not in self._kept or slot.sent < slot.item.version:
                self._kept.pop(slot, None)
                self._unsent[slot] = None
            else:
                self._unsent.pop(slot, None)
        self._kept_in = Counter(slot.shard for slot in self._kept)
        self._due = bool(self._unsent)

    def _put(self, schema: str, key: Hashable, key_text: str, item: Buffered, *, newest: bool = False) -> Put:
        place = (schema, key)
        slot = self._slots.get(place)
        if slot is not None:
            return self._coalesce(slot, item, newest=newest)
        if len(self._slots) >= self._most and not self._make_room():
            return Put(item.version, room=False)
        slot = self._slots[place] = Slot(schema, key, key_text, item, self._clock.monotonic())
        self._enqueue(slot)
        return Put(item.version)

    def _coalesce(self, slot: Slot, item: Buffered, *, newest: bool) -> Put:
        """`newest`: it comes after what is here, even where a clock that has been put back since stamped that."""
        old = slot.item
        if item.version == old.version:
            return Put(item.version)  # the same write, out of a journal that was read before
        if item.version < old.version and not newest:
            self._overtaken(slot, item)
            return Put(item.version)
        if item.partial and slot.superseded < old.version:
            if old.record is None:
                return Put(item.version, orphan=True)
            item = Buffered(item.version, self._merge(slot.schema, old.record, item.record), old.partial)
        self._replace(slot, item)
        return Put(item.version)

    def _overtaken(self, slot: Slot, item: Buffered) -> None:
        """A write that was stamped before what is here comes after it, out of a journal or the dead letters."""
        old = slot.item
        if old.partial and item.record is not None and slot.superseded < old.version:
            # It is what the other left out. A version of its own, since the ledger may have the other one already.
            record = self._merge(slot.schema, item.record, old.record)
            self._replace(slot, Buffered(self._stamp(), record, item.partial))

    def _replace(self, slot: Slot, item: Buffered) -> None:
        slot.item = item
        if slot in self._kept:
            self._unkeep(slot)
            self._enqueue(slot)

    def _enqueue(self, slot: Slot) -> None:
        self._unsent[slot] = None
        count = len(self._unsent)
        if count == 1:
            self.since = self._clock.monotonic()
            self._due = True
        elif count == self._threshold:
            self._due = True

    def _keep(self, slot: Slot) -> None:
        self._kept[slot] = None
        self._kept_in[slot.shard] += 1

    def _unkeep(self, slot: Slot) -> None:
        del self._kept[slot]
        shard = slot.shard
        self._kept_in[shard] -= 1
        if not self._kept_in[shard]:
            del self._kept_in[shard]

    def _remove(self, slot: Slot) -> None:
        self._unsent.pop(slot, None)
        if slot in self._kept:
            self._unkeep(slot)
        self._uncover(slot.schema, slot.key)
        del self._slots[slot.schema, slot.key]
        if self._gone is not None:
            self._gone(slot)

    def _make_room(self) -> bool:
        """Let the oldest write go that is safe in the ledger; it is still waited for, by shard and version."""
        if not self._kept:
            return False
        slot = next(iter(self._kept))
        shard = slot.shard
        self._left[shard] = max(self._left.get(shard, 0), slot.item.version)
        self._left_count += 1
        self._remove(slot)
        return True
