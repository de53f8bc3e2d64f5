"""Many schedules, one after another: `./ops/simulate --help`."""

from __future__ import annotations

import argparse
import gc
import sys
import time
from collections.abc import Callable

from tests.simulator.mutants import MUTANTS
from tests.simulator.process import Mutate, as_shipped
from tests.simulator.run import House, drawn

HOUSES: dict[str, Callable[[Mutate], House]] = {
    "through": lambda mutate: House(mutate=mutate),
    "without L2": lambda mutate: House(mutate=mutate, l2=False),
    "behind": lambda mutate: House(mutate=mutate, deferred=True),
}


def main() -> int:
    """0 where every promise was kept; the first one that was not is shown with its events."""
    parser = argparse.ArgumentParser(prog="ops/simulate", description="Run the shipped code through random schedules.")
    parser.add_argument("--minutes", type=float, default=1.0, help="how long, all kinds together")
    parser.add_argument("--faults", type=int, default=1, help="faults a schedule")
    parser.add_argument("--seed", type=int, default=time.time_ns() // 1_000_000, help="the first one; others follow")
    parser.add_argument("--kind", choices=HOUSES, help="one kind of schedules only; by default all, one after another")
    parser.add_argument("--mutant", choices=MUTANTS, help="leave a rule out, which is then to be found")
    parser.add_argument("--replay", action="store_true", help="one schedule, with every event")
    given = parser.parse_args()
    mutate: Mutate = as_shipped
    if given.mutant:
        mutant = MUTANTS[given.mutant]
        given.kind, given.faults, mutate = mutant.kind, mutant.faults, mutant.mutate
        mutant.apply()
    kinds = [given.kind] if given.kind else list(HOUSES)
    for kind in kinds:
        house = HOUSES[kind](mutate)
        seconds = 0.0 if given.replay else given.minutes * 60 / len(kinds)
        if broken := _search(house, kind, given.seed, given.faults, seconds):
            _show(house, kind, broken, given.faults)
            return 1
        if given.replay:
            _show(house, kind, given.seed, given.faults)
    return 0


def _search(house: House, kind: str, first: int, faults: int, seconds: float) -> int:
    """The seed of a schedule that breaks a promise; 0 where none was found in so many seconds."""
    began, seed, events = time.process_time(), first, 0
    gc.disable()  # what it would end is ended between schedules, so that a seed gives the same events each time
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        broken = house.run(drawn(seed, faults), seed)
        events += house.world.steps
        if seed % 50 == 0:
            gc.collect()
        if broken:
            print(f"{kind}: broken by seed {seed}, faults {faults}: {broken}", flush=True)
            return seed
        seed += 1
    count, took = seed - first, time.process_time() - began
    if count:
        print(
            f"{kind}: seeds {first} to {seed - 1}, faults {faults}: {count} schedules, {events} events, "
            f"{count / took:.0f} schedules a second of CPU; every promise was kept",
            flush=True,
        )
    return 0


def _show(house: House, kind: str, seed: int, faults: int) -> None:
    trace: list[str] = []
    scenario = drawn(seed, faults)
    broken = house.run(scenario, seed, trace)
    print("\n".join(trace))
    print(f"programs {scenario.programs}; {broken or 'every promise was kept'}")
    print(f"again: ./ops/simulate --kind {kind!r} --seed {seed} --faults {faults} --replay")


if __name__ == "__main__":
    sys.exit(main())
