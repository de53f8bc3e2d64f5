"""What size costs: inserts, the longest single insert, a full collection, memory; up to a million entries."""

from __future__ import annotations

import gc
import time
import tracemalloc
from collections.abc import Iterator

from strata.clock import SystemClock
from strata.l1.store import MemStore
from strata.policies import EvictionPolicy
from tests.benchmarks.harness import Row, Target, collector_off, row
from tests.benchmarks.options import Options

SMALL = 5_000
LARGE = 1_000_000
SLICE = 2_000  # inserts that are timed at once
COLLECTED = 100_000


def run(options: Options) -> list[Row]:
    large = LARGE // 10 if options.quick else LARGE
    rows = [line for policy in EvictionPolicy for line in _inserts(policy, large, options.rounds(100))]
    return [*rows, _pause(), _memory()]


def _inserts(policy: EvictionPolicy, large: int, rounds: int) -> list[Row]:
    """Inserts into a full store, first with no entry ever used, then just after all were."""
    small_store, large_store, keys = _filled(policy, SMALL), _filled(policy, large), _keys("new")
    rows = []
    for used in (False, True):
        state = "all used" if used else "none used"
        ratios, longest = [], 0.0
        if used:
            _use(large_store)
        with collector_off():
            for _ in range(rounds):
                if used:
                    _use(small_store)
                reference, _ = _put(small_store, keys)
                taken, worst = _put(large_store, keys)
                ratios.append(taken / reference)
                longest = max(longest, worst)
        rows.append(row(f"put, {policy.name}, {large:,} entries, {state}", f"{SMALL:,} entries", ratios))
        rows.append(row(f"put, {policy.name}, {large:,} entries, {state}, longest", "", [longest * 1e6], unit=" µs"))
    return rows


def _filled(policy: EvictionPolicy, size: int) -> MemStore:
    store = MemStore(capacity=size, ttl=3600, eviction=policy, clock=SystemClock())
    keys = _keys("old")
    for _ in range(size):
        key = next(keys)
        store.put(key, key, 1)
    return store


def _keys(prefix: str) -> Iterator[str]:
    number = 0
    while True:
        number += 1
        yield f"{prefix}-{number}"


def _use(store: MemStore) -> None:
    for entry in store.entries.values():
        entry.used = time.monotonic()
        entry.hits += 1


def _put(store: MemStore, keys: Iterator[str]) -> tuple[float, float]:
    """The time of some inserts, and of the longest of them."""
    chosen = [next(keys) for _ in range(SLICE)]
    longest, began = 0.0, time.perf_counter()
    before = began
    for key in chosen:
        store.put(key, key, 1)
        now = time.perf_counter()
        longest = max(longest, now - before)
        before = now
    return before - began, longest


def _pause() -> Row:
    """What the entries add to a full collection. Their keys and records are of kinds that it passes by."""
    without = _collect()
    store = _filled(EvictionPolicy.LRU, COLLECTED)
    gc.collect()
    pauses = [1000 * (_collect() - without) for _ in range(20)]
    assert len(store) == COLLECTED
    return row(f"full collection, {COLLECTED:,} entries", "none", pauses, Target(5.0), unit=" ms more")


def _collect() -> float:
    began = time.perf_counter()
    gc.collect()
    return time.perf_counter() - began


def _memory() -> Row:
    tracemalloc.start()
    store = _filled(EvictionPolicy.LRU, COLLECTED)
    taken, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return row("memory, an entry and its key, no record", "", [taken / len(store)], unit=" bytes")
