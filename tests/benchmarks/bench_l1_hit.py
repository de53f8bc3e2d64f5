"""L1 hit of an immutable record through `DataStore.get`, against dicts and other caches."""

from __future__ import annotations

import functools
import random
import statistics
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

from strata import Config, DataStore, MemPolicy, PrimaryKey, Schema
from tests.benchmarks.harness import Pass, Row, Target, calling, calling_with, collector_off, measure, row
from tests.benchmarks.options import Options
from tests.benchmarks.peers import peers

SCHEMA = "players"
KEYS = [f"player-{number}" for number in range(256)]
RECORD = ("p1", "andrew", 7)
THREADS = 8

Get = Callable[[str, Any], Any]
Factory = Callable[[Sequence[str]], Get]


@dataclass(frozen=True)
class Player:
    """An immutable record, which is handed out without a copy."""

    id: Annotated[str, PrimaryKey]
    username: str = "andrew"
    level: int = 7


def store_get(keys: Sequence[str]) -> Get:
    """`DataStore.get` of a store that holds `keys` in memory."""
    store = DataStore(Config())
    store.register(Schema(Player, name=SCHEMA, l1=MemPolicy(ttl=3600)))
    for key in keys:
        store.set(SCHEMA, key, Player(key))
    return store.get


def run(options: Options, factory: Factory = store_get) -> list[Row]:
    items = KEYS * 8
    random.shuffle(items)
    get, others = factory(KEYS), {name: calling(look_up) for name, look_up in peers(KEYS, RECORD).items()}
    plain: dict[str, Pass] = {"dict.get": calling(dict.fromkeys(KEYS, RECORD).get), "lru_cache": calling(_memoized())}
    timings = measure({"get": calling_with(get, SCHEMA)} | plain | others, items, options.rounds(400))
    own = timings["get"]
    fastest = min(others, key=lambda name: statistics.median(timings[name].rounds))
    rows = [row("get", "dict.get", own.over(timings["dict.get"]), Target(9, 7))]
    rows.append(row("get", "functools.lru_cache", own.over(timings["lru_cache"])))
    for name in others:
        rows.append(row("get", name, own.over(timings[name]), Target(0.45, 0.35) if name == fastest else None))
    rows.append(row("get, 8 threads", "1 thread", _threads(get, items, options.rounds(60)), Target(1.25, 1.0)))
    return rows + [row(name, "", timing.rounds, unit=" ns") for name, timing in timings.items()]


def _memoized() -> Callable[[Any], Any]:
    @functools.lru_cache(maxsize=1024)
    def look_up(key: str) -> Any:
        return RECORD

    return look_up


def _threads(get: Get, items: Sequence[str], rounds: int) -> list[float]:
    """Wall time of so many threads for so many times the work, over that of one thread; round by round."""
    ratios = []
    work = list(items) * 20
    with collector_off():
        for _ in range(rounds):
            single, many = _wall(get, work, 1), _wall(get, work, THREADS)
            ratios.append(many / single / THREADS)
    return ratios


def _wall(get: Get, items: Sequence[str], threads: int) -> float:
    barrier = threading.Barrier(threads + 1)

    def work() -> None:
        barrier.wait()
        for item in items:
            get(SCHEMA, item)

    workers = [threading.Thread(target=work) for _ in range(threads)]
    for worker in workers:
        worker.start()
    barrier.wait()
    began = time.perf_counter()
    for worker in workers:
        worker.join()
    return time.perf_counter() - began
