"""Least recently used, exact without any work on a hit.

New entries wait in a queue, which is in order of their stamps because the clock does not go back. One that was used
meanwhile is moved, when it comes to the front, to a heap under its real stamp, and again from there. The victim is the
first of both whose stamp is still true. Exact unless more than LOOKS entries in a row were used since they were queued:
then the least recently used of those goes, or of those moved before.
"""

from __future__ import annotations

import heapq
import math
from collections import deque

from strata import _compiled
from strata.l1.entry import GONE, L1Entry
from strata.l1.eviction.base import LOOKS, Remains, still_there

Settled = tuple[float, int, L1Entry]  # the stamp, a running number where stamps are equal, the entry


class Lru:
    """A queue of the entries as they came, a heap of those used since. Guarded by the store's lock."""

    def __init__(self) -> None:
        self._fresh: deque[L1Entry] = deque()
        self._settled: list[Settled] = []
        self._number = 0
        self._remains = Remains()

    def add(self, entry: L1Entry) -> None:
        self._fresh.append(entry)

    def swap(self, entry: L1Entry, now: float) -> L1Entry | None:
        fresh, settled = self._fresh, self._settled
        victim: L1Entry | None = None
        # The usual case in short: the oldest was never used.
        if fresh and (not settled or fresh[0].queued <= settled[0][0]):
            first = fresh[0]
            if first.used <= first.queued and first.expires != GONE:
                victim = fresh.popleft()
        if victim is None:
            victim = self._search(now)
        fresh.append(entry)
        return victim

    def left(self, entry: L1Entry) -> None:
        if self._remains.add(self._fresh, others=len(self._settled)):
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

    def _search(self, now: float) -> L1Entry | None:
        """The entry with the oldest stamp, taken out; those looked at on the way are queued anew."""
        oldest: L1Entry | None = None
        for _ in range(LOOKS):
            entry = self._pop(math.inf if oldest is None else oldest.queued)
            if entry is None:
                return oldest
            entry.queued = max(entry.queued, entry.used)
            if oldest is not None and oldest.queued <= entry.queued and entry.expires > now:
                self._settle(entry)
                continue
            if oldest is not None:
                self._settle(oldest)
            oldest = entry
            if entry.expires <= now:
                return oldest
        return None if oldest is None else self._older(oldest)

    def _older(self, entry: L1Entry) -> L1Entry:
        """The first of the heap in its stead, where that is older by a stamp that is still true."""
        first = self._settled[0][2] if self._settled else entry
        if first.expires == GONE or not first.used <= first.queued < entry.queued:
            return entry
        heapq.heappop(self._settled)
        self._settle(entry)
        return first

    def _pop(self, before: float) -> L1Entry | None:
        """The first entry by queued stamp that is still there, if queued before the time given."""
        fresh, settled = self._fresh, self._settled
        while fresh or settled:
            new = bool(fresh) and (not settled or fresh[0].queued <= settled[0][0])
            if (fresh[0].queued if new else settled[0][0]) >= before:
                return None
            entry = fresh.popleft() if new else heapq.heappop(settled)[2]
            if entry.expires != GONE:
                return entry
            self._remains.gone -= 1
        return None

    def _settle(self, entry: L1Entry) -> None:
        self._number += 1
        heapq.heappush(self._settled, (entry.queued, self._number, entry))


_compiled.replace(globals(), "lru", "Lru")
