"""Jobs on the fleet: warming in parts side by side, migrations that take long; workers may die, messages be lost."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated
from uuid import UUID

import psycopg
import pytest

import strata
from strata import DataStore, JobState, MemPolicy, PostgresPolicy, Schema
from strata.embedded import EmbeddedPostgres
from strata.engine import warm
from strata.engine.work import Bell, Part, Work
from tests.behind import client, rows, run
from tests.fleet import Worker, environment, workers
from tests.models import Note
from tests.stores import MakeStore, schema, stores
from tests.support import wait_until

ROWS = 500


@dataclass
class Spoken:
    """Keys whose order depends on the collation."""

    id: Annotated[str, strata.PrimaryKey]


@dataclass
class Numbered:
    id: Annotated[UUID, strata.PrimaryKey]


@pytest.fixture
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tables of some hundred rows are divided as if they were large."""
    monkeypatch.setattr(warm, "PART", 40)
    monkeypatch.setattr(warm, "FIRST", 10)
    monkeypatch.setattr(warm, "MOST", 20)


def notes(make: MakeStore, count: int = ROWS) -> DataStore:
    """A store whose table holds notes that no cache knows."""
    store = make()
    store.register(schema(Note))
    store.migrate()
    if count:
        numbers = f"generate_series(1, {count}) n"
        run(store.config.postgres_dsn, "INSERT INTO note SELECT n, 'text ' || n, '[]', '{}' FROM " + numbers)
    return store


def cached(redis_addr: str) -> set[int]:
    """The notes that L2 holds."""
    return {int(key.rsplit(b":", 1)[1]) for key in client(redis_addr).keys("strata:note:*")}


def work_of(store: DataStore, id: str) -> Work:
    return Work(store._wiring.ledger(), id, store.fleet.lease)


# -- dividing -------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("small_parts")
@pytest.mark.parametrize(
    ("model", "keys"),
    [
        (Spoken, "'é' || n || chr(65 + n % 60)"),
        (Numbered, "md5(n::text)::uuid"),
        (Note, "n * n - 1000, 'x', '[]', '{}'"),
    ],
    ids=["text", "uuid", "int"],
)
def test_spans_hold_every_row_once_whatever_the_keys(make: MakeStore, dsn: str, model: type, keys: str) -> None:
    store = make()
    store.register(schema(model, name="things", l3=PostgresPolicy(table_name="things")))
    store.migrate()
    run(dsn, f"INSERT INTO things SELECT {keys} FROM generate_series(1, {ROWS}) n")
    bound = store._bound("things")
    division = store._warmer.divide(bound, 0)
    assert division.total == ROWS
    assert len(division.spans) > 5
    counts = [sum(count for _, count in store._warmer.run(bound, span)) for span in division.spans]
    assert sum(counts) == ROWS
    assert max(counts) < ROWS / 2


@pytest.mark.usefixtures("small_parts")
@pytest.mark.parametrize("limit", [1, 39, 40, 100, 217, ROWS, ROWS + 7])
def test_a_limit_counts_over_all_parts_even_if_rows_are_added_meanwhile(
    make: MakeStore, dsn: str, redis_addr: str, limit: int
) -> None:
    store = notes(make)
    bound = store._bound(Note)
    division = store._warmer.divide(bound, limit)
    assert division.total == min(limit, ROWS)
    run(dsn, "INSERT INTO note SELECT -n, 'new', '[]', '{}' FROM generate_series(1, 50) n")
    done = sum(count for span in division.spans for _, count in store._warmer.run(bound, span))
    assert min(limit, ROWS) <= done <= limit
    assert len(cached(redis_addr)) == done


def test_a_page_of_large_rows_is_small(make: MakeStore, dsn: str) -> None:
    store = notes(make, 0)
    run(dsn, "INSERT INTO note SELECT n, repeat('x', 100000), '[]', '{}' FROM generate_series(1, 300) n")
    counts = [count for _, count in store._warmer.run(store._bound(Note), warm.Span())]
    assert sum(counts) == 300
    assert max(counts[1:]) * 100_000 <= warm.PAGE_BYTES


# -- parts ----------------------------------------------------------------------------------------------------------


def test_a_part_is_one_worker_s_until_its_lease_ends_and_is_counted_once(make: MakeStore) -> None:
    store = make()
    work = Work(store._wiring.ledger(), "job", 60)
    work.open(Part("span", last="9"), Bell("strata.warm", ["note", 0]))
    first = work.take("first")
    assert first is not None and first.times == 1
    assert work.take("second") is None
    assert work.advance(first, Part("span", "5", "9"), 5)

    Work(store._wiring.ledger(), "job", 0).advance(first, Part("span", "5", "9"), 0)  # its lease ends
    second = work.take("second")
    assert second is not None and second.part.after == "5"
    assert not work.advance(first, None, 4)  # the first one lives after all: it is told, and changes nothing
    assert work.advance(second, None, 4)
    assert work.record.read()["state"] == JobState.DONE
    assert work.record.read()["result"] == "9"


def test_a_part_that_ends_its_worker_every_time_fails_the_job(make: MakeStore) -> None:
    store = make()
    store.register(schema(Note))
    work = Work(store._wiring.ledger(), "job", 0)
    work.open(Part("span"), Bell("strata.warm", ["note", 0]))
    for _ in range(8):
        assert work.take("killed") is not None
    with pytest.raises(strata.StrataError, match="ended its worker 8 times"):
        store.fleet.warm("job", "note", 0)
    assert work.record.read()["state"] == JobState.FAILED
    assert work.take("another") is None


