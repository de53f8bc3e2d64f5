"""Least frequently used, with counts that age: S3-FIFO with laps of probation.

After Yang et al., "FIFO queues are all you need for cache eviction" (SOSP 2023). A new entry is on probation, in a
queue of a fifth of the store. There an unused one leaves, and its key is remembered for a while; one used since its
last lap gets another, and with three uses it is established. So is a key that comes back while it is remembered. An
established entry carries a count of up to three, loses one each lap, and leaves when it comes round with none: what was
popular once does not stay for ever, which is the trap of plain LFU.

Other than in the paper: a fifth instead of a tenth, laps instead of a single chance, forgetful ghosts. Each was chosen
on other traces than those it is judged on, as closing more of the gap to the optimum there, or losing less where LRU
is near it.
"""

from __future__ import annotations

from collections import deque

from strata import _compiled
from strata.l1.entry import GONE, L1Entry
from strata.l1.eviction.base import LOOKS, Remains, still_there
from strata.l1.eviction.ghosts import Ghosts

MOST = 3  # uses that are counted; as many establish an entry
PROBATION = 5  # one part in so many of the store


class Lfu:
    """Two queues and the ghosts. Guarded by the store's lock."""

    def __init__(self, capacity: int) -> None:
        self._share = max(1, capacity // PROBATION)
        self._probation: deque[L1Entry] = deque()
        self._established: deque[L1Entry] = deque()
        self._ghosts = Ghosts(capacity)
        self._remains = Remains()

    def add(self, entry: L1Entry) -> None:
        if self._ghosts.recall(entry.key):
            self._established.append(entry)
        else:
            self._probation.append(entry)

    def swap(self, entry: L1Entry, now: float) -> L1Entry | None:
        probation = self._probation
        first = probation[0] if len(probation) >= self._share else None
        # The usual case in short: the oldest on probation was never used.
        if first is not None and first.hits == first.seen and first.expires != GONE:
            victim: L1Entry | None = probation.popleft()
            known = self._ghosts.swap(first.key, entry.key)
        else:
            victim = self._search(now)
            known = self._ghosts.recall(entry.key)
        (self._established if known else probation).append(entry)
        return victim

    def left(self, entry: L1Entry) -> None:
        if entry.hits:
            # An invalidated key is read again soon; it need not prove itself twice.
            self._ghosts.remember(entry.key)
        if self._remains.add(len(self)):
            self._probation = deque(filter(still_there, self._probation))
            self._established = deque(filter(still_there, self._established))
            self._remains.gone = 0

    def clear(self) -> None:
        self._probation.clear()
        self._established.clear()
        self._remains.gone = 0

    def __len__(self) -> int:
        return len(self._probation) + len(self._established)

    def _search(self, now: float) -> L1Entry | None:
        looks = 0
        while self._probation or self._established:
            proving = len(self._probation) >= self._share or not self._established
            entry = (self._probation if proving else self._established).popleft()
            if entry.expires == GONE:
                self._remains.gone -= 1
                continue
            looks += 1
            if entry.expires <= now or looks > LOOKS or not self._stays(entry, proving):
                if proving:
                    self._ghosts.remember(entry.key)
                return entry
        return None

    def _stays(self, entry: L1Entry, proving: bool) -> bool:
        """Queue the entry for another lap if it has earned one."""
        hits = entry.hits
        uses, entry.seen = hits - entry.seen, hits
        count = min(MOST, entry.count + uses)
        if not (uses if proving else count):
            return False
        if proving and count < MOST:
            entry.count = count
            self._probation.append(entry)
        else:
            entry.count = 0 if proving else count - 1
            self._established.append(entry)
        return True


_compiled.replace(globals(), "lfu", "Lfu")
