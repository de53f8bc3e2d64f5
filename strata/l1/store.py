"""The store of one schema: a dict that hits read without a lock, and everything else changes under one."""

from __future__ import annotations

import enum
import itertools
import math
import threading
from collections.abc import Hashable
from typing import Any, NamedTuple

from strata.clock import Clock
from strata.l1.entry import Entry
from strata.l1.eviction import policy
from strata.policies import EvictionPolicy

SLACK = 64  # queued items beyond twice the entries before the queue is compacted
SLICE = 2000  # entries looked at under one hold of the lock by a sweep


class Reason(enum.Enum):
    """Why an entry left by itself."""

    CAPACITY = "capacity"
    EXPIRED = "expired"


class Evicted(NamedTuple):
    """An entry that left, with its frozen value."""

    key: Any
    value: Any
    reason: Reason


class MemStore:
    """At most `capacity` entries (0 = any number), each for `ttl` seconds (0 = for ever).

    `entries` is read by every hit without a lock, which is safe since a dict look-up is atomic under the GIL and on
    free-threaded builds; it, the policy's queue and the counters are written under `lock` only. After fork the owner
    sets a new `lock` and clears.
    """

    def __init__(
        self,
        *,
        capacity: int,
        ttl: float,
        eviction: EvictionPolicy,
        clock: Clock,
        lock: Any = None,
    ) -> None:
        self.entries: dict[Hashable, Entry] = {}
        self.lock: Any = threading.RLock() if lock is None else lock
        self.evictions = 0
        self.expirations = 0
        self._capacity = capacity
        self._ttl = ttl
        self._clock = clock
        self._policy = policy(eviction) if capacity else None
        self._departed_hits = 0

    def put(
        self, key: Hashable, value: Any, version: int, *, pending: bool = False, loaded: float | None = None
    ) -> list[Evicted]:
        """Put or replace an entry; returns what had to go, for the caller to report after it let go of the lock."""
        now = self._clock.monotonic()
        expires = now + self._ttl if self._ttl else math.inf
        entry = Entry(value, version, pending, expires, now if loaded is None else loaded, now)
        with self.lock:
            old = self.entries.get(key)
            if old is not None:
                entry.hits = old.hits
            self.entries[key] = entry
            if self._policy is None:
                return []
            self._policy.added(key, entry)
            if len(self._policy) > 2 * len(self.entries) + SLACK:
                self._policy.compact(self.entries)
            return self._make_room() if len(self.entries) > self._capacity else []

    def live(self, key: Hashable, now: float) -> Entry | None:
        """The entry, stamped, unless it has expired."""
        entry = self.entries.get(key)
        if entry is None or now >= entry.expires:
            return None
        entry.used = now
        return entry

    def drop(self, key: Hashable) -> bool:
        """Remove an entry; whether there was one."""
        with self.lock:
            entry = self.entries.pop(key, None)
            if entry is None:
                return False
            self._departed_hits += entry.hits
            return True

    def clear(self) -> None:
        """Remove all entries."""
        with self.lock:
            self._departed_hits += sum(entry.hits for entry in self.entries.values())
            self.entries.clear()
            if self._policy is not None:
                self._policy.clear()

    def sweep(self, now: float) -> list[Evicted]:
        """Remove what has expired, a slice at a time so that the lock is never held for long."""
        gone: list[Evicted] = []
        with self.lock:
            keys = list(self.entries)
        for start in range(0, len(keys), SLICE):
            with self.lock:
                for key in itertools.islice(keys, start, start + SLICE):
                    entry = self.entries.get(key)
                    if entry is not None and now >= entry.expires:
                        gone.append(self._leave(key, Reason.EXPIRED))
                        self.expirations += 1
        return gone

    @property
    def hits(self) -> int:
        """Hits of all entries, those that left included."""
        with self.lock:
            return self._departed_hits + sum(entry.hits for entry in self.entries.values())

    def __len__(self) -> int:
        return len(self.entries)

    def _make_room(self) -> list[Evicted]:
        assert self._policy is not None
        gone = []
        while len(self.entries) > self._capacity:
            gone.append(self._leave(self._policy.victim(self.entries), Reason.CAPACITY))
            self.evictions += 1
        return gone

    def _leave(self, key: Hashable, reason: Reason) -> Evicted:
        entry = self.entries.pop(key)
        self._departed_hits += entry.hits
        return Evicted(key, entry.value, reason)
