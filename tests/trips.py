"""Round trips, counted where they are made, of the operation that makes them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pytest

from strata import DataStore, waits
from strata.l3.connection import Connection
from strata.observe.server_call import ServerCall
from strata.testing import inspect


@dataclass
class Trips:
    """Those to Redis, and to PostgreSQL."""

    redis: int = 0
    postgres: int = 0


@contextmanager
def counted(store: DataStore, monkeypatch: pytest.MonkeyPatch) -> Iterator[Trips]:
    """Count, in the block, what one call of the store makes; threads of the store's own make theirs beside it."""
    trips = Trips()
    callers: list[int] = []
    many = store._many
    begin = many._get

    def get(*args: Any) -> Any:
        callers.append(waits.ident())
        return begin(*args)

    def asked(call: ServerCall) -> None:
        trips.redis += waits.ident() in callers

    wait: Callable[..., Any] = Connection.wait

    def waited(self: Connection, *args: Any, **kwargs: Any) -> Any:
        trips.postgres += waits.ident() in callers
        return wait(self, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(many, "_get", get)
        patch.setattr(inspect(store).redis, "on_call", asked)
        patch.setattr(Connection, "wait", waited)
        yield trips
