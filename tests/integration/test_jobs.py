"""Jobs on the fleet: warming in parts side by side, migrations that take long; workers may die, messages be lost."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any
from uuid import UUID

import psycopg
import pytest

import strata
from strata import (
    DataStore,
    DecodeError,
    JobFailedError,
    JobState,
    JobTimeoutError,
    MemPolicy,
    PostgresPolicy,
    Schema,
    StrataError,
)
from strata.embedded import EmbeddedPostgres
from strata.jobs.parts import Bell, JobPart, JobParts
from strata.l2.values import Put
from strata.maintenance import warm
from strata.testing import inspect
from strata.writebehind.fleet.broker import Broker, celery_app
from tests.behind import client, rows, run
from tests.fleet import Worker, environment, send_nonsense, workers
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


def work_of(store: DataStore, id: str) -> JobParts:
    return JobParts(inspect(store).ledger_redis, id, store.fleet.lease)


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
    bound = inspect(store).schemas["things"]
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
    bound = inspect(store).schemas["note"]
    division = store._warmer.divide(bound, limit)
    assert division.total == min(limit, ROWS)
    run(dsn, "INSERT INTO note SELECT -n, 'new', '[]', '{}' FROM generate_series(1, 50) n")
    done = sum(count for span in division.spans for _, count in store._warmer.run(bound, span))
    assert min(limit, ROWS) <= done <= limit
    assert len(cached(redis_addr)) == done


def test_a_page_of_large_rows_is_small(make: MakeStore, dsn: str) -> None:
    store = notes(make, 0)
    run(dsn, "INSERT INTO note SELECT n, repeat('x', 100000), '[]', '{}' FROM generate_series(1, 300) n")
    counts = [count for _, count in store._warmer.run(inspect(store).schemas["note"], warm.Span())]
    assert sum(counts) == 300
    assert max(counts[1:]) * 100_000 <= warm.PAGE_BYTES


# -- parts ----------------------------------------------------------------------------------------------------------


def test_a_part_is_one_worker_s_until_its_lease_ends_and_is_counted_once(make: MakeStore) -> None:
    store = make()
    work = JobParts(inspect(store).ledger_redis, "job", 60)
    work.open(JobPart("span", last="9"), Bell("strata.warm", ["note", 0]))
    first = work.take("first")
    assert first is not None and first.times == 1
    assert work.take("second") is None
    assert work.advance(first, JobPart("span", "5", "9"), 5)

    JobParts(inspect(store).ledger_redis, "job", 0).advance(first, JobPart("span", "5", "9"), 0)  # its lease ends
    second = work.take("second")
    assert second is not None and second.part.after == "5"
    assert not work.advance(first, None, 4)  # the first one lives after all: it is told, and changes nothing
    assert work.advance(second, None, 4)
    assert work.record.read()["state"] == JobState.DONE
    assert work.record.read()["result"] == "9"


def test_a_part_that_ends_its_worker_every_time_fails_the_job(make: MakeStore) -> None:
    store = make()
    store.register(schema(Note))
    work = JobParts(inspect(store).ledger_redis, "job", 0)
    work.open(JobPart("span"), Bell("strata.warm", ["note", 0]))
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
    with pytest.raises(JobFailedError, match="run migrate") as failed:
        job.wait(5)
    assert failed.value.id == job.id


@pytest.mark.usefixtures("small_parts")
def test_several_workers_share_a_job_and_load_everything_once(make: MakeStore, redis_addr: str) -> None:
    store = notes(make)
    job = store.warm_cache(Note, background=True)
    begun: JobState = job.state
    assert begun is JobState.PENDING
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


@pytest.mark.parametrize("on_the_fleet", [False, True], ids=["by itself", "on the fleet"])
@pytest.mark.parametrize("aging", [{}, {"fail_safe": 60}], ids=["", "aging"])
def test_what_a_killed_worker_was_about_to_fill_is_filled_by_the_next_one(
    make: MakeStore, redis_addr: str, on_the_fleet: bool, aging: Any
) -> None:
    store = make()
    store.register(schema(Note, l2=strata.RedisPolicy(ttl=600, **aging)))
    store.migrate()
    run(store.config.postgres_dsn, f"INSERT INTO note SELECT n, 'text', '[]', '{{}}' FROM generate_series(1, {ROWS}) n")
    l2 = inspect(store).schemas["note"].l2
    assert l2 is not None
    left = l2.read_many([str(id) for id in range(1, 100)])  # the leases of a reader that is gone, or slow
    store.search(Note, strata.Q().limit(50))  # whoever searches leaves them to it
    assert client(redis_addr).get("strata:note:1").startswith(b"L1:")
    if on_the_fleet:
        job = store.warm_cache(Note, background=True)
        store.fleet.warm(job.id, "note", 0)
        assert job.wait(5) == ROWS
    else:
        assert store.warm_cache(Note) == ROWS
    held = client(redis_addr).mget([f"strata:note:{id}" for id in range(1, ROWS + 1)])
    assert all(raw is not None and raw.startswith(b"V1:") for raw in held)
    late = Put("1", 1, Note(1, "what the slow one has read"))
    assert l2.fill(left["1"].token, [late]) == set()
    assert store.get(Note, 1, force_l2=True).text == "text"


def test_warming_takes_no_writer_s_intent_away(make: MakeStore, redis_addr: str) -> None:
    store = notes(make, 10)
    l2 = inspect(store).schemas["note"].l2
    assert l2 is not None
    l2.intend("a writer", 60.0, "strata:invalidate", {"1": b"{}"})
    store.warm_cache(Note)
    assert client(redis_addr).get("strata:note:1").startswith(b"I1:c:a writer")
    assert cached(redis_addr) == set(range(1, 11))


def test_a_job_that_nobody_takes_up_in_time_goes_on_waiting(make: MakeStore) -> None:
    store = notes(make, 10)
    job = store.warm_cache(Note, background=True)
    with pytest.raises(JobTimeoutError, match="is a worker running") as late:
        job.wait(0)
    assert late.value.id == job.id and isinstance(late.value, TimeoutError)
    assert job.state is JobState.PENDING
    store.fleet.warm(job.id, "note", 0)
    assert job.wait(5) == 10


# -- with real workers ----------------------------------------------------------------------------------------------


def test_a_job_whose_message_was_lost_is_rung_for(make: MakeStore, dsn: str, redis_addr: str, tmp_path: Path) -> None:
    store = notes(make)
    with workers(environment(dsn, redis_addr), tmp_path):
        work = work_of(store, "lost")
        work.open(JobPart("plan"), Bell("strata.warm", ["note", 0]))
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
    assert sorted(told) == told and len(told) > 2


def test_a_job_whose_record_was_damaged_fails_alone(make: MakeStore, redis_addr: str) -> None:
    store = notes(make, 10)
    redis, fleet = client(redis_addr), store.fleet
    jobs = [store.warm_cache(Note, background=True) for _ in range(6)]
    lost, damaged, odd, wrong, forged, good = (f"strata:{{job}}:{job.id}" for job in jobs)
    redis.hdel(f"{lost}:parts", "0")
    redis.hset(f"{damaged}:parts", "0", b"\xff{")
    redis.hset(odd, mapping={"state": b"\xff", "total": "many", "bell": "["})
    redis.delete(wrong)
    redis.rpush(wrong, "x")
    redis.hset(forged, "bell", '["shop.refund",[1]]')
    redis.zadd("strata:{job}:open", {b"\xff\xfe": 1})
    for job in jobs[:3]:
        assert fleet.warm(job.id, "note", 0) == 0
    assert [job.state for job in jobs[:2]] == [JobState.FAILED] * 2
    with pytest.raises(JobFailedError, match="cannot be read"):
        jobs[0].wait(5)
    for look in ("state", "progress"):
        with pytest.raises(DecodeError, match=jobs[2].id):
            getattr(jobs[2], look)
    with pytest.raises(StrataError):
        fleet.warm(jobs[3].id, "note", 0)
    redis.zadd(f"{good}:due", {"0": 1})
    redis.zadd(f"{forged}:due", {"0": 1})
    redis.delete(f"{good}:bell")
    assert fleet.look_after_jobs({"strata.warm", "shop.refund"}) == 1
    fleet.warm(jobs[5].id, "note", 0)
    assert jobs[5].wait(5) == 10
    redis.delete("strata:{job}:open")
    redis.set("strata:{job}:open", "x")
    assert fleet.look_after_jobs({"strata.warm"}) == 0
    assert redis.type("strata:{job}:open:stray") == b"string"


MESSAGES: list[tuple[str, tuple[Any, ...]]] = [
    ("strata.persist", ()),
    ("strata.persist", (["note"], 1)),
    ("strata.persist", ("note", "1")),
    ("strata.persist", ("note", 10**9)),
    ("strata.persist", ("note", 1, "more")),
    ("strata.warm", ("x", {"note": 1}, 0)),
    ("strata.migrate", (None,)),
    ("strata.redrive", ("x",)),
]


def test_messages_with_other_arguments_are_left_out(make: MakeStore, dsn: str, redis_addr: str, tmp_path: Path) -> None:
    store = notes(make, 10)
    for name, args in MESSAGES:
        Broker(store.config).publish(name, args, None)
    job = store.warm_cache(Note, background=True)
    with workers(environment(dsn, redis_addr), tmp_path) as worker:
        assert job.wait(30) == 10
        wait_until(lambda: worker.log.read_text().count("succeeded in") > len(MESSAGES), what="an end of every task")
        said = worker.log.read_text()
    assert "a message has other arguments than its task takes" in said
    assert "Traceback" not in said and "raised unexpected" not in said


def test_what_is_no_message_ends_no_worker(make: MakeStore, dsn: str, redis_addr: str, tmp_path: Path) -> None:
    store = notes(make, 10)
    send_nonsense(celery_app(store.config), "strata.warm")
    job = store.warm_cache(Note, background=True)
    with workers(environment(dsn, redis_addr), tmp_path) as worker:
        assert job.wait(60) == 10
        wait_until(lambda: not client(redis_addr).keys("strata:{celery}:strata.*"), 30, "the queues to be empty")
        wait_until(lambda: not client(redis_addr).exists("strata:{celery}:unacked"), 30, "every message to be ended")
        assert worker.process.poll() is None
        said = worker.log.read_text()
    assert "Unrecoverable error" not in said
