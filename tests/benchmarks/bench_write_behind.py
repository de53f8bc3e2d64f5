"""Write-behind end to end, with one and two worker processes, beside one Celery task a record and a COPY loop by hand;
and what `set` costs its caller at each durability, beside a pooled prepared upsert.

All in one run, on servers of its own, in a random order each round. End to end is from the first `set` (the first
message, the first row) until PostgreSQL has the last record.
"""

from __future__ import annotations

import itertools
import random
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
from psycopg_pool import ConnectionPool

from strata import Config, DataStore, Durability
from strata.embedded import THROWAWAY, EmbeddedPostgres, EmbeddedValkey
from strata.testing import inspect
from strata.writebehind.fleet.broker import celery_app
from tests.benchmarks.harness import Pass, Row, Target, calling, measure, row
from tests.benchmarks.options import Options
from tests.benchmarks.record import BY_HAND, COLUMNS, NAME, TASK, VALUES, Record, record_schema, row_of
from tests.fleet import Worker, environment
from tests.support import wait_until

BATCH = 1_000  # rows of one COPY by hand
PATIENCE = 300.0  # seconds for one pass
HOUR = 3600.0

_ids = itertools.count(1)


@dataclass(frozen=True)
class Bench:
    """The servers, and a writer whose drainer is off, so that the fleet alone persists."""

    dsn: str
    redis_addr: str
    store: DataStore
    conn: psycopg.Connection[Any]
    app: Any


def run(options: Options) -> list[Row]:
    records, singles = (4_000, 400) if options.quick else (20_000, 1_000)
    rounds = 3 if options.quick else 5
    with _bench() as bench, tempfile.TemporaryDirectory() as folder:
        rates: dict[str, list[float]] = {}
        for processes in (1, 2):
            with _worker(bench, processes, Path(folder)):
                paths: dict[str, Callable[[], float]] = {
                    f"write-behind, {processes}": lambda: _write_behind(bench, records),
                    f"a task a record, {processes}": lambda: _task_a_record(bench, singles),
                    f"COPY by hand, {processes}": lambda: _copy_by_hand(bench, records),
                }
                for path in paths.values():
                    path()
                for _ in range(rounds):
                    for name in random.sample(list(paths), len(paths)):
                        rates.setdefault(name, []).append(paths[name]())
        return [*_rows(rates), *_cost_of_set(bench, options, Path(folder))]


def _rows(rates: dict[str, list[float]]) -> list[Row]:
    rows = []
    for processes in (1, 2):
        what = f"write-behind, {processes} worker process{'es' * (processes - 1)}"
        own, single, copy = (
            rates[f"{path}, {processes}"] for path in ("write-behind", "a task a record", "COPY by hand")
        )
        targets = Target(0.25, 0.3, more=True), Target(60, 80, more=True)
        rows.append(row(what, "COPY + merge by hand", _over(own, copy), targets[0]))
        rows.append(row(what, "one Celery task a record", _over(own, single), targets[1]))
        for path, values in ((what, own), (f"one task a record, {processes}", single), ("COPY + merge by hand", copy)):
            rows.append(row(path, "", values, unit=" records/s"))
    return rows


def _over(own: Sequence[float], other: Sequence[float]) -> list[float]:
    return [a / b for a, b in zip(own, other, strict=True)]


# -- end to end -----------------------------------------------------------------------------------------------------


def _write_behind(bench: Bench, count: int) -> float:
    """Records a second from `set` to L3."""
    ids = [next(_ids) for _ in range(count)]
    began = time.perf_counter()
    for id in ids:
        bench.store.set(NAME, id, Record(id))
    seconds = _until(bench, NAME, ids, began)
    wait_until(lambda: bench.store.stats().dirty_count == 0, timeout=PATIENCE)  # before the next path begins
    return count / seconds


def _task_a_record(bench: Bench, count: int) -> float:
    """Records a second where each is a message, and stored by a task of its own."""
    ids = [next(_ids) for _ in range(count)]
    began = time.perf_counter()
    with bench.app.producer_or_acquire() as producer:
        for id in ids:
            bench.app.send_task(TASK, args=(row_of(Record(id)), id), queue=TASK, producer=producer, ignore_result=True)
    return count / _until(bench, "by_hand", ids, began)


