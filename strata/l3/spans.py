"""How a table is divided for those who read all of it: how many rows, and which keys are between equal parts."""

from __future__ import annotations

from typing import Any

from strata.l3.connection import Connection
from strata.l3.layout import Layout
from strata.l3.statement import INT8

SAMPLED = 1_000  # rows looked at for each part


class Spans:
    """Statements of one table. Thread-safe: it keeps no state of its own. Methods raise `psycopg.Error`."""

    def __init__(self, layout: Layout) -> None:
        table, keys, order, shown = layout.table, layout.key.listed, layout.key.ordered(), layout.shown_key()
        self._key = layout.key
        self._count = layout.statement(f"SELECT count(*) FROM (SELECT 1 FROM {table} LIMIT $1) a", INT8)
        self._plan = f"EXPLAIN (FORMAT JSON) SELECT 1 FROM {table}"
        numbered = (
            f"SELECT {keys}, row_number() OVER (ORDER BY {order}) AS _strata_n"
            f" FROM (SELECT {keys} FROM {table} ORDER BY {order} LIMIT $1) a"
        )
        self._steps = layout.statement(
            f"SELECT {shown} FROM ({numbered}) b WHERE _strata_n % $2 = 0 ORDER BY _strata_n", INT8, INT8
        )
        # The last row of each part but the last: where the number of parts that have ended is one more than before.
        ended = "_strata_n * {parts} / _strata_of > (_strata_n - 1) * {parts} / _strata_of AND _strata_n < _strata_of"
        self._cuts = (
            f"SELECT {shown} FROM (SELECT {keys}, row_number() OVER (ORDER BY {order}) AS _strata_n,"
            f" count(*) OVER () AS _strata_of FROM {table} TABLESAMPLE SYSTEM ({{percent:.6f}})) a"
            f" WHERE {ended} ORDER BY _strata_n"
        )

    def count_up_to(self, conn: Connection, most: int) -> int:
        """How many rows there are, counting no further than `most`."""
        row = self._count.row(conn, (most,))
        return int(row[0]) if row else 0

    def about(self, conn: Connection) -> int:
        """How many rows the planner believes there are; takes no time on a table of any size."""
        row = conn.execute(self._plan.encode()).fetchone()
        return int(row[0][0]["Plan"]["Plan Rows"]) if row else 0

    def steps(self, conn: Connection, limit: int, step: int) -> list[Any]:
        """Of the first `limit` keys every `step`-th, in order."""
        return [self._key.split(row)[0] for row in self._steps.rows(conn, (limit, step))]

    def cuts(self, conn: Connection, parts: int, rows: int) -> list[Any]:
        """Keys between about equal parts of a table of about `rows` rows, in order, by a sample of its pages."""
        percent = min(100.0, max(0.001, 100.0 * parts * SAMPLED / max(rows, 1)))
        found = conn.execute(self._cuts.format(parts=int(parts), percent=percent).encode(), binary=True)
        return [self._key.split(row)[0] for row in found.fetchall() if None not in row]
