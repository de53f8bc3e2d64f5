"""Which database this is: what tells it from every other one, and stays as it is when a standby is promoted."""

from __future__ import annotations

import hashlib

import msgspec
import psycopg
from psycopg import errors
from psycopg.conninfo import conninfo_to_dict

from strata.errors import InvalidConfigError
from strata.l3.connection import Connection

# Each initdb draws a system identifier; standbys, and physical copies of all kinds, have that of their origin.
_SYSTEM = "SELECT system_identifier::text FROM pg_control_system()"
_PLACE = "SELECT current_database()::text, coalesce(current_schema(), '')::text"
# In the place of the system identifier, for a role that may not ask for it.
_ID = "SELECT id FROM _strata_database"
# One after another: PostgreSQL lets two make the same table at once, and fails the slower one, IF NOT EXISTS or not.
_MAKE_ID = """
SELECT pg_advisory_xact_lock(hashtextextended('_strata_database', 0));
CREATE TABLE IF NOT EXISTS _strata_database (one boolean PRIMARY KEY DEFAULT true CHECK (one), id text NOT NULL);
INSERT INTO _strata_database (id) VALUES ('made-' || gen_random_uuid()) ON CONFLICT DO NOTHING
"""


class Fingerprint(msgspec.Struct, frozen=True):
    """A schema of a database of a server."""

    system: str
    database: str
    schema: str

    def __str__(self) -> str:
        return f"database {self.database!r}, schema {self.schema!r}, of the PostgreSQL with the id {self.system}"


def fingerprint(conn: Connection) -> Fingerprint:
    """That of the database that the connection leads to; the schema is the one in which tables are made and found.

    Raises `InvalidConfigError` where the role may neither read nor make what tells it, and `psycopg.Error`.
    """
    (database, schema) = _row(conn, _PLACE)
    try:
        (system,) = _row(conn, _SYSTEM)
    except (errors.InsufficientPrivilege, errors.UndefinedFunction):
        system = _made(conn)
    return Fingerprint(system, database, schema)


def address(dsn: str) -> str:
    """A short digest of where a DSN leads, by what is no secret."""
    told = {name: value for name, value in conninfo_to_dict(dsn).items() if name in _LEADING}
    return hashlib.sha256(repr(sorted(told.items())).encode()).hexdigest()[:16]


_LEADING = frozenset({"host", "hostaddr", "port", "dbname", "user", "options", "service"})


def _made(conn: Connection) -> str:
    try:
        return str(_row(conn, _ID)[0])
    except (errors.UndefinedTable, TypeError):  # no table, or no row
        pass
    try:
        conn.command(f"{conn.begin}; {_MAKE_ID}; COMMIT")
    except psycopg.Error as error:
        if not conn.closed:
            conn.command("ROLLBACK")
        if not isinstance(error, errors.InsufficientPrivilege):
            raise
        raise InvalidConfigError(
            "this role can neither ask PostgreSQL for its system identifier nor keep an id in a table of Strata's; "
            "GRANT EXECUTE ON FUNCTION pg_control_system() to it"
        ) from error
    return str(_row(conn, _ID)[0])


def _row(conn: Connection, sql: str) -> tuple[str, ...]:
    return conn.execute(sql.encode()).fetchone()  # type: ignore[return-value]
