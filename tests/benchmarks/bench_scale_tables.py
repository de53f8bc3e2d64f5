"""Tables as they grow: a read by key, a page deep in, warming, and migrations, beside the same by hand.

`--full` has ten million rows too, which take some 3 GB below `TMPDIR` and ten minutes.
"""

from __future__ import annotations

import json
import random
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import psycopg
from psycopg.rows import class_row
from psycopg_pool import ConnectionPool

from strata import Config, DataStore, PostgresPolicy, Q, Schema, WriteMode
from strata.embedded import THROWAWAY, EmbeddedPostgres, EmbeddedValkey
from tests.benchmarks.curves import Curves
from tests.benchmarks.harness import Row, calling, measure
from tests.benchmarks.options import Options
from tests.benchmarks.record import COLUMNS, NAME, Record, record_schema
from tests.stores import sure

CALLS = 50  # a pass
PAGE = 100  # records
WARMED = 10_000  # rows
SETTINGS = {**THROWAWAY, "max_wal_size": "16GB", "checkpoint_timeout": "1h"}
SELECT = f"SELECT {COLUMNS} FROM {NAME} WHERE id = %s"
SEEK = f"SELECT {COLUMNS} FROM {NAME} WHERE id >= 0 AND id > %s ORDER BY id LIMIT {PAGE}"
SKIP = f"SELECT {COLUMNS} FROM {NAME} ORDER BY id LIMIT {PAGE} OFFSET %s"


@dataclass
class Longer(Record):
    """A release that has one field more."""

    rank: int = 0


def run(options: Options) -> list[Row]:
    curves = Curves("rows")
    for size in options.sizes(10_000, 100_000, 1_000_000, full=(10_000_000,)):
        with ExitStack() as stack:
            postgres = stack.enter_context(EmbeddedPostgres(settings=SETTINGS))
            valkey = stack.enter_context(EmbeddedValkey(password=""))
            config = Config(postgres_dsn=postgres.dsn, redis_addr=valkey.addr)
            store = stack.enter_context(DataStore(config))
            store.register(record_schema(WriteMode.WRITE_THROUGH))
            store.migrate()
            _fill(postgres.dsn, size)
            kwargs = {"autocommit": True, "prepare_threshold": 0}
            pool = stack.enter_context(ConnectionPool(postgres.dsn, min_size=1, max_size=1, kwargs=kwargs))
            _reads(curves, config, pool, size, options.rounds(40))
            _pages(curves, store, pool, size, options.rounds(40))
            _warming(curves, store, size)
            _migrations(curves, config, size)
    return curves.save(options.plot)


def _fill(dsn: str, size: int) -> None:
    row = Record(0)
    with psycopg.connect(dsn, autocommit=True) as conn:
        conn.execute(
            f"INSERT INTO {NAME} ({COLUMNS}, _strata_version) SELECT id, %s, %s, id %% 100, %s, %s, %s, %s, %s, "
            "%s::jsonb, 1 FROM generate_series(0, %s) AS id",
            [row.name, row.email, row.score, row.active, row.region, row.created, row.updated, json.dumps(row.extra),
             size - 1],
        )  # fmt: skip
        conn.execute("VACUUM ANALYZE")


def _reads(curves: Curves, config: Config, pool: ConnectionPool, size: int, rounds: int) -> None:
    """Of rows all over the table, with no cache in front of it."""
    by_hand = "pooled prepared SELECT"

    def select(id: int) -> Record | None:
        with pool.connection() as conn, conn.cursor(row_factory=class_row(Record)) as cursor:
            return cursor.execute(SELECT, [id]).fetchone()

    with DataStore(config) as store:
        records = store.register(record_schema(WriteMode.WRITE_THROUGH, l1=False, l2=False))
        passes = {"own": calling(records.get), by_hand: calling(select)}
        timings = measure(passes, random.choices(range(size), k=CALLS), rounds)
    curves.add("get, L3 alone", size, timings["own"].over(timings[by_hand]), against=by_hand)
    curves.add("get, L3 alone", size, _micros(timings["own"].rounds), " µs")


def _pages(curves: Curves, store: DataStore, pool: ConnectionPool, size: int, rounds: int) -> None:
    """The first page, and one in the middle of the table. A page's text is good for other arguments of its query."""
    all_of, half = _from(0), size // 2
    middle = store.search_page(NAME, _from(half - PAGE)).next

    def by(sql: str, place: int) -> Callable[[int], Any]:
        def select(_: int) -> Any:
            with pool.connection() as conn, conn.cursor(row_factory=class_row(Record)) as cursor:
                return cursor.execute(sql, [place]).fetchall()

        return select

    page: Callable[[int], Any] = lambda _: store.search_page(NAME, all_of, after=middle)  # noqa: E731
    assert [record.id for record in page(0).records] == list(range(half, half + PAGE))
    passes = {
        "first": calling(lambda _: store.search_page(NAME, all_of)),
        "middle": calling(page),
        "seek": calling(by(SEEK, half - 1)),
        "OFFSET": calling(by(SKIP, half)),
    }
    timings = measure(passes, range(3), max(5, rounds // 4))
    curves.add("page in the middle", size, timings["middle"].over(timings["first"]), against="the first page")
    curves.add("page in the middle", size, timings["middle"].over(timings["seek"]), against="the same SELECT")
    curves.add("page in the middle", size, timings["middle"].over(timings["OFFSET"]), against="OFFSET by hand")
    curves.add("page in the middle", size, _micros(timings["middle"].rounds), " µs")
    curves.add("OFFSET by hand", size, _micros(timings["OFFSET"].rounds), " µs")


def _from(id: int) -> Q:
    return Q().where("id >= $1", id).order_by("id").limit(PAGE)


def _warming(curves: Curves, store: DataStore, size: int) -> None:
    store.get(NAME, 0)
    sure(store)
    began = time.perf_counter()
    count = store.warm_cache(NAME, WARMED)
    curves.add(f"warm_cache of {WARMED:,}", size, [count / (time.perf_counter() - began)], " rows/s")


def _migrations(curves: Curves, config: Config, size: int) -> None:
    """Of a process that starts and finds nothing to do, and of one that brings a new column."""
    for what, model in (("migrate, nothing to do", Record), ("migrate, a new column", Longer)):
        with DataStore(config) as store:
            store.register(Schema(model, name=NAME, l3=PostgresPolicy()))
            began = time.perf_counter()
            report = store.migrate()
            taken = 1e3 * (time.perf_counter() - began)
            assert bool(report.applied) is (model is Longer) and not report.manual
        curves.add(what, size, [taken], " ms")


def _micros(nanos: tuple[float, ...]) -> list[float]:
    return [value / 1e3 for value in nanos]
