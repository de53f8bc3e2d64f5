"""Looks for a promise that is broken, and then for a short way to break it."""

from __future__ import annotations

import gc
import random
from collections.abc import Iterator
from typing import NamedTuple

from tests.simulator.draw import Scenario, drawn, first, order
from tests.simulator.house import Episode, House

LIFE = 20  # episodes of a life
OVERTAKING = (0.0, 0.0, 0.0, 0.02, 0.2)
TRIES = 60  # orders in which a shorter scenario is tried


class Ended(NamedTuple):
    """An episode that was run: its number in the life of a seed, and the promise that it broke, if any."""

    seed: int
    number: int
    scenario: Scenario
    broken: str
    events: int


def episodes(house: House, seed: int, faults: int) -> Iterator[Episode]:
    """Those of the life of a seed."""
    chance = random.Random(f"episodes {seed}")
    for _ in range(LIFE):
        yield Episode(drawn(house.kind, chance, faults), order(chance), chance.choice(OVERTAKING))


def alone(scenario: Scenario, seed: int) -> Iterator[Episode]:
    """A life of one episode, once everybody has done the same before: what is done first takes more steps."""
    chance = random.Random(seed)
    yield Episode(scenario._replace(faults=()), first)
    yield Episode(scenario, order(chance), chance.choice(OVERTAKING))


def live(house: House, seed: int, all_of: Iterator[Episode], trace: list[str] | None = None) -> Iterator[Ended]:
    """A life, until it ends or a promise is broken; `trace` has the lines of the last episode."""
    gc.disable()  # what it would end is ended between lives, so that a seed gives the same events each time
    if not gc.get_freeze_count():
        gc.freeze()  # what stays need not be looked at each time
    house.begin(seed)
    for number, episode in enumerate(all_of, 1):
        if trace:
            trace.clear()
        broken = house.run(episode, trace)
        yield Ended(seed, number, episode.scenario, broken, house.world.steps)
        if broken:
            break
    house.end()
    gc.collect()


def shorten(house: House, scenario: Scenario) -> Ended | None:
    """The shortest run found, alone in a life, of the fewest calls and faults of the scenario that break a promise."""
    best = None
    found = _breaking(house, scenario)
    while found is not None:
        best = found
        found = next(filter(None, (_breaking(house, shorter) for shorter in _shorter(best.scenario))), None)
    return best


def _breaking(house: House, scenario: Scenario) -> Ended | None:
    runs = (ended for seed in range(TRIES) for ended in live(house, seed, alone(scenario, seed)))
    return min((ended for ended in runs if ended.broken), key=lambda ended: ended.events, default=None)


def _shorter(scenario: Scenario) -> Iterator[Scenario]:
    """With a program, a fault, or a call less."""
    programs, faults = scenario.programs, scenario.faults
    for at in range(len(programs)):
        yield scenario._replace(programs=programs[:at] + programs[at + 1 :])
    for at in range(len(faults)):
        yield scenario._replace(faults=faults[:at] + faults[at + 1 :])
    for at, (process, letters) in enumerate(programs):
        for place in range(len(letters) if len(letters) > 1 else 0):
            fewer = (process, letters[:place] + letters[place + 1 :])
            yield scenario._replace(programs=(*programs[:at], fewer, *programs[at + 1 :]))
