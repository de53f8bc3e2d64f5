"""The public calls reveal the right types."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PYRIGHT = ["basedpyright", "--pythonpath", sys.executable]


def check(*words: str) -> None:
    """A type checker, which has nothing to say."""
    run = subprocess.run([sys.executable, "-m", *words], cwd=ROOT, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout + run.stderr


@pytest.mark.slow
@pytest.mark.timeout(600)  # all of the project, where nothing is known of an earlier run
def test_calls_by_class_by_name_and_by_handle_reveal_the_right_types() -> None:
    check("mypy")


@pytest.mark.slow
def test_pyright_reveals_the_same() -> None:
    check(*PYRIGHT, "tests/typing/revealed.py")


@pytest.mark.long
def test_pyright_finds_the_package_clean() -> None:
    check(*PYRIGHT)


def test_the_package_says_that_it_is_typed() -> None:
    assert (ROOT / "strata" / "py.typed").exists()
