"""Stores for tests: one line each, closed by the fixture that made them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import strata
from strata import Config, DataStore, MemPolicy, PostgresPolicy, RedisPolicy, Schema
from strata.l2.client import RedisServer
from strata.l2.wire import Wires
from strata.testing import inspect
from tests.support import wait_until

ALL: dict[str, Any] = {"l1": MemPolicy(ttl=60), "l2": RedisPolicy(ttl=600), "l3": PostgresPolicy()}
MakeStore = Callable[..., DataStore]


@contextmanager
def stores(dsn: str, redis_addr: str, made_by: type[DataStore] = DataStore) -> Iterator[MakeStore]:
    """A factory of stores on these servers; options are those of `Config`."""
    with ExitStack() as stack:

        def make(**options: Any) -> DataStore:
            settings = {"postgres_dsn": dsn, "redis_addr": redis_addr} | options
            store = made_by(Config(**settings))
            stack.callback(_close, store)
            return store

        yield make


def schema(model: type, **options: Any) -> Schema[Any]:
    """A schema in all three tiers, unless the options say otherwise."""
    return Schema(model, **(ALL | options))


def sure(store: DataStore) -> None:
    """Wait until the store's bus listens and vouches for its L1."""
    inspect(store).listen()
    wait_until(lambda: inspect(store).sure)


def _close(store: DataStore) -> None:
    try:
        store.close(timeout=2)
    except strata.FlushTimeoutError:
        pass  # the test has taken the servers away


def wires_of(server: RedisServer) -> Wires:
    """Its connections, as to a single Redis."""
    wires = server._way()
    assert isinstance(wires, Wires)
    return wires
