"""A hit of `@store.cached`, by its own and with more arguments, beside `functools.cache` and others of its kind.

Those that are not installed are left out: `pip install dogpile.cache theine cashews`.
"""

from __future__ import annotations

import asyncio
import functools
import random
import statistics
import time
from collections.abc import Awaitable, Callable
from typing import Any

from strata import Config, DataStore
from tests.benchmarks.harness import Row, Target, calling, collector_off, measure, row
from tests.benchmarks.options import Options
from tests.benchmarks.peers import memoized, memoized_coroutine

KEYS = [f"player-{number}" for number in range(256)]
CALLS = 2_000


def level(player: str) -> int:
    return 7


def of_three(player: str, season: int = 3, active: bool = True) -> int:
    return 7


def listed(player: str) -> list[int]:
    return [7]


async def awaited(player: str) -> int:
    return 7


def run(options: Options) -> list[Row]:
    items = KEYS * 8
    random.shuffle(items)
    with DataStore(Config()) as store:
        cached = store.cached(ttl=3600)
        three, many = cached(of_three), functools.cache(of_three)
        own: dict[str, Any] = {
            "cached": cached(level),
            "cached, three arguments": lambda key: three(key, 4, True),
            "cached, by name": lambda key: three(key, season=4),
            "cached, a list": cached(listed),
        }
        plain = {"functools.cache": functools.cache(level), "functools, three": lambda key: many(key, 4, True)}
        others = memoized(level)
        functions: dict[str, Any] = own | plain | others
        for function in functions.values():
            for key in KEYS:
                function(key)
        passes = {name: calling(function) for name, function in functions.items()}
        timings = measure(passes, items, options.rounds(200))
        hit = timings["cached"]
        rows = [row("cached", "functools.cache", hit.over(timings["functools.cache"]), Target(12, 8))]
        rows.append(
            row(
                "cached, three arguments",
                "functools.cache",
                timings["cached, three arguments"].over(timings["functools, three"]),
            )
        )
        rows += [row("cached", name, hit.over(timings[name])) for name in others]
        rows += asyncio.run(_awaited(store, options.rounds(60)))
        return rows + [row(name, "", timing.rounds, unit=" ns") for name, timing in timings.items()]


async def _awaited(store: DataStore, rounds: int) -> list[Row]:
    """The same for a coroutine function."""
    functions: dict[str, Callable[[str], Awaitable[Any]]] = {"cached": store.cached(ttl=3600)(awaited)}
    functions |= memoized_coroutine(awaited)
    taken: dict[str, list[float]] = {name: [] for name in functions}
    for function in functions.values():
        await function(KEYS[0])
    with collector_off():
        for _ in range(rounds):
            for name in random.sample(list(functions), len(functions)):
                function = functions[name]
                began = time.perf_counter_ns()
                for _ in range(CALLS):
                    await function(KEYS[0])
                taken[name].append((time.perf_counter_ns() - began) / CALLS)
    rows = [
        row("await cached", name, [a / b for a, b in zip(taken["cached"], values, strict=True)])
        for name, values in taken.items()
        if name != "cached"
    ]
    middle = statistics.median(taken["cached"])
    return [*rows, Row("await cached", "", middle, min(taken["cached"]), max(taken["cached"]), None, " ns")]
