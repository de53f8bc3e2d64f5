"""Servers of greenlets: everything works, gives way to other greenlets, and never hangs."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psycopg
import pytest

from strata import PostgresPolicy
from tests.models import Note
from tests.stores import MakeStore, schema
from tests.support import wait_until

pytestmark = pytest.mark.faults

ROOT = Path(__file__).parents[2]
KEYS = range(1, 61)


@pytest.fixture
def environment(make: MakeStore, dsn: str, redis_addr: str) -> dict[str, str]:
    """Of a server whose tables are there."""
    store = make()
    for name in ("plain", "behind"):
        store.register(schema(Note, name=name, l3=PostgresPolicy(watch=name == "plain")))
    store.migrate()
    given = {"STRATA_POSTGRES_DSN": dsn, "STRATA_REDIS_ADDR": redis_addr, "PYTHONPATH": str(ROOT)}
    return os.environ | given


def answers(port: int, key: int) -> bool:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/write/{key}", timeout=60) as answer:
        return bool(answer.read() == b"written")


def listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@pytest.mark.timeout(300)
@pytest.mark.parametrize(("flags", "early"), [([], ""), (["--preload"], ""), (["--preload"], "1")])
def test_gunicorn_with_gevent_answers_under_load_and_flushes_when_it_ends(
    environment: dict[str, str], dsn: str, flags: list[str], early: str
) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    app = "tests.surroundings.greenlets_app:application"
    command = [sys.executable, "-m", "gunicorn", "-k", "gevent", "-w", "1", "-b", f"127.0.0.1:{port}", *flags, app]
    more = {"APPLICATION_USES_IT_EARLY": early, "STRATA_WRITE_BEHIND_FLUSH_INTERVAL": "600"}
    with subprocess.Popen(command, env=environment | more, stderr=subprocess.DEVNULL) as server:
        try:
            # With --preload once the application is imported, which on a busy machine takes its time.
            wait_until(lambda: listens(port) or server.poll() is not None, 90, "the server")
            with ThreadPoolExecutor(20) as crowd:
                assert all(crowd.map(lambda key: answers(port, key), KEYS))
        finally:
            server.send_signal(signal.SIGTERM)
            server.wait(40)
    with psycopg.connect(dsn) as conn:
        for table in ("plain", "behind"):
            assert {row[0] for row in conn.execute(f"SELECT id FROM {table}")} == set(KEYS)


PATCHES = {
    "gevent": "from gevent import monkey; monkey.patch_all()",
    "eventlet": "import eventlet; eventlet.monkey_patch()",
}

LATE = """
import os, sys, threading, time
from strata import Config, DataStore, InvalidConfigError, PostgresPolicy, WriteMode
from strata.testing import inspect
from tests.models import Note
from tests.stores import schema
store = DataStore(Config.from_env())
plain = store.register(schema(Note, name="plain", l3=PostgresPolicy(watch=True)))
behind = store.register(schema(Note, name="behind", write_mode=WriteMode.WRITE_BEHIND))
if {used}:
    plain.set(1, Note(1, "before"))
{patch}
ticks, ended = [], []
def tick():
    while not ended:
        ticks.append(1); time.sleep(0.005)
threading.Thread(target=tick, daemon=True).start()
def use(key):
    plain.set(key, Note(key, "plain")); behind.set(key, Note(key, "behind")); plain.get(key, force_l2=True)
try:
    crowd = [threading.Thread(target=use, args=(key,)) for key in range(2, 20)]
    for one in crowd: one.start()
    for one in crowd: one.join(10)
    use(1)
    database = inspect(store).databases[os.environ["STRATA_POSTGRES_DSN"]]
    before = len(ticks)
    with database.connection() as conn:
        conn.execute("SELECT pg_sleep(0.5)")
    assert len(ticks) - before > 10, "PostgreSQL does not give way"
    deadline = time.monotonic() + 10
    while not inspect(store).listener.connected:
        assert time.monotonic() < deadline, "nothing from outside is heard"
        time.sleep(0.01)
    with database.connection() as conn:
        conn.execute("UPDATE plain SET text = 'outside' WHERE id = 1")
    deadline = time.monotonic() + 10
    while plain.get(1).text != "outside":
        assert time.monotonic() < deadline, "a change from outside is not heard of"
        time.sleep(0.01)
    store.flush_dirty(timeout=10); store.close()
    print("worked")
except InvalidConfigError as error:
    print("refused", error)
sys.stdout.flush()
os._exit(0)
"""


@pytest.mark.parametrize("kind", ["gevent", "eventlet"])
@pytest.mark.parametrize("used", [False, True])
def test_a_store_that_is_patched_late_works_or_is_refused_and_never_hangs(
    environment: dict[str, str], kind: str, used: bool
) -> None:
    code = LATE.format(patch=PATCHES[kind], used=used)
    ran = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code],
        env=environment, timeout=60, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert ran.stdout.strip().startswith("refused" if used else "worked"), ran.stdout + ran.stderr
    assert not used or "patch first" in ran.stdout
