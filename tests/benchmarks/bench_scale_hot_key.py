"""A key that everybody reads and one process changes a hundred times a second: what reaches PostgreSQL, and the waits.

Four processes of 16 threads each read it again and again, with a short rest in between; the same by hand, with
cache-aside over Redis, where a change removes the key and whoever misses it loads.
"""

from __future__ import annotations

import gc
import multiprocessing
import statistics
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from multiprocessing.connection import Connection
from typing import Any

import msgspec
import psycopg
import redis
from psycopg.rows import class_row
from psycopg_pool import ConnectionPool

from strata import Config, DataStore, WriteMode
from strata.embedded import THROWAWAY, EmbeddedPostgres, EmbeddedValkey
from tests.benchmarks.harness import Row
from tests.benchmarks.options import Options
from tests.benchmarks.record import COLUMNS, NAME, TTL, Record, record_schema
from tests.stores import sure

PROCESSES, THREADS = 4, 16
CHANGES = 100  # a second
REST = 0.01  # seconds between two reads of a thread
KEY = 1
SELECT = f"SELECT {COLUMNS} FROM {NAME} WHERE id = %s"
UPDATE = f"UPDATE {NAME} SET level = %s WHERE id = %s"
STRATA, HAND = "Strata", "cache-aside by hand"

Fork = multiprocessing.get_context("fork")
Read = Callable[[], Record]


def run(options: Options) -> list[Row]:
    seconds = 3.0 if options.quick else 10.0
    with EmbeddedPostgres(settings=THROWAWAY) as postgres, EmbeddedValkey(password="") as valkey:
        config = Config(postgres_dsn=postgres.dsn, redis_addr=valkey.addr)
        with DataStore(config) as store:
            store.register(record_schema(WriteMode.WRITE_THROUGH))
            store.migrate()
            store.set(NAME, KEY, Record(KEY))
        return [row for way in (STRATA, HAND) for row in _way(way, config, seconds)]


def _way(way: str, config: Config, seconds: float) -> list[Row]:
    """The readers are forked before this process has a thread."""
    gc.collect()
    lines = []
    with ExitStack() as stack:
        for _ in range(PROCESSES):
            ours, theirs = Fork.Pipe()
            process = Fork.Process(target=_reader, args=(way, config, seconds, theirs))
            process.start()
            stack.callback(process.join, 60)
            lines.append(ours)
        change = stack.enter_context(_changing(way, config))
        for line in lines:
            assert line.recv() == "ready"
        before = _scans(config)
        for line in lines:
            line.send("go")
        changes = _change_for(seconds, change)
        waits: list[float] = []
        oldest = 0.0
        for line in lines:
            heard, behind = line.recv()
            waits += heard
            oldest = max(oldest, behind)
        loads = (_scans(config) - before - changes) / changes
    cuts = statistics.quantiles(waits, n=1000)
    figures = {
        "look-ups in the table a change, beside its UPDATE": (loads, ""),
        "reads/s": (len(waits) / seconds, ""),
        "read, p50": (1e3 * cuts[499], " ms"),
        "read, p99": (1e3 * cuts[989], " ms"),
        "read, slowest": (1e3 * max(waits), " ms"),
        "changes/s": (changes / seconds, ""),
        "longest that a reader saw no change": (1e3 * oldest, " ms"),
    }
    what = f"hot key, {PROCESSES} x {THREADS} threads, {way}"
    return [Row(f"{what}: {name}", "", value, value, value, None, unit) for name, (value, unit) in figures.items()]


def _scans(config: Config) -> int:
    """How often the key was looked up in the table so far, by UPDATEs too."""
    with psycopg.connect(config.postgres_dsn, autocommit=True) as conn:
        time.sleep(1.5)  # each connection tells of what it did once a second at most
        sql = "SELECT idx_scan FROM pg_stat_user_tables WHERE relname = %s"
        (scans,) = conn.execute(sql, [NAME]).fetchone() or (0,)
    return int(scans)


def _change_for(seconds: float, change: Callable[[int], object]) -> int:
    """At a steady pace; how many there were."""
    began, count = time.perf_counter(), 0
    while (now := time.perf_counter() - began) < seconds:
        if now * CHANGES >= count:
            count += 1
            change(count)
        else:
            time.sleep(count / CHANGES - now)
    return count


@contextmanager
def _changing(way: str, config: Config) -> Iterator[Callable[[int], object]]:
    if way == STRATA:
        with _store(config) as store:
            yield lambda level: store.update(NAME, KEY, level=level)
        return
    with _hand(config) as (client, pool):

        def change(level: int) -> None:
            with pool.connection() as conn:
                conn.execute(UPDATE, [level, KEY])
            client.delete(f"hand:{KEY}")

        yield change


@contextmanager
def _reading(way: str, config: Config) -> Iterator[Read]:
    if way == STRATA:
        with _store(config) as store:
            yield lambda: store.get(NAME, KEY)
        return
    with _hand(config) as (client, pool):
        encode, decode = msgspec.json.Encoder().encode, msgspec.json.Decoder(Record).decode

        def read() -> Record:
            data: Any = client.get(f"hand:{KEY}")
            if data is not None:
                return decode(data)
            with pool.connection() as conn, conn.cursor(row_factory=class_row(Record)) as cursor:
                record = cursor.execute(SELECT, [KEY]).fetchone()
            assert record is not None
            client.set(f"hand:{KEY}", encode(record), ex=TTL)
            return record

        yield read


@contextmanager
def _store(config: Config) -> Iterator[DataStore]:
    with DataStore(config) as store:
        store.register(record_schema(WriteMode.WRITE_THROUGH))
        sure(store)
        yield store


@contextmanager
def _hand(config: Config) -> Iterator[tuple[redis.Redis, ConnectionPool]]:
    kwargs = {"autocommit": True, "prepare_threshold": 0}
    host, _, port = config.redis_addr.rpartition(":")
    with ConnectionPool(config.postgres_dsn, min_size=1, max_size=THREADS, kwargs=kwargs) as pool:
        with redis.Redis(host, int(port)) as client:
            yield client, pool


def _reader(way: str, config: Config, seconds: float, line: Connection) -> None:
    """One process: it sends how long each read took, and for how long at most a thread saw the same record."""
    with _reading(way, config) as read:
        read()
        line.send("ready")
        line.recv()
        waits: list[list[float]] = [[] for _ in range(THREADS)]
        behind = [0.0] * THREADS

        def again(number: int) -> None:
            until, level, since = time.perf_counter() + seconds, -1, time.perf_counter()
            while (began := time.perf_counter()) < until:
                found = read().level
                now = time.perf_counter()
                waits[number].append(now - began)
                if found != level:
                    level, since = found, now
                behind[number] = max(behind[number], now - since)
                time.sleep(REST)

        threads = [threading.Thread(target=again, args=(number,)) for number in range(THREADS)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        line.send(([wait for some in waits for wait in some], max(behind)))
