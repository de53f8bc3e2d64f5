"""In which order the slots of a dirty buffer are handed off, and asked after."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from strata import _compiled
from strata.writebehind.dirty.slot import Slot
from strata.writebehind.ledger.shard import Shard


class Queues:
    """Each slot is in one of two: `unsent` until the ledger has its version, then `kept` until L3 has it, in shards
    `kept_in`. Guarded by the lock of the buffer whose they are; the lengths are read without it, in one call each."""

    def __init__(self) -> None:
        self.unsent: dict[Slot, None] = {}
        self.kept: dict[Slot, None] = {}
        self.kept_in: Counter[Shard] = Counter()

    def sent(self, slot: Slot) -> None:
        """The ledger has it."""
        del self.unsent[slot]
        self.kept[slot] = None
        self.kept_in[slot.shard] += 1

    def unkeep(self, slot: Slot) -> None:
        """It is in neither, until it is in `unsent` again."""
        del self.kept[slot]
        shard = slot.shard
        self.kept_in[shard] -= 1
        if not self.kept_in[shard]:
            del self.kept_in[shard]

    def last(self, slot: Slot) -> None:
        """Others go first the next time."""
        for queue in (self.unsent, self.kept):
            if slot in queue:
                del queue[slot]
                queue[slot] = None

    def remove(self, slot: Slot) -> None:
        """It goes."""
        self.unsent.pop(slot, None)
        if slot in self.kept:
            self.unkeep(slot)

    def mend(self, slots: Iterable[Slot]) -> None:
        """After a change that was broken off: these slots, and no others, are in one; what may be in neither is to be
        handed off again."""
        there = set(slots)
        for queue in (self.unsent, self.kept):
            for slot in [slot for slot in queue if slot not in there]:
                del queue[slot]
        for slot in slots:
            if slot not in self.kept or slot.sent < slot.item.version:
                self.kept.pop(slot, None)
                self.unsent[slot] = None
            else:
                self.unsent.pop(slot, None)
        self.kept_in = Counter(slot.shard for slot in self.kept)


class Left:
    """The writes that left a full buffer when the ledger had them: how many, and the newest version in each shard.
    Guarded as `Queues` are."""

    def __init__(self) -> None:
        self.newest: dict[Shard, int] = {}
        self.count = 0

    def add(self, slot: Slot) -> None:
        """One more."""
        self.newest[slot.shard] = max(self.newest.get(slot.shard, 0), slot.item.version)
        self.count += 1

    def ended(self) -> None:
        """There is an outcome of one of them."""
        self.count = max(0, self.count - 1)

    def drained(self, shard: Shard, version: int) -> None:
        """L3 has everything of the shard up to this version."""
        if self.newest.get(shard, version + 1) <= version:
            del self.newest[shard]
        if not self.newest:
            self.count = 0


_compiled.replace(globals(), "queues", "Queues")
