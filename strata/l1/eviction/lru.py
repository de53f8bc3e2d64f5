"""Least recently used, exact without any work on a hit.

New entries wait in a queue, which is in order of their stamps because the clock does not go back. One that was used
meanwhile is moved, when it comes to the front, to a heap under its real stamp, and again from there. The victim is the
first of both whose stamp is still true. Exact unless more than LOOKS entries in a row were used since they were
queued; then the least recently used of those goes.
"""

from __future__ import annotations

import heapq
from collections import deque

from strata.l1.entry import GONE, Entry
from strata.l1.eviction.base import LOOKS, Remains, still_there

Settled = tuple[float, int, Entry]  # the stamp, a running number where stamps are equal, the entry


class Lru:
    """A queue of the entries as they came, a heap of those used since. Guarded by the store's lock."""

    def __init__(self) -> None:
        self._fresh: deque[Entry] = deque()
        self._settled: list[Settled] = []
        self._number = 0
        self._remains = Remains()

    def add(self, entry: Entry) -> None:
        entry.queued = entry.used
        self._fresh.append(entry)

    def pick(self, now: float) -> Entry | None:
        oldest = None
        for _ in range(LOOKS):
            entry = self._pop()
            if entry is None:
                break
            used = entry.used
            if used <= entry.queued or entry.expires <= now:
                return entry
            self._settle(entry, used)
            if oldest is None or used < oldest.queued:
                oldest = entry
        if oldest is not None:
            self._remains.gone += 1  # the heap still holds it
        return oldest

    def left(self, entry: Entry) -> None:
        if self._remains.add(len(self)):
            self._fresh = deque(filter(still_there, self._fresh))
            self._settled = [item for item in self._settled if item[2].expires != GONE]
            heapq.heapify(self._settled)
            self._remains.gone = 0

    def clear(self) -> None:
        self._fresh.clear()
        self._settled.clear()
        self._remains.gone = 0

    def __len__(self) -> int:
        return len(self._fresh) + len(self._settled)

    def _pop(self) -> Entry | None:
        """The first entry by queued stamp that is still there."""
        fresh, settled = self._fresh, self._settled
        while fresh or settled:
            if fresh and (not settled or fresh[0].queued <= settled[0][0]):
                entry = fresh.popleft()
            else:
                entry = heapq.heappop(settled)[2]
            if entry.expires != GONE:
                return entry
            self._remains.gone -= 1
        return None

    def _settle(self, entry: Entry, used: float) -> None:
        entry.queued = used
        self._number += 1
        heapq.heappush(self._settled, (used, self._number, entry))
