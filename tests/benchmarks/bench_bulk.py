"""`set_many`, `insert_many` and `warm_cache`, each beside the fastest thing that one would write by hand.

A round times each path once, in a random order, on new keys, or on the same where rows exist already.
"""

from __future__ import annotations

import itertools
import random
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from typing import Any

import hiredis
import msgspec
import psycopg
import redis
from psycopg.rows import class_row

from strata import Config, DataStore, WriteMode
from strata.embedded import THROWAWAY, EmbeddedPostgres, EmbeddedValkey
from strata.testing import inspect
from tests.benchmarks.harness import Row, Target, collector_off, row
from tests.benchmarks.options import Options
from tests.benchmarks.record import COLUMNS, NAME, TTL, Record, record_schema, row_of
from tests.stores import sure

CHUNK = 1_000  # rows of a fetch, keys of a pipeline
WARMED = "warmed"
IN_L2 = "in_l2"

_encode = msgspec.json.Encoder().encode
_ids = itertools.count(1)

Records = Mapping[int, Record]


def run(options: Options) -> list[Row]:
    rounds, new, existing = (3, 2_000, 5_000) if options.quick else (5, 10_000, 100_000)
    with ExitStack() as stack:
        postgres = stack.enter_context(EmbeddedPostgres(settings=THROWAWAY))
        valkey = stack.enter_context(EmbeddedValkey(password=""))
        store = stack.enter_context(DataStore(Config(postgres_dsn=postgres.dsn, redis_addr=valkey.addr)))
        store.register(record_schema(WriteMode.WRITE_THROUGH, l2=False))
        store.register(record_schema(WriteMode.WRITE_THROUGH, name=IN_L2, l3=False))
        store.register(record_schema(WriteMode.WRITE_THROUGH, name=WARMED))
        store.migrate()
        store.set(WARMED, 0, Record(0))
        sure(store)
        hand = ByHand(postgres.dsn, stack.enter_context(redis.Redis(port=valkey.port)))
        stack.callback(hand.close)
        return [
            *_rows_written(store, hand, "new", Target(1.7, 1.4), rounds, lambda: _records(new)),
            *_rows_written(store, hand, "existing", Target(2.5, 2.0), rounds, _same(existing)),
            *_rows_inserted(store, hand, Target(1.2, 1.1), rounds, new),
            *_keys_written(store, hand, rounds, new),
            *_warmed(store, hand, rounds, new),
        ]


class ByHand:
    """COPY, pipelines and cursors."""

    def __init__(self, dsn: str, client: redis.Redis) -> None:
        self._client = client
        self._conn = psycopg.connect(dsn, autocommit=True)
        self._conn.execute(f"CREATE TABLE by_hand (LIKE {NAME} INCLUDING ALL)")

    def copy(self, records: Records) -> None:
        """COPY in text into an empty table; emptying it is not timed."""
        sql = f"COPY by_hand ({COLUMNS}, _strata_version) FROM STDIN"
        with self._conn.cursor() as cursor, cursor.copy(sql) as copy:
            for id, record in records.items():
                copy.write_row([*row_of(record), id])

    def empty(self) -> None:
        """Before each COPY."""
        self._conn.execute("TRUNCATE by_hand")

    def put(self, records: Records) -> None:
        """SET in redis-py's pipeline."""
        pipe = self._client.pipeline(transaction=False)
        for place, (id, record) in enumerate(records.items(), 1):
            pipe.set(f"hand:{id}", _encode(record), ex=TTL)
            if place % CHUNK == 0:
                pipe.execute()
        pipe.execute()

    def warm(self) -> None:
        """A cursor in the server, and packed SETs."""
        connection: Any = self._client.connection_pool.get_connection()
        with self._conn.transaction(), self._conn.cursor("warming", row_factory=class_row(Record)) as cursor:
            cursor.execute(f"SELECT {COLUMNS} FROM {WARMED}")
            while records := cursor.fetchmany(CHUNK):
                sets: list[tuple[Any, ...]] = [
                    ("SET", f"hand:{record.id}", _encode(record), "EX", TTL) for record in records
                ]
                connection.send_packed_command([b"".join(map(hiredis.pack_command, sets))])
                for _ in sets:
                    connection.read_response()
        self._client.connection_pool.release(connection)

    def close(self) -> None:
        """Close the connection."""
        self._conn.close()


