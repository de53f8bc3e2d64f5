"""Making a month's partition in a table that is in use.

The default partition may hold rows of the month by then: they move in the same transaction. Writers are kept out for
its length, and readers that look into the default partition; so it waits for its locks less than the second after
which the server would look for circles and end somebody else's transaction, and is tried again.
"""

from __future__ import annotations

from collections.abc import Sequence

import psycopg

from strata import waits
from strata.l3 import ddl, failures, outside
from strata.l3.catalog import TableFacts, fires_on_delete, free_months, table_facts
from strata.l3.changes import TableMonth
from strata.l3.connection import Connection
from strata.l3.layout import quote
from strata.l3.report import ManualChange

PATIENCE = "500ms"
TRIES = 5
PAUSE = 0.3
MOVED = 50_000  # rows of a month that are moved from the default partition in one go
_IN_THE_WAY = ("55P03", "40P01")


def make_months(conn: Connection, missing: Sequence[TableMonth]) -> tuple[list[str], list[ManualChange]]:
    """Make the partitions; the statements that were run, and what could not be made, with reason and SQL.

    `conn` is in autocommit mode. Raises `psycopg.Error` where the server refuses a statement or is away.
    """
    applied: list[str] = []
    manual: list[ManualChange] = []
    for item in missing:
        for left in reversed(range(TRIES)):
            try:
                done = _Making(conn, item).run()
            except psycopg.Error as error:
                if conn.closed:
                    raise
                conn.command("ROLLBACK")
                if error.sqlstate not in _IN_THE_WAY:
                    raise failures.migration_error(error, f"the partition {item.month.suffix} of {item.table.name}")  # noqa: B904
                if left:
                    waits.sleep(PAUSE)
                    continue
                done = ManualChange(
                    f"{item.table.name} was in use, so that no partition for {item.month.suffix} could be made; its "
                    "rows go to the default partition meanwhile, and the workers try again",
                    "-- strata migrate, or a worker",
                )
            if isinstance(done, ManualChange):
                manual.append(done)
            else:
                applied += done
            break
    return applied, manual


class _Making:
    """One partition."""

    def __init__(self, conn: Connection, item: TableMonth) -> None:
        assert item.table.partition is not None
        self._conn = conn
        self._month = item.month
        self._table = item.table.name
        self._name = quote(item.table.name)
        self._part = ddl.partition_name(item.table.name, item.month)
        at, month = quote(item.table.partition.column), item.month
        self._rows = f"{at} >= '{month.start.isoformat()}' AND {at} < '{month.next().start.isoformat()}'"

    def run(self) -> list[str] | ManualChange:
        """The statements that made it; none where somebody was faster."""
        conn = self._conn
        conn.command(f"{conn.begin}; SET LOCAL statement_timeout = 0; SET LOCAL lock_timeout = '{PATIENCE}'")
        conn.command(f"LOCK TABLE ONLY {self._name} IN SHARE ROW EXCLUSIVE MODE")
        facts = table_facts(conn, self._name)
        if facts.rest is not None:
            conn.command(f"LOCK TABLE {facts.rest} IN ACCESS EXCLUSIVE MODE")
        if not free_months(conn, self._name, [self._month]):
            conn.command("ROLLBACK")
            return []
        rows = self._waiting(facts)
        statements = self._statements(facts, move=bool(rows))
        if rows > MOVED or (rows and fires_on_delete(conn, facts.rest or "", outside.TRIGGERS)):
            conn.command("ROLLBACK")
            return self._left(rows, statements)
        for statement in statements:
            conn.command(statement)
        conn.command("COMMIT")
        return statements

    def _waiting(self, facts: TableFacts) -> int:
        """How many rows of the month there are in the default partition; one more than are moved at most."""
        if facts.rest is None:
            return 0
        sql = f"SELECT count(*) FROM (SELECT FROM {facts.rest} WHERE {self._rows} LIMIT {MOVED + 1}) AS waiting"
        row = self._conn.execute(sql.encode()).fetchone()
        return int(row[0]) if row else 0

    def _statements(self, facts: TableFacts, *, move: bool) -> list[str]:
        # Made apart and then attached, since the rows must be out of the default partition before, and still be kept.
        parts = "INCLUDING ALL EXCLUDING INDEXES EXCLUDING IDENTITY EXCLUDING STATISTICS EXCLUDING COMMENTS"
        made = [f"CREATE TABLE {self._part} (LIKE {self._name} {parts})"]
        if move:
            columns = ", ".join(quote(column.name) for column in facts.columns.values() if not column.computed)
            made.append(
                f"WITH gone AS (DELETE FROM {facts.rest} WHERE {self._rows}{outside.own(self._table)}"
                f" RETURNING {columns}) INSERT INTO {self._part} ({columns}) SELECT {columns} FROM gone"
            )
        made.append(f"ALTER TABLE {self._name} ATTACH PARTITION {self._part} {ddl.within(self._month)}")
        return made

    def _left(self, rows: int, statements: Sequence[str]) -> ManualChange:
        why = f"more than {MOVED} rows" if rows > MOVED else "rows with triggers, or foreign keys that refer to them,"
        return ManualChange(
            f"the default partition of {self._table} has {why} of {self._month.suffix}, which are not moved unasked; "
            "all works as it is, but to have that month apart, move them while nobody writes",
            ";\n".join(["BEGIN", f"LOCK TABLE {self._name}", *statements, "COMMIT;"]),
        )
