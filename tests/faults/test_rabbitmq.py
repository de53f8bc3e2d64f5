"""RabbitMQ as the broker: doorbells go through it, and its death costs time only."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from strata import DataStore
from tests.behind import deferring_to_the_fleet, rows
from tests.fleet import environment, workers
from tests.models import Note
from tests.rabbit import RabbitMQ, installed, rabbitmq
from tests.stores import stores
from tests.support import wait_until

pytestmark = [pytest.mark.faults, pytest.mark.slow, pytest.mark.timeout(400)]


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[RabbitMQ]:
    script = installed()
    if script is None:
        pytest.skip("RabbitMQ is not installed (Debian's rabbitmq-server): it is not tried as a broker")
    folder = tmp_path / "rabbitmq"
    folder.mkdir()
    with rabbitmq(script, folder) as server:
        yield server


def test_workers_are_rung_through_rabbitmq_and_nothing_is_lost_when_it_dies(
    broker: RabbitMQ, dsn: str, redis_addr: str, tmp_path: Path
) -> None:
    env = environment(dsn, redis_addr, STRATA_BROKER_URL=broker.url)
    with stores(dsn, redis_addr) as make:
        store = make(write_behind_flush_interval=0.02, broker_url=broker.url)
        deferring_to_the_fleet(store, fleet=5.0, dead=2.0)
        with workers(env, tmp_path) as worker:
            write(store, 0, 300)
            wait_until(lambda: count(dsn) == 300, timeout=60)
            wait_until(lambda: worker.persisted() > 0, timeout=20, what="a task that came by RabbitMQ")
            broker.kill()
            write(store, 300, 600)
            wait_until(lambda: count(dsn) == 600, timeout=60, what="the worker to find the work by itself")
            broker.start()
            before = worker.persisted()
            ids = iter(range(600, 100_000))

            def rung() -> bool:
                id = next(ids)
                store.set(Note, id, Note(id, "a"))
                return worker.persisted() > before

            wait_until(rung, timeout=90, what="a task after the broker's return")
        store.flush_dirty(30)
        assert rows(dsn, "SELECT min(id), max(id) - count(*) FROM note") == [(0, -1)]
        assert store.dead_letters.list() == []


def write(store: DataStore, first: int, last: int) -> None:
    for id in range(first, last):
        store.set(Note, id, Note(id, "a"))


def count(dsn: str) -> int:
    return int(rows(dsn, "SELECT count(*) FROM note")[0][0])
