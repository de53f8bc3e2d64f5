"""An application's own Celery app and workers do Strata's work beside their own: `strata.integrations.celery`."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import redis
from celery import Celery

from strata.writebehind.fleet.broker import TASKS
from tests.behind import client, deferred, hand_off, idle, rows
from tests.fleet import ROOT, Worker, environment
from tests.forked import Forked, run
from tests.models import Note
from tests.stores import MakeStore
from tests.support import wait_until

pytestmark = [pytest.mark.faults, pytest.mark.in_turn]

APP = "tests.surroundings.company_app"
EXAMPLES = re.findall(r"^```python\n(.*?)^```", (ROOT / "docs" / "celery.md").read_text(), re.MULTILINE | re.DOTALL)
ALIVE = "strata:{fleet}:alive"
# A web process, which leaves it to the fleet to persist what it writes, and calls a task of the company's.
WEB = f"""
from {APP} import notes, store, tell
from strata.testing import inspect
from tests.models import Note
from tests.support import wait_until

inspect(store).drainer.stop(1.0)
for key in range(40):
    notes.set(key, Note(key, "by a web process"))
wait_until(lambda: store.stats().dirty_count == 0, 30)
tell.delay()
"""
ORDINARY = {"acks_late": False, "serializer": "json", "limits": [None, None], "came by": "celery", "result": False}


@pytest.fixture
def env(make: MakeStore, dsn: str, redis_addr: str) -> dict[str, str]:
    """Of a process of the company's, whose table is there."""
    store = make()
    store.register(deferred(name="notes"))
    store.migrate()
    return environment(dsn, redis_addr, STRATA_APP="", COMPANY_BROKER=f"redis://{redis_addr}/5")


@contextmanager
def worker(env: dict[str, str], folder: Path, *options: str, beats: bool = False, app: str = APP) -> Iterator[Worker]:
    """One of the company's, that is ready; `beats`: says that it persists, too."""
    made = Worker(env, folder / "worker.log", "one", *options, app=app)
    try:
        wait_until(made.ready, timeout=40, what="a worker")
        if beats:
            wait_until(lambda: broker(env, 0).exists(alive(env)), what="the fleet's beat")
        yield made
    finally:
        made.stop()


def broker(env: dict[str, str], database: int = 5) -> Any:
    return redis.Redis.from_url(f"redis://{env['STRATA_REDIS_ADDR']}/{database}")


def alive(env: dict[str, str]) -> str:
    namespace = env.get("STRATA_NAMESPACE", "")
    return f"{namespace}:{ALIVE}" if namespace else ALIVE


def queues(worker: Worker) -> set[str]:
    """Those that it says at its start."""
    return set(re.findall(r"\.> (\S+) +exchange=", worker.log.read_text()))


def call(env: dict[str, str], *keys: int) -> None:
    """Tasks of the company's that write behind."""
    with Celery("sender", broker=env["COMPANY_BROKER"], set_as_current=False) as app:
        for key in keys:
            app.send_task("company.write", [key])


def doctor(env: dict[str, str]) -> tuple[str, str]:
    words = [sys.executable, "-m", "strata.cli", "doctor", "--json", "--app", f"{APP}:store"]
    said = subprocess.run(words, env=env, cwd=ROOT, timeout=60, capture_output=True, text=True, check=False)
    [found] = [item for item in json.loads(said.stdout) if item["what"] == "workers"]
    return found["state"], found["found"]


def test_the_example_of_the_page_runs(env: dict[str, str], dsn: str, tmp_path: Path) -> None:
    for page, block in zip(("jobs", "shop"), EXAMPLES, strict=False):
        (tmp_path / f"{page}.py").write_text(block)
    env |= {"PYTHONPATH": f"{tmp_path}:{ROOT}", "CELERY_BROKER_URL": env["COMPANY_BROKER"]}
    script = (
        "from shop import Score, scores, store; from tests.support import wait_until; store.migrate();"
        "scores.set('ann', Score('ann', 3)); wait_until(lambda: store.stats().dirty_count == 0)"
    )
    with worker(env, tmp_path, beats=True, app="jobs") as one:
        assert queues(one) == {"celery", *TASKS}
        assert run([sys.executable, "-c", script], env=env, cwd=ROOT, timeout=60).returncode == 0
        assert rows(dsn, "SELECT id, points FROM scores") == [("ann", 3)]


def test_with_the_filter_of_the_page_rounds_are_not_in_the_log_of_beat_and_worker(
    env: dict[str, str], redis_addr: str, tmp_path: Path
) -> None:
    (tmp_path / "quiet.py").write_text(f"from {APP} import app\n\n{EXAMPLES[-1]}")
    env |= {"COMPANY_BEAT": "1", "PYTHONPATH": f"{tmp_path}:{ROOT}"}
    log = tmp_path / "worker.log"
    place = "strata:{chores}:housekeeping:notes"
    with worker(env, tmp_path, "-B", "-s", str(tmp_path / "schedule"), app="quiet"):
        wait_until(lambda: client(redis_addr).exists(place), what="a round, which keeps house")
        said = log.read_text()
    assert "ready." in said and "beat: Starting" in said
    assert not re.search(r"(task|Task) strata.redrive", said)


