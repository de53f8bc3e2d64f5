"""100 hot counters, which four processes add to: deferred `increment`, beside an UPDATE each and Redis's INCRBY each.

To the caller is until the calls have returned; end to end until PostgreSQL (or Redis) has all of it. The rows that were
written are what PostgreSQL itself has counted.
"""

from __future__ import annotations

import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
import redis

from strata import Config, DataStore
from strata.embedded import EmbeddedPostgres, EmbeddedValkey
from tests.benchmarks.counting import HOT, NAME, Counter, counter_schema
from tests.benchmarks.harness import Row, Target, row
from tests.benchmarks.options import Options
from tests.fleet import Worker, environment
from tests.support import wait_until

PROCESSES = 4
PATIENCE = 120.0  # seconds for one pass


@dataclass(frozen=True)
class Bench:
    """The servers, and the total of each way."""

    dsn: str
    redis_addr: str
    conn: psycopg.Connection[Any]
    client: redis.Redis

    def total(self, way: str) -> int:
        """What all counters of a way come to."""
        if way == "INCRBY":
            keys = [f"by_hand:{id}" for id in range(HOT)]
            return sum(int(value or 0) for value in self.client.mget(keys))
        table = NAME if way == "increment" else "by_hand"
        found = self.conn.execute(f"SELECT sum(hits)::bigint FROM {table}").fetchone()
        return int(found[0]) if found else 0

    def written(self) -> int:
        """Rows of the counters that were updated since the server began, as far as its processes have told."""
        self.conn.execute("SELECT pg_stat_clear_snapshot()")
        found = self.conn.execute("SELECT n_tup_upd FROM pg_stat_user_tables WHERE relname = %s", [NAME]).fetchone()
        return int(found[0]) if found else 0


def run(options: Options) -> list[Row]:
    rounds = 3 if options.quick else 7
    counts = {"increment": 40_000, "UPDATE": 1_000, "INCRBY": 5_000}  # calls of each process
    if options.quick:
        counts = {way: count // 2 for way, count in counts.items()}
    called: dict[str, list[float]] = {way: [] for way in counts}
    ended: dict[str, list[float]] = {way: [] for way in counts}
    with _bench() as bench:
        for _ in range(rounds):
            for way in random.sample(list(counts), len(counts)):
                to_caller, end_to_end = _pass(bench, way, counts[way])
                called[way].append(to_caller)
                ended[way].append(end_to_end)
        written = _settled(bench.written) / bench.total("increment") * 1000
    return [
        row("deferred increment", "UPDATE n = n + 1 each", _over(called, "UPDATE"), Target(30, 100, more=True)),
        row("deferred increment", "Redis INCRBY each", _over(called, "INCRBY")),
        row("deferred increment, end to end", "UPDATE n = n + 1 each", _over(ended, "UPDATE")),
        row("rows written for 1,000 increments", "", [written]),
        *(row(f"{way}, to the caller", "", values, unit=" /s") for way, values in called.items()),
        *(row(f"{way}, end to end", "", values, unit=" /s") for way, values in ended.items()),
    ]


def _over(rates: dict[str, list[float]], other: str) -> list[float]:
    return [own / reference for own, reference in zip(rates["increment"], rates[other], strict=True)]


def _pass(bench: Bench, way: str, count: int) -> tuple[float, float]:
    """Increments a second of all processes together: to the callers, and end to end."""
    before = bench.total(way)
    command = [sys.executable, "-m", "tests.benchmarks.counting", way, bench.dsn, bench.redis_addr, str(count)]
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    processes: list[Any] = [subprocess.Popen(command, **pipes) for _ in range(PROCESSES)]
    try:
        for process in processes:
            assert process.stdout.readline() == "ready\n"
        wait_until(lambda: bench.total(way) == before + PROCESSES * HOT, timeout=PATIENCE, what="the first of each")
        began = time.perf_counter()
        for process in processes:
            process.stdin.write("\n")
            process.stdin.flush()
        slowest = max(float(process.stdout.readline()) for process in processes)
        total = PROCESSES * count
        wanted = before + PROCESSES * HOT + total
        wait_until(lambda: bench.total(way) == wanted, timeout=PATIENCE, what="all increments")
        return total / slowest, total / (time.perf_counter() - began)
    finally:
        for process in processes:
            process.communicate(timeout=PATIENCE)


def _settled(read: Callable[[], int]) -> int:
    """What a figure comes to that servers' processes tell of when they are idle for some seconds."""
    found: Sequence[int] = [read()]
    for _ in range(30):
        time.sleep(1)
        found = [*found, read()]
        if len(found) > 12 and len(set(found[-12:])) == 1:
            break
    return found[-1]


@contextmanager
def _bench() -> Iterator[Bench]:
    with (
        EmbeddedPostgres() as postgres,
        EmbeddedValkey(password="") as valkey,
        tempfile.TemporaryDirectory() as folder,
        psycopg.connect(postgres.dsn, autocommit=True) as conn,
        redis.Redis.from_url(valkey.url) as client,
    ):
        with DataStore(Config(postgres_dsn=postgres.dsn, redis_addr=valkey.addr)) as store:
            counters = store.register(counter_schema())
            store.migrate()
            counters.set_many({id: Counter(id, f"/page/{id}") for id in range(HOT)})
        conn.execute(f"CREATE TABLE by_hand (LIKE {NAME} INCLUDING ALL)")
        conn.execute(f"INSERT INTO by_hand SELECT * FROM {NAME}")
        env = environment(postgres.dsn, valkey.addr, STRATA_APP="tests.benchmarks.fleet_app:store")
        worker = Worker(env, Path(folder) / "worker.log", "counters", "-c", "1", "--loglevel", "WARNING")
        try:
            yield Bench(postgres.dsn, valkey.addr, conn, client)
        finally:
            worker.stop()
