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
        "soft_timeouts", "stale_fills", "stale_served",
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


@dataclass(frozen=True, slots=True)
class Stats:
    """A snapshot of a store's counters since it was made.

    `gets` and `l1_hits` count records, not calls. `dirty_count` is what this process wrote behind and L3 does not
    have yet. `corrupt` are L2 entries that could not be read, `stale_fills` fills refused because something newer
    came in between, `l2_skips` calls that went on without Redis.

    `stale_served`: records that fail-safe or a soft time-out served beyond their TTL. `negative_hits`: misses that a
    remembered absence answered. `eager_refreshes`: loads begun before an entry expired. `soft_timeouts`,
    `hard_timeouts`: reads that waited for L3 no longer. `lease_waits`: reads that waited for another process's load.

    `dirty_age`: seconds since the oldest of this process's writes that L3 does not have came. `pending`, `oldest_age`
    and `dead_letters` are those of the ledger, whichever process wrote them.

    `by_schema` holds the same numbers a schema.
    """

    gets: int = 0
    sets: int = 0
    deletes: int = 0
    searches: int = 0
    errors: int = 0
    l1_entries: int = 0
    dirty_count: int = 0
    dirty_age: float = 0.0
    pending: int = 0
    oldest_age: float = 0.0
    dead_letters: int = 0
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
    bus_messages: int = 0
    bus_unreadable: int = 0
    bus_resets: int = 0
    by_schema: Mapping[str, Mapping[str, Any]] = field(default_factory=lambda: MappingProxyType({}))
