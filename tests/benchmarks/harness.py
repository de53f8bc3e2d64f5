"""How to measure without fooling oneself: ratios, inside one process and one run.

Every round takes the candidates in a new random order, gives each an untimed warm pass, times one pass, and subtracts
the empty loop of the same round. A result is the median, with quartiles, of the rounds' ratios; with a fixed rotation
the same function against itself was off by up to 23 %. The collector is off while the clock runs.
"""

from __future__ import annotations

import gc
import random
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

Pass = Callable[[Sequence[Any]], None]


@dataclass(frozen=True, slots=True)
class Target:
    """What a row should reach, and aims at; `more` where more is better."""

    reach: float
    aim: float | None = None
    more: bool = False

    def met(self, value: float) -> bool:
        return value >= self.reach if self.more else value <= self.reach


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table: `what` against `against`, median and quartiles, and what was hoped for."""

    what: str
    against: str
    value: float
    low: float
    high: float
    target: Target | None = None
    unit: str = ""


@dataclass(frozen=True, slots=True)
class Timing:
    """Nanoseconds an operation, one value a round; rounds of two timings of one run belong together."""

    rounds: tuple[float, ...]

    def over(self, other: Timing) -> list[float]:
        """The ratio to the other, round by round."""
        return [own / reference for own, reference in zip(self.rounds, other.rounds, strict=True)]


def calling(function: Callable[[Any], object]) -> Pass:
    """A pass that calls `function(item)` for each item."""

    def run(items: Sequence[Any]) -> None:
        for item in items:
            function(item)

    return run


def calling_with(function: Callable[[Any, Any], object], first: Any) -> Pass:
    """A pass that calls `function(first, item)` for each item."""

    def run(items: Sequence[Any]) -> None:
        for item in items:
            function(first, item)

    return run


def empty(items: Sequence[Any]) -> None:
    """The floor: what the loop itself costs."""
    for _ in items:
        pass


def measure(
    candidates: Mapping[str, Pass], items: Sequence[Any], rounds: int = 200, floor: Pass = empty
) -> dict[str, Timing]:
    """Time every candidate over all items, `rounds` times, interleaved."""
    order = [*candidates.items(), ("", floor)]
    taken: dict[str, list[float]] = {name: [] for name, _ in order}
    with collector_off():
        for _ in range(rounds):
            random.shuffle(order)
            for name, run in order:
                run(items)
                taken[name].append(_time(run, items))
    floors = taken.pop("")
    return {
        name: Timing(tuple(max(value - base, 0.1) for value, base in zip(values, floors, strict=True)))
        for name, values in taken.items()
    }


def row(what: str, against: str, values: Sequence[float], target: Target | None = None, unit: str = "") -> Row:
    """Median and quartiles of some rounds' values as a row."""
    if len(values) < 2:
        return Row(what, against, values[0], values[0], values[0], target, unit)
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
    return Row(what, against, middle, low, high, target, unit)


@contextmanager
def collector_off() -> Iterator[None]:
    """Garbage is collected once before, and not again until afterwards."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def _time(run: Pass, items: Sequence[Any]) -> float:
    began = time.perf_counter_ns()
    run(items)
    return (time.perf_counter_ns() - began) / len(items)
