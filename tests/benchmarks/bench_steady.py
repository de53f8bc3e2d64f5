"""Write-behind at a steady pace: from `set` to the commit that has the record, and what each process takes of the
machine; and what a million deferred writes weigh while nobody persists them.

The record says when `set` was called, and PostgreSQL when the transaction was committed that stored it, by the same
clock; so the lag is known of every record, and nobody has to ask.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psycopg
import redis

from strata import Config, DataStore, FlushTimeoutError
from strata.embedded import THROWAWAY, EmbeddedPostgres, EmbeddedValkey
from strata.testing import inspect
from tests.benchmarks.curves import Curves
from tests.benchmarks.harness import Row, Target, row
from tests.benchmarks.options import Options
from tests.benchmarks.record import NAME, Record, record_schema
from tests.benchmarks.spent import cpu, memory
from tests.fleet import environment, workers
from tests.support import wait_until

TICK = 0.01  # seconds: the writes of so long are made at once
PATIENCE = 600.0
HOUR = 3600.0
SETTINGS = {**THROWAWAY, "track_commit_timestamp": "on"}
LAG = f"""
SELECT percentile_cont(ARRAY[0.5, 0.99, 1]) WITHIN GROUP (ORDER BY extract(epoch FROM done - updated) * 1000), count(*)
FROM (SELECT updated, pg_xact_commit_timestamp(xmin) AS done FROM {NAME} WHERE id >= %s) AS stored
"""


def run(options: Options) -> list[Row]:
    curves = Curves("writes/s")
    seconds = 5 if options.quick else 30
    for rate in options.sizes(1_000, 5_000, 10_000):
        _at_pace(curves, rate, seconds)
    return [*curves.save(options.plot), *_dirty(50_000 if options.quick else 1_000_000)]


def _at_pace(curves: Curves, rate: int, seconds: int) -> None:
    """With one worker of one process, after some seconds that are not counted."""
    with _servers() as (postgres, valkey), tempfile.TemporaryDirectory() as folder:
        config = Config(postgres_dsn=postgres.dsn, redis_addr=valkey.addr, write_behind_max_dirty=10**6)
        env = environment(postgres.dsn, valkey.addr, STRATA_APP="tests.benchmarks.fleet_app:store")
        with DataStore(config) as store, workers(env, Path(folder), "-c", "1", "--loglevel", "INFO") as worker:
            store.register(record_schema())
            store.migrate()
            inspect(store).drainer.stop(1.0)  # the worker alone persists
            ids = itertools.count(1)
            _write(store, ids, rate, 2)
            pids = {"Redis": valkey.pid, "the worker": worker.process.pid, "PostgreSQL": postgres.pid}
            first = next(ids)
            before, own = {what: cpu(pid) for what, pid in pids.items()}, time.process_time()
            taken = _write(store, ids, rate, seconds)
            written = next(ids) - first - 1
            wait_until(lambda: store.stats().dirty_count == 0, timeout=PATIENCE)
            used = {"the writer": 1e6 * (time.process_time() - own) / written}
            used |= {what: 1e6 * (cpu(pid) - before[what]) / written for what, pid in pids.items()}
        with psycopg.connect(postgres.dsn) as conn:
            lags, stored = conn.execute(LAG, [first]).fetchone() or ([], 0)
        assert stored == written, (stored, written)
    curves.add("writes/s that were made", rate, [written / taken], " /s")
    for what, value in zip(("p50", "p99", "longest"), lags, strict=True):
        target = Target(1000) if (rate, what) == (5_000, "p99") else None
        curves.add(f"lag, {what}", rate, [float(value)], " ms", target=target)
    for what, micros in used.items():
        curves.add(f"CPU of {what}, a record", rate, [micros], " µs")


def _write(store: DataStore, ids: Iterator[int], rate: int, seconds: int) -> float:
    """So many a second, each of a new key; the seconds that it took, which are more where the machine is too slow."""
    began, count = time.perf_counter(), 0
    while count < rate * seconds:
        due = min(int((time.perf_counter() - began) * rate), rate * seconds)
        for id in itertools.islice(ids, due - count):
            store.set(NAME, id, Record(id, updated=datetime.now(UTC)))
        count = due
        time.sleep(TICK)
    return time.perf_counter() - began


def _dirty(count: int) -> list[Row]:
    """In the writer, whose flusher stands still; then in Redis, where no worker comes."""
    with _servers() as (postgres, valkey):
        config = Config(
            postgres_dsn=postgres.dsn, redis_addr=valkey.addr, write_behind_max_dirty=2 * count,
            write_behind_flush_interval=HOUR, write_behind_flush_threshold=10**9,
        )  # fmt: skip
        store = DataStore(config)
        store.register(record_schema())
        store.migrate()
        store.set(NAME, 0, Record(0))
        behind = inspect(store)
        behind.drainer.stop(1.0)
        behind.flusher.stop(1.0)
        host, _, port = valkey.addr.rpartition(":")
        with redis.Redis(host, int(port)) as client:
            info: Any = client.info("memory")
            empty, own = info["used_memory"], memory(os.getpid())
            for id in range(1, count + 1):
                store.set(NAME, id, Record(id))
            held = memory(os.getpid()) - own
            began, handed = time.perf_counter(), 0
            while taken := behind.handoff.run():  # what is beyond the ledger's bound stays here
                handed += taken
            seconds = time.perf_counter() - began
            info = client.info("memory")
        rows = [
            row(f"{count:,} deferred writes", "in the writer, with L1", [held / count], unit=" bytes each"),
            row(f"{count:,} deferred writes", "the same", [held / 1e6], unit=" MB"),
            row(f"{count:,} deferred writes", "in Redis, ledger and L2", [(info["used_memory"] - empty) / handed],
                unit=" bytes each"),
            row(f"{count:,} deferred writes", "taken by the ledger before it was full", [handed]),
            row(f"{count:,} deferred writes", "hand-off, by one thread", [handed / seconds], unit=" records/s"),
        ]  # fmt: skip
        with contextlib.suppress(FlushTimeoutError):  # what was written goes with the servers
            store.close(timeout=0.1)
        return rows


@contextmanager
def _servers() -> Iterator[tuple[EmbeddedPostgres, EmbeddedValkey]]:
    with EmbeddedPostgres(settings=SETTINGS) as postgres, EmbeddedValkey(password="") as valkey:
        yield postgres, valkey
