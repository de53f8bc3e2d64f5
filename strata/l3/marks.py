"""What a schema leaves in Strata's own tables: the horizon of its tombstones, and its repairs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime

from strata.l3.connection import Connection
from strata.l3.layout import HORIZONS, PARTIALS, REPAIRS, TOMBSTONES, Layout
from strata.l3.statement import ARRAYS, INT8, TEXT, TIMESTAMPTZ, Statement
from strata.l3.values import FIRST, Repair
from strata.l3.writes import Writes
from strata.protocol.shards import SHARDS

_WAITING = Statement(
    f"SELECT s FROM unnest($1) s WHERE EXISTS (SELECT FROM {REPAIRS} r WHERE r.schema = s)", (ARRAYS[TEXT],)
)


REPAIRING = 0x53545250  # of pg_advisory_xact_lock(int, int): whoever takes a schema's repairs


def waiting_repairs(conn: Connection, marks: Sequence[str]) -> set[str]:
    """Those of the schemas, by their marks, that have repairs."""
    return {mark for (mark,) in _WAITING.rows(conn, (list(marks),), tuple)}


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
        self._oldest_of = Statement(
            f"SELECT deleted_at FROM {TOMBSTONES} WHERE {own} ORDER BY deleted_at DESC OFFSET $1 LIMIT 1", (INT8,)
        )
        self._tombstone = Statement(f"SELECT d.version FROM {TOMBSTONES} d WHERE {layout.buried('d', '$1')}", (TEXT,))
        self._forget_partials = Statement(
            f"WITH old AS (SELECT id FROM {PARTIALS} WHERE {own} AND at < $1 LIMIT $2)"
            f" DELETE FROM {PARTIALS} WHERE {own} AND id IN (SELECT id FROM old)",
            (TIMESTAMPTZ, INT8),
        )
        self._horizon = Statement(f"SELECT version FROM {HORIZONS} WHERE {own}")
        # One row a key: what a newer one covers goes with it. A row that is locked is another transaction's to take
        # away; nobody waits for it, since writers that met here could wait for each other.
        older = (
            f"SELECT r.ctid FROM unnest($1, $2) AS g(id, version) JOIN {REPAIRS} r"
            f" ON r.{own} AND r.id = g.id AND r.version < g.version FOR UPDATE OF r SKIP LOCKED"
        )
        self._record = Statement(
            f"WITH older AS ({older}), gone AS (DELETE FROM {REPAIRS} r USING older WHERE r.ctid = older.ctid)"
            f" INSERT INTO {REPAIRS} (schema, id, version)"
            f" SELECT {layout.schema}, g.id, g.version FROM unnest($1, $2) AS g(id, version) ON CONFLICT DO NOTHING",
            (ARRAYS[TEXT], ARRAYS[INT8]),
        )
        self._alone = Statement(f"SELECT pg_advisory_xact_lock({REPAIRING}, hashtext({layout.schema}))")
        self._take = Statement(
            f"SELECT id, version FROM {REPAIRS} WHERE {own} AND id <> '' AND (id, version) > ($1, $2)"
            f" ORDER BY id, version LIMIT $3",
            (TEXT, INT8, INT8),
        )
        self._take_whole = Statement(f"SELECT id, version FROM {REPAIRS} WHERE {own} AND id = '' LIMIT $1", (INT8,))
        self._done = Statement(
            f"WITH done AS (SELECT r.ctid FROM {REPAIRS} r JOIN unnest($1, $2) AS d(id, version)"
            f" ON r.{own} AND r.id = d.id AND r.version = d.version FOR UPDATE OF r SKIP LOCKED)"
            f" DELETE FROM {REPAIRS} r USING done WHERE r.ctid = done.ctid",
            (ARRAYS[TEXT], ARRAYS[INT8]),
        )

    def forget_tombstones(self, conn: Connection, before: datetime, limit: int = 10_000) -> int:
        """Remove up to `limit` tombstones older than `before`, and raise the horizon; returns how many.

        What is written behind at or below the horizon and has no row is refused from then on. The caller has opened
        a transaction; it keeps every writer of the schema out, since none may see the one without the other.
        """
        self._writes.lock_shards(conn, dict.fromkeys(range(SHARDS), True))
        row = self._forget.row(conn, (before, limit))
        return int(row[0]) if row else 0

    def forget_partials(self, conn: Connection, before: datetime, limit: int = 10_000) -> int:
        """Remove up to `limit` notes of partial writes older than `before`, when nothing so old is on its way any more;
        returns how many. The caller has opened a transaction, as for `forget_tombstones`."""
        self._writes.lock_shards(conn, dict.fromkeys(range(SHARDS), True))
        return self._forget_partials.execute(conn, (before, limit))

    def beyond(self, conn: Connection, most: int) -> datetime | None:
        """When the newest record was deleted of those whose tombstones are more than `most` (0: any number); None where
        none is."""
        row = self._oldest_of.row(conn, (most,)) if most else None
        return None if row is None else row[0]

    def tombstone(self, conn: Connection, key_text: str) -> int:
        """The version at which a record that was written behind was deleted; 0 where no deletion is remembered."""
        row = self._tombstone.row(conn, (key_text,))
        return int(row[0]) if row else 0

    def horizon(self, conn: Connection) -> int:
        """The highest version among the tombstones that were removed; 0 where none was."""
        row = self._horizon.row(conn)
        return int(row[0]) if row else 0

    def record_repairs(self, conn: Connection, versions: Mapping[str, int]) -> None:
        """Remember, in the transaction of writes, that L2 does not know of them: of their versions, by key text."""
        self._record.execute(conn, (list(versions), list(versions.values())))

    def take_repairs(self, conn: Connection, limit: int, after: Repair = FIRST) -> list[Repair]:
        """Up to `limit` repairs of keys that follow `after`, in the order of their keys. They stay until
        `repairs_done`; until the caller's transaction ends no other process takes repairs of the schema."""
        self._alone.execute(conn)
        return self._take.rows(conn, (*after, limit), Repair._make)

    def take_whole_repairs(self, conn: Connection, limit: int) -> list[Repair]:
        """As `take_repairs`: those of the whole schema."""
        self._alone.execute(conn)
        return self._take_whole.rows(conn, (limit,), Repair._make)

    def repairs_done(self, conn: Connection, rows: Sequence[Repair]) -> None:
        """Forget these repairs; one recorded since at a higher version stays, and so does one that a transaction which
        is under way is about to replace."""
        self._done.execute(conn, ([row.key_text for row in rows], [row.version for row in rows]))
