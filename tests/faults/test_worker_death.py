"""Workers are killed in the middle of their work; nothing is lost, nothing deleted comes back."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from tests.behind import client, deferred, paced, rows
from tests.fleet import Worker, environment
from tests.models import Note
from tests.stores import MakeStore
from tests.support import wait_until

RECORDS = 20_000
KILLS = 3

pytestmark = [pytest.mark.faults, pytest.mark.slow, pytest.mark.timeout(600)]


def test_every_one_of_20_000_records_arrives_although_the_worker_is_killed_three_times(
    make: MakeStore, dsn: str, redis_addr: str, tmp_path: Path
) -> None:
    store = make(write_behind_flush_interval=0.05, write_behind_max_dirty=2 * RECORDS)
    paced(store)
    store.register(deferred())
    store.migrate()
    parts = store._wiring.writebehind()._parts
    parts.drainer.stop(1.0)  # the fleet alone persists
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
