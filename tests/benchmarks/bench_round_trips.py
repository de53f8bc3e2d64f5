"""Single operations that leave the process, each beside what one would write by hand with redis-py and psycopg.

Client and servers share one core: otherwise the time in which an idle core wakes up, 50 to 90 us, hides all else.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import msgspec
import redis
from psycopg.rows import class_row
from psycopg_pool import ConnectionPool

from strata import Config, DataStore, WriteMode
from strata.embedded import THROWAWAY, EmbeddedPostgres, EmbeddedValkey
from strata.testing import inspect
from tests.benchmarks.harness import Pass, Row, Target, calling, measure, row
from tests.benchmarks.options import Options
from tests.benchmarks.record import BY_HAND, COLUMNS, NAME, TTL, Record, record_schema, row_of
from tests.stores import sure

CALLS = 50  # a pass
MANY = 100  # keys of one get_many
SELECT = f"SELECT {COLUMNS} FROM by_hand WHERE id = %s"


def run(options: Options) -> list[Row]:
    rounds = options.rounds(60)
    with ExitStack() as stack:
        stack.enter_context(one_core())
        postgres = stack.enter_context(EmbeddedPostgres(settings=THROWAWAY))
        valkey = stack.enter_context(EmbeddedValkey(password=""))
        store = stack.enter_context(DataStore(Config(postgres_dsn=postgres.dsn, redis_addr=valkey.addr)))
        store.register(record_schema(WriteMode.WRITE_THROUGH))
        store.migrate()
        kwargs = {"autocommit": True, "prepare_threshold": 0}
        pool = stack.enter_context(ConnectionPool(postgres.dsn, min_size=1, kwargs=kwargs))
        hand = ByHand(stack.enter_context(redis.Redis(port=valkey.port)), pool)
        ids = itertools.count(1)
        store.set(NAME, 0, Record(0))
        sure(store)
        return [
            *_hits(store, hand, rounds),
            *_many(store, hand, rounds),
            *_misses(store, hand, ids, rounds),
            *_sets(store, hand, ids, rounds),
        ]


class ByHand:
    """The same in the words of redis-py and psycopg, over `by_hand`, a table like the store's."""

    def __init__(self, client: redis.Redis, pool: ConnectionPool) -> None:
        self.client = client
        self._pool = pool
        self._encode = msgspec.json.Encoder().encode
        self._decode = msgspec.json.Decoder(Record).decode
        with pool.connection() as conn:
            conn.execute(f"CREATE TABLE by_hand (LIKE {NAME} INCLUDING ALL)")

    def put(self, record: Record) -> None:
        """Into Redis alone."""
        self.client.set(f"hand:{record.id}", self._encode(record), ex=TTL)

    def insert(self, table: str, ids: Sequence[int]) -> None:
        """Rows that no cache knows."""
        with self._pool.connection() as conn, conn.cursor() as cursor:
            sql = BY_HAND.replace("by_hand", table)
            cursor.executemany(sql, [[*row_of(Record(id)), id] for id in ids])

    def hit(self, id: int) -> Record:
        """GET and decode."""
        data: Any = self.client.get(f"hand:{id}")
        return self._decode(data)

    def hit_many(self, ids: Sequence[int]) -> list[Record]:
        """MGET and decode."""
        found: Any = self.client.mget([f"hand:{id}" for id in ids])
        return [self._decode(data) for data in found]

    def miss(self, id: int) -> Record:
        """GET, SELECT, SET."""
        if self.client.get(f"hand:{id}") is None:
            with self._pool.connection() as conn, conn.cursor(row_factory=class_row(Record)) as cursor:
                record = cursor.execute(SELECT, [id]).fetchone()
            assert record is not None
            self.put(record)
            return record
        raise AssertionError("it must not be in Redis yet")

    def upsert(self, id: int) -> None:
        """One prepared upsert in a transaction of its own."""
        with self._pool.connection() as conn:
            conn.execute(BY_HAND, [*row_of(Record(id)), id])

    def write(self, id: int) -> None:
        """A mark in Redis, the upsert, and the value in the mark's place, with a message: as many trips as ours."""
        self.client.set(f"hand:{id}", "writing", nx=True, px=10_000)
        self.upsert(id)
        pipe = self.client.pipeline(transaction=False)
        pipe.set(f"hand:{id}", self._encode(Record(id)), ex=TTL)
        pipe.publish("hand", str(id))
        pipe.execute()


