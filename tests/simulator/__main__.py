"""Many episodes, one after another: `./ops/simulate --help`."""

from __future__ import annotations

import argparse
import re
import sys
import textwrap
import time
from collections.abc import Iterator, Sequence

from tests.simulator.draw import Planned, Scenario, called
from tests.simulator.exhaust import FAULTS as DURING
from tests.simulator.exhaust import search
from tests.simulator.faults import Faults
from tests.simulator.house import Episode, House
from tests.simulator.kinds import CALLS, KINDS, Kind
from tests.simulator.mutants import MUTANTS
from tests.simulator.process import Mutate, as_shipped
from tests.simulator.search import Ended, alone, episodes, live, shorten

HAPPENINGS = [name for name in vars(Faults) if not name.startswith("_") and name != "happens"]
ASIDE = re.compile(r"\.strata-(bus|repairs|sweeper)|gets \d+$")  # lines of threads that do the same all the time


def main() -> int:
    """0 where every promise was kept; the first one that was not is shown with its events."""
    given, kinds, mutate = _given()
    scenario = _scenario(given.calls, given.happens, given.keys) if given.calls else None
    for kind in kinds:
        house = House(kind, mutate)
        if given.every:
            assert scenario is not None  # as was seen to
            well = _every(house, scenario, given.during, given.most)
        elif given.replay:
            lives = alone(scenario, given.seed) if scenario else episodes(house, given.seed, given.faults)
            well = _show(house, given.seed, lives)
        else:
            found = _search(house, given.seed, given.faults, given.minutes * 60 / len(kinds))
            well = found is None
            if found and not given.brief:
                _report(house, found, given.faults)
        if not well:
            return 1
    return 0


def _given() -> tuple[argparse.Namespace, list[Kind], Mutate]:
    """The arguments, the kinds of houses that they are about, and the scripts. Ends with 2 for what cannot be."""
    parser = _parser()
    given = parser.parse_args()
    mutate: Mutate = as_shipped
    kinds = [KINDS[given.kind]] if given.kind else list(KINDS.values())
    if given.mutant and given.kind:
        parser.error("a rule has a kind of its own: give --mutant without --kind")
    if given.mutant:
        kind, given.faults, mutate, apply = MUTANTS[given.mutant]
        kinds = [kind]
        apply()
    if given.every:
        kinds = [kind for kind in kinds if not kind.deferred]  # threads that wait for a time have no order to search
    _check(parser, given, kinds)
    return given, kinds, mutate


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="ops/simulate",
        description="Run the shipped code through random schedules. Ends with 1 where a promise was broken.",
        epilog=_words(),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--minutes", type=float, default=1.0, help="how long, all kinds together; finding a short way "
                        "to break a promise comes on top")  # fmt: skip
    parser.add_argument("--faults", type=int, default=1, help="faults an episode")
    parser.add_argument("--seed", type=int, default=time.time_ns() // 1_000_000, help="the first one; others follow")
    parser.add_argument(
        "--kind", choices=KINDS, metavar="KIND", help="one kind only; by default all, one after another"
    )
    parser.add_argument("--mutant", choices=MUTANTS, metavar="RULE", help="leave a rule out, which is then to be found")
    parser.add_argument("--brief", action="store_true", help="do not show what breaks a promise, nor shorten it")
    parser.add_argument("--replay", action="store_true", help="one life, with every event of its last episode")
    parser.add_argument("--calls", help="with --replay or --every: an episode alone, such as '0:gs 1:g'")
    parser.add_argument("--keys", type=int, choices=(1, 2), default=1, help="with --calls: how many they are about")
    parser.add_argument("--happens", default="", help="with --calls: after how many events what, such as '9:kill@0'")
    parser.add_argument("--every", action="store_true", help="with --calls: every order of the events of an episode")
    parser.add_argument("--during", choices=DURING, default="none", help="with --every: what happens, at any moment")
    parser.add_argument("--most", type=int, help="with --every: orders at most")
    return parser


def _check(parser: argparse.ArgumentParser, given: argparse.Namespace, kinds: Sequence[Kind]) -> None:
    """End with what is wrong."""
    for wrong, said in (
        (given.minutes <= 0, "--minutes must be more than 0"),
        (given.faults < 0, "--faults must be 0 or more"),
        (given.every and given.replay, "--every or --replay, not both"),
        (given.every and not given.calls, "--every needs --calls"),
        (given.calls and not (given.every or given.replay), "--calls needs --replay or --every"),
        (given.happens and not given.calls, "--happens needs --calls"),
        (not kinds, "--every is for kinds that write through"),
    ):
        if wrong:
            parser.error(said)
    for text, form in ((given.calls, rf"(\d+:[{''.join(CALLS)}]+ ?)+"), (given.happens, r"(\d+:[a-z_]+(@\d+)? ?)+")):
        if text and not re.fullmatch(form, text):
            parser.error(f"{text!r} cannot be read; see below --help")
    if given.calls and any(number >= min(kind.processes for kind in kinds) for number, _ in called(given.calls)):
        parser.error(f"{given.calls!r} names a process that there is not; the first is 0")
    for fault in _scenario("0:g", given.happens, 1).faults:
        if fault.fault.partition("@")[0] not in HAPPENINGS:
            parser.error(f"nothing is called {fault.fault!r}; see below --help")


def _words() -> str:
    """What stands for what."""
    letters = ", ".join(f"{letter} {name}" for letter, name in CALLS.items())
    text = f"""\
Calls are written by process, each a letter of a call: '0:gs 1:g' is get, then set, in process 0, and get in process 1,
at the same time. A process that stands twice has two threads. The letters: {letters}.

Kinds: {", ".join(KINDS)}; tests/simulator/kinds.py has what is in them.

What happens: {", ".join(HAPPENINGS)}; kill@0 is of process 0.

In a trace v4 is the fourth value that was written, row 3 has its second column as -3, p0' is what took the place of p0
when that was killed; `looks` reads at the end, when all that was broken is mended."""
    return "\n\n".join(textwrap.fill(part, 100) for part in text.split("\n\n"))


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
                said = f"{house.kind.name}: broken by seed {seed}, faults {faults}, the {ended.number}. of its episodes"
                print(f"{said}, {count} in all: {ended.broken}", flush=True)
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


def _show(house: House, seed: int, all_of: Iterator[Episode]) -> bool:
    """Whether every promise was kept in a life, of which the last episode is printed."""
    trace: list[str] = []
    *_, ended = live(house, seed, all_of, trace)
    print("\n".join(line for line in trace if not ASIDE.search(line)))
    if house.due and not ended.broken:
        print(f"it was over before these could happen: {', '.join(fault.fault for fault in house.due)}")
    print(f"{_options(ended.scenario)}: {ended.broken or 'every promise was kept'}")
    return not ended.broken


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
