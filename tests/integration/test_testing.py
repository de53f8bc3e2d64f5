"""What `strata.testing` gives to tests of applications: the example of its page runs, and the checker finds bugs."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from strata.coherence.inbox import Inbox
from strata.testing import Count, observe
from tests.stores import MakeStore, schema, sure

ROOT = Path(__file__).parents[2]


def test_the_example_of_the_page_runs(tmp_path: Path) -> None:
    page = (ROOT / "docs" / "testing-your-application.md").read_text()
    conftest, example = re.findall(r"^```python\n(.*?)^```", page, re.MULTILINE | re.DOTALL)[:2]
    (tmp_path / "conftest.py").write_text(conftest)
    (tmp_path / "test_shop.py").write_text(example)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_shop.py"]
    ran = subprocess.run(
        command, cwd=tmp_path, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(ROOT)}
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert "3 passed" in ran.stdout


def counting(make: MakeStore) -> list[Any]:
    pair = [make(), make()]
    for store in pair:
        store.register(schema(Count, name="counts"))
    pair[0].migrate()
    for store in pair:
        sure(store)
    return pair


def test_the_checker_finds_nothing_where_nothing_is_wrong(make: MakeStore) -> None:
    report = observe(counting(make), 1.0, strict=True)
    assert report.violations == []
    assert report.operations > 0 and report.regressions == 0


def test_the_checker_finds_stores_that_do_not_heed_each_other(make: MakeStore, monkeypatch: pytest.MonkeyPatch) -> None:
    pair = counting(make)
    monkeypatch.setattr(Inbox, "handle", lambda self, data: None)
    assert observe(pair, 4.0).violations != []
