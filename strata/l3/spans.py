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
        table, key, shown = layout.table, layout.key, layout.shown([layout.plan.key.name])
        self._count = layout.statement(f"SELECT count(*) FROM (SELECT 1 FROM {table} LIMIT $1) a", INT8)
        self._plan = f"EXPLAIN (FORMAT JSON) SELECT 1 FROM {table}"
        numbered = (
            f"SELECT {key}, row_number() OVER (ORDER BY {key}) AS n FROM (SELECT {key} FROM {table} "
            f"ORDER BY {key} LIMIT $1) a"
        )
        self._steps = layout.statement(f"SELECT {shown} FROM ({numbered}) b WHERE n % $2 = 0 ORDER BY n", INT8, INT8)
        cut = f"unnest(percentile_disc(%s) WITHIN GROUP (ORDER BY {key})) AS {key}"
        self._cuts = f"SELECT {shown} FROM (SELECT {cut} FROM {table} TABLESAMPLE SYSTEM (%s)) a"

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
        return [row[0] for row in self._steps.rows(conn, (limit, step))]

    def cuts(self, conn: Connection, parts: int, rows: int) -> list[Any]:
        """Keys between about equal parts of a table of about `rows` rows, in order, by a sample of its pages."""
        percent = min(100.0, max(0.001, 100.0 * parts * SAMPLED / max(rows, 1)))
        shares = "ARRAY[" + ",".join(f"{number / parts:.6f}" for number in range(1, parts)) + "]::float8[]"
        sql = self._cuts.replace("%s", shares, 1).replace("%s", f"{percent:.6f}", 1)
        found = conn.execute(sql.encode(), binary=True)
        keys = [row[0] for row in found.fetchall() if row[0] is not None]
        return list(dict.fromkeys(keys))
