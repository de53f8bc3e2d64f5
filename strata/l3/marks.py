"""What a schema leaves in Strata's own tables: the horizon of its tombstones, and its repairs."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import NamedTuple

from strata.l3.connection import Connection
from strata.l3.layout import HORIZONS, PARTIALS, REPAIRS, TOMBSTONES, Layout
from strata.l3.statement import ARRAYS, INT8, TEXT, TIMESTAMPTZ, Statement
from strata.l3.writes import Writes
from strata.shards import SHARDS

_WAITING = Statement(
    f"SELECT s FROM unnest($1) s WHERE EXISTS (SELECT FROM {REPAIRS} r WHERE r.schema = s)", (ARRAYS[TEXT],)
)


class Repair(NamedTuple):
    """A write that reached L3 and of which L2 does not know; without a key: anything of the schema may be."""

    key_text: str
    version: int


def waiting_repairs(conn: Connection, schemas: Sequence[str]) -> set[str]:
    """Those of the schemas that have repairs."""
    return {name for (name,) in _WAITING.rows(conn, (list(schemas),), tuple)}


class Marks:
    """The statements over Strata's own tables. Thread-safe: it keeps no state of its own."""

    def __init__(self, layout: Layout, writes: Writes) -> None:
        self._writes = writes
        own = f"schema = {layout.schema}"
        self._forget = Statement(
            f"WITH old AS (SELECT id FROM {TOMBSTONES} WHERE {own} AND deleted_at < $1 ORDER BY deleted_at LIMIT $2),"
            f" gone AS (DELETE FROM {TOMBSTONES} WHERE {own} AND id IN (SELECT id FROM old) RETURNING version),"
            f" raised AS (INSERT INTO {HORIZONS} AS h (schema, version)"
            f" SELECT {layout.schema}, max(version) FROM gone HAVING count(*) > 0"
            f" ON CONFLICT (schema) DO UPDATE SET version = GREATEST(h.version, EXCLUDED.version))"
            f" SELECT count(*) FROM gone",
            (TIMESTAMPTZ, INT8),
        )
        self._tombstone = Statement(f"SELECT d.version FROM {TOMBSTONES} d WHERE {layout.buried('d', '$1')}", (TEXT,))
        self._forget_partials = Statement(f"DELETE FROM {PARTIALS} WHERE {own} AND at < $1", (TIMESTAMPTZ,))
        self._horizon = Statement(f"SELECT version FROM {HORIZONS} WHERE {own}")
        self._record = Statement(
            f"INSERT INTO {REPAIRS} AS r (schema, id, version) VALUES ({layout.schema}, $1, $2) ON CONFLICT DO NOTHING",
            (TEXT, INT8),
        )
        take = f"SELECT id, version FROM {REPAIRS} WHERE {own} AND id {{}} '' ORDER BY at, id LIMIT $1 FOR UPDATE"
        self._take = Statement(take.format("<>"), (INT8,))
        self._take_whole = Statement(take.format("="), (INT8,))
        self._done = Statement(
            f"DELETE FROM {REPAIRS} r USING unnest($1, $2) AS done(id, version)"
            f" WHERE r.{own} AND r.id = done.id AND r.version = done.version",
            (ARRAYS[TEXT], ARRAYS[INT8]),
        )

    def forget_tombstones(self, conn: Connection, before: datetime, limit: int = 10_000) -> int:
        """Remove up to `limit` tombstones older than `before`, and raise the horizon; returns how many.

        What is written behind at or below the horizon and has no row is refused from then on. The caller has opened
        a transaction; it keeps every writer of the schema out, since none may see the one without the other.
        """
        self._writes.lock_shards(conn, dict.fromkeys(range(SHARDS), True))
        self._forget_partials.execute(conn, (before,))  # nothing so old is on its way any more
        row = self._forget.row(conn, (before, limit))
        return int(row[0]) if row else 0

    def tombstone(self, conn: Connection, key_text: str) -> int:
        """The version at which a record that was written behind was deleted; 0 where no deletion is remembered."""
        row = self._tombstone.row(conn, (key_text,))
        return int(row[0]) if row else 0

    def horizon(self, conn: Connection) -> int:
        """The highest version among the tombstones that were removed; 0 where none was."""
        row = self._horizon.row(conn)
        return int(row[0]) if row else 0

    def record_repair(self, conn: Connection, key_text: str, version: int) -> None:
        """Remember, in the transaction of the write, that L2 does not know of it."""
        self._record.execute(conn, (key_text, version))

    def take_repairs(self, conn: Connection, limit: int, *, whole: bool = False) -> list[Repair]:
        """Up to `limit` repairs, the oldest first; those of keys, or those of the whole schema. They stay until
        `repairs_done`, and are locked until the caller's transaction ends, so that one process does the work."""
        return (self._take_whole if whole else self._take).rows(conn, (limit,), Repair._make)

    def repairs_done(self, conn: Connection, rows: Sequence[Repair]) -> None:
        """Forget these repairs; one recorded since at a higher version stays."""
        self._done.execute(conn, ([row.key_text for row in rows], [row.version for row in rows]))
