"""The store of one schema: a plain dict of entries, a capacity and a time to live."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Sequence
from typing import Any

from strata import _compiled
from strata.aging import PLAIN, Aging
from strata.l1.entry import FOREVER, GONE, L1Entry
from strata.l1.evicted import Evicted, EvictionReason
from strata.l1.eviction import policy_for
from strata.l1.tagged import TagIndex
from strata.policies import EvictionPolicy
from strata.waits.clock import Clock
from strata.waits.hub import MemoryLock
from strata.waits.locks import memory_lock

CAPACITY, EXPIRED = EvictionReason  # an enum's member costs 40 ns by its name


class MemStore:
    """Entries by key, at most `capacity` of them (0: any number), each for `ttl` seconds (0: for ever).

    `lock` guards every write, to the policy and the counters too, and may be taken by the caller around several calls;
    only `unattended` is also written without it, by who has called the watcher, which is whoever sees it set.
    `entries` may be read without it at any time, also on a free-threaded build: it is one dict for the life of the
    store, and each change to it is a single store or deletion. After fork the child gives the store a new `lock` and
    calls `clear`, since a thread of the parent's may have held the one, and been inside the other.

    An entry whose time is up stays until it is overwritten, chosen for eviction, or swept, which `aging` delays; `live`
    does not show it, `stale` does. One with a life of its own does not age.
    """

    def __init__(
        self,
        *,
        capacity: int,
        ttl: float,
        eviction: EvictionPolicy,
        clock: Clock,
        lock: MemoryLock | None = None,
        aging: Aging = PLAIN,
    ) -> None:
        self.tagged: TagIndex | None = None  # set once, by the tier, where the schema has tags
        self.entries: dict[Any, L1Entry] = {}
        self.lock = memory_lock() if lock is None else lock
        self.clock = clock
        self.evictions = 0
        self.expirations = 0
        self._capacity = capacity or math.inf
        self._ttl = ttl or FOREVER
        self._aging = None if aging == PLAIN else aging
        self._stay = aging.stay
        self._policy = policy_for(eviction, capacity)
        self._swap = self._policy.swap
        self._now = clock.monotonic
        self._departed = 0
        self._watch: Callable[[], bool] | None = None
        self._watched = True
        self.unattended = False  # whether the watcher is to be called

    @property
    def ttl(self) -> float:
        """Seconds that a record is kept where nothing else is said."""
        return self._ttl

    def put(
        self,
        key: Hashable,
        value: Any,
        version: int,
        *,
        pending: bool = False,
        loaded: float | None = None,
        ttl: float | None = None,
    ) -> list[Evicted]:
        """Store a record; returns what had to leave for it, or, under its own key, had expired before.

        `loaded` is when it was read from below (default: now), and `ttl` (default: the store's; 0: for ever) counts
        from then.
        """
        with self.lock:
            gone = self.enter(key, value, version, pending, loaded, ttl)
        if self.unattended:
            self.attend()
        return gone

    def enter(
        self,
        key: Hashable,
        value: Any,
        version: int,
        pending: bool,
        loaded: float | None = None,
        ttl: float | None = None,
        own: bool = False,
        tags: Sequence[str] = (),
    ) -> list[Evicted]:
        """As `put`, by a caller that holds the lock, and calls `attend` afterwards. `own`: it does not age, and at the
        end of its TTL it is gone."""
        now = self._now()
        if loaded is None:
            loaded = now
        life = self._ttl if ttl is None else ttl if own else ttl or FOREVER
        if self._aging is None or own:
            expires = ends = loaded + life
        else:
            life = self._aging.draw(life)
            ends = loaded + life
            expires = loaded + life * self._aging.eager if self._aging.eager else ends
        entries = self.entries
        entry = entries.get(key)
        if entry is not None:
            gone = self._expired(entry) if entry.ends <= now else []
            _renew(entry, value, version, pending, expires, loaded, now)
            entry.ends = ends
            entry.own = own
        else:
            entry = L1Entry(value, version, pending, expires, loaded, now, 0, key, now, ends, own)
            gone = self._insert(entry) if len(entries) < self._capacity else self._replace(entry, now)
            entries[key] = entry
        if self.tagged is not None:
            self.tagged.put(key, tags)
        if not self._watched and expires != FOREVER:
            self._watched = self.unattended = True
        return gone

    def retime(self, entry: L1Entry, life: float | None, now: float) -> None:
        """Give an entry of the store another life of its own (None: that of the store), from `now` on; by a caller that
        holds the lock, and calls `attend` afterwards."""
        ttl = (self._ttl if life is None else life) + now - entry.loaded
        tags = () if self.tagged is None else self.tagged.tags(entry.key)
        self.enter(entry.key, entry.value, entry.version, entry.pending, entry.loaded, ttl, life is not None, tags)

    def live(self, key: Hashable, now: float) -> L1Entry | None:
        """The entry, unless its time is up. Needs no lock."""
        entry = self.entries.get(key)
        return entry if entry is not None and now < entry.ends and entry.expires != GONE else None

    def stale(self, key: Hashable, now: float) -> L1Entry | None:
        """The entry, fresh or not, unless it is older than the TTL and what it may stay beyond. Needs no lock."""
        entry = self.entries.get(key)
        return entry if entry is not None and now < self._leaves(entry) and entry.expires != GONE else None

    def claim_refresh(self, entry: L1Entry) -> bool:
        """Whether the caller is to refresh the entry, which is due; from now on it is served until it ends."""
        with self.lock:
            if entry.expires == GONE or entry.expires == entry.ends:
                return False
            entry.expires = entry.ends
            return True

    def drop(self, key: Hashable) -> bool:
        """Remove the entry, which is no eviction; whether there was one."""
        with self.lock:
            entry = self.entries.get(key)
            if entry is None:
                return False
            self._remove(entry)
            self._policy.left(entry)
            return True

    def clear(self) -> None:
        """Remove every entry."""
        with self.lock:
            for entry in self.entries.values():
                self._departed += entry.hits
                entry.expires = GONE
            self.entries.clear()
            if self.tagged is not None:
                self.tagged.clear()
            self._policy.clear()
            self._watched = self._watch is None

    def sweep(self, now: float, budget: int = 1000) -> list[Evicted]:
        """Remove every entry whose time is up by `now`, at most `budget` of them in one hold of the lock.

        To list the entries holds it for 20 ms a million.
        """
        with self.lock:
            entries, stay = list(self.entries.values()), self._stay
        due = [entry for entry in entries if (entry.ends if entry.own else entry.ends + stay) <= now]
        gone: list[Evicted] = []
        for start in range(0, len(due), budget):
            with self.lock:
                for entry in due[start : start + budget]:
                    # Since the list was made it may have been renewed, or have left.
                    if self._leaves(entry) <= now and self.entries.get(entry.key) is entry:
                        gone += self._expired(entry)
                        self._remove(entry)
                        self._policy.left(entry)
        return gone

    def watch(self, call: Callable[[], bool]) -> None:
        """Have `call` called when the store has something to sweep: now, or after the first put that expires.

        Again after each `clear`, and with the next put where it returns that nobody could come. Never under the lock:
        it may start a thread.
        """
        with self.lock:
            self._watch, self._watched = call, False
            if self.entries:
                self._watched = self.unattended = True
        self.attend()

    def attend(self) -> None:
        """Call the watcher, where there is something to sweep and it does not know. To be called without any lock."""
        if self.unattended and self._watch is not None:
            self.unattended = not self._watch()

    @property
    def hits(self) -> int:
        """The hits of all entries, those that left included; adds up the living ones, 25 ns each.

        Only a hit that meets the removal of its entry by another thread may be missing.
        """
        with self.lock:
            return self._departed + sum([entry.hits for entry in self.entries.values()])

    def __len__(self) -> int:
        return len(self.entries)

    def _leaves(self, entry: L1Entry) -> float:
        return entry.ends if entry.own else entry.ends + self._stay

    def _insert(self, entry: L1Entry) -> list[Evicted]:
        self._policy.add(entry)
        return []

    def _replace(self, entry: L1Entry, now: float) -> list[Evicted]:
        """Remove the entry that the policy would have this one replace."""
        victim = self._swap(entry, now)
        if victim is None or self.entries.get(victim.key) is not victim:
            victim = self._repair(entry, now)
        del self.entries[victim.key]
        if self.tagged is not None:
            self.tagged.drop(victim.key)
        if victim.hits:
            self._departed += victim.hits
        if victim.ends <= now:
            return self._expired(victim)
        self.evictions += 1
        return [Evicted(victim.key, victim.value, CAPACITY)]

    def _repair(self, entry: L1Entry, now: float) -> L1Entry:
        """The victim, where an exception from outside in the midst of a put has parted policy and entries."""
        self._policy.clear()
        for known in sorted(self.entries.values(), key=lambda known: known.used):
            known.queued = known.used
            self._policy.add(known)
        victim = self._swap(entry, now)
        assert victim is not None  # a full store is not empty
        return victim

    def _expired(self, entry: L1Entry) -> list[Evicted]:
        self.expirations += 1
        return [Evicted(entry.key, entry.value, EXPIRED)]

    def _remove(self, entry: L1Entry) -> None:
        del self.entries[entry.key]
        if self.tagged is not None:
            self.tagged.drop(entry.key)
        self._departed += entry.hits
        entry.expires = GONE


def _renew(entry: L1Entry, value: Any, version: int, pending: bool, expires: float, loaded: float, now: float) -> None:
    """Overwrite in place, which counts as a use; see `L1Entry` for the order."""
    entry.value = value
    entry.version = version
    entry.pending = pending
    entry.loaded = loaded
    entry.used = now
    entry.seen -= 1
    entry.expires = expires


_compiled.replace(globals(), "store", "MemStore")
