"""A worker whose set-up is wrong says so in one line, without a traceback and without a secret."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from strata import Config
from strata.l2 import refusals
from strata.protocol.keyspace import Keyspace
from strata.writebehind.fleet.broker import celery_app
from tests.fleet import ROOT, Worker, environment
from tests.support import wait_until
from tests.surroundings.redis_server import redis_server

APPLICATION = "from tests.fleet_app import store\n"


def command(env: dict[str, str], word: str = "worker") -> subprocess.CompletedProcess[str]:
    celery = [sys.executable, "-m", "celery", "-A", "strata.worker", word]
    return subprocess.run(celery, cwd=ROOT, env=env, capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.parametrize(
    ("word", "app", "said"),
    [("worker", "", "no app is named; set STRATA_APP"), ("flower", "shop", "the app is 'shop'; it must be")],
)
def test_without_an_application_it_ends_with_one_line(word: str, app: str, said: str) -> None:
    ended = command(environment("", "", STRATA_APP=app), word)
    assert ended.returncode == 1
    assert ended.stderr.startswith(f"InvalidConfigError: {said}") and ended.stderr.count("\n") == 1


def test_a_broker_that_cannot_be_one_is_told_in_one_line_too() -> None:
    env = environment("", "h:1", STRATA_BROKER_URL="redis://:hunter2/@h:1", STRATA_WORKER_WAIT="0")
    ended = command(env)
    assert ended.returncode == 1 and ended.stderr.count("\n") == 1
    assert "percent-encoded" in ended.stderr and "hunter2" not in ended.stderr


def test_a_worker_waits_for_its_application_a_line_a_try(dsn: str, redis_addr: str, tmp_path: Path) -> None:
    env = environment(dsn, redis_addr, STRATA_APP="late:store", PYTHONPATH=f"{tmp_path}:{ROOT}")
    worker = Worker(env, tmp_path / "worker.log")
    try:
        wait_until(lambda: lines(worker, "no module 'late'; the next try is in"), timeout=30, what="the first try")
        (tmp_path / "late.py").write_text("raise ValueError('hunter2')\n")
        raised = "ValueError: raised by the app 'late:store'"
        wait_until(lambda: lines(worker, raised), timeout=30, what="the second try")
        (tmp_path / "late.py").write_text(APPLICATION)
        wait_until(worker.ready, timeout=60, what="a worker")
        said = worker.log.read_text()
        assert "Traceback" not in said and "hunter2" not in said
    finally:
        worker.stop()


def test_a_worker_says_a_wrong_queue_and_a_lost_right_and_shows_no_password(dsn: str, tmp_path: Path) -> None:
    with redis_server() as server:
        server.grant("app", "on >hunter2", refusals.rights(Keyspace(), "strata:invalidate", broker=True))
        url = server.url("app", "hunter2")
        worker = Worker(environment(dsn, url), tmp_path / "worker.log", "one", "-Q", "strata.persist,strata.persits")
        try:
            wait_until(worker.ready, timeout=60, what="a worker")
            [wrong] = lines(worker, "no task of this store ever comes to a queue that -Q names")
            assert "wrong='strata.persits' right='strata.audit, strata.migrate" in wrong
            answers = celery_app(Config(redis_addr=url)).control.inspect(timeout=3).stats()
            assert list(answers) == ["one@here"] and "hunter2" not in str(answers)
            assert answers["one@here"]["broker"]["transport"] == "redis"
            server.admin.execute_command("ACL", "SETUSER", "app", "-brpop")
            wait_until(lambda: worker.process.poll() is not None, timeout=30, what="the worker's end")
            [told] = lines(worker, "CRITICAL")
            assert "the broker refused: NOPERM" in told and "ACL SETUSER app ~strata:*" in told
            assert "Traceback" not in worker.log.read_text() and "hunter2" not in worker.log.read_text()
        finally:
            worker.kill()


def lines(worker: Worker, piece: str) -> list[str]:
    """What its log says with this piece in it."""
    return [line for line in worker.log.read_text().splitlines() if piece in line]