def test_an_outage_is_waited_for_and_a_missing_table_is_not(
    own_postgres: EmbeddedPostgres, redis_addr: str, make: MakeStore
) -> None:
    with stores(own_postgres.dsn, redis_addr) as factory:
        store = notes(factory)
        job = store.warm_cache(Note, background=True)
        own_postgres.kill()
        store.fleet.warm(job.id, "note", 0)
        assert job.state is JobState.RUNNING
        own_postgres.restart()
        wait_until(lambda: [store.fleet.warm(job.id, "note", 0), job.state is JobState.DONE][1], what="the job")
        assert job.wait(5) == ROWS
    client(redis_addr).flushall()  # another database's from here on
    other = make()
    other.register(schema(Note))  # nothing is migrated
    job = other.warm_cache(Note, background=True)
    with pytest.raises(strata.MigrationError):
        other.fleet.warm(job.id, "note", 0)
    with pytest.raises(strata.StrataError, match="run migrate"):
        job.wait(5)


@pytest.mark.usefixtures("small_parts")
def test_several_workers_share_a_job_and_load_everything_once(make: MakeStore, redis_addr: str) -> None:
    store = notes(make)
    job = store.warm_cache(Note, background=True)
    assert job.state is JobState.PENDING
    helpers = [notes(make, 0) for _ in range(3)]
    with ThreadPoolExecutor() as pool:
        counts = list(pool.map(lambda helper: helper.fleet.warm(job.id, "note", 0), helpers))
    while job.state is not JobState.DONE:  # a part that was being divided while the others looked
        counts.append(store.fleet.warm(job.id, "note", 0))
    assert sum(counts) == job.wait(5) == job.progress.done == job.progress.total == ROWS
    assert cached(redis_addr) == set(range(1, ROWS + 1))
    assert store.fleet.warm(job.id, "note", 0) == 0  # a message that comes again does nothing
    assert client(redis_addr).keys("strata:{job}:*:parts") == []


@pytest.mark.usefixtures("small_parts")
def test_warming_on_the_fleet_puts_no_row_over_something_newer(make: MakeStore) -> None:
    store = notes(make)
    store.set(Note, 7, Note(7, "newer"))
    job = store.warm_cache(Note, background=True)
    store.fleet.warm(job.id, "note", 0)
    assert job.wait(5) == ROWS
    assert store.get(Note, 7, force_l2=True).text == "newer"


# -- with real workers ----------------------------------------------------------------------------------------------


def test_a_job_whose_message_was_lost_is_rung_for(make: MakeStore, dsn: str, redis_addr: str, tmp_path: Path) -> None:
    store = notes(make)
    with workers(environment(dsn, redis_addr), tmp_path):
        work = work_of(store, "lost")
        work.open(Part("plan"), Bell("strata.warm", ["note", 0]))
        wait_until(lambda: work.record.read()["state"] == JobState.DONE, timeout=30, what="the job")
    assert cached(redis_addr) == set(range(1, ROWS + 1))


@pytest.mark.faults
@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_job_ends_although_its_worker_is_killed_in_the_middle(
    make: MakeStore, dsn: str, redis_addr: str, tmp_path: Path
) -> None:
    count = 60_000
    store = notes(make, count)
    env = environment(dsn, redis_addr, STRATA_TEST_LEASE="2")
    first = second = None
    try:
        first = Worker(env, tmp_path / "first.log", "first")
        wait_until(first.ready, timeout=60, what="a worker")
        job = store.warm_cache(Note, background=True)
        wait_until(lambda: job.progress.done > 0, timeout=60, what="some progress")
        first.kill()
        assert job.state is JobState.RUNNING
        second = Worker(env, tmp_path / "second.log", "second")
        assert job.wait(120) == count
        assert len(cached(redis_addr)) == count
        assert job.progress.done == job.progress.total == count
    finally:
        for worker in (first, second):
            if worker is not None:
                worker.kill()


@pytest.mark.slow
def test_a_migration_may_take_longer_than_the_time_limit_of_tasks(
    make: MakeStore, dsn: str, redis_addr: str, tmp_path: Path
) -> None:
    store = make()
    store.register(schema(Note))
    env = environment(dsn, redis_addr, STRATA_TEST_LEASE="1")
    with workers(env, tmp_path, "--soft-time-limit", "1", "--time-limit", "2"):
        with psycopg.connect(dsn) as conn:
            conn.execute("SELECT pg_advisory_lock(%s)", [0x5354524154410001])  # as if another one migrated, for long
            job = store.migrate(background=True)
            wait_until(lambda: job.state is JobState.RUNNING, timeout=30, what="the job")
            work = work_of(store, job.id)
            begun = work.due()
            # Its lease is renewed beyond the limits above, and nobody else gets the job.
            wait_until(lambda: work.due() > begun + 4_000, timeout=60, what="a renewed lease")
            assert store.fleet.migrate(job.id) == 0
        assert job.wait(30) > 0
    assert rows(dsn, "SELECT to_regclass('note') IS NOT NULL") == [(True,)]


def test_the_store_warms_itself_page_by_page_and_tells_how_far_it_is(make: MakeStore) -> None:
    store = make()
    store.register(Schema(Note, l1=MemPolicy(ttl=60), l3=PostgresPolicy()))
    store.migrate()
    run(store.config.postgres_dsn, "INSERT INTO note SELECT n, 'text', '[]', '{}' FROM generate_series(1, 1234) n")
    told: list[int] = []
    thread = threading.Thread(target=lambda: told.append(store.warm_cache(Note, progress=told.append)))
    thread.start()
    thread.join(60)
    assert told[-1] == told[-2] == 1234
    assert sorted(told) == told and len(told) > 3
