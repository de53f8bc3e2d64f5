"""Values as they grow to a megabyte: reads in each tier and writes, beside the same by hand.

Client and servers share one core, as in the benchmark of round trips.
"""

from __future__ import annotations

import itertools
import random
import string
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Annotated, Any

import msgspec
import redis
from psycopg_pool import ConnectionPool

from strata import Config, DataStore, MemPolicy, PostgresPolicy, PrimaryKey, RedisPolicy, Schema
from strata.embedded import THROWAWAY, EmbeddedPostgres, EmbeddedValkey
from tests.benchmarks.bench_round_trips import one_core
from tests.benchmarks.curves import Curves
from tests.benchmarks.harness import Pass, Row, calling, measure
from tests.benchmarks.options import Options
from tests.benchmarks.record import TTL
from tests.stores import sure

NAME = "documents"
BUDGET = 20_000_000  # bytes that a pass moves at most
LETTERS = string.ascii_letters + string.digits
UPSERT = "INSERT INTO by_hand VALUES (%s, %s) ON CONFLICT (id) DO UPDATE SET body = EXCLUDED.body"


@dataclass
class Document:
    """Of one size."""

    id: Annotated[int, PrimaryKey]
    body: str


def run(options: Options) -> list[Row]:
    curves = Curves("bytes")
    rounds = options.rounds(30)
    with ExitStack() as stack:
        stack.enter_context(one_core())
        postgres = stack.enter_context(EmbeddedPostgres(settings=THROWAWAY))
        valkey = stack.enter_context(EmbeddedValkey(password=""))
        store = stack.enter_context(DataStore(Config(postgres_dsn=postgres.dsn, redis_addr=valkey.addr)))
        tiers: Any = {"l2": RedisPolicy(ttl=TTL), "l3": PostgresPolicy()}
        store.register(Schema(Document, name=NAME, l1=MemPolicy(ttl=TTL), **tiers))
        store.migrate()
        store.set(NAME, 0, Document(0, ""))
        sure(store)
        kwargs = {"autocommit": True, "prepare_threshold": 0}
        pool = stack.enter_context(ConnectionPool(postgres.dsn, min_size=1, max_size=1, kwargs=kwargs))
        hand = ByHand(stack.enter_context(redis.Redis(port=valkey.port)), pool)
        for size in options.sizes(1_000, 10_000, 100_000, 1_000_000):
            _compare(curves, store, hand, size, rounds)
    return curves.save(options.plot)


class ByHand:
    """redis-py, psycopg's pool, and JSON by msgspec."""

    def __init__(self, client: redis.Redis, pool: ConnectionPool) -> None:
        self.client = client
        self._pool = pool
        self.memory: dict[int, Document] = {}
        self._encode = msgspec.json.Encoder().encode
        self._decode = msgspec.json.Decoder(Document).decode
        with pool.connection() as conn:
            conn.execute("CREATE TABLE by_hand (id bigint PRIMARY KEY, body text NOT NULL)")

    def put(self, document: Document) -> None:
        self.client.set(f"hand:{document.id}", self._encode(document), ex=TTL)

    def hit(self, id: int) -> Document:
        data: Any = self.client.get(f"hand:{id}")
        return self._decode(data)

    def insert(self, document: Document) -> None:
        with self._pool.connection() as conn:
            conn.execute(UPSERT, [document.id, document.body])

    def copy(self, ids: range) -> None:
        """Rows of ours, which no cache knows, from the other table."""
        with self._pool.connection() as conn:
            sql = f"INSERT INTO {NAME} (id, body, _strata_version) SELECT id, body, 1 FROM by_hand WHERE id = ANY(%s)"
            conn.execute(sql, [list(ids)])

    def miss(self, id: int) -> Document:
        """GET, SELECT, SET."""
        assert self.client.get(f"hand:{id}") is None
        with self._pool.connection() as conn:
            row = conn.execute("SELECT id, body FROM by_hand WHERE id = %s", [id]).fetchone()
        assert row is not None
        self.put(document := Document(*row))
        return document

    def write(self, document: Document) -> None:
        """A mark, the upsert, and the value in the mark's place, with a message."""
        self.client.set(f"hand:{document.id}", "writing", nx=True, px=10_000)
        self.insert(document)
        pipe = self.client.pipeline(transaction=False)
        pipe.set(f"hand:{document.id}", self._encode(document), ex=TTL)
        pipe.publish("hand", str(document.id))
        pipe.execute()


_ids = itertools.count(1)


def _compare(curves: Curves, store: DataStore, hand: ByHand, size: int, rounds: int) -> None:
    calls = max(1, min(50, BUDGET // 10 // size))
    body = "".join(random.choices(LETTERS, k=size))
    kept = _some(calls)
    for id in kept:
        document = Document(id, body)
        store.set(NAME, id, document)
        hand.put(document)
        hand.memory[id] = document
    fresh = _some(2 * (rounds + 1) * calls)
    for id in fresh:
        hand.insert(Document(id, body))
    hand.copy(fresh)
    compared: dict[str, tuple[str, Pass, Pass]] = {
        "get, L1": ("dict.get", calling(lambda id: store.get(NAME, id)), calling(hand.memory.get)),
        "get, L2": ("GET + decode", calling(lambda id: store.get(NAME, id, force_l2=True)), calling(hand.hit)),
        "get, L3": ("GET, SELECT, SET", _each(lambda id: store.get(NAME, id), fresh), _each(hand.miss, fresh)),
        "set": (
            "SET NX, upsert, SET + PUBLISH",
            calling(lambda id: store.set(NAME, id, Document(id, body))),
            calling(lambda id: hand.write(Document(id, body))),
        ),
    }
    for what, (by_hand, own, other) in compared.items():
        timings = measure({"own": own, "hand": other}, kept, rounds)
        curves.add(what, size, timings["own"].over(timings["hand"]), against=by_hand)
        curves.add(what, size, [value / 1e3 for value in timings["own"].rounds], " µs")
    for id in (*kept, *fresh):
        store.delete(NAME, id)
        hand.client.delete(f"hand:{id}")


def _some(count: int) -> range:
    first = next(_ids)
    for _ in range(count - 1):
        next(_ids)
    return range(first, first + count)


def _each(function: Callable[[int], object], keys: range) -> Pass:
    left: Iterator[int] = iter(keys)
    return calling(lambda _: function(next(left)))
