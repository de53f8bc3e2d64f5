"""First in, first out: the key that came first leaves, however often it was used or overwritten."""

from __future__ import annotations

from collections import deque

from strata import _compiled
from strata.l1.entry import GONE, L1Entry
from strata.l1.eviction.base import Remains, still_there


class Fifo:
    """One queue in order of arrival. Guarded by the store's lock."""

    def __init__(self) -> None:
        self._queue: deque[L1Entry] = deque()
        self._remains = Remains()

    def add(self, entry: L1Entry) -> None:
        self._queue.append(entry)

    def swap(self, entry: L1Entry, now: float) -> L1Entry | None:
        queue = self._queue
        queue.append(entry)
        oldest = queue.popleft()
        while oldest.expires == GONE:
            self._remains.gone -= 1
            oldest = queue.popleft()
        return None if oldest is entry else oldest

    def left(self, entry: L1Entry) -> None:
        if self._remains.add(self._queue):
            self._queue = deque(filter(still_there, self._queue))
            self._remains.gone = 0

    def clear(self) -> None:
        self._queue.clear()
        self._remains.gone = 0

    def __len__(self) -> int:
        return len(self._queue)


_compiled.replace(globals(), "fifo", "Fifo")
