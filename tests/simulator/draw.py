"""Scenarios, as a seed draws them, and the orders in which things happen."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import NamedTuple

from tests.simulator.kinds import SPAN, Kind
from tests.simulator.world import Event

Pick = Callable[[list[Event]], Event]
FORGET = {"restart_redis", "fail_over", "evict", "evict_intent"}  # what may cost Redis an intent


class Planned(NamedTuple):
    """A fault, after so many events."""

    after: int
    fault: str


class Scenario(NamedTuple):
    """Calls, by process and thread, each a text of letters; what happens meanwhile; how many keys they are about."""

    programs: tuple[tuple[int, str], ...]
    faults: tuple[Planned, ...] = ()
    keys: int = 2


def drawn(kind: Kind, chance: random.Random, faults: int) -> Scenario:
    """Three programs of one to three calls, and so many faults."""
    all_of = list(kind.faults) if faults == len(kind.faults) else [chance.choice(kind.faults) for _ in range(faults)]
    if "kill" in all_of and FORGET.intersection(all_of):
        all_of = [fault for fault in all_of if fault != "kill"]  # nobody can tell then (docs/coherence.md)
    planned = tuple(sorted(Planned(chance.randrange(kind.span), fault) for fault in all_of))
    if kind.programs:
        return Scenario(called(chance.choice(kind.programs)), planned, keys=1)
    letters = chance.choice(kind.letters)
    places = (0, 0, 1) if kind.processes == 2 else (0, *range(1, kind.processes))
    programs = tuple(
        (number, "".join(chance.choice(letters) for _ in range(chance.randint(1, 3)))) for number in places
    )
    return Scenario(programs, planned, keys=1 if len(letters) < 4 else 2)


def called(calls: str) -> tuple[tuple[int, str], ...]:
    """Programs as they are written for people: '0:gs 1:g'."""
    return tuple((int(process), letters) for process, _, letters in (each.partition(":") for each in calls.split()))


def first(events: list[Event]) -> Event:
    """Always the first: of use where nothing is to happen but what must."""
    return events[0]


def order(chance: random.Random) -> Pick:
    """How the next event is picked: each alike, or by ranks."""
    if chance.random() < 0.5:
        return lambda events: events[int(chance.random() * len(events))]
    return Ranked(chance, drops=chance.randint(0, 3))


class Ranked:
    """Whoever has the highest rank goes on until it waits; at a few moments whoever has it gets the lowest.

    So few changes are made in an order that is otherwise steady: Burckhardt, Kothari, Musuvathi and Nagarakatte, "A
    Randomized Scheduler with Probabilistic Guarantees of Finding Bugs", ASPLOS 2010.
    """

    def __init__(self, chance: random.Random, drops: int) -> None:
        self._chance = chance
        self._ranks: dict[Event, float] = {}
        self._at = {chance.randrange(SPAN) for _ in range(drops)}
        self._count = 0

    def __call__(self, events: list[Event]) -> Event:
        ranks = self._ranks
        for event in events:
            if event not in ranks:
                ranks[event] = self._chance.random()
        best = max(events, key=ranks.__getitem__)
        self._count += 1
        if self._count in self._at:
            ranks[best] = -float(self._count)
        return best
