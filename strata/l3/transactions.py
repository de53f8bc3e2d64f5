"""Which transactions are under way in a database."""

from __future__ import annotations

from strata.l3.connection import Connection
from strata.l3.statement import Statement

# Not by a snapshot, which does not list those that began after the last one that has ended. Any role may see this.
_UNDER_WAY = Statement(
    "SELECT backend_xid::text::int8 FROM pg_stat_activity"
    " WHERE datname = current_database() AND backend_xid IS NOT NULL"
    " UNION ALL SELECT transaction::text::int8 FROM pg_prepared_xacts WHERE database = current_database()"
)


def under_way(conn: Connection) -> frozenset[int]:
    """The ids of the transactions that have written or locked a row and have not ended, in this database.

    Raises `psycopg.Error`.
    """
    return frozenset(row[0] for row in _UNDER_WAY.rows(conn))
