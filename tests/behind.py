"""Stores for the tests of write-behind: with a pace of their own, and eyes on ledger, L3 and hooks."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, TypeVar

import psycopg
import redis

from strata import Config, DataStore, L2RefusedError, SchemaHooks, WriteMode
from strata.testing import inspect
from strata.writebehind.ledger.timing import Timing
from tests.models import Note
from tests.stores import schema

T = TypeVar("T")
QUICK = {"lease": 2.0, "bell": 0.5, "poll": 0.02, "sweep": 0.1, "overdue": 0.1, "dead": 0.3, "fleet": 0.5, "probe": 0.2}
RETRIES = {"outage_first": 0.02, "outage_longest": 0.1, "order_first": 0.02, "order_longest": 0.1, "permanent": 0.01}


def paced(store: DataStore, **timing: Any) -> None:
    """Give the store, before its first write-behind schema, a pace of its own."""
    store._wiring._make_writebehind(Timing(**(QUICK | RETRIES | timing)))


@dataclass
class Errors:
    """What OnWriteError was called with."""

    calls: list[tuple[Any, Exception]] = field(default_factory=list)

    def hooks(self) -> SchemaHooks:
        return SchemaHooks(on_write_error=lambda key, error: self.calls.append((key, error)))

    @property
    def keys(self) -> list[Any]:
        return [key for key, _ in self.calls]


def deferred(model: type = Note, **options: Any) -> Any:
    """A write-behind schema in all tiers; `name` is `notes` for notes."""
    return schema(model, write_mode=WriteMode.WRITE_BEHIND, **options)


def idle(store: DataStore) -> None:
    """Stop what would hand off, drain and look after by itself, so that a test does it by hand."""
    parts = inspect(store)
    parts.flusher.stop(2.0)
    parts.doorbell.stop(2.0)
    parts.drainer.stop(2.0)


def deferring_to_the_fleet(store: DataStore, **timing: Any) -> None:
    """Notes are deferred, their table is there, and the fleet alone persists them."""
    paced(store, **timing)
    store.register(deferred())
    store.migrate()
    inspect(store).drainer.stop(1.0)


def comes_after(later: DataStore, earlier: DataStore) -> None:
    """What `later` writes next is newer than what `earlier` wrote, whatever their clocks' errors."""
    inspect(later).versions.observe(inspect(earlier).stamp())


def hand_off(store: DataStore) -> int:
    """Hand off what waits, now and in this thread."""
    return inspect(store).handoff.run()


def persist(store: DataStore, name: str) -> int:
    """What a worker does for every shard of a schema, now and in this thread."""
    return inspect(store).writebehind.persist(name, 0)


def sound(answer: T | L2RefusedError) -> T:
    """An answer that is no refusal."""
    assert not isinstance(answer, L2RefusedError)
    return answer


def client(redis_addr: str) -> Any:
    return redis.Redis.from_url(redis_addr if "://" in redis_addr else f"redis://{redis_addr}")


def rows(dsn: str, statement: str) -> list[tuple[Any, ...]]:
    """What L3 answers to anybody."""
    with psycopg.connect(dsn, autocommit=True) as conn:
        return conn.execute(statement).fetchall()


def run(dsn: str, statement: str) -> None:
    """Change L3 behind the store's back."""
    with psycopg.connect(dsn, autocommit=True) as conn:
        conn.execute(statement)


def reachable(config: Config) -> bool:
    """Whether the store's Redis answers."""
    try:
        return bool(client(config.redis_addr).ping())
    except redis.RedisError:
        return False
