"""The same endpoints by Strata, by hand, by fastapi-cache2 and without a cache, over the servers of the environment:
factories for uvicorn."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Annotated, Any

import msgspec
import redis.asyncio
from fastapi import Depends, FastAPI, Request
from psycopg.rows import class_row
from psycopg_pool import AsyncConnectionPool

from strata import AsyncDataStore, Config, MemPolicy, PostgresPolicy, PrimaryKey, RedisPolicy, Schema, WriteMode
from strata.integrations.starlette import lifespan, strata_store
from tests.benchmarks.peers import fastapi_cache
from tests.benchmarks.record import COLUMNS, NAME, TTL, Record, record_schema

FLAT = "flat"  # without L1
VIEWS = "views"
CONNECTIONS = 10
Store = Annotated[AsyncDataStore, Depends(strata_store)]

SELECT = f"SELECT {COLUMNS} FROM by_hand WHERE id = %s"
UPDATE = f"UPDATE by_hand SET level = %s WHERE id = %s RETURNING {COLUMNS}"
COUNT = "INSERT INTO views_by_hand VALUES (%s, 1) ON CONFLICT (id) DO UPDATE SET count = views_by_hand.count + 1"


@dataclass
class Views:
    """How often a record was asked for."""

    id: Annotated[int, PrimaryKey]
    count: int = 0


def open_store(config: Config | None = None) -> AsyncDataStore:
    """With the records in three tiers, and without L1; and views, which are counted write-behind."""
    store = AsyncDataStore(config or Config.from_env())
    store.register(record_schema(WriteMode.WRITE_THROUGH))
    store.register(record_schema(WriteMode.WRITE_THROUGH, name=FLAT, l1=False))
    tiers: Any = {"l1": MemPolicy(ttl=TTL), "l2": RedisPolicy(ttl=TTL), "l3": PostgresPolicy()}
    store.register(Schema(Views, name=VIEWS, write_mode=WriteMode.WRITE_BEHIND, **tiers))
    return store


def with_strata() -> FastAPI:
    """By Strata."""
    app = FastAPI(lifespan=lifespan(open_store))

    @app.get("/records/{id}")
    async def read(id: int, store: Store) -> Record:
        found: Record = await store.get(NAME, id)
        return found

    @app.get("/flat/{id}")
    async def read_flat(id: int, store: Store) -> Record:
        found: Record = await store.get(FLAT, id)
        return found

    @app.put("/records/{id}")
    async def update(id: int, level: int, store: Store) -> Record:
        changed: Record = await store.update(NAME, id, level=level)
        return changed

    @app.post("/views/{id}")
    async def count(id: int, store: Store) -> None:
        await store.increment(Views, id, count=1, default=Views(id))

    return app


@dataclass
class Hand:
    """redis.asyncio and psycopg's AsyncConnection: what is not in Redis is read from the table, and put there."""

    client: redis.asyncio.Redis
    pool: AsyncConnectionPool
    decode = msgspec.json.Decoder(Record).decode
    encode = msgspec.json.Encoder().encode

    async def get(self, id: int) -> Record:
        raw: Any = await self.client.get(f"hand:{id}")
        return await self.ask(SELECT, id) if raw is None else self.decode(raw)

    async def ask(self, sql: str, *values: int) -> Record:
        """The row that a statement has, which is in Redis then."""
        record = await self.row(sql, *values)
        await self.client.set(f"hand:{record.id}", self.encode(record), ex=TTL)
        return record

    async def row(self, sql: str, *values: int) -> Record:
        """The row that a statement has."""
        async with self.pool.connection() as conn, conn.cursor(row_factory=class_row(Record)) as cursor:
            await cursor.execute(sql, values)
            record = await cursor.fetchone()
        assert record is not None
        return record

    async def count(self, id: int) -> None:
        async with self.pool.connection() as conn:
            await conn.execute(COUNT, (id,))


@asynccontextmanager
async def connected(app: FastAPI) -> AsyncIterator[None]:
    """A lifespan with what is done by hand."""
    config = Config.from_env()
    kwargs = {"autocommit": True, "prepare_threshold": 0}
    links = redis.asyncio.BlockingConnectionPool.from_url(f"redis://{config.redis_addr}")
    async with (
        AsyncConnectionPool(config.postgres_dsn, open=False, max_size=CONNECTIONS, kwargs=kwargs) as pool,
        redis.asyncio.Redis(connection_pool=links) as client,
    ):
        app.state.hand = Hand(client, pool)
        yield


async def hand_of(request: Request) -> Hand:
    """That of the application that is asked."""
    hand: Hand = request.app.state.hand
    return hand


Theirs = Annotated[Hand, Depends(hand_of)]


def by_hand() -> FastAPI:
    """By hand."""
    app = FastAPI(lifespan=connected)

    @app.get("/records/{id}")
    @app.get("/flat/{id}")
    async def read(id: int, hand: Theirs) -> Record:
        return await hand.get(id)

    @app.put("/records/{id}")
    async def update(id: int, level: int, hand: Theirs) -> Record:
        return await hand.ask(UPDATE, level, id)

    @app.post("/views/{id}")
    async def count(id: int, hand: Theirs) -> None:
        await hand.count(id)

    return app


def _key(function: Any, namespace: str = "", *, kwargs: Any, **_: Any) -> str:
    """Theirs would hold the address of the connections, which is another one in each process."""
    return f"framework:{kwargs['id']}"


def by_fastapi_cache() -> FastAPI:
    """By fastapi-cache2: a decorator on what reads, whose key is removed by what writes."""

    @asynccontextmanager
    async def cached(app: FastAPI) -> AsyncIterator[None]:
        async with connected(app):
            fastapi_cache.FastAPICache.init(fastapi_cache.backends.redis.RedisBackend(app.state.hand.client))
            yield

    app = FastAPI(lifespan=cached)

    async def read(id: int, hand: Theirs) -> Record:
        return await hand.row(SELECT, id)

    app.get("/records/{id}")(fastapi_cache.decorator.cache(expire=TTL, key_builder=_key)(read))

    @app.put("/records/{id}")
    async def update(id: int, level: int, hand: Theirs) -> Record:
        record = await hand.row(UPDATE, level, id)
        await fastapi_cache.FastAPICache.clear(key=_key(update, kwargs={"id": id}))
        return record

    return app


def without_cache() -> FastAPI:
    """Without any: psycopg alone."""
    app = FastAPI(lifespan=connected)

    @app.get("/records/{id}")
    async def read(id: int, hand: Theirs) -> Record:
        return await hand.row(SELECT, id)

    @app.put("/records/{id}")
    async def update(id: int, level: int, hand: Theirs) -> Record:
        return await hand.row(UPDATE, level, id)

    return app
