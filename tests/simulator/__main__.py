"""Many episodes, one after another: `./ops/simulate --help`."""

from __future__ import annotations

import argparse
import re
import sys
import time
from collections.abc import Iterator

from tests.simulator.draw import Planned, Scenario, called
from tests.simulator.exhaust import FAULTS, search
from tests.simulator.house import Episode, House
from tests.simulator.kinds import KINDS
from tests.simulator.mutants import MUTANTS
from tests.simulator.process import Mutate, as_shipped
from tests.simulator.search import Ended, alone, episodes, live, shorten

ASIDE = re.compile(r"\.strata-(bus|repairs|sweeper)|gets \d+$")  # lines of threads that do the same all the time


def main() -> int:
    """0 where every promise was kept; the first one that was not is shown with its events."""
    parser = argparse.ArgumentParser(prog="ops/simulate", description="Run the shipped code through random schedules.")
    parser.add_argument("--minutes", type=float, default=1.0, help="how long, all kinds together")
    parser.add_argument("--faults", type=int, default=1, help="faults an episode")
    parser.add_argument("--seed", type=int, default=time.time_ns() // 1_000_000, help="the first one; others follow")
    parser.add_argument("--kind", choices=KINDS, help="one kind of schedules only; by default all, one after another")
    parser.add_argument("--mutant", choices=MUTANTS, help="leave a rule out, which is then to be found")
    parser.add_argument("--brief", action="store_true", help="do not show what breaks a promise, nor shorten it")
    parser.add_argument("--replay", action="store_true", help="one life, with every event of its last episode")
    parser.add_argument("--calls", help="with --replay: an episode alone, such as '0:gs 1:g'")
    parser.add_argument("--keys", type=int, choices=(1, 2), default=1, help="with --calls: how many they are about")
    parser.add_argument("--happens", default="", help="with --calls: after how many events what, such as '30:kill'")
    parser.add_argument("--every", action="store_true", help="with --calls: every order of the events of an episode")
    parser.add_argument("--during", choices=FAULTS, default="none", help="with --every: what happens, at any moment")
    parser.add_argument("--most", type=int, help="with --every: orders at most")
    given = parser.parse_args()
    mutate: Mutate = as_shipped
    kinds = [KINDS[given.kind]] if given.kind else list(KINDS.values())
    if given.mutant:
        kind, given.faults, mutate, apply = MUTANTS[given.mutant]
        kinds = [kind]
        apply()
    for kind in kinds:
        house = House(kind, mutate)
        scenario = _scenario(given.calls, given.happens, given.keys) if given.calls else None
        if given.every:
            assert scenario is not None, "which calls? See --calls"
            if not _every(house, scenario, given.during, given.most):
                return 1
        elif given.replay:
            _show(
                house,
                given.seed,
                alone(scenario, given.seed) if scenario else episodes(house, given.seed, given.faults),
            )
        elif found := _search(house, given.seed, given.faults, given.minutes * 60 / len(kinds)):
            if not given.brief:
                _report(house, found, given.faults)
            return 1
    return 0


def _every(house: House, scenario: Scenario, fault: str, most: int | None) -> bool:
    """Whether every promise is kept in every order, or in so many of them."""
    began = time.process_time()
    orders, all_of_them, broken = search(house, scenario, fault, most)
    rate = orders / max(time.process_time() - began, 0.001)
    print(
        f"{house.kind.name}: {_options(scenario)}, fault {fault!r}: {orders} orders{', all there are' * all_of_them}, "
        f"{rate:.0f} a second of CPU; {broken or 'every promise was kept'}",
        flush=True,
    )
    return not broken


def _search(house: House, first: int, faults: int, seconds: float) -> Ended | None:
    """The episode in which a promise is broken, if one was found in so many seconds."""
    began, seed, count, events = time.process_time(), first, 0, 0
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        for ended in live(house, seed, episodes(house, seed, faults)):
            count += 1
            events += ended.events
            if ended.broken:
                said = f"{house.kind.name}: broken by seed {seed}, faults {faults}, episode {count}: {ended.broken}"
                print(said, flush=True)
                return ended
        seed += 1
    took = time.process_time() - began
    if count:
        print(
            f"{house.kind.name}: seeds {first} to {seed - 1}, faults {faults}: {count} episodes, {events} events, "
            f"{count / took:.0f} episodes a second of CPU; every promise was kept",
            flush=True,
        )
    return None


def _report(house: House, found: Ended, faults: int) -> None:
    """The shortest way to break it that is found, and otherwise the way in which it was found."""
    again = f"./ops/simulate --kind {house.kind.name!r} --replay"
    if short := shorten(house, found.scenario):
        _show(house, short.seed, alone(short.scenario, short.seed))
        print(f"again: {again} --seed {short.seed} {_options(short.scenario)}")
    else:
        _show(house, found.seed, episodes(house, found.seed, faults))
    print(f"as it was found: {again} --seed {found.seed} --faults {faults}")


def _show(house: House, seed: int, all_of: Iterator[Episode]) -> None:
    trace: list[str] = []
    *_, ended = live(house, seed, all_of, trace)
    print("\n".join(line for line in trace if not ASIDE.search(line)))
    print(f"{_options(ended.scenario)}: {ended.broken or 'every promise was kept'}")


def _options(scenario: Scenario) -> str:
    calls = " ".join(f"{process}:{letters}" for process, letters in scenario.programs)
    happens = " ".join(f"{fault.after}:{fault.fault}" for fault in scenario.faults)
    keys = " --keys 2" if scenario.keys == 2 else ""
    return f"--calls {calls!r}{keys}" + (f" --happens {happens!r}" if happens else "")


def _scenario(calls: str, happens: str, keys: int) -> Scenario:
    """What `_options` tells of."""
    faults = tuple(Planned(int(after), fault) for after, _, fault in (each.partition(":") for each in happens.split()))
    return Scenario(called(calls), faults, keys=keys)


if __name__ == "__main__":
    sys.exit(main())
