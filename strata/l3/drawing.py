"""Keys that the database assigns: drawn before the record is written, by what the table has for its key's DEFAULT.

Everything that is told of a key, and every ciphertext that is bound to it, comes before its row; so it is known first,
and a commit whose outcome is not known is one of a known key.

A record that was written with a key of its own leaves the sequence as it is, which costs such writes nothing. It is
found here: what is drawn is looked up in the same statement, and where it is taken, the sequence is set to the highest
key there is. Whoever comes between two of these statements is found by the index of the key, when the row is inserted.
"""

from __future__ import annotations

from typing import Any

from strata.errors import MigrationError
from strata.l3.connection import Connection
from strata.l3.layout import Layout
from strata.l3.statement import INT4, Statement

TRIES = 16
AT_ONCE = 100_000  # keys that are drawn by one statement, at most


class Drawing:
    """The statements that draw keys of one table. Immutable."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        actual, key, table = layout.actual, layout.key.listed, layout.table  # a Generated key is of one column
        kind = layout.plan.key.fields[0].sql_type
        # Materialized: an expression is run once for each key, whatever its function says of itself.
        self._draw = Statement(
            f"WITH d AS MATERIALIZED (SELECT ({actual.assigned})::{kind} AS key FROM generate_series(1, $1))"
            f" SELECT d.key, (SELECT true FROM {table} r WHERE r.{key} = d.key LIMIT 1) IS NOT NULL FROM d",
            (INT4,),
        )
        # The highest key of the lower half: one that somebody has put near the end would leave no others. Who may not
        # set the sequence goes on step by step.
        sequence = "'" + actual.sequence.replace("'", "''") + "'::regclass"
        self._raise = Statement(
            f"SELECT setval(s.seqrelid::regclass, m.key) FROM pg_sequence s CROSS JOIN LATERAL"
            f" (SELECT r.{key} AS key FROM {table} r WHERE r.{key} <= s.seqmax / 2 ORDER BY r.{key} DESC LIMIT 1) m"
            f" WHERE s.seqrelid = {sequence} AND s.seqincrement > 0 AND m.key > pg_sequence_last_value(s.seqrelid)"
            f" AND has_sequence_privilege(s.seqrelid, 'UPDATE')",
            prepared=False,
        )
        self._any = Statement(f"SELECT 1 FROM {table} LIMIT 0", prepared=False)

    def draw(self, conn: Connection, count: int) -> list[Any]:
        """So many keys that no row had when they were drawn, in the order in which they were.

        Raises `MigrationError` where the table has nothing to make them of, or makes none that are new.
        """
        layout = self._layout
        where = f"column {layout.plan.key.names[0]!r} of table {layout.name!r}"
        if not layout.actual.assigned:
            self._any.rows(conn)  # is there a table?
            raise MigrationError(
                f"{where} has no DEFAULT of which a key can be made; run migrate(), or have its table make one, or "
                "give the record its key"
            )
        found: dict[Any, None] = {}
        for tries in range(TRIES):
            asked = min((count - len(found)) << max(tries - 1, 0), AT_ONCE)
            rows = self._draw.rows(conn, (asked,))
            found |= dict.fromkeys(key for key, taken in rows if not taken and key is not None)
            if len(found) >= count:
                return list(found)[:count]
            if layout.actual.sequence:
                self._raise.rows(conn)
        raise MigrationError(
            f"the DEFAULT of {where} makes keys that have rows already, or none; set its sequence above the highest of "
            "them (setval), or give the record its key"
        )
