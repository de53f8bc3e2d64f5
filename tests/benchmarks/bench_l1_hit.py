"""L1 hits of a store and of a collection, called and awaited, against dicts and other caches."""

from __future__ import annotations

import functools
import random
import statistics
import threading
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import strata
from strata import Config, DataStore, MemPolicy, PrimaryKey, Schema
from tests.benchmarks.harness import Pass, Row, Target, calling, calling_with, collector_off, measure, row
from tests.benchmarks.options import Options
from tests.benchmarks.peers import RUST, peers
from tests.benchmarks.plain import plain

SCHEMA, CHANGING = "players", "changing_players"
KEYS = [f"player-{number}" for number in range(256)]
RECORD = ("p1", "andrew", 7)
THREADS = 8

Get = Callable[..., Any]


@dataclass(frozen=True)
class Player:
    """An immutable record, which is handed out without a copy."""

    id: Annotated[str, PrimaryKey]
    username: str = "andrew"
    level: int = 7


@dataclass
class ChangingPlayer:
    """The same, of which each caller gets a copy of its own."""

    id: Annotated[str, PrimaryKey]
    username: str = "andrew"
    level: int = 7


@dataclass(frozen=True)
class Targets:
    """By row: what it should reach, and aims at."""

    get: Target
    handle: Target | None = None
    private: Target | None = None
    fastest: Target | None = None
    rust: Target | None = None


COMPILED = Targets(Target(3.5, 2.7), Target(2.6, 1.9), Target(12, 8), Target(0.1), Target(1.2, 1.0))
PLAIN = Targets(Target(13))


def run(options: Options) -> list[Row]:
    return [*_rows(options, COMPILED if strata.compiled else PLAIN), *plain("l1_hit", options)]


def _rows(options: Options, targets: Targets) -> list[Row]:
    items = KEYS * 8
    random.shuffle(items)
    with DataStore(Config()) as store:
        handle = store.register(Schema(Player, name=SCHEMA, l1=MemPolicy(ttl=3600)))
        changing = store.register(Schema(ChangingPlayer, name=CHANGING, l1=MemPolicy(ttl=3600)))
        for key in KEYS:
            handle.set(key, Player(key))
            changing.set(key, ChangingPlayer(key))
        own: dict[str, Pass] = {
            "get": calling_with(store.get, SCHEMA),
            "collection.get": calling(handle.get),
            "get, a private copy": calling_with(store.get, CHANGING),
            "await get": _awaiting(functools.partial(store.aio.get, SCHEMA)),
            "await collection.get": _awaiting(handle.aio.get),
        }
        empty = {"await nothing": _awaiting(_nothing)}
        others = {name: calling(look_up) for name, look_up in peers(KEYS, RECORD).items()}
        usual: dict[str, Pass] = {"dict.get": calling(dict.fromkeys(KEYS, RECORD).get), "lru_cache": calling(_memo())}
        timings = measure(own | empty | usual | others, items, options.rounds(400))
        of_python = [name for name in others if name != RUST]
        fastest = min(of_python, key=lambda name: statistics.median(timings[name].rounds))
        wanted = [
            ("get", "dict.get", targets.get),
            ("collection.get", "dict.get", targets.handle),
            ("get, a private copy", "dict.get", targets.private),
            ("await get", "get", None),
            ("await get", "await nothing", None),
            ("await collection.get", "collection.get", None),
            ("await collection.get", "await nothing", None),
            ("get", "lru_cache", None),
            *(("get", name, targets.fastest if name == fastest else None) for name in of_python),
            *(("get", name, targets.rust) for name in others if name == RUST),
        ]
        rows = [row(what, against, timings[what].over(timings[against]), aim) for what, against, aim in wanted]
        ratios = _threads(store.get, items, options.rounds(60))
        rows.append(row("get, 8 threads", "1 thread", ratios, Target(1.1, 1.0)))
    return rows + [row(name, "", timing.rounds, unit=" ns") for name, timing in timings.items()]


async def _nothing(key: str) -> Any:
    """What a coroutine itself costs, which is more than a compiled hit."""
    return RECORD


def _awaiting(get: Callable[[str], Awaitable[Any]]) -> Pass:
    """A pass that awaits `get(item)` for each item. A hit does not give way to the loop, so none need run."""

    async def all_of(items: Sequence[str]) -> None:
        for item in items:
            await get(item)

    def run(items: Sequence[str]) -> None:
        try:
            all_of(items).send(None)
        except StopIteration:
            return
        raise AssertionError("a hit gave way to the loop")

    return run


def _memo() -> Callable[[Any], Any]:
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
