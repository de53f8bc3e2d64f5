"""What the commands look at inside a store, beyond its public calls."""

from __future__ import annotations

from typing import Any

from strata.datastore import DataStore
from strata.l2.client import RedisServer


def pending(store: DataStore) -> dict[str, tuple[int, float]]:
    """For each write-behind schema: entries in the ledger, and the age of the oldest in seconds."""
    deferred = store._wiring.context.writebehind
    if deferred is None:
        return {}
    return {name: (item.pending, item.oldest_age) for name, item in deferred.pending_stats().items()}


def redis_servers(store: DataStore) -> dict[str, RedisServer]:
    """The Redis servers of a store, by what they are for."""
    wiring = store._wiring
    servers = {} if wiring.server is None else {"Redis": wiring.server}
    if wiring.context.writebehind is not None and wiring.ledger() is not wiring.server:
        servers["Redis (ledger)"] = wiring.ledger()
    return servers


def defers(store: DataStore) -> bool:
    """Whether any schema is written behind."""
    return store._wiring.context.writebehind is not None


def ask_postgres(store: DataStore, sql: str) -> Any:
    """One row of an answer. Raises `L3UnavailableError`."""
    with store._wiring.database(store.config.postgres_dsn).connection() as conn:
        return conn.execute(sql).fetchone()
