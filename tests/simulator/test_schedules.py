"""The shipped code keeps its promises in random schedules, and needs each of its rules to do so.

The promises are looked at with new seeds each time, which are printed; the rules with the same ones, a part of them
each day. `./ops/simulate` runs more, replays one event by event, and shortens what fails.
"""

from __future__ import annotations

import itertools
import multiprocessing
import os
import random
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.simulator.draw import Planned, Scenario, called
from tests.simulator.exhaust import FAULTS
from tests.simulator.house import House
from tests.simulator.kinds import KINDS, OTHERS
from tests.simulator.mutants import MUTANTS
from tests.simulator.mutants.mutant import Mutant
from tests.simulator.search import Ended, alone, episodes, live
from tests.turns import is_today

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
RARE = {  # what many episodes go by without
    "an outcome takes nothing back that was read, heard or done since",
    "... and which L1 does not hide",
    "no version goes by a clock that was set",
    "no version just above a row's is a stamp",
    "... but a read that finds nothing newer below returns it all the same",
    "an own pending write is compared with what is below once a synchronous one is under way",
    "a hand-off spoils an intent that it meets",
    "a process that begins looks for repairs before it trusts L2",
    "... nor what it may have refused, where its answer was lost",
    "... with the locks that the last of them needs from the start",
    "a deferred write enters L1 only if it still is what reads get from the buffer",
    "... and a settled value",
    "... and without L2, where the outcome of its commit stayed unknown, is told of once that has ended",
    "... also where they meet in the ledger",
    "a Redis that comes while there is no subscription is told again",
    "... before its put, so that no older hand-off comes between",
    "... and the writer's own L1 does not keep what L2 refused",
    "a put that failed leaves repairs, as the intents may be gone",
    "... also where rows are written behind",
    "what was read while L2 could not be asked stays in L1 for the bus's grace only",
    "... and raises the floor, so that nothing older is handed off before the row is seen to",
    "... and so does one whose heartbeats are overdue",
    "of writes in part that wait together each column keeps the version of its own",
}
TURNS = 6  # days in a row that look for all the rules
FIRST = 7000  # seed with which a rule that was left out is looked for
FRESH = random.SystemRandom().randrange(1_000_000_000)
SECONDS = 0.5  # of CPU, for which each kind of houses is looked at
SMALL = [("without L2", "0:s 1:g", "none"), ("without L2", "0:i 1:g", "none"), ("through", "0:i 1:g", "none")]
CANCELLED = ["through", "without L2", "behind", "at once", "in part"]
PAIRS = ["0:s 1:g", "0:s 1:s", "0:d 1:g", "0:s 1:i", "0:i 1:g", "0:s 0:g"]


def _today(name: str) -> Any:
    """What is seldom found, and what is not today's, is looked for where that is asked for."""
    return pytest.param(name, marks=[pytest.mark.long] * (name in RARE or not is_today(name, TURNS)))


def simulate(*arguments: str, timeout: float = 100) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "tests.simulator", *arguments],
        cwd=ROOT,
        env=os.environ | {"PYTHONHASHSEED": "0", "STRATA_PURE": "1"},
        capture_output=True,
        text=True,
        timeout=timeout,
    )


Looker = Callable[..., Ended]


@pytest.fixture(scope="module")
def looker() -> Iterator[Looker]:
    """Looks in a process of its own, forked off one in which nothing was left out yet, for a promise that is broken."""
    forks = multiprocessing.get_context("forkserver")
    forks.set_forkserver_preload([__name__])
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONHASHSEED", "0")  # as `./ops/simulate` has it, so that it replays a seed
        patch.setenv("STRATA_PURE", "1")  # what is compiled cannot be listened to, nor a rule be left out of it
        first = forks.Process(target=int)
        first.start()
        first.join()

    def look(name: str, first: int, target: Callable[[str, int, Any], None] = _look) -> Ended:
        ours, theirs = forks.Pipe()
        process = forks.Process(target=target, args=(name, first, theirs), daemon=True)
        process.start()
        try:
            assert ours.poll(280), "it does not end"
            ended: Ended = ours.recv()
        finally:
            process.kill()
        return ended

    yield look


