"""What the commands look at inside a store, beyond its public calls."""

from __future__ import annotations

from typing import Any

from strata.bound import Bound
from strata.coherence.ownership import Ownership
from strata.datastore import DataStore
from strata.errors import InvalidConfigError
from strata.l2.client import RedisServer
from strata.writebehind.facade import PendingStats


def schemas(store: DataStore) -> dict[str, Bound]:
    """The registered schemas, by name."""
    return dict(store._schemas)


def defers(store: DataStore) -> bool:
    """Whether any schema is written behind."""
    return store._wiring.context.writebehind is not None


def pending(store: DataStore) -> dict[str, PendingStats]:
    """For each write-behind schema what the ledger holds. Raises `L2UnavailableError`, or `InvalidConfigError`."""
    for bound in schemas(store).values():
        if bound.deferred and bound.lacking:
            raise InvalidConfigError(bound.lacking)
    deferred = store._wiring.context.writebehind
    return {} if deferred is None else deferred.pending_stats()


def redis_servers(store: DataStore) -> dict[str, tuple[RedisServer, bool]]:
    """The Redis servers of a store by what they are for, and whether each holds the ledger."""
    wiring = store._wiring
    ledger = wiring.ledger() if defers(store) else None
    servers = {} if wiring.server is None else {"Redis": (wiring.server, wiring.server is ledger)}
    if ledger is not None and ledger is not wiring.server:
        servers["Redis of the ledger"] = (ledger, True)
    return servers


def ownership(store: DataStore) -> Ownership | None:
    """What knows whose the Redis servers of a store are; None where it has no L3."""
    return store._wiring.context.ownership


def instances(store: DataStore) -> int:
    """How many processes listen on the invalidation channel. Raises `L2UnavailableError`."""
    server = store._wiring.server
    if server is None:
        return 0
    answer = server.execute("PUBSUB", "NUMSUB", server.keys.channel(store.config.invalidation_channel))
    return int(answer[1]) if len(answer) == 2 else int(answer[0][1])  # [name, count], or redis-py's [(name, count)]


def ask_postgres(store: DataStore, dsn: str, sql: str) -> Any:
    """The first row of the answer. Raises `L3UnavailableError`."""
    with store._wiring.database(dsn).session() as conn:
        return conn.execute(sql.encode()).fetchone()


def pooled(store: DataStore, dsn: str) -> bool:
    """Whether a connection pooler answers in place of the server. Raises `L3UnavailableError`."""
    with store._wiring.database(dsn).connection() as conn:
        return conn.pooled
