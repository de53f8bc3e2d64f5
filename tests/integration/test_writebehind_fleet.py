"""Write-behind with real workers, brokers, forks and ends of processes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from base64 import b64decode
from pathlib import Path
from typing import Any

import pytest

from strata import DataStore
from strata.embedded import EmbeddedValkey
from strata.testing import inspect
from tests.behind import client, deferred, deferring_to_the_fleet, paced, rows, run
from tests.fleet import ROOT, environment, workers
from tests.forked import Forked
from tests.models import Note
from tests.stores import MakeStore
from tests.support import wait_until


@pytest.fixture
def env(dsn: str, redis_addr: str, tmp_path: Path) -> dict[str, str]:
    return environment(dsn, redis_addr, STRATA_TEST_ERRORS=str(tmp_path / "errors"))


def web(make: MakeStore, **config: Any) -> DataStore:
    """A web process's store that leaves the persisting to the fleet."""
    store = make(write_behind_flush_interval=0.02, write_behind_max_retry=2, **config)
    deferring_to_the_fleet(store)
    return store


def test_a_doorbell_brings_a_worker_that_persists_and_the_writer_hears_of_it(
    make: MakeStore, dsn: str, env: dict[str, str], tmp_path: Path
) -> None:
    store = web(make)
    with workers(env, tmp_path) as worker:
        for id in range(500):
            store.set(Note, id, Note(id, "a"))
        wait_until(lambda: store.stats().dirty_count == 0, timeout=20)
        assert rows(dsn, "SELECT count(*) FROM note") == [(500,)]
        wait_until(lambda: worker.persisted() == 500, timeout=5)


WRITER = """
from tests.fleet_app import store, Note
from tests.support import wait_until
store.set(Note, 1, Note(1, "poison"))
store.set(Note, 2, Note(2, "good"))
wait_until(lambda: store.stats().dirty_count == 0, 60)
"""


@pytest.mark.slow
def test_a_bad_record_in_a_worker_calls_the_hook_in_the_process_that_wrote_only(
    make: MakeStore, dsn: str, env: dict[str, str], tmp_path: Path
) -> None:
    store = web(make)
    run(dsn, "ALTER TABLE note ADD CHECK (text <> 'poison')")
    wrote = tmp_path / "errors"
    with workers(env, tmp_path):
        writer = Forked([sys.executable, "-c", WRITER], env=env, cwd=ROOT)
        assert writer.wait(60) == 0
        assert wrote.read_text().split() == [str(writer.pid), "1"]
    assert rows(dsn, "SELECT id FROM note") == [(2,)]
    assert [letter.key for letter in store.dead_letters.list()] == [1]


def test_a_lost_doorbell_costs_time_only(
    make: MakeStore, dsn: str, redis_addr: str, env: dict[str, str], tmp_path: Path
) -> None:
    store = web(make)
    client(redis_addr).set("strata:{fleet}:alive", "somebody", px=3_000)  # the fleet seems to be there
    store.set(Note, 1, Note(1, "a"))
    queue = "strata:{celery}:strata.persist"
    wait_until(lambda: client(redis_addr).llen(queue) > 0)
    client(redis_addr).delete(queue)
    with workers(env, tmp_path):
        wait_until(lambda: rows(dsn, "SELECT text FROM note") == [("a",)], timeout=20)


def test_the_broker_s_messages_carry_nothing_of_a_record(make: MakeStore, redis_addr: str) -> None:
    store = web(make)
    redis = client(redis_addr)
    redis.set("strata:{fleet}:alive", "somebody", px=10_000)
    store.set(Note, 1, Note(1, "s3cret", ["t4g"]))
    wait_until(lambda: redis.llen("strata:{celery}:strata.persist") > 0)
    [raw] = redis.lrange("strata:{celery}:strata.persist", 0, -1)
    message = json.loads(raw)
    assert message["headers"]["task"] == "strata.persist"
    assert message["headers"]["argsrepr"].startswith("('note', ")
    assert message["content-type"] == "application/x-msgpack"
    assert b"s3cret" not in raw + b64decode(message["body"]) and b"t4g" not in b64decode(message["body"])
    assert not [key for key in redis.keys("*celery*") if b"s3cret" in (redis.dump(key) or b"")]


