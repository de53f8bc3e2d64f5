"""Keys that were evicted not long ago, in eight bytes each."""

from __future__ import annotations

from array import array
from collections.abc import Hashable

from strata import _compiled

UNKNOWN = -1
OLD = 8  # added to the worth of a key that left more than YOUNG eras ago; worths are numbers below
YOUNG = 8
ERAS = 128  # are told apart; a key that is remembered for longer, which is rare, may be taken for young
BITS = 10  # of a slot, for era and worth
REST = -1 << BITS


class Ghosts:
    """A table of `size` key hashes, each with its worth; a new one takes the place of whatever hashes to its slot.

    So memories fade at random instead of in order, which remembers part of a loop that is longer than the table. A
    forgotten key, or one of the same hash, costs one misjudged entry. Guarded by the store's lock.
    """

    __slots__ = ("_era", "_size", "_slots")

    def __init__(self, size: int) -> None:
        self._size = size
        self._slots = array("q")
        self._era = 0  # times OLD, so that a worth can be added

    def remember(self, key: Hashable, worth: int) -> None:
        # A tuple's hash is mixed, where that of an int is the int itself. Its last bits give way to era and worth.
        mark = hash((key,))
        self._table()[mark % self._size] = mark & REST | self._era | worth

    def recall(self, key: Hashable) -> int:
        """The key's worth, with OLD added where it is, or UNKNOWN."""
        if not self._slots:
            return UNKNOWN
        mark = hash((key,))
        slot = self._slots[mark % self._size]
        return UNKNOWN if (slot ^ mark) >> BITS else self._worth(slot)

    def swap(self, gone: Hashable, new: Hashable) -> int:
        """Remember the one key as worth nothing, and recall the other."""
        slots, size = self._slots or self._table(), self._size
        mark = hash((gone,))
        slots[mark % size] = mark & REST | self._era
        mark = hash((new,))
        slot = slots[mark % size]
        return UNKNOWN if (slot ^ mark) >> BITS else self._worth(slot)

    def age(self) -> None:
        """Begin another era."""
        self._era = (self._era + OLD) % (ERAS * OLD)

    def _worth(self, slot: int) -> int:
        worth = slot % OLD
        eras = (self._era // OLD - slot // OLD) % ERAS
        return worth + OLD if eras > YOUNG else worth

    def _table(self) -> array[int]:
        # Made when the store is full for the first time: a large capacity that is never reached costs nothing.
        if not self._slots:
            self._slots = array("q", bytes(8 * self._size))
        return self._slots


_compiled.replace(globals(), "ghosts", "Ghosts")
