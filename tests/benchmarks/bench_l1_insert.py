"""L1 insert with eviction, against cachetools with a lock around it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

import cachetools

import strata
from strata.l1.store import MemStore
from strata.policies import EvictionPolicy
from strata.waits.clock import SystemClock
from tests.benchmarks.harness import Row, Target, calling, measure, row
from tests.benchmarks.options import Options
from tests.benchmarks.plain import plain
from tests.benchmarks.traces import zipf

CAPACITY = 5_000
RECORD = ("p1", "andrew", 7)
REFERENCE = "cachetools.LRUCache + Lock"
# Of the compiled part: a policy's put against the reference.
TARGETS = {"put, LRU": Target(0.8), "put, LFU": Target(1.2), "put, FIFO": Target(0.75)}

Step = Callable[[str], object]


def run(options: Options) -> list[Row]:
    # Keys that were not there for ten times the capacity, so that every put evicts.
    fresh = [f"player-{number}" for number in range(10 * CAPACITY)]
    skewed = [f"player-{number}" for number in zipf(100_000, 50_000, 1.0)]
    puts = {f"put, {policy.name}": _putting(_store(policy)) for policy in EvictionPolicy}
    reads = {f"get or put, {policy.name}": _reading(_store(policy)) for policy in EvictionPolicy}
    return [
        *_compare(_cachetools_put(), puts, fresh, options.rounds(40)),
        *_compare(_cachetools_read(), reads, skewed, options.rounds(40)),
        *plain("l1_insert", options),
    ]


def _compare(reference: Step, steps: dict[str, Step], items: list[str], rounds: int) -> list[Row]:
    candidates = {name: calling(step) for name, step in {REFERENCE: reference, **steps}.items()}
    timings = measure(candidates, items, rounds)
    targets = TARGETS if strata.compiled else {}
    rows = [row(name, REFERENCE, timings[name].over(timings[REFERENCE]), targets.get(name)) for name in steps]
    return rows + [row(name, "", timing.rounds, unit=" ns") for name, timing in timings.items()]


def _store(eviction: EvictionPolicy) -> MemStore:
    return MemStore(capacity=CAPACITY, ttl=3600, eviction=eviction, clock=SystemClock())


def _putting(store: MemStore) -> Step:
    def put(key: str) -> None:
        store.put(key, RECORD, 1)

    return put


def _reading(store: MemStore) -> Step:
    entries, monotonic = store.entries, time.monotonic

    def read(key: str) -> Any:
        entry = entries.get(key)
        if entry is not None:
            now = monotonic()
            if now < entry.expires:
                entry.used = now
                entry.hits += 1
                return entry.value
        store.put(key, RECORD, 1)
        return RECORD

    return read


def _cachetools_put() -> Step:
    cache: Any = cachetools.LRUCache(CAPACITY)
    lock = threading.Lock()

    def put(key: str) -> None:
        with lock:
            cache[key] = RECORD

    return put


def _cachetools_read() -> Step:
    cache: Any = cachetools.LRUCache(CAPACITY)
    lock = threading.Lock()

    def read(key: str) -> Any:
        with lock:
            found = cache.get(key)
        if found is None:
            with lock:
                cache[key] = found = RECORD
        return found

    return read