def test_a_broker_that_is_away_or_hangs_stops_nothing(
    make: MakeStore, dsn: str, redis_addr: str, own_valkey: EmbeddedValkey
) -> None:
    store = make(write_behind_flush_interval=0.02, broker_url=own_valkey.url)
    paced(store)
    store.register(deferred())
    store.migrate()
    for trouble in (own_valkey.freeze, own_valkey.kill):
        trouble()
        client(redis_addr).set("strata:{fleet}:alive", "somebody", px=60_000)
        id = 1 if trouble == own_valkey.freeze else 2
        store.set(Note, id, Note(id, "a"))
        wait_until(lambda id=id: rows(dsn, f"SELECT text FROM note WHERE id = {id}") == [("a",)])  # type: ignore[misc]
    own_valkey.restart()


@pytest.mark.slow
def test_a_worker_for_other_jobs_does_not_pass_for_one_that_persists(
    make: MakeStore, dsn: str, redis_addr: str, env: dict[str, str], tmp_path: Path
) -> None:
    store = make(write_behind_flush_interval=0.02)
    paced(store)
    store.register(deferred())
    store.migrate()
    with pytest.raises(AssertionError, match="beat"):
        with workers(env, tmp_path, "-Q", "strata.warm"):
            pass
    store.set(Note, 1, Note(1, "a"))
    wait_until(lambda: rows(dsn, "SELECT text FROM note") == [("a",)])


def script(env: dict[str, str], text: str) -> int:
    """Run a script of the application; its exit status."""
    return subprocess.run([sys.executable, "-c", text], env=env, cwd=ROOT, timeout=60, check=False).returncode


@pytest.mark.parametrize(
    "end",
    ["", "import sys; sys.exit(0)", "raise KeyError('a mistake')"],
    ids=["its last line", "sys.exit", "an exception"],
)
def test_what_was_written_is_in_l3_when_the_process_ends(
    make: MakeStore, dsn: str, env: dict[str, str], end: str
) -> None:
    web(make)
    script(env, f"from tests.fleet_app import store, Note\nstore.set(Note, 1, Note(1, 'a'))\n{end}")
    assert rows(dsn, "SELECT text FROM note") == [("a",)]


FORKS = """
import os, sys
from tests.fleet_app import store, Note
store.set(Note, 1, Note(1, "parent"))
child = os.fork()
if child == 0:
    assert store.stats().dirty_count == 0
    store.set(Note, 2, Note(2, "child"))
    sys.exit(0)
os.waitpid(child, 0)
store.set(Note, 3, Note(3, "parent"))
assert store.stats().dirty_count <= 2
"""

PROCESSES = """
import multiprocessing
from tests.fleet_app import store, Note
def work():
    store.set(Note, 2, Note(2, "child"))
if __name__ == "__main__":
    store.set(Note, 1, Note(1, "parent"))
    process = multiprocessing.get_context("fork").Process(target=work)
    process.start()
    process.join()
    store.set(Note, 3, Note(3, "parent"))
"""


@pytest.mark.parametrize("text", [FORKS, PROCESSES], ids=["os.fork", "multiprocessing"])
def test_parent_and_child_of_a_fork_each_flush_what_they_wrote(
    make: MakeStore, dsn: str, env: dict[str, str], text: str
) -> None:
    web(make)
    assert script(env, text) == 0
    assert rows(dsn, "SELECT id, text FROM note ORDER BY id") == [(1, "parent"), (2, "child"), (3, "parent")]


@pytest.mark.slow
def test_what_was_handed_off_survives_the_end_of_its_writer(make: MakeStore, dsn: str, env: dict[str, str]) -> None:
    store = make(write_behind_flush_interval=0.02)
    text = (
        "import os\nfrom strata.testing import inspect\nfrom tests.fleet_app import store, Note\n"
        "for id in range(100): store.set(Note, id, Note(id, 'a'))\n"
        "inspect(store).handoff.run()\n"
        "os.kill(os.getpid(), 9)\n"
    )
    assert script(env, text) == -9
    paced(store)
    store.register(deferred())
    store.migrate()
    assert store.get(Note, 7).text == "a"  # and whoever uses the schema looks after what is left of it
    wait_until(lambda: rows(dsn, "SELECT count(*) FROM note") == [(100,)], timeout=30)


def test_a_store_that_was_never_written_to_starts_no_thread(make: MakeStore) -> None:
    store = make()
    store.register(deferred())
    assert not inspect(store).flusher.daemon.started and os.getpid()
