"""The asynchronous face beside redis.asyncio and psycopg's AsyncConnection by hand, on asyncio's loop and uvloop's.

So many tasks get one key after another. Client and servers share one core, as in `bench_round_trips`. "By hand" of L3
is what a cache in front of a table does: GET, SELECT, SET.
"""

from __future__ import annotations

import asyncio
import itertools
import random
import statistics
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, ExitStack
from typing import Any

import msgspec
import redis.asyncio
import uvloop
from psycopg.rows import class_row
from psycopg_pool import AsyncConnectionPool

from strata import AsyncDataStore, Config, WriteMode
from strata.embedded import THROWAWAY, EmbeddedPostgres, EmbeddedValkey
from strata.testing import inspect
from tests.benchmarks.bench_round_trips import SELECT, one_core
from tests.benchmarks.harness import Row, Target, collector_off, row
from tests.benchmarks.options import Options
from tests.benchmarks.record import NAME, TTL, Record, record_schema
from tests.stores import sure

FLAT = "flat"  # without L1
KEYS = 200
CALLS = 2_000  # of a round, by all tasks together
MANY = 100  # tasks at once
CONNECTIONS = 10

Get = Callable[[Any], Awaitable[object]]


def run(options: Options) -> list[Row]:
    rounds = options.rounds(12)
    with ExitStack() as stack:
        stack.enter_context(one_core())
        postgres = stack.enter_context(EmbeddedPostgres(settings=THROWAWAY))
        valkey = stack.enter_context(EmbeddedValkey(password=""))
        config = Config(postgres_dsn=postgres.dsn, redis_addr=valkey.addr)
        rows: list[Row] = []
        for name, factory in (("asyncio", asyncio.new_event_loop), ("uvloop", uvloop.new_event_loop)):
            with asyncio.Runner(loop_factory=factory) as runner:
                rows += runner.run(_measure(name, config, valkey.port, rounds))
        return rows


async def _measure(loop: str, config: Config, port: int, rounds: int) -> list[Row]:
    async with AsyncExitStack() as stack:
        store = await stack.enter_async_context(AsyncDataStore(config))
        store.register(record_schema(WriteMode.WRITE_THROUGH, name=FLAT, l1=False, l3=False))
        store.register(record_schema(WriteMode.WRITE_THROUGH))
        await store.migrate()
        sure(store.sync)
        kwargs = {"autocommit": True, "prepare_threshold": 0}
        pool = AsyncConnectionPool(config.postgres_dsn, open=False, max_size=CONNECTIONS, kwargs=kwargs)
        await stack.enter_async_context(pool)
        links = redis.asyncio.BlockingConnectionPool(port=port)  # the other kind refuses whom it has no connection for
        client = await stack.enter_async_context(redis.asyncio.Redis(connection_pool=links))
        hand = ByHand(client, pool)
        await store.set_many(FLAT, {id: Record(id) for id in range(KEYS)})
        return [
            *await _hits(loop, store, rounds),
            *await _from_l2(loop, store, hand, rounds),
            *await _from_l3(loop, store, hand, rounds),
        ]


class ByHand:
    """With redis.asyncio and psycopg's AsyncConnection, over the store's own keys and rows."""

    def __init__(self, client: redis.asyncio.Redis, pool: AsyncConnectionPool) -> None:
        self._client = client
        self._pool = pool
        self._decode = msgspec.msgpack.Decoder(Record).decode
        self._encode = msgspec.msgpack.Encoder().encode

    async def prepare(self) -> None:
        """The keys that `get_l2` gets."""
        for id in range(KEYS):
            await self._client.set(f"hand:{id}", self._encode(Record(id)))

    async def get_l2(self, id: int) -> Record:
        """GET, and decode."""
        raw: Any = await self._client.get(f"hand:{id}")
        assert raw is not None
        return self._decode(raw)

    async def get_l3(self, id: int) -> Record:
        """GET, SELECT, SET."""
        assert await self._client.get(f"missed:{id}") is None
        async with self._pool.connection() as conn, conn.cursor(row_factory=class_row(Record)) as cursor:
            await cursor.execute(SELECT.replace("by_hand", NAME), (id,))
            record = await cursor.fetchone()
        assert record is not None
        await self._client.set(f"missed:{id}", self._encode(record), ex=TTL)
        return record


