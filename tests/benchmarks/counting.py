"""One of the processes that count: the counters in turn, by one of the ways.

Says on its output when it is ready, and, once a line comes, in how many seconds its calls had returned.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Annotated, Any

import redis
from psycopg_pool import ConnectionPool

from strata import Config, DataStore, MemPolicy, PostgresPolicy, PrimaryKey, RedisPolicy, Schema, WriteMode

NAME = "counters"
HOT = 100  # counters
Count = Callable[[int], object]


@dataclass
class Counter:
    """A number, and whose it is."""

    id: Annotated[int, PrimaryKey]
    page: str
    hits: int = 0


def counter_schema() -> Schema[Counter]:
    """In all tiers, written behind."""
    return Schema(
        Counter, name=NAME, l1=MemPolicy(), l2=RedisPolicy(), l3=PostgresPolicy(), write_mode=WriteMode.WRITE_BEHIND
    )


@contextmanager
def _increment(dsn: str, redis_addr: str) -> Iterator[Count]:
    config = Config(postgres_dsn=dsn, redis_addr=redis_addr)
    with DataStore(config) as store:
        counters = store.register(counter_schema())
        yield lambda id: counters.increment(id, hits=1)


@contextmanager
def _update(dsn: str, _: str) -> Iterator[Count]:
    kwargs = {"autocommit": True, "prepare_threshold": 0}
    with ConnectionPool(dsn, min_size=1, max_size=1, kwargs=kwargs) as pool:

        def update(id: int) -> None:
            with pool.connection() as conn:
                conn.execute("UPDATE by_hand SET hits = hits + 1 WHERE id = %s", [id])

        yield update


@contextmanager
def _incrby(_: str, redis_addr: str) -> Iterator[Count]:
    host, _, port = redis_addr.rpartition(":")
    with redis.Redis(host, int(port)) as client:
        yield lambda id: client.incrby(f"by_hand:{id}", 1)


WAYS: dict[str, Any] = {"increment": _increment, "UPDATE": _update, "INCRBY": _incrby}


def main(way: str, dsn: str, redis_addr: str, count: int) -> None:
    """Count, when told so; what is written behind is flushed at the end."""
    with WAYS[way](dsn, redis_addr) as add:
        for id in range(HOT):
            add(id)
        print("ready", flush=True)
        sys.stdin.readline()
        began = time.perf_counter()
        for place in range(count):
            add(place % HOT)
        print(time.perf_counter() - began, flush=True)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4]))