def _copy_by_hand(bench: Bench, count: int) -> float:
    """Records a second of one process that does COPY into a temporary table, and a merge, batch by batch."""
    ids = [next(_ids) for _ in range(count)]
    began = time.perf_counter()
    for at in range(0, count, BATCH):
        with bench.conn.transaction(), bench.conn.cursor() as cursor:
            cursor.execute("CREATE TEMP TABLE IF NOT EXISTS batch (LIKE by_hand) ON COMMIT DELETE ROWS")
            with cursor.copy(f"COPY batch ({COLUMNS}, _strata_version) FROM STDIN") as copy:
                for id in ids[at : at + BATCH]:
                    copy.write_row([*row_of(Record(id)), id])
            cursor.execute(BY_HAND.replace(VALUES, f"SELECT {COLUMNS}, _strata_version FROM batch"))
    return count / (time.perf_counter() - began)


def _until(bench: Bench, table: str, ids: Sequence[int], began: float) -> float:
    """Seconds until the table has all these keys, which are the newest."""
    sql = f"SELECT count(*) FROM {table} WHERE id >= {ids[0]}"
    while bench.conn.execute(sql).fetchone() != (len(ids),):
        if time.perf_counter() - began > PATIENCE:
            raise TimeoutError(f"{table} did not get its records within {PATIENCE:g} s")
        time.sleep(0.02)
    return time.perf_counter() - began


# -- what `set` costs its caller ------------------------------------------------------------------------------------


def _cost_of_set(bench: Bench, options: Options, folder: Path) -> list[Row]:
    """New keys each time; the flusher waits for an hour, so that nothing but the call is timed."""
    with ExitStack() as stack:
        candidates: dict[str, Pass] = {}
        for durability in Durability:
            store = stack.enter_context(_writer(bench, durability, folder / durability.value))
            candidates[durability.value] = calling(_setting(store))
        kwargs = {"autocommit": True, "prepare_threshold": 0}
        pool = stack.enter_context(ConnectionPool(bench.dsn, min_size=1, kwargs=kwargs))

        def upsert(_: int) -> None:
            record = Record(next(_ids))
            with pool.connection() as conn:
                conn.execute(BY_HAND, [*row_of(record), record.id])

        timings = measure(candidates | {"upsert": calling(upsert)}, range(50), options.rounds(40))
        targets = {Durability.MEMORY: Target(0.03, 0.02), Durability.JOURNAL: Target(0.06, 0.04)}
        rows = [
            row(
                f"set, {durability.name}",
                "pooled prepared upsert",
                timings[durability.value].over(timings["upsert"]),
                targets.get(durability),
            )
            for durability in Durability
        ]
        return rows + [row(name, "", timing.rounds, unit=" ns") for name, timing in timings.items()]


def _setting(store: DataStore) -> Callable[[int], object]:
    def put(_: int) -> object:
        id = next(_ids)
        return store.set(NAME, id, Record(id))

    return put


@contextmanager
def _writer(bench: Bench, durability: Durability, folder: Path) -> Iterator[DataStore]:
    config = Config(
        postgres_dsn=bench.dsn,
        redis_addr=bench.redis_addr,
        write_behind_durability=durability,
        journal_dir=str(folder) if durability is Durability.JOURNAL else None,
        write_behind_flush_interval=HOUR,
        write_behind_flush_threshold=10**9,
        write_behind_max_dirty=10**6,
    )
    with DataStore(config) as store:
        store.register(record_schema())
        yield store


# -- servers and workers --------------------------------------------------------------------------------------------


@contextmanager
def _bench() -> Iterator[Bench]:
    with EmbeddedPostgres(settings=THROWAWAY) as postgres, EmbeddedValkey(password="") as valkey:
        config = Config(
            postgres_dsn=postgres.dsn, redis_addr=valkey.addr, write_behind_flush_interval=0.05,
            write_behind_max_dirty=10**6,
        )  # fmt: skip
        with DataStore(config) as store, psycopg.connect(postgres.dsn, autocommit=True) as conn:
            store.register(record_schema())
            store.migrate()
            conn.execute(f"CREATE TABLE by_hand (LIKE {NAME} INCLUDING ALL)")
            inspect(store).drainer.stop(1.0)
            yield Bench(postgres.dsn, valkey.addr, store, conn, celery_app(config))


@contextmanager
def _worker(bench: Bench, processes: int, folder: Path) -> Iterator[None]:
    env = environment(bench.dsn, bench.redis_addr, STRATA_APP="tests.benchmarks.fleet_app:store")
    queues = f"strata.persist,strata.redrive,{TASK}"
    options = ["-c", str(processes), "-Q", queues, "--include", "tests.benchmarks.fleet_tasks", "--loglevel", "WARNING"]
    worker = Worker(env, folder / f"{processes}.log", f"bench{processes}", *options)
    try:
        done = bench.app.control.inspect
        wait_until(lambda: worker.process.poll() is None and done(timeout=1).ping(), timeout=60, what="a worker")
        yield
    finally:
        worker.stop()