async def _hits(loop: str, store: AsyncDataStore, rounds: int) -> list[Row]:
    """What `await` adds to a hit in L1."""
    await store.set(NAME, 0, Record(0))
    assert await store.get(NAME, 0)
    times: dict[str, list[float]] = {"await": [], "sync": []}
    for name in _shuffled(list(times), rounds * 5):
        times[name].append(await _awaited(store) if name == "await" else _called(store))
    ratios = [a / b for a, b in zip(times["await"], times["sync"], strict=True)]
    return [row(f"{loop}: await of a hit", "the synchronous hit", ratios, Target(1.4, 1.2))]


async def _awaited(store: AsyncDataStore) -> float:
    get = store.get
    with collector_off():
        began = time.perf_counter()
        for _ in range(CALLS):
            await get(NAME, 0)
        return time.perf_counter() - began


def _called(store: AsyncDataStore) -> float:
    get = store.sync.get
    with collector_off():
        began = time.perf_counter()
        for _ in range(CALLS):
            get(NAME, 0)
        return time.perf_counter() - began


async def _from_l2(loop: str, store: AsyncDataStore, hand: ByHand, rounds: int) -> list[Row]:
    await hand.prepare()
    return [
        line
        for tasks, target in ((1, None), (MANY, Target(3, 4, more=True)), (10 * MANY, None))
        for line in await _beside(
            f"{loop}: L2 hits, {tasks} at once",
            ("redis.asyncio", hand.get_l2),
            lambda id: store.get(FLAT, id),
            lambda: itertools.cycle(range(KEYS)),
            (tasks, rounds),
            target,
        )
    ]


async def _from_l3(loop: str, store: AsyncDataStore, hand: ByHand, rounds: int) -> list[Row]:
    start = 1_000_000 * (1 + (loop == "uvloop"))
    fresh = itertools.count(start)
    lines: list[Row] = []
    for tasks, target in ((1, None), (MANY, Target(1.4, 1.6, more=True)), (10 * MANY, None)):
        count = CALLS * 4 * rounds
        first = next(fresh)
        with inspect(store.sync).database.connection() as conn:
            conn.command(
                f"INSERT INTO {NAME} SELECT g, 'andrew', NULL, 7, 12.5, true, 'eu', now(), now(), '{{\"wins\": 3}}', 1"
                f" FROM generate_series({first}, {first + count}) g"
            )
        fresh = itertools.count(first + count + 1)
        numbers = iter(range(first, first + count))
        lines += await _beside(
            f"{loop}: L3 hits, {tasks} at once",
            ("GET, SELECT, SET", hand.get_l3),
            lambda id: store.get(NAME, id),
            lambda: numbers,  # noqa: B023 called at once
            (tasks, rounds),
            target,
        )
    return lines


async def _beside(
    what: str,
    hand: tuple[str, Get],
    get: Get,
    ids: Callable[[], Iterator[int]],
    size: tuple[int, int],
    target: Target | None,
) -> list[Row]:
    """Throughput beside what is done by hand, and how long a call takes."""
    tasks, rounds = size
    paths = {"ours": get, hand[0]: hand[1]}
    rates: dict[str, list[float]] = {name: [] for name in paths}
    late: dict[str, list[float]] = {name: [] for name in paths}
    for path in paths.values():
        await _together(path, ids(), tasks, [])
    for name in _shuffled(list(paths), rounds):
        rates[name].append(await _together(paths[name], ids(), tasks, late[name]))
    ratios = [a / b for a, b in zip(rates["ours"], rates[hand[0]], strict=True)]
    lines = [row(what, hand[0], ratios, target)]
    for name, taken in late.items():
        cuts = statistics.quantiles(taken, n=100, method="inclusive")
        lines.append(Row(f"  {name}: p50, p99", "", cuts[49] * 1e3, cuts[49] * 1e3, cuts[98] * 1e3, None, " ms"))
    return lines


async def _together(get: Get, ids: Iterator[int], tasks: int, late: list[float]) -> float:
    """Calls a second, of so many tasks that each get one key after another."""
    each = max(CALLS // tasks, 2)

    async def some() -> None:
        for _ in range(each):
            began = time.perf_counter()
            await get(next(ids))
            late.append(time.perf_counter() - began)

    with collector_off():
        began = time.perf_counter()
        await asyncio.gather(*(some() for _ in range(tasks)))
        return each * tasks / (time.perf_counter() - began)


def _shuffled(names: list[str], rounds: int) -> list[str]:
    return [name for _ in range(rounds) for name in random.sample(names, len(names))]
