"""Write-behind loses nothing, whatever is killed, frozen and restarted around it: a short run of the chaos program."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from tests.faults.chaos.report import table
from tests.faults.chaos.run import Plan, run

SEED = int(os.environ.get("STRATA_CHAOS_SEED", "7"))

pytestmark = [pytest.mark.faults, pytest.mark.slow, pytest.mark.timeout(420)]


@pytest.mark.parametrize(
    ("apart", "losing", "pooler"),
    [
        pytest.param(False, False, False, id="one redis"),
        pytest.param(True, False, False, id="cache and ledger apart", marks=pytest.mark.long),
        pytest.param(False, True, False, id="a ledger that is lost", marks=pytest.mark.long),
        pytest.param(True, False, True, id="a pooler, and a namespace", marks=pytest.mark.long),
    ],
)
def test_every_key_in_l3_is_the_highest_version_acknowledged_and_every_failure_was_told_once(
    apart: bool, losing: bool, pooler: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plan = Plan(4, SEED + apart, per_level=1, keys=1_500, apart=apart, losing=losing, pause=(0.1, 0.8))
    outcome = run(replace(plan, pooler=pooler, namespace="shop" if pooler else ""), tmp_path)
    with capsys.disabled():
        Console().print()
        Console().print(table(plan, outcome))
    assert outcome.verdict.wrong == []
    assert outcome.verdict.operations > 100
