"""L1 as it grows to a million entries: hits, inserts that evict, memory, and whatever looks at every entry.

But for hits, which are ratios, and a reader's wait, times are those of the thread's CPU, so that neighbours do not
count.
"""

from __future__ import annotations

import gc
import itertools
import random
import threading
import time
import tracemalloc
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Annotated, Any

from strata import Config, DataStore, EvictionPolicy, MemPolicy, PrimaryKey, Schema
from strata.l1.store import MemStore
from strata.model.plan import compile_model
from strata.waits.clock import SystemClock
from tests.benchmarks.curves import Curves
from tests.benchmarks.harness import Row, calling, collector_off, measure
from tests.benchmarks.options import Options

SHARDS = 256  # by which `max_entries` is counted
LOOKED_UP = 5_000  # keys a pass, drawn from all
SLICE = 5_000  # inserts that are timed at once
HOUR = 3600.0
PAUSE = 0.0005  # seconds between two look-ups of the reader


@dataclass(frozen=True)
class Player:
    """Small, and immutable, so that L1 keeps the object itself."""

    id: Annotated[int, PrimaryKey]
    name: str
    level: int


@dataclass
class Team:
    """As large, but L1 keeps its values in a tuple."""

    id: Annotated[int, PrimaryKey]
    name: str
    level: int


def run(options: Options) -> list[Row]:
    curves = Curves("entries")
    for size in options.sizes(10_000, 100_000, 1_000_000):
        _hits(curves, size, options.rounds(40))
        _inserts(curves, size, options.rounds(40))
        _memory(curves, size)
        _collection(curves, size, 5)
        _sweep(curves, size, 1 if options.quick else 5)
    return curves.save(options.plot)


def _hits(curves: Curves, size: int, rounds: int) -> None:
    """Of keys all over the store, beside a dict of the same records: what the processor's caches miss, both pay."""
    with DataStore(Config()) as store:
        players = store.register(Schema(Player, name="players", l1=MemPolicy(ttl=HOUR, max_entries=0)))
        plain: dict[int, Player] = {}
        for id in range(size):
            plain[id] = Player(id, f"name-{id}", id)
            players.set(id, plain[id])
        for what, among in (("hit of any", size), ("hit of 256 hot ones", 256)):
            keys = random.choices(range(0, size, size // among), k=LOOKED_UP)
            passes = {"own": calling(players.get), "dict": calling(plain.get)}
            timings = measure(passes, keys, rounds)
            curves.add(what, size, timings["own"].over(timings["dict"]), against="dict.get")
            curves.add(what, size, timings["own"].rounds, " ns")


def _inserts(curves: Curves, size: int, rounds: int) -> None:
    for policy in EvictionPolicy:
        store, keys = _filled(size, policy), itertools.count(size)
        longest, taken = 0.0, []
        with collector_off():
            for _ in range(rounds):
                began = before = time.thread_time()
                for key in itertools.islice(keys, SLICE):
                    store.put(key, key, 1)
                    now = time.thread_time()
                    longest = max(longest, now - before)
                    before = now
                taken.append(1e9 * (before - began) / SLICE)
        curves.add(f"insert that evicts, {policy.name}", size, taken, " ns")
        curves.add(f"longest insert, {policy.name}", size, [1e3 * longest], " ms")


def _memory(curves: Curves, size: int) -> None:
    """With the record, which is frozen and kept as it is, and its key."""
    tracemalloc.start()
    store = _filled(size)
    taken, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    curves.add("memory an entry, its key and its record", size, [taken / len(store)], " bytes")


def _collection(curves: Curves, size: int, rounds: int) -> None:
    """What the entries, and an equal dict, add to a full collection."""

    def added(keeping: Any) -> float:
        gc.collect()
        began = time.thread_time()
        gc.collect()
        taken = time.thread_time() - began
        del keeping
        gc.collect()
        began = time.thread_time()
        gc.collect()
        return max(1e3 * (taken - (time.thread_time() - began)), 0.001)

    def tuples() -> MemStore:
        freeze = compile_model(Team).freeze
        store = _filled(0)
        for id in range(size):
            store.put(id, freeze(Team(id, f"name-{id}", id)), 1)
        return store

    kinds: dict[str, Callable[[], Any]] = {
        "records as tuples": tuples,
        "immutable records": lambda: _filled(size),
        "a dict of as many": lambda: {player.id: player for player in _players(size)},
    }
    for what, make in kinds.items():
        curves.add(f"full collection, {what}, more than without", size, [added(make()) for _ in range(rounds)], " ms")


class Held:
    """A lock that remembers for how long it was held at most. `longest` is written by who holds it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._since = self.longest = 0.0

    def __enter__(self) -> None:
        self._lock.acquire()
        self._since = time.thread_time()

    def __exit__(self, *_: object) -> None:
        self.longest = max(self.longest, time.thread_time() - self._since)
        self._lock.release()


def _sweep(curves: Curves, size: int, rounds: int) -> None:
    """All of the store has expired, or nothing; a reader asks for one key all the time."""
    for what, ahead in (("sweep of what all has expired", 2 * HOUR), ("sweep with nothing to do", 0.0)):
        took, held, waited = [], [], []
        for _ in range(rounds):
            lock: Any = Held()
            store = _filled(size, lock=lock)
            lock.longest = 0.0
            with Reader(store) as waits:
                began = time.thread_time()
                store.sweep(store.clock.monotonic() + ahead)
                took.append(1e3 * (time.thread_time() - began))
            held.append(1e3 * lock.longest)
            waited.append(1e3 * max(waits, default=0.0))
        curves.add(what, size, took, " ms")
        curves.add(f"{what}, longest hold of the lock", size, held, " ms")
        curves.add(f"{what}, longest wait of a reader", size, waited, " ms")


class Reader:
    """A thread that looks a key up again and again, and how much later than it should each was done, which the
    interpreter's lock does above all."""

    def __init__(self, store: MemStore) -> None:
        self._store = store
        self._waits: list[float] = []
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> list[float]:
        self._thread.start()
        while not self._waits:
            time.sleep(0.001)
        self._waits.clear()
        return self._waits

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._done.is_set():
            began = time.perf_counter()
            self._store.live(1, began)
            time.sleep(PAUSE)
            self._waits.append(time.perf_counter() - began - PAUSE)


def _filled(size: int, policy: EvictionPolicy = EvictionPolicy.LRU, **options: Any) -> MemStore:
    store = MemStore(capacity=size, ttl=HOUR, eviction=policy, clock=SystemClock(), **options)
    for player in _players(size):
        store.put(player.id, player, 1)
    return store


def _players(size: int) -> Iterator[Player]:
    return (Player(id, f"name-{id}", id) for id in range(size))
