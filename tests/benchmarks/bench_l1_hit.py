"""L1 hit of an immutable record: the frame of `get` with date, bus and stamps, against dicts and other caches.

`run` takes the factory of the `get` to measure, so that the store's own can stand where the stand-in stands here.
"""

from __future__ import annotations

import functools
import math
import random
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

import cachetools

from strata.clock import SystemClock
from strata.l1.store import MemStore
from strata.policies import EvictionPolicy
from tests.benchmarks.harness import Pass, Row, Target, Timing, calling, calling_with, collector_off, measure, row
from tests.benchmarks.options import Options

SCHEMA = "players"
KEYS = [f"player-{number}" for number in range(256)]
RECORD = ("p1", "andrew", 7)
THREADS = 8

Get = Callable[[str, Any], Any]
Factory = Callable[[Sequence[str]], Get]


class Bus:
    """Says until when an instance is sure, as the engine reads it."""

    __slots__ = ("sure_until",)

    def __init__(self) -> None:
        self.sure_until = math.inf


def stand_in(keys: Sequence[str]) -> Get:
    """`get` as the engine runs it on a hit, over a store that holds `keys`."""
    store = MemStore(capacity=100_000, ttl=3600, eviction=EvictionPolicy.LRU, clock=SystemClock())
    for key in keys:
        store.put(key, RECORD, 1)
    entries, bus, monotonic = store.entries, Bus(), time.monotonic
    identity = True

    def get(schema: str, id: Any) -> Any:
        entry = entries.get(id)
        if entry is not None:
            now = monotonic()
            if now < entry.expires and now < bus.sure_until:
                entry.used = now
                entry.hits += 1
                return entry.value if identity else tuple(entry.value)
        raise LookupError(schema)

    return get


def run(options: Options, factory: Factory = stand_in) -> list[Row]:
    items = KEYS * 8
    random.shuffle(items)
    get = factory(KEYS)
    timings = measure({"get": calling_with(get, SCHEMA)} | _references(), items, options.rounds(400))
    peers = {name: timing for name, timing in timings.items() if name not in ("get", "dict.get", "lru_cache")}
    fastest = min(peers, key=lambda name: sorted(peers[name].rounds)[len(items) // len(items)])
    own = timings["get"]
    rows = [
        row("get", "dict.get", own.over(timings["dict.get"]), Target(9, 7)),
        row("get", "functools.lru_cache", own.over(timings["lru_cache"])),
    ]
    for name, timing in peers.items():
        rows.append(row("get", name, own.over(timing), Target(0.45, 0.35) if name == fastest else None))
    rows.append(row("get, 8 threads", "1 thread", _threads(get, items, options.rounds(100)), Target(1.25, 1.0)))
    return rows + [row(name, "", timing.rounds, unit=" ns") for name, timing in timings.items()]
