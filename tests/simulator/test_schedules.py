"""The shipped code keeps its promises in random schedules, and needs each of its rules to do so.

Seeds are new with each run, and printed. `./ops/simulate` runs more of them, replays one event by event, and shortens
what fails.
"""

from __future__ import annotations

import itertools
import multiprocessing
import os
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from tests.simulator.exhaust import FAULTS
from tests.simulator.house import House
from tests.simulator.kinds import KINDS
from tests.simulator.mutants import MUTANTS
from tests.simulator.search import episodes, live

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
FORKS = multiprocessing.get_context(
    "forkserver"
)  # of a process that has imported what is there before rules are left out
FORKS.set_forkserver_preload([__name__])
SMALL = [("without L2", "0:s 1:g", "none"), ("without L2", "0:i 1:g", "none"), ("through", "0:i 1:g", "none")]
PAIRS = ["0:s 1:g", "0:s 1:s", "0:d 1:g", "0:s 1:i", "0:i 1:g", "0:s 0:g"]


def simulate(*arguments: str, timeout: float = 100) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "tests.simulator", *arguments],
        cwd=ROOT,
        env=os.environ | {"PYTHONHASHSEED": "0"},
        capture_output=True,
        text=True,
        timeout=timeout,
    )


@pytest.mark.parametrize("kind", KINDS)
def test_every_promise_is_kept_in_schedules_with_a_fault_each(kind: str) -> None:
    found = simulate("--kind", kind, "--faults", "1", "--minutes", "0.04")
    print(found.stdout)
    assert found.returncode == 0, found.stdout + found.stderr


@pytest.mark.parametrize("mutant", MUTANTS)
def test_a_rule_that_is_left_out_is_found(mutant: str) -> None:
    ours, theirs = FORKS.Pipe()
    hunter = FORKS.Process(target=hunt, args=(mutant, time.time_ns(), theirs), daemon=True)
    hunter.start()
    try:
        assert ours.poll(100), "a minute, and more"
        found = ours.recv()
    finally:
        hunter.kill()
    assert found.broken, found
    assert not re.search(" raised (Attribute|Name|Type)Error", found.broken), "a mistake of the mutant's"


def hunt(mutant: str, seed: int, said: Any) -> None:
    """Leave a rule out for good, and say with what it was found, or where it was not looked for any more."""
    kind, faults, mutate, apply = MUTANTS[mutant]
    apply()
    house, until = House(kind, mutate), time.monotonic() + 60
    lives = (live(house, seed + life, episodes(house, seed + life, faults)) for life in itertools.count())
    for ended in itertools.chain.from_iterable(lives):
        if ended.broken or time.monotonic() > until:
            said.send(ended)
            return


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


def test_a_seed_replays_event_by_event() -> None:
    replays = (simulate("--kind", "behind", "--seed", "7", "--replay").stdout for _ in range(2))
    # Tokens begin with the process's id.
    first, second = (re.sub(r"[0-9a-f]{8}(?=\.[0-9a-f])", "", said) for said in replays)
    assert first == second and len(first.splitlines()) > 100