def _hits(store: DataStore, hand: ByHand, rounds: int) -> list[Row]:
    keys = range(-1, -CALLS - 1, -1)
    for id in keys:
        store.set(NAME, id, Record(id))
        hand.put(Record(id))
    by_hand, own = "redis-py GET + decode", "get, L2 hit"
    passes = {own: calling(lambda id: store.get(NAME, id, force_l2=True)), by_hand: calling(hand.hit)}
    return _compared(own, by_hand, Target(0.9, 0.8), passes, keys, rounds)


def _many(store: DataStore, hand: ByHand, rounds: int) -> list[Row]:
    """From L2, without L1 and into L1."""
    keys = [*range(-1000, -1000 - MANY, -1)]
    by_hand, plain, filling = f"MGET of {MANY} + decode", f"get_many of {MANY}, L2 hits", "the same, and into L1"
    without = store.register(record_schema(WriteMode.WRITE_THROUGH, name="without_l1", l1=False, l3=False))
    kept = store.register(record_schema(WriteMode.WRITE_THROUGH, name="with_l1", l3=False))
    l1 = inspect(store).schemas["with_l1"].l1
    for id in keys:
        hand.put(Record(id))
        without.set(id, Record(id))
        kept.set(id, Record(id))

    def forget() -> None:
        for id in keys:
            l1.forget(id)

    def fill() -> None:
        forget()
        kept.get_many(keys)

    passes: dict[str, Pass] = {
        plain: calling(lambda _: without.get_many(keys)),
        filling: calling(lambda _: fill()),
        "forgetting": calling(lambda _: forget()),
        by_hand: calling(lambda _: hand.hit_many(keys)),
    }
    timings = measure(passes, range(5), rounds)
    hands, forgetting = timings[by_hand].rounds, timings["forgetting"].rounds
    filled = [(both - only) / ref for both, only, ref in zip(timings[filling].rounds, forgetting, hands, strict=True)]
    return [
        row(plain, by_hand, timings[plain].over(timings[by_hand]), Target(1.0, 0.8)),
        row(filling, by_hand, filled, Target(1.2, 0.8)),
        *(row(name, "", timings[name].rounds, unit=" ns") for name in (plain, by_hand)),
    ]


def _misses(store: DataStore, hand: ByHand, ids: Iterator[int], rounds: int) -> list[Row]:
    """Each key once; a round takes a pass that warms and one that is timed."""
    keys = [next(ids) for _ in range(2 * rounds * CALLS)]
    for table in (NAME, "by_hand"):
        hand.insert(table, keys)
    by_hand, own = "GET, SELECT, SET by hand", "get, L3 hit, both fills"
    passes = {own: _each_once(lambda id: store.get(NAME, id), keys), by_hand: _each_once(hand.miss, keys)}
    return _compared(own, by_hand, Target(0.85, 0.75), passes, range(CALLS), rounds)


def _sets(store: DataStore, hand: ByHand, ids: Iterator[int], rounds: int) -> list[Row]:
    by_hand, own = "pooled prepared upsert", "set, write-through"

    def put(_: int) -> None:
        id = next(ids)
        store.set(NAME, id, Record(id))

    steps = "SET NX, upsert, SET + PUBLISH"
    passes = {
        own: calling(put),
        by_hand: calling(lambda _: hand.upsert(next(ids))),
        steps: calling(lambda _: hand.write(next(ids))),
    }
    timings = measure(passes, range(CALLS), rounds)
    return [
        row(own, by_hand, timings[own].over(timings[by_hand])),
        row(own, steps, timings[own].over(timings[steps]), Target(1.05, 0.95)),
        *(row(name, "", timing.rounds, unit=" ns") for name, timing in timings.items()),
    ]


def _compared(
    own: str, by_hand: str, target: Target, passes: dict[str, Pass], keys: Sequence[int], rounds: int
) -> list[Row]:
    timings = measure(passes, keys, rounds)
    ratios = timings[own].over(timings[by_hand])
    return [row(own, by_hand, ratios, target), *(row(name, "", t.rounds, unit=" ns") for name, t in timings.items())]


def _each_once(function: Callable[[int], object], keys: Sequence[int]) -> Pass:
    left = iter(keys)
    return calling(lambda _: function(next(left)))


@contextmanager
def one_core() -> Iterator[None]:
    """This process, and the servers that it starts, on one core."""
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(cores)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, cores)
