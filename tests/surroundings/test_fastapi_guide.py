"""docs/fastapi.md, step by step: its application is the example's, its commands work, and answer what it says."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.fleet import ROOT
from tests.served import UVICORN, served
from tests.support import wait_until

EXAMPLE = ROOT / "examples" / "fastapi"
PAGE = (ROOT / "docs" / "fastapi.md").read_text()
STEPS = re.compile(r"^\$ (.*)\n((?:[^$`].*\n)?)", re.MULTILINE)
DEV = "strata dev --app blog:open_store -- uvicorn blog:app"


def blocks(kind: str) -> list[str]:
    return re.findall(rf"^```{kind}\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)


def bare() -> dict[str, str]:
    """No server is named."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("STRATA_")}
    return kept | {"PYTHONPATH": str(ROOT)}


def test_the_application_and_its_test_are_those_of_the_example() -> None:
    application, *_, test = blocks("python")
    assert application == (EXAMPLE / "blog.py").read_text()
    assert test == (EXAMPLE / "test_blog.py").read_text()


@pytest.mark.slow
@pytest.mark.in_turn
def test_the_first_ten_minutes_go_as_the_page_says(tmp_path: Path) -> None:
    application, *_ = blocks("python")
    (session,) = blocks("console")
    (tmp_path / "blog.py").write_text(application)
    assert DEV in PAGE
    dev, _, _ = DEV.partition(" -- ")
    words = ["-m", "strata.cli", *shlex.split(dev)[1:], "--", sys.executable, *UVICORN, "blog:app"]
    with served(words, bare(), tmp_path) as server:
        for command, said in STEPS.findall(session):
            asked = command.replace("localhost:8000", f"127.0.0.1:{server.port}")
            answer = subprocess.run(["bash", "-c", asked], capture_output=True, text=True, check=True, timeout=60)
            assert answer.stdout == said.rstrip("\n"), command


@pytest.mark.parametrize("name", ["own", "api"])
def test_every_other_block_runs_as_it_stands(tmp_path: Path, name: str) -> None:
    _, *others, _ = blocks("python")
    (block,) = [block for block in others if re.search(rf"\b{name}\b", block)]
    program = f"{block}\nassert {name}"
    env = bare() | {"PYTHONPATH": f"{EXAMPLE}{os.pathsep}{ROOT}"}
    subprocess.run([sys.executable, "-c", program], env=env, cwd=tmp_path, check=True, timeout=60)


@pytest.mark.in_turn
def test_a_function_is_memoized_for_the_store_that_the_lifespan_opens(
    tmp_path: Path, dsn: str, redis_addr: str
) -> None:
    (block,) = [block for block in blocks("python") if "remembering" in block]
    program = f"""{block}
from fastapi.testclient import TestClient
for _ in range(2):
    with TestClient(app) as client:
        store = app.state.strata.sync
        store.increment(Views, "lamp", count=1, default=Views("lamp"))
        store.flush_dirty()
        print(client.get("/most-read").text)
"""
    servers = {"STRATA_POSTGRES_DSN": dsn, "STRATA_REDIS_ADDR": redis_addr}
    env = bare() | servers | {"PYTHONPATH": f"{EXAMPLE}{os.pathsep}{ROOT}"}
    ran = subprocess.run(
        [sys.executable, "-c", program], env=env, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=60
    )
    assert (ran.returncode, ran.stdout) == (0, '["lamp"]\n' * 2), ran.stderr


@pytest.mark.in_turn
def test_whichever_process_is_asked_for_metrics_answers_for_all(tmp_path: Path, dsn: str, redis_addr: str) -> None:
    assert "PROMETHEUS_MULTIPROC_DIR=$(mktemp -d) uvicorn --workers 4 blog:app" in PAGE
    servers = {"STRATA_POSTGRES_DSN": dsn, "STRATA_REDIS_ADDR": redis_addr, "PROMETHEUS_MULTIPROC_DIR": str(tmp_path)}
    env = bare() | servers | {"PYTHONPATH": f"{EXAMPLE}{os.pathsep}{ROOT}"}
    with served([*UVICORN, "--workers", "2", "blog:app"], env, tmp_path) as server:

        def gets() -> float:
            found = httpx.get(f"{server.url}/metrics", follow_redirects=True).text
            samples = [sample for family in text_string_to_metric_families(found) for sample in family.samples]
            return sum(s.value for s in samples if s.name == "strata_gets_total" and s.labels["schema"] == "articles")

        for _ in range(20):
            assert httpx.get(f"{server.url}/articles/lamp").status_code == 404
        wait_until(lambda: [gets() for _ in range(6)] == [20] * 6, 30, "the same count from each process")


@pytest.mark.in_turn
@pytest.mark.slow
def test_the_example_s_own_tests_pass(tmp_path: Path) -> None:
    for name in ("blog.py", "test_blog.py"):
        (tmp_path / name).write_text((EXAMPLE / name).read_text())
    ran = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "test_blog.py"],
        cwd=tmp_path, env=bare(), capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert "2 passed" in ran.stdout
