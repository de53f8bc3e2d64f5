"""The shipped code keeps its promises in random schedules, and needs each of its rules to do so.

Seeds are new with each run, and printed. `./ops/simulate` runs more of them, replays one event by event, and shortens
what fails.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.simulator.kinds import KINDS
from tests.simulator.mutants import MUTANTS

ROOT = Path(__file__).parents[2]


def simulate(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "tests.simulator", *arguments],
        cwd=ROOT,
        env=os.environ | {"PYTHONHASHSEED": "0"},
        capture_output=True,
        text=True,
        timeout=100,
    )


@pytest.mark.parametrize("kind", KINDS)
def test_every_promise_is_kept_in_schedules_with_a_fault_each(kind: str) -> None:
    found = simulate("--kind", kind, "--faults", "1", "--minutes", "0.04")
    print(found.stdout)
    assert found.returncode == 0, found.stdout + found.stderr


@pytest.mark.parametrize("mutant", MUTANTS)
def test_a_rule_that_is_left_out_is_found(mutant: str) -> None:
    found = simulate("--mutant", mutant, "--seed", "0", "--minutes", "1", "--brief")
    assert found.returncode == 1, found.stdout + found.stderr
    assert ": broken by seed " in found.stdout


def test_a_seed_replays_event_by_event() -> None:
    replays = (simulate("--kind", "behind", "--seed", "7", "--replay").stdout for _ in range(2))
    first, second = (re.sub(r"\b[0-9a-f]{8}\.", "", said) for said in replays)  # tokens begin with the process's id
    assert first == second and len(first.splitlines()) > 100
