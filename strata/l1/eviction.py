"""Which entry goes when there is no room: policies over stamps and counts, settled lazily.

A hit only stamps (`used`) and counts (`hits`) its entry. Each policy queues an entry with a rank when it is put; when
one must go, the lowest rank is looked at, and pushed back with its present rank if hits have raised it since. The
cost is logarithmic, a put, and nothing a hit.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Hashable
from typing import Protocol

from strata.l1.entry import Entry
from strata.policies import EvictionPolicy

Entries = dict[Hashable, Entry]


class Policy(Protocol):
    """Called under the store's lock. `entries` is the store's dict."""

    def added(self, key: Hashable, entry: Entry) -> None: ...

    def victim(self, entries: Entries) -> Hashable:
        """The key that is to go; the caller removes it."""
        ...

    def clear(self) -> None: ...


class Fifo:
    """The oldest goes; hits do not matter."""

    def __init__(self) -> None:
        self._queue: deque[tuple[Hashable, Entry]] = deque()

    def added(self, key: Hashable, entry: Entry) -> None:
        self._queue.append((key, entry))

    def victim(self, entries: Entries) -> Hashable:
        while True:
            key, entry = self._queue.popleft()
            if entries.get(key) is entry:
                return key

    def clear(self) -> None:
        self._queue.clear()

    def compact(self, entries: Entries) -> None:
        """Forget what is gone."""
        self._queue = deque(item for item in self._queue if entries.get(item[0]) is item[1])

    def __len__(self) -> int:
        return len(self._queue)


class Lru:
    """The least recently used goes, exactly: by the stamps that hits leave."""

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, Hashable, Entry]] = []
        self._turn = 0

    def added(self, key: Hashable, entry: Entry) -> None:
        self._turn += 1
        heapq.heappush(self._heap, (entry.used, self._turn, key, entry))

    def victim(self, entries: Entries) -> Hashable:
        heap = self._heap
        while True:
            stamp, turn, key, entry = heap[0]
            if entries.get(key) is not entry:
                heapq.heappop(heap)
            elif entry.used > stamp:
                heapq.heapreplace(heap, (entry.used, turn, key, entry))
            else:
                heapq.heappop(heap)
                return key

    def clear(self) -> None:
        self._heap.clear()

    def compact(self, entries: Entries) -> None:
        """Forget what is gone."""
        self._heap = [item for item in self._heap if entries.get(item[2]) is item[3]]
        heapq.heapify(self._heap)

    def __len__(self) -> int:
        return len(self._heap)


class Lfu:
    """The least frequently used goes, with counts that age (LFU-DA: Arlitt et al., "Evaluating Content Management
    Techniques for Web Proxy Caches", 2000): an entry's rank is its hits plus the rank of the last one evicted when
    those hits were seen, so that old fame does not keep an entry for ever."""

    def __init__(self) -> None:
        self._heap: list[tuple[int, int, Hashable, Entry, int]] = []
        self._turn = 0
        self._age = 0

    def added(self, key: Hashable, entry: Entry) -> None:
        self._turn += 1
        heapq.heappush(self._heap, (self._age + 1 + entry.hits, self._turn, key, entry, entry.hits))

    def victim(self, entries: Entries) -> Hashable:
        heap = self._heap
        while True:
            rank, _, key, entry, seen = heap[0]
            if entries.get(key) is not entry:
                heapq.heappop(heap)
            elif entry.hits > seen:
                self._turn += 1
                heapq.heapreplace(heap, (max(rank, self._age) + entry.hits - seen, self._turn, key, entry, entry.hits))
            else:
                heapq.heappop(heap)
                self._age = rank
                return key

    def clear(self) -> None:
        self._heap.clear()
        self._age = 0

    def compact(self, entries: Entries) -> None:
        """Forget what is gone."""
        self._heap = [item for item in self._heap if entries.get(item[2]) is item[3]]
        heapq.heapify(self._heap)

    def __len__(self) -> int:
        return len(self._heap)


def policy(kind: EvictionPolicy) -> Fifo | Lru | Lfu:
    """The policy of that name, empty."""
    if kind is EvictionPolicy.FIFO:
        return Fifo()
    return Lru() if kind is EvictionPolicy.LRU else Lfu()
