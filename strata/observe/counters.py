"""Counters of one schema, and the snapshot that `DataStore.stats` returns."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any


class Counters:
    """Counts of one schema; `+= 1` by any thread without a lock.

    Under the GIL nothing is lost, since the bytecodes of `x.n += 1` on one object do not interleave with a switch;
    a free-threaded build may lose a few, which is accepted for numbers that nobody decides upon.
    """

    __slots__ = (
        "corrupt", "deletes", "eager_refreshes", "errors", "gets", "hard_timeouts", "hook_errors", "l1_hits",
        "l2_hits", "l2_skips", "l3_hits", "lease_waits", "misses", "negative_hits", "searches", "sets",
        "soft_timeouts", "stale_fills", "stale_served", "unreadable",
    )  # fmt: skip

    def __init__(self) -> None:
        for name in self.__slots__:
            setattr(self, name, 0)

    gets: int
    sets: int
    deletes: int
    searches: int
    errors: int
    l1_hits: int
    l2_hits: int
    l3_hits: int
    misses: int
    corrupt: int
    hook_errors: int
    l2_skips: int
    stale_fills: int
    stale_served: int
    negative_hits: int
    eager_refreshes: int
    soft_timeouts: int
    hard_timeouts: int
    lease_waits: int
    unreadable: int


@dataclass(frozen=True, slots=True)
class Stats:
    """A snapshot of a store's counters since it was made; each is 0 at first. Records are counted, not calls.

    Attributes:
        gets: Records asked for.
        sets: Records stored.
        deletes: Records removed.
        searches: Searches.
        errors: Operations that raised.
        l1_entries: Entries in L1 now.
        dirty_count: Deferred writes of this process that L3 does not have yet.
        dirty_age: Seconds since the oldest of them came.
        pending: Deferred writes in the ledger, `ledger_age` seconds ago, whichever process wrote them; None is unknown.
        oldest_age: Seconds that the oldest of them had waited then; None is unknown.
        dead_letters: Writes that were given up, as of then; None is unknown.
        ledger_age: Seconds since the ledger was looked at; None where nobody has looked yet.
        l1_hits: Records that L1 answered.
        l2_hits: Records that L2 answered.
        l3_hits: Records that L3 answered.
        misses: Records that no tier had.
        evictions: Entries that L1 dropped for want of room.
        expirations: Entries that L1 dropped for their age.
        corrupt: Entries of L2 that could not be read, and were replaced.
        hook_errors: Hooks that raised.
        l2_skips: Calls that went on without Redis.
        stale_fills: Fills refused because something newer came in between.
        stale_served: Records that fail-safe or a soft time-out served beyond their TTL.
        negative_hits: Misses that a remembered absence answered.
        eager_refreshes: Loads begun before an entry expired.
        soft_timeouts: Reads that returned a stale value rather than wait for L3.
        hard_timeouts: Reads that waited for L3 no longer, and raised.
        lease_waits: Reads that waited for another process's load, or for its making of a record.
        unreadable: Rows of L3 that could not be read.
        bus_messages: Messages of other processes that were heard.
        bus_unreadable: Messages that were not understood.
        bus_resets: Times that the subscription was renewed.
        thread_failures: Mistakes that a background thread survived, and threads that the system refused.
        by_schema: The same numbers for each schema, as far as they are a schema's.
    """

    gets: int = 0
    sets: int = 0
    deletes: int = 0
    searches: int = 0
    errors: int = 0
    l1_entries: int = 0
    dirty_count: int = 0
    dirty_age: float = 0.0
    pending: int | None = 0
    oldest_age: float | None = 0.0
    dead_letters: int | None = 0
    ledger_age: float | None = None
    l1_hits: int = 0
    l2_hits: int = 0
    l3_hits: int = 0
    misses: int = 0
    evictions: int = 0
    expirations: int = 0
    corrupt: int = 0
    hook_errors: int = 0
    l2_skips: int = 0
    stale_fills: int = 0
    stale_served: int = 0
    negative_hits: int = 0
    eager_refreshes: int = 0
    soft_timeouts: int = 0
    hard_timeouts: int = 0
    lease_waits: int = 0
    unreadable: int = 0
    bus_messages: int = 0
    bus_unreadable: int = 0
    bus_resets: int = 0
    thread_failures: int = 0
    by_schema: Mapping[str, Mapping[str, Any]] = field(default_factory=lambda: MappingProxyType({}))
