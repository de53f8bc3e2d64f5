"""What size costs: inserts, the longest single insert, a full collection, memory; up to a million entries."""

from __future__ import annotations

import gc
import itertools
import threading
import time
import tracemalloc
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

import cachetools

from strata.codec import JSON
from strata.l1.store import MemStore
from strata.model.plan import compile_model
from strata.policies import EvictionPolicy
from strata.waits.clock import SystemClock
from tests.benchmarks.harness import Row, Target, collector_off, row
from tests.benchmarks.options import Options
from tests.models import Note, Player

SMALL = 5_000
LARGE = 1_000_000
SLICE = 4_000  # inserts that are timed at once
COLLECTED = 100_000
PEER = "cachetools.LRUCache + Lock"

Put = Callable[[str], object]


class Took(NamedTuple):
    """Seconds for a slice of inserts, and for the longest of them."""

    all: float
    longest: float


def run(options: Options) -> list[Row]:
    large = LARGE // 10 if options.quick else LARGE
    rows = [line for policy in EvictionPolicy for line in _inserts(policy, large, options.rounds(50))]
    return [*rows, _pause(), _memory(), *_memory_with_records()]


def _inserts(policy: EvictionPolicy, large: int, rounds: int) -> list[Row]:
    """Inserts into a full store: when no entry was ever used, and when all were used since the last insert."""
    store, small, peer = _filled(policy, large), _filled(policy, SMALL), _peer(large)
    rows = []
    for used in (False, True):
        took: list[tuple[Took, Took, Took]] = []
        if used:
            _use(store)
        with collector_off():
            for _ in range(rounds):
                if used:
                    _use(small)
                took.append((_put(_putting(store)), _put(_putting(small)), _put(peer)))
        what = f"put, {policy.name}, {large:,} entries, {'all' if used else 'none'} used"
        rows.append(row(what, f"same, {SMALL:,} entries", [own.all / few.all for own, few, _ in took]))
        rows.append(row(what, f"{PEER}, as many", [own.all / other.all for own, _, other in took]))
        longest = [1000 * max(times[which].longest for times in took) for which in (0, 2)]
        rows.append(row(f"longest {what}", f"{PEER}: {longest[1]:.1f} ms", longest[:1], unit=" ms"))
    return rows


def _filled(policy: EvictionPolicy, size: int) -> MemStore:
    store = MemStore(capacity=size, ttl=3600, eviction=policy, clock=SystemClock())
    for key in itertools.islice(KEYS, size):
        store.put(key, key, 1)
    return store


def _peer(size: int) -> Put:
    cache: Any = cachetools.LRUCache(size)
    lock = threading.Lock()

    def put(key: str) -> None:
        with lock:
            cache[key] = key

    for key in itertools.islice(KEYS, size):
        put(key)
    return put


def _putting(store: MemStore) -> Put:
    def put(key: str) -> None:
        store.put(key, key, 1)

    return put


def _names() -> Iterator[str]:
    for number in itertools.count():
        yield f"player-{number}"


KEYS = _names()


def _use(store: MemStore) -> None:
    for entry in store.entries.values():
        entry.used = time.monotonic()
        entry.hits += 1


def _put(put: Put) -> Took:
    keys = list(itertools.islice(KEYS, SLICE))
    longest, began = 0.0, time.perf_counter()
    before = began
    for key in keys:
        put(key)
        now = time.perf_counter()
        longest = max(longest, now - before)
        before = now
    return Took(before - began, longest)


def _pause() -> Row:
    """What the entries add to a full collection. Their keys and records are of kinds that it passes by."""
    added = []
    for _ in range(10):
        gc.collect()
        without = _collect()
        store = _filled(EvictionPolicy.LRU, COLLECTED)
        gc.collect()
        added.append(1000 * (_collect() - without))
        store.clear()
    return row(f"full collection, {COLLECTED:,} entries", "none", added, Target(5.0), unit=" ms more")


def _collect() -> float:
    began = time.perf_counter()
    gc.collect()
    return time.perf_counter() - began


def _memory() -> Row:
    taken = _traced(lambda: _filled(EvictionPolicy.LRU, COLLECTED))
    return row("memory, an entry and its key, no record", "", [taken], unit=" bytes")


def _memory_with_records() -> list[Row]:
    """What a record takes, beside its JSON, by which one may reckon."""
    rows = []
    for what, make in RECORDS.items():
        plan = compile_model(type(make(0)))
        encode = plan.encoder(JSON())

        def filled(plan: Any = plan, make: Callable[[int], Any] = make) -> MemStore:
            store = MemStore(capacity=COLLECTED, ttl=3600, eviction=EvictionPolicy.LRU, clock=SystemClock())
            for number in range(COLLECTED):
                record = make(number)
                store.put(plan.key_of(record), plan.freeze(record), 1)
            return store

        size = len(encode(plan.cached(make(COLLECTED))))
        rows.append(row(f"memory, an entry, {what}", f"its JSON: {size} bytes", [_traced(filled)], unit=" bytes"))
    return rows


def _traced(fill: Callable[[], MemStore]) -> float:
    """Bytes an entry."""
    tracemalloc.start()
    store = fill()
    taken, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return taken / len(store)


NOW = datetime(2026, 1, 1, tzinfo=UTC)
RECORDS: dict[str, Callable[[int], Any]] = {
    "a player of 6 small columns": lambda n: Player(
        f"player-{n}", f"name-{n}", f"name-{n}@example.org", n, NOW + timedelta(seconds=n), NOW + timedelta(seconds=-n)
    ),
    "a note of 200 characters and 3 tags": lambda n: Note(
        n + 1000, f"{n:0200}", [f"tag-{n}", f"other-{n}", "same"], {"views": n + 1000, "likes": n + 2000}
    ),
    "a note of 4,000 characters": lambda n: Note(n + 1000, f"{n:04000}"),
}
