"""What a connection pooler between us and PostgreSQL can do, found at the first use; a server itself is not asked.

That there is one shows when a connection is opened (`Connection.pooled`). What it does is tried out: whether it keeps
one client's prepared statements apart from another's shows in their names, whether it shares sessions among clients in
asking two clients for theirs. Where it keeps them apart just then, the latter is not seen; then the first prepared
statement that is missing tells, and the listener that finds itself on another session.
"""

from __future__ import annotations

from collections.abc import Callable

import psycopg

from strata.errors import InvalidConfigError
from strata.l3 import failures
from strata.l3.connection import Connection
from strata.l3.failures import UNPREPARED

PATIENCE = 1.0  # seconds for the second client, which a pooler in session mode may let wait for a session
ROUNDS = 3
UNHEARD = (
    "a watched table (PostgresPolicy.watch) needs a session that listens, and postgres_dsn leads through a connection "
    "pooler that shares sessions among clients; set postgres_direct_dsn to the address of PostgreSQL itself"
)
_NO_TRANSACTIONS = (
    "the DSN leads through a connection pooler that lets no transaction stay open (statement mode); use its "
    "transaction mode with L3PoolConfig.prepared=False, or its session mode"
)


def check(conn: Connection, other: Callable[[], Connection], *, listens: bool) -> None:
    """Raise `InvalidConfigError` where the pooler in front of `conn` cannot do what we need.

    `other` opens another connection to it; `listens`: whether a session that is ours alone is needed. Raises
    `psycopg.Error` where the server does not answer.
    """
    try:
        conn.command("BEGIN")
        apart = not conn.named or _keeps_apart(conn)
        conn.command("ROLLBACK")
    except psycopg.Error as error:
        if error.sqlstate != "08P01":  # protocol_violation, by which PgBouncer says what its mode does not allow
            raise
        failures.diagnose(error)
        raise InvalidConfigError(_NO_TRANSACTIONS) from error
    if (listens or not apart) and shares_sessions(conn, other):
        raise InvalidConfigError(UNPREPARED if not apart else UNHEARD)


def shares_sessions(conn: Connection, other: Callable[[], Connection]) -> bool:
    """Whether the pooler was seen to give one session to two clients, or another one to the same."""
    try:
        second = other()
    except psycopg.Error:
        return False  # no more clients than this one are let in
    try:
        second.patience = PATIENCE
        first = conn.backend()
        return any(second.backend() == first or conn.backend() != first for _ in range(ROUNDS))
    except psycopg.Error:
        if conn.closed:
            raise
        return False  # it has to wait for a session: the first one has one to itself
    finally:
        second.close()


def _keeps_apart(conn: Connection) -> bool:
    """Whether the server knows a client's prepared statement by another name, which the pooler gave it."""
    name = conn.name_statement()
    conn.prepare(name, "SELECT 1")
    found = conn.results(f"SELECT FROM pg_prepared_statements WHERE name = '{name}'")[-1]
    if found.ntuples:
        conn.command(f"DEALLOCATE {name}")
    return not found.ntuples
