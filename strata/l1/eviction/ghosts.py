"""Keys that were evicted not long ago, in eight bytes each."""

from __future__ import annotations

from array import array
from collections.abc import Hashable

from strata import _compiled


class Ghosts:
    """A table of `size` key hashes; a new one takes the place of whatever hashes to its slot.

    So memories fade at random instead of in order, which remembers part of a loop that is longer than the table. A
    forgotten key, or one of the same hash, costs one misjudged entry. Guarded by the store's lock.
    """

    __slots__ = ("_size", "_slots")

    def __init__(self, size: int) -> None:
        self._size = size
        self._slots = array("q")

    def remember(self, key: Hashable) -> None:
        # A tuple's hash is mixed, where that of an int is the int itself.
        mark = hash((key,))
        self._table()[mark % self._size] = mark

    def recall(self, key: Hashable) -> bool:
        """Whether the key is remembered."""
        mark = hash((key,))
        return bool(self._slots) and self._slots[mark % self._size] == mark

    def swap(self, gone: Hashable, new: Hashable) -> bool:
        """Remember the one key, and say whether the other is remembered."""
        slots = self._slots or self._table()
        mark = hash((gone,))
        slots[mark % self._size] = mark
        mark = hash((new,))
        return slots[mark % self._size] == mark

    def _table(self) -> array[int]:
        # Made when the store is full for the first time: a large capacity that is never reached costs nothing.
        if not self._slots:
            self._slots = array("q", bytes(8 * self._size))
        return self._slots


_compiled.replace(globals(), "ghosts", "Ghosts")
