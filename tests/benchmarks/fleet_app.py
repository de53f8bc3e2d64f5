"""The application of the benchmarks' fleet: write-behind schemas, and a task that stores one record by hand."""

from __future__ import annotations

from typing import Any

from psycopg_pool import ConnectionPool

from strata import Config, DataStore
from tests.benchmarks.counting import counter_schema
from tests.benchmarks.record import BY_HAND, TASK, record_schema

store = DataStore(Config.from_env())
store.register(record_schema())
store.register(counter_schema())


def add_task(app: Any) -> None:
    """What people write first: the record is the message, one task stores it."""
    pools: list[ConnectionPool] = []

    def one(row: list[Any], version: int) -> None:
        if not pools:  # in the child, when its first record comes
            pools.append(ConnectionPool(store.config.postgres_dsn, min_size=1, max_size=1, kwargs={"autocommit": True}))
        with pools[0].connection() as conn:
            conn.execute(BY_HAND, [*row, version], prepare=True)

    app.task(one, name=TASK)