@pytest.mark.parametrize(
    ("settings", "namespace", "own", "run_with"),
    [
        ("a queue, a route and limits for everything", "shop", "company", {"limits": [6, 7]}),
        ("an exchange that sends everything to everybody", "", "company", {}),
    ],
)
def test_a_worker_of_the_application_s_persists_and_the_application_s_tasks_are_run_as_ever(
    env: dict[str, str], dsn: str, tmp_path: Path, settings: str, namespace: str, own: str, run_with: dict[str, Any]
) -> None:
    env |= {"COMPANY_SETTINGS": settings, "STRATA_NAMESPACE": namespace}
    with worker(env, tmp_path, beats=True) as one:
        assert run([sys.executable, "-c", WEB], env=env, cwd=ROOT, timeout=60).returncode == 0
        assert rows(dsn, "SELECT count(*) FROM notes") == [(40,)]
        wait_until(lambda: one.persisted() == 40, timeout=5)
        wait_until(lambda: broker(env).llen("told") == 1)
        assert json.loads(broker(env).lindex("told", 0)) == ORDINARY | run_with | {"came by": own}
        assert queues(one) == {own, *(f"{namespace}:{task}".removeprefix(":") for task in TASKS)}
        if namespace:
            assert doctor(env) == ("ok", "1: one@here")


def test_a_worker_takes_the_queues_that_it_is_told_to_and_the_doctor_names_those_that_nobody_takes(
    env: dict[str, str], dsn: str, tmp_path: Path
) -> None:
    with worker(env, tmp_path, "-Q", "celery,strata.persist", beats=True) as one:
        assert queues(one) == {"celery", "strata.persist"}
        assert run([sys.executable, "-c", WEB], env=env, cwd=ROOT, timeout=60).returncode == 0
        wait_until(lambda: one.persisted() == 40, timeout=5)
        wait_until(lambda: broker(env).llen("told") == 1)
        assert json.loads(broker(env).lindex("told", 0)) == ORDINARY
        state, found = doctor(env)
        assert state == "warn"
        assert found == "1: one@here; none takes strata.redrive, strata.warm, strata.migrate, strata.audit"


def test_a_worker_of_other_queues_does_not_pass_for_one_that_persists(
    env: dict[str, str], dsn: str, tmp_path: Path
) -> None:
    with worker(env, tmp_path, "-X", ",".join(TASKS)) as one:
        assert queues(one) == {"celery"}
        call(env, 1)
        wait_until(lambda: rows(dsn, "SELECT id FROM notes") == [(1,)])  # by the child that wrote
        assert not broker(env, 0).exists(ALIVE)
        assert doctor(env) == ("fail", "1: one@here; none takes strata.persist")


@pytest.mark.parametrize(
    ("pool", "early"),
    [
        ("prefork", False), ("prefork", True), ("gevent", False), ("solo", True),
        *(pytest.param(pool, False, marks=pytest.mark.long) for pool in ("threads", "eventlet")),
    ],
)  # fmt: skip
def test_what_tasks_of_the_application_s_write_behind_is_flushed_when_the_worker_ends(
    env: dict[str, str], dsn: str, tmp_path: Path, pool: str, early: bool
) -> None:
    env["STRATA_WRITE_BEHIND_FLUSH_INTERVAL"] = "600"
    if early:
        env["COMPANY_STARTS_EARLY"] = "1"
    with worker(env, tmp_path, "-P", pool) as one:
        call(env, 1, 2)
        wait_until(lambda: len(re.findall(r"Task company\.write\S+ succeeded", one.log.read_text())) == 2, timeout=20)
        assert rows(dsn, "SELECT id FROM notes") == []
    written = [(0,), (1,), (2,)] if early else [(1,), (2,)]
    assert rows(dsn, "SELECT id FROM notes ORDER BY id") == written


def test_what_a_child_wrote_behind_is_flushed_when_it_makes_room_for_the_next(
    env: dict[str, str], dsn: str, tmp_path: Path
) -> None:
    env["STRATA_WRITE_BEHIND_FLUSH_INTERVAL"] = "600"
    with worker(env, tmp_path, "--max-tasks-per-child", "1"):
        call(env, 1)
        wait_until(lambda: rows(dsn, "SELECT id FROM notes") == [(1,)])


def test_beat_rings_for_what_threads_of_the_workers_do_otherwise_and_never_fills_the_broker(
    make: MakeStore, env: dict[str, str], dsn: str, redis_addr: str, tmp_path: Path
) -> None:
    store = make()
    store.register(deferred(name="notes"))
    idle(store)
    store.set(Note, 1, Note(1, "handed off, and nobody was rung for"))
    hand_off(store)
    env["COMPANY_BEAT"] = "1"
    log = tmp_path / "beat.log"
    words = ["-m", "celery", "-A", APP, "beat", "--loglevel", "INFO", "-s", str(tmp_path / "schedule"), "--pidfile="]
    with log.open("w") as file:
        beat = Forked([sys.executable, *words], cwd=ROOT, env=env, stdout=file, stderr=file)
    try:
        wait_until(lambda: log.read_text().count("Sending due task strata.redrive") > 2, timeout=30, what="beat")
        assert broker(env).llen("strata.redrive") == 1
        with worker(env, tmp_path, beats=True):
            wait_until(lambda: rows(dsn, "SELECT id FROM notes") == [(1,)], what="redrive")
            wait_until(lambda: client(redis_addr).exists("strata:{chores}:housekeeping:notes"), what="housekeeping")
            beat.terminate()
            assert beat.wait(20) == 0
            wait_until(lambda: not client(redis_addr).exists(ALIVE), what="no beat but of beat's")
    finally:
        beat.kill()
        beat.wait()
