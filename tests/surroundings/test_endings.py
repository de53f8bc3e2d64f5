"""How a process ends, and whether what it wrote behind is flushed then: as docs/write-behind.md says."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest
from celery import Celery

from tests.models import Note
from tests.stores import MakeStore, schema
from tests.support import wait_until

pytestmark = pytest.mark.faults

ROOT = Path(__file__).parents[2]
APP = "tests.surroundings.endings_app"


@pytest.fixture
def environment(make: MakeStore, dsn: str, redis_addr: str) -> dict[str, str]:
    """Of a process whose table is there."""
    store = make()
    store.register(schema(Note, name="notes"))
    store.migrate()
    broker = f"redis://{redis_addr}/3"
    return os.environ | {
        "STRATA_POSTGRES_DSN": dsn, "STRATA_REDIS_ADDR": redis_addr, "APPLICATIONS_BROKER": broker,
        "PYTHONPATH": str(ROOT),
    }  # fmt: skip


def rows(dsn: str) -> set[int]:
    with psycopg.connect(dsn) as conn:
        return {row[0] for row in conn.execute("SELECT id FROM notes")}


def start(how: str, environment: dict[str, str], **more: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", APP, how],
        env=environment | more, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("how", "status", "flushes"),
    [
        ("end", 0, True),
        ("sys.exit", 3, True),
        ("exception", 1, True),
        ("thread", 0, True),
        ("forked", 0, True),
        ("process fork", 0, True),
        ("process spawn", 0, True),
        ("process forkserver", 0, True),
        ("pool fork", 0, True),
        ("pool spawn", 0, True),
        ("os._exit", 0, False),
    ],
)
def test_a_process_that_ends_by_itself_flushes(
    environment: dict[str, str], dsn: str, how: str, status: int, flushes: bool
) -> None:
    with start(how, environment) as process:
        assert process.wait(30) == status
    assert rows(dsn) == ({1} if flushes else set())


@pytest.mark.parametrize(
    ("how", "asked", "status", "flushes"),
    [
        ("sigterm", "1", -signal.SIGTERM, True),
        ("busy", "1", -signal.SIGTERM, True),
        ("handler", "1", 7, True),  # what handled the signal before is called afterwards
        ("sigterm", "0", -signal.SIGTERM, False),
    ],
)
def test_sigterm_flushes_where_it_is_asked_for(
    environment: dict[str, str], dsn: str, how: str, asked: str, status: int, flushes: bool
) -> None:
    with start(how, environment, STRATA_FLUSH_ON_SIGTERM="0" if how == "handler" else asked) as process:
        assert process.stdout is not None
        process.stdout.readline()
        process.terminate()
        assert process.wait(30) == status
    assert (1 in rows(dsn)) is flushes


@pytest.mark.parametrize("pause", ["0", "0.02"])
def test_no_write_is_lost_that_was_acknowledged_while_sigterm_is_handled(
    environment: dict[str, str], dsn: str, pause: str
) -> None:
    with start("counting", environment, STRATA_FLUSH_ON_SIGTERM="1", PAUSE=pause) as process:
        assert process.stdout is not None
        said = {int(process.stdout.readline()) for _ in range(20)}
        process.terminate()
        said |= {int(line) for line in process.stdout}
        assert process.wait(30) == -signal.SIGTERM
    assert said <= rows(dsn)


def test_writes_go_on_where_the_handler_that_was_there_lets_the_process_go_on(
    environment: dict[str, str], dsn: str
) -> None:
    with start("flagged", environment, STRATA_FLUSH_ON_SIGTERM="0") as process:
        assert process.stdout is not None
        said = {int(process.stdout.readline()) for _ in range(20)}
        process.terminate()
        said |= {int(line) for line in process.stdout}
        assert process.wait(30) == 0
    assert said <= rows(dsn) and len(said) > 25


def test_sigterm_that_is_ignored_stays_ignored(environment: dict[str, str]) -> None:
    code = (
        "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "from strata import Config, DataStore\n"
        "DataStore(Config(flush_on_sigterm=True))\n"
        "assert signal.getsignal(signal.SIGTERM) is signal.SIG_IGN"
    )
    assert subprocess.run([sys.executable, "-c", code], env=environment, timeout=30, check=False).returncode == 0


def test_another_thread_than_the_main_one_cannot_ask_for_it(environment: dict[str, str]) -> None:
    code = (
        "import threading\n"
        "from strata import Config, DataStore, InvalidConfigError\n"
        "def make():\n"
        "    try: DataStore(Config(flush_on_sigterm=True))\n"
        "    except InvalidConfigError as error: print(error)\n"
        "thread = threading.Thread(target=make); thread.start(); thread.join()"
    )
    said = subprocess.run(
        [sys.executable, "-c", code], env=environment, timeout=30, check=True, capture_output=True, text=True
    )
    assert "main thread" in said.stdout


@contextmanager
def celery_worker(environment: dict[str, str], *flags: str) -> Iterator[subprocess.Popen[Any]]:
    command = [sys.executable, "-m", "celery", "-A", APP, "worker", "-c", "1", "--without-gossip", "--without-mingle"]
    with subprocess.Popen(
        [*command, *flags], env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as process:
        try:
            yield process
        finally:
            process.terminate()
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()


def ran(environment: dict[str, str], *keys: int) -> Callable[[], bool]:
    """Send the tasks; whether all of them have run."""
    app = Celery("sender", broker=environment["APPLICATIONS_BROKER"])
    for key in keys:
        app.send_task("write", [key])
    inspect = app.control.inspect(timeout=0.5)

    def counted() -> bool:
        stats = (inspect.stats() or {}).values()
        return any(stat["total"].get("write", 0) >= len(keys) and not any(active(inspect)) for stat in stats)

    return counted


def active(inspect: Any) -> list[Any]:
    return [task for tasks in (inspect.active() or {}).values() for task in tasks]


@pytest.mark.parametrize(
    "pool", ["prefork", "gevent", *(pytest.param(pool, marks=pytest.mark.long) for pool in ("threads", "eventlet"))]
)
def test_an_application_in_a_celery_worker_of_its_own_flushes_at_a_warm_shutdown(
    environment: dict[str, str], dsn: str, pool: str
) -> None:
    with celery_worker(environment, "-P", pool):
        wait_until(ran(environment, 1, 2), 40)
        assert rows(dsn) == set()
    assert rows(dsn) == {1, 2}


@pytest.mark.in_turn
def test_a_child_of_celery_flushes_when_it_makes_room_for_the_next(environment: dict[str, str], dsn: str) -> None:
    with celery_worker(environment, "--max-tasks-per-child", "1"):
        ran(environment, 1)
        wait_until(lambda: rows(dsn) == {1}, 40)


@pytest.mark.in_turn
def test_a_process_that_cannot_flush_says_so(environment: dict[str, str]) -> None:
    away = {"STRATA_POSTGRES_DSN": "postgresql://nobody@127.0.0.1:1/none", "STRATA_REDIS_ADDR": "127.0.0.1:1"}
    said = subprocess.run(
        [sys.executable, "-m", APP, "end"],
        env=environment | away,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert "the process ended with writes left" in said.stderr and "1 deferred writes reached neither" in said.stderr