def _look(name: str, first: int, said: Any) -> None:
    """In a kind of houses with a fault an episode, for some seconds; or with a rule left out, for longer."""
    ruled = name in MUTANTS
    kind, faults, mutate, apply = MUTANTS[name] if ruled else Mutant(KINDS[name], 1)
    apply()
    until = time.process_time() + (60 if ruled else SECONDS)
    house = House(kind, mutate)
    lives = (live(house, seed, episodes(house, seed, faults)) for seed in itertools.count(first))
    for ended in itertools.chain.from_iterable(lives):
        if ended.broken or time.process_time() > until:
            said.send(ended)
            return


def _cancel(name: str, first: int, said: Any) -> None:
    """In a kind of houses, each call, beside another process's, at each of the events until it has ended."""
    kind = KINDS[name]
    house, cancelled = House(kind), 0
    for letter in sorted(set("".join(kind.letters)) - set(OTHERS)):
        for after in itertools.count():
            scenario = Scenario(called(f"0:{letter}g 1:{letter}g"), (Planned(after, "cancel@0"),), keys=1)
            [*_, ended] = live(house, first, alone(scenario, first + after))
            if ended.broken:
                said.send(ended)
                return
            if house.due:  # it was over before
                break
            cancelled += 1
    said.send(ended if cancelled > 30 else ended._replace(broken=f"it was cancelled {cancelled} times only"))


@pytest.mark.parametrize("kind", KINDS)
def test_every_promise_is_kept_in_schedules_with_a_fault_each(kind: str, looker: Looker) -> None:
    ended = looker(kind, FRESH)
    print(f"seeds {FRESH} to {ended.seed}")
    again = f"./ops/simulate --kind {kind!r} --faults 1 --replay --seed {ended.seed}"
    assert not ended.broken, f"{ended.broken}; again: {again}"


@pytest.mark.parametrize("kind", list(map(_today, CANCELLED)))
def test_every_promise_is_kept_where_a_call_is_cancelled_at_any_of_its_events(kind: str, looker: Looker) -> None:
    ended = looker(kind, FRESH, _cancel)
    print(f"seed {FRESH}")
    assert not ended.broken, ended


@pytest.mark.parametrize("mutant", list(map(_today, MUTANTS)))
def test_a_rule_that_is_left_out_is_found(mutant: str, looker: Looker) -> None:
    ended = looker(mutant, FIRST)
    assert ended.broken, ended
    assert not re.search(" raised (Attribute|Name|Type)Error", ended.broken), "a mistake of the mutant's"


@pytest.mark.parametrize(("kind", "calls", "during"), SMALL)
def test_every_promise_is_kept_in_every_order_of_two_calls(kind: str, calls: str, during: str) -> None:
    found = simulate("--kind", kind, "--every", "--calls", calls, "--during", during)
    assert found.returncode == 0, found.stdout + found.stderr
    assert "all there are" in found.stdout


@pytest.mark.long
@pytest.mark.parametrize("during", FAULTS)
@pytest.mark.parametrize("calls", PAIRS)
@pytest.mark.parametrize("kind", ["through", "without L2"])
def test_every_promise_is_kept_in_every_order_of_two_calls_and_a_fault(kind: str, calls: str, during: str) -> None:
    found = simulate("--kind", kind, "--every", "--calls", calls, "--during", during, timeout=36_000)
    assert found.returncode == 0, found.stdout + found.stderr


@pytest.mark.parametrize("kind", ["behind", "sealed behind"])
def test_a_seed_replays_event_by_event(kind: str) -> None:
    replays = (simulate("--kind", kind, "--seed", "7", "--replay").stdout for _ in range(2))
    # Tokens begin with the process's id.
    first, second = (re.sub(r"[0-9a-f]{8}(?=\.[0-9a-f])", "", said) for said in replays)
    assert first == second and len(first.splitlines()) > 100
