"""Workers are killed in the middle of their work; nothing is lost, nothing deleted comes back."""

from __future__ import annotations

import os
import random
import signal
from pathlib import Path
from typing import Any

import psutil
import pytest

from strata.embedded import EmbeddedValkey
from tests.behind import client, deferring_to_the_fleet, rows
from tests.fleet import Worker, environment, workers
from tests.held import locked
from tests.models import Note
from tests.stores import MakeStore
from tests.support import wait_until

RECORDS = 3_000
KILLS = 3

pytestmark = [pytest.mark.faults, pytest.mark.slow, pytest.mark.timeout(600)]


def test_every_one_of_3_000_records_arrives_although_the_worker_is_killed_three_times(
    make: MakeStore, dsn: str, redis_addr: str, tmp_path: Path
) -> None:
    store = make(write_behind_flush_interval=0.05, write_behind_max_dirty=2 * RECORDS)
    deferring_to_the_fleet(store)
    # A short lease, so that what a dead worker held is free soon.
    env = environment(dsn, redis_addr, STRATA_TEST_LEASE="3")
    chance = random.Random(7)
    wanted: dict[int, str] = {}

    worker = Worker(env, tmp_path / "0.log", "w0")
    try:
        for kill in range(KILLS):
            wait_until(worker.ready, timeout=60, what="a worker")
            before = rows(dsn, "SELECT count(*) FROM note")[0][0]
            for _ in range(RECORDS // KILLS + 1):
                id = chance.randrange(RECORDS)
                if id in wanted and chance.random() < 0.2:
                    store.delete(Note, id)
                    del wanted[id]
                else:
                    wanted[id] = f"{kill}-{chance.random()}"
                    store.set(Note, id, Note(id, wanted[id]))
            for id in range(kill, RECORDS, KILLS):
                wanted[id] = f"last-{kill}"
                store.set(Note, id, Note(id, wanted[id]))
            wait_until(lambda before=before: rows(dsn, "SELECT count(*) FROM note")[0][0] > before, timeout=60)  # type: ignore[misc]
            worker.kill()
            worker = Worker(env, tmp_path / f"{kill + 1}.log", f"w{kill + 1}")
        wait_until(lambda: store.stats().dirty_count == 0, timeout=200, what="an empty buffer")
        assert dict(rows(dsn, "SELECT id, text FROM note")) == wanted
        redis = client(redis_addr)
        assert redis.keys("strata:{note:*}:dirty") == redis.keys("strata:{note:*}:dead") == []
    finally:
        worker.kill()


def holders(redis: Any) -> set[int]:
    """The processes that hold claims: a claim is <version>:<token>:..., and a token begins with its process's id."""
    claims = [claim for key in redis.keys("strata:{note:*}:claims") for claim in redis.hvals(key)]
    return {int(claim.split(b":")[1][:8], 16) for claim in claims if claim.split(b":")[1] != b"-"}


def test_a_child_that_is_frozen_over_its_claims_keeps_none_of_them_from_being_claimed_by_another(
    make: MakeStore, dsn: str, redis_addr: str, tmp_path: Path
) -> None:
    store = make(write_behind_flush_interval=0.05)
    deferring_to_the_fleet(store)
    env, frozen = environment(dsn, redis_addr, STRATA_TEST_LEASE="2"), 0
    with workers(env, tmp_path, "--max-tasks-per-child", "1") as worker:
        with locked(dsn, "note") as table:
            for id in range(500):
                store.set(Note, id, Note(id, "mine"))
            wait_until(lambda: table.waiting() and holders(client(redis_addr)), what="a child amid its transaction")
            frozen = min(holders(client(redis_addr)))
            os.kill(frozen, signal.SIGSTOP)
        try:
            # Its session is idle in a transaction, with rows locked, until PostgreSQL ends it.
            wait_until(lambda: store.stats().dirty_count == 0, timeout=100, what="an empty buffer")
            assert psutil.Process(frozen).status() == psutil.STATUS_STOPPED
        finally:
            os.kill(frozen, signal.SIGCONT)
        assert rows(dsn, "SELECT count(*) FROM note WHERE text = 'mine'") == [(500,)]
        store.set(Note, 1, Note(1, "later"))
        wait_until(lambda: rows(dsn, "SELECT text FROM note WHERE id = 1") == [("later",)], timeout=40)
        assert worker.process.poll() is None
    assert store.dead_letters.list() == []


def test_a_worker_with_tasks_under_way_outlives_its_broker(
    make: MakeStore, dsn: str, own_valkey: EmbeddedValkey, tmp_path: Path
) -> None:
    store = make(redis_addr=own_valkey.addr, write_behind_flush_interval=0.05)
    deferring_to_the_fleet(store)
    with workers(environment(dsn, own_valkey.addr), tmp_path) as worker:
        with locked(dsn, "note") as table:
            for id in range(100):
                store.set(Note, id, Note(id, "mine"))
            wait_until(table.waiting, what="a task under way")
            own_valkey.kill()
            wait_until(lambda: "Connection to broker lost" in worker.log.read_text())
            wait_until(lambda: worker.process.poll() is not None or "Cannot connect" in worker.log.read_text())
            own_valkey.restart()
        wait_until(lambda: worker.log.read_text().count("Connected to") > 1, timeout=40, what="the broker")
        wait_until(lambda: store.stats().dirty_count == 0, timeout=60, what="an empty buffer")
        assert worker.process.poll() is None
        assert "Traceback" not in worker.log.read_text()
    assert rows(dsn, "SELECT count(*) FROM note WHERE text = 'mine'") == [(100,)]