def _rows_written(
    store: DataStore, hand: ByHand, what: str, target: Target, rounds: int, records: Callable[[], Records]
) -> list[Row]:
    """L3 and L1; and L3's part of it, without checks, copies and L1."""
    times: dict[str, list[float]] = {}
    own, by_hand = f"set_many, {len(records()):,} {what} rows", "COPY into an empty table"
    part = f"{own}: L3's part"
    inside = inspect(store)
    bound = inside.schemas[NAME]

    def copy(given: Records) -> float:
        hand.empty()
        return _seconds(lambda: hand.copy(given))

    def write(given: Records) -> float:
        rows = [bound.plan.to_row(record, bound.cipher) for record in given.values()]
        stamps = [inside.stamp() for _ in rows]

        def put() -> None:
            with bound.rows.primary.transaction() as conn:
                bound.rows.table.set_many(conn, rows, stamps, inside.versions.node)

        return _seconds(put)

    paths = {own: lambda given: _seconds(lambda: store.set_many(NAME, given)), part: write, by_hand: copy}
    for path in paths.values():
        path(records())
    for _ in range(rounds):
        for name in random.sample(list(paths), len(paths)):
            times.setdefault(name, []).append(paths[name](records()))
    count = len(records())
    only = {name: taken for name, taken in times.items() if name != own}
    return [
        *_table(part, by_hand, only, count, None),
        *_table(own, by_hand, {name: times[name] for name in (own, by_hand)}, count, target)[:2],
    ]


def _rows_inserted(store: DataStore, hand: ByHand, target: Target, rounds: int, count: int) -> list[Row]:
    """New rows in L3 and L1, beside `set_many` of the same, and a COPY of them."""
    times: dict[str, list[float]] = {}
    own, other, by_hand = f"insert_many, {count:,} new rows", "set_many", "COPY into an empty table"

    def copy(given: Records) -> float:
        hand.empty()
        return _seconds(lambda: hand.copy(given))

    paths: dict[str, Callable[[Records], float]] = {
        own: lambda given: _seconds(lambda: store.insert_many(NAME, given.values())),
        other: lambda given: _seconds(lambda: store.set_many(NAME, given)),
        by_hand: copy,
    }
    for path in paths.values():
        path(_records(count))
    for _ in range(rounds):
        for name in random.sample(list(paths), len(paths)):
            times.setdefault(name, []).append(paths[name](_records(count)))
    return _table(own, other, times, count, target)


def _same(count: int) -> Callable[[], Records]:
    kept = _records(count)
    return lambda: kept


def _keys_written(store: DataStore, hand: ByHand, rounds: int, count: int) -> list[Row]:
    own, by_hand = f"set_many, {count:,} keys in L2", "redis-py pipeline.set(ex=)"
    times: dict[str, list[float]] = {}
    for name in _shuffled((own, by_hand), rounds):
        records = _records(count)
        put = (lambda: store.set_many(IN_L2, records)) if name == own else (lambda: hand.put(records))  # noqa: B023
        times.setdefault(name, []).append(_seconds(put))
    return _table(own, by_hand, times, count, Target(0.8))


def _warmed(store: DataStore, hand: ByHand, rounds: int, count: int) -> list[Row]:
    """Into caches that have nothing of the rows, and once more, when they have all."""
    store.set_many(WARMED, _records(count))
    bound = inspect(store).schemas[WARMED]
    l1, l2 = bound.l1, bound.l2
    assert l2 is not None
    texts = [text for some in l2.walk() for text in some]
    by_hand = "cursor + packed SETs"
    rows: list[Row] = []
    for own, empty in ((f"warm_cache, {count:,} rows into empty caches", True), ("into full ones", False)):
        times: dict[str, list[float]] = {}
        for name in _shuffled((own, by_hand), rounds):
            if empty:
                l1.clear()
                l2.server.execute("DEL", *map(l2.key, texts))
            warm = (lambda: store.warm_cache(WARMED)) if name == own else hand.warm
            times.setdefault(name, []).append(_seconds(warm))
        rates = {name: [1 / seconds for seconds in taken] for name, taken in times.items()}
        target = Target(0.8, more=True) if empty else None
        rows += _table(own, by_hand, rates, 1 / (count + 1), target, unit=" rows/s", scale=1)
    return rows


def _table(
    own: str,
    by_hand: str,
    values: Mapping[str, list[float]],
    count: float,
    target: Target | None,
    unit: str = " ns a record",
    scale: float = 1e9,
) -> list[Row]:
    ratios = [a / b for a, b in zip(values[own], values[by_hand], strict=True)]
    absolute = {name: [value / count * scale for value in taken] for name, taken in values.items()}
    return [row(own, by_hand, ratios, target), *(row(name, "", taken, unit=unit) for name, taken in absolute.items())]


def _shuffled(names: tuple[str, str], rounds: int) -> list[str]:
    return [name for _ in range(rounds) for name in random.sample(names, len(names))]


def _records(count: int) -> Records:
    return {id: Record(id) for id in itertools.islice(_ids, count)}


def _seconds(function: Callable[[], object]) -> float:
    with collector_off():
        began = time.perf_counter()
        function()
        return time.perf_counter() - began
