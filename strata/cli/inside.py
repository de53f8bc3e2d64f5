"""What the commands look at inside a store, beyond its public calls."""

from __future__ import annotations

from typing import Any

from strata.bound import Bound
from strata.coherence.ownership import Ownership
from strata.datastore import DataStore
from strata.engine.orders import noted
from strata.errors import InvalidConfigError, QueryError
from strata.l2.client import RedisServer
from strata.l3 import poolers
from strata.l3.catalog import TableFacts, table_facts
from strata.l3.changes import Plan
from strata.l3.compare import compare
from strata.l3.connection import connect, parse_dsn
from strata.l3.layout import quote
from strata.l3.ordered import MissingIndex
from strata.l3.survey import Survey, survey
from strata.l3.table import Table
from strata.writebehind.ledger.lag import PendingStats


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
    """The Redis servers of a store by what they are for, and whether each holds the ledger.

    Where one is needed and has no address, it is there, and its methods raise `InvalidConfigError`.
    """
    wiring = store._wiring
    ledger = wiring.ledger() if defers(store) else None
    cached = [bound.l2.server for bound in schemas(store).values() if bound.l2 is not None]
    server = next(iter(cached), wiring.server)
    servers = {} if server is None else {"Redis": (server, server is ledger)}
    if ledger is not None and ledger is not server:
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
    return int(answer[1])  # [name, count]


def ask_postgres(store: DataStore, dsn: str, sql: str) -> Any:
    """The first row of the answer. Raises `L3UnavailableError`."""
    with store._wiring.database(dsn).session() as conn:
        return conn.execute(sql.encode()).fetchone()


def addressed(store: DataStore) -> bool:
    """Whether database and ledger have addresses, without which nothing can be written behind."""
    return bool(store.config.postgres_dsn) and store._wiring.ledger() is not store._wiring._servers.nowhere


def pooled(store: DataStore, dsn: str) -> tuple[bool, bool]:
    """Whether a connection pooler answers in place of the server, and whether it was seen to share sessions among
    clients. Raises `L3UnavailableError`."""
    database = store._wiring.database(dsn)
    with database.connection() as conn:
        if not conn.pooled:
            return False, False
        other = lambda: connect(parse_dsn(dsn, database.config, "strata"), database.config, database.clock)  # noqa: E731
        return True, poolers.shares_sessions(conn, other)


def tables(store: DataStore) -> dict[str, Table]:
    """The tables of the registered schemas, by name."""
    return {bound.rows.table.name: bound.rows.table for bound in schemas(store).values() if bound.l3 is not None}


def missing_indexes(store: DataStore) -> list[tuple[str, bool, MissingIndex]]:
    """The indexes that pages want which were asked for lately, with the schema, and whether these had a condition.

    Raises `L2UnavailableError` or `L3UnavailableError`.
    """
    server, found = store._wiring.server, []
    for name, bound in schemas(store).items():
        if server is None or bound.l3 is None:
            continue
        for query in noted(server, name, server.time_ms() / 1000):
            with (bound.l3.replica or bound.l3.primary).session() as conn:
                try:
                    bound.l3.table.check(query)
                except QueryError:
                    continue  # a release had the column that this one has not
                missing = bound.l3.table.missing_index(conn, query)
            if missing is not None:
                found.append((name, bool(query.where), missing))
    return found


def compared(store: DataStore) -> tuple[dict[str, TableFacts], Plan]:
    """How each table is, and what `strata migrate` would do. Raises `L3UnavailableError`, or `InvalidModelError`."""
    over = [(bound.rows.table, bound.schema) for bound in schemas(store).values() if bound.l3 is not None]
    with store._wiring.database(store.config.postgres_dsn).session() as conn:
        return {name: table_facts(conn, quote(name)) for name in tables(store)}, compare(conn, over)


def surveyed(store: DataStore, name: str) -> Survey:
    """A table of the store's database, registered or not. Raises what `survey` does, or `L3UnavailableError`."""
    with store._wiring.database(store.config.postgres_dsn).session() as conn:
        return survey(conn, name)
