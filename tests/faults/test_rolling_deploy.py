"""Workers and writers of different releases side by side: what one does not know waits for one that does."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest

from strata import DataStore
from tests import forked
from tests.behind import client, rows
from tests.faults.rolling_app import release
from tests.fleet import ROOT, Worker, environment, workers
from tests.support import wait_until

pytestmark = [pytest.mark.faults, pytest.mark.slow, pytest.mark.timeout(240)]


class Rollout:
    """One database and Redis; workers and writers of any release on them."""

    def __init__(self, dsn: str, redis_addr: str, folder: Path) -> None:
        self.dsn = dsn
        self._addr = redis_addr
        self._redis = client(redis_addr)
        self._folder = folder

    @contextmanager
    def fleet(self, number: int) -> Iterator[Worker]:
        """A worker of a release."""
        more = {"STRATA_APP": "tests.faults.rolling_app:store", "ROLLING_RELEASE": str(number)}
        folder = self._folder / f"worker-{number}"
        folder.mkdir(exist_ok=True)
        with workers(environment(self.dsn, self._addr, **more), folder) as worker:
            yield worker

    def write(self, number: int, text: str, first: int, last: int) -> None:
        """A writer of a release: things first to last, or notes by release 3, handed off by a process that is gone."""
        words = ["-m", "tests.faults.rolling_app", str(number), text, str(first), str(last)]
        env = environment(self.dsn, self._addr)
        ended = forked.run([sys.executable, *words], env=env, cwd=ROOT, timeout=60)
        assert ended.returncode == -signal.SIGKILL

    def migrate(self, number: int) -> None:
        with self.store(number) as store:
            store.migrate()

    def store(self, number: int) -> DataStore:
        return release(number, postgres_dsn=self.dsn, redis_addr=self._addr)

    def things(self) -> dict[int, tuple[Any, ...]]:
        """What L3 has, by id: text, and size and label where there are such columns."""
        with psycopg.connect(self.dsn, row_factory=psycopg.rows.dict_row) as conn:
            found = conn.execute("SELECT * FROM things").fetchall()
        return {row["id"]: tuple(row[name] for name in ("text", "size", "label") if name in row) for row in found}

    def claims(self, schema: str) -> list[list[bytes]]:
        """Version, token, crashes, attempts and outages of what is pending and was claimed."""
        keys = self._redis.keys(f"strata:{{{schema}:*}}:claims")
        return [claim.split(b":") for key in keys for claim in self._redis.hvals(key)]

    def parked(self, schema: str, count: int) -> bool:
        """Whether so many were claimed and given back, with nobody to blame."""
        return sum(int(outages) > 0 and int(attempts) == 0 for *_, attempts, outages in self.claims(schema)) == count

    def pending(self, schema: str) -> int:
        return sum(self._redis.hlen(key) for key in self._redis.keys(f"strata:{{{schema}:*}}:dirty"))

    def nothing_failed(self) -> None:
        with self.store(3) as store:
            assert store.dead_letters.list() == []


@pytest.fixture
def rollout(dsn: str, redis_addr: str, tmp_path: Path) -> Rollout:
    return Rollout(dsn, redis_addr, tmp_path)


def test_what_an_older_worker_does_not_know_waits_until_it_is_replaced(rollout: Rollout) -> None:
    rollout.migrate(2)
    with rollout.fleet(1):
        rollout.write(2, "new", 0, 40)
        rollout.write(1, "old", 40, 60)
        wait_until(lambda: len(rollout.things()) == 20, timeout=40, what="the records that it does know")
        wait_until(lambda: rollout.parked("things", 40), timeout=40, what="the records that it does not know")
        assert set(rollout.things().values()) == {("old", 7, None)}
    with rollout.fleet(2):
        wait_until(lambda: rollout.pending("things") == 0, timeout=60)
    assert rollout.things() == {
        **dict.fromkeys(range(40), ("new", 9, "new")),
        **dict.fromkeys(range(40, 60), ("old", 7, None)),
    }
    rollout.nothing_failed()


def test_beside_an_older_worker_a_newer_one_persists_what_that_one_does_not_know(rollout: Rollout) -> None:
    rollout.migrate(2)
    with rollout.fleet(1), rollout.fleet(2):
        rollout.write(2, "new", 0, 40)
        wait_until(lambda: rollout.pending("things") == 0, timeout=60)
    assert rollout.things() == dict.fromkeys(range(40), ("new", 9, "new"))
    rollout.nothing_failed()


def test_a_newer_worker_keeps_the_columns_that_an_older_writer_does_not_know(rollout: Rollout) -> None:
    rollout.migrate(2)
    with rollout.fleet(2):
        rollout.write(2, "new", 0, 20)
        wait_until(lambda: rollout.pending("things") == 0, timeout=40)
        rollout.write(1, "old", 10, 30)
        wait_until(lambda: rollout.pending("things") == 0, timeout=40)
    assert rollout.things() == {
        **dict.fromkeys(range(10), ("new", 9, "new")),
        **dict.fromkeys(range(10, 20), ("old", 9, "new")),
        **dict.fromkeys(range(20, 30), ("old", 7, None)),
    }
    rollout.nothing_failed()


def test_writes_with_a_column_that_is_not_there_yet_wait_for_the_migration(rollout: Rollout) -> None:
    rollout.migrate(1)
    with rollout.fleet(2):
        rollout.write(2, "early", 0, 40)
        wait_until(lambda: rollout.parked("things", 40), timeout=40)
        assert rollout.things() == {}
        rollout.migrate(2)
        wait_until(lambda: rollout.pending("things") == 0, timeout=60)
    assert rollout.things() == dict.fromkeys(range(40), ("early", 9, "new"))
    rollout.nothing_failed()


def test_the_writes_of_a_schema_that_no_worker_knows_wait_for_one_that_does(rollout: Rollout) -> None:
    rollout.migrate(3)
    with rollout.fleet(2) as worker:
        rollout.write(3, "a", 0, 40)
        rollout.write(2, "b", 0, 1)
        wait_until(lambda: len(rollout.things()) == 1, timeout=40)
        assert rollout.pending("note") == 40
        assert worker.ready()
    with rollout.fleet(3):
        wait_until(lambda: rollout.pending("note") == 0, timeout=60)
    assert rows(rollout.dsn, "SELECT count(*) FROM note WHERE text = 'a'") == [(40,)]
    rollout.nothing_failed()
