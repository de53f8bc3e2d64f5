"""The public calls reveal the right types."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_calls_by_class_by_name_and_by_handle_reveal_the_right_types() -> None:
    run = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", "tests/typing/revealed.py"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stdout


def test_pyright_reveals_the_same_and_finds_the_package_clean() -> None:
    run = subprocess.run(
        [sys.executable, "-m", "basedpyright", "--pythonpath", sys.executable],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stdout + run.stderr


def test_the_package_says_that_it_is_typed() -> None:
    assert (ROOT / "strata" / "py.typed").exists()
