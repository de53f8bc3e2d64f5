"""Which index pages in an order want, and whether there is one: by its columns and their directions, as in the catalog.

An index may be read from either end, so that one of all the opposite directions is as good. One of the columns alone
that is unique needs no more behind them. Columns may stand in front where the query has a condition, which may hold
these to one value.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from strata.l3.connection import Connection
from strata.l3.keyset import Sorted, columns_of, whole
from strata.l3.layout import Layout
from strata.query import Query

# B-trees over all rows; a column with another collation or order than its own has no name, nor has an expression.
_INDEXES = """
SELECT i.indisunique, ARRAY(
    SELECT COALESCE(a.attname::text, '') || ':' || (k.ways & 1) || (k.ways >> 1 & 1)
    FROM unnest(i.indkey::int2[], i.indoption::int2[], i.indclass::oid[], i.indcollation::oid[])
         WITH ORDINALITY AS k(attnum, ways, opclass, coll, place)
    LEFT JOIN pg_opclass o ON o.oid = k.opclass
    LEFT JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = k.attnum AND k.attnum > 0
        AND o.opcdefault AND a.attcollation = k.coll
    WHERE k.place <= i.indnkeyatts ORDER BY k.place)
FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid JOIN pg_am m ON m.oid = c.relam
WHERE i.indrelid = to_regclass($1) AND i.indisvalid AND i.indpred IS NULL AND m.amname = 'btree'
"""


class MissingIndex(NamedTuple):
    """`by`: the columns, as in ORDER BY; `columns`: their names, where an `Index` of a schema can have them so."""

    by: str
    columns: tuple[str, ...] | None
    sql: str


class OrderedIndexes:
    """The indexes of a table, as orders see them. Thread-safe: it keeps no state of its own."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self._keys = layout.plan.key.names

    def missing(self, conn: Connection, query: Query) -> MissingIndex | None:
        """The index that pages of the query want, where there is none. Raises `psycopg.Error`."""
        order = whole(query.order, self._keys)
        names = [item.column for item in order]
        end = max(names.index(name) for name in self._keys) + 1  # what follows the key decides nothing
        names, columns = names[:end], columns_of(self._layout, order[:end])
        for unique, held in conn.execute(_INDEXES.encode(), (self._layout.table,)).fetchall():
            if _serves(held, unique, names, columns, anywhere=bool(query.where)):
                return None
        terms = [column.term.removeprefix(f"{self._layout.table}.") for column in columns]
        usual = all(column.desc is columns[0].desc and " NULLS " not in column.term for column in columns)
        concurrently = "" if self._layout.partition else " CONCURRENTLY"
        sql = f"CREATE INDEX{concurrently} ON {self._layout.table} ({', '.join(terms)})"
        return MissingIndex(", ".join(terms).replace('"', ""), tuple(names) if usual else None, sql)


def _serves(
    held: Sequence[str], unique: bool, names: Sequence[str], columns: Sequence[Sorted], *, anywhere: bool
) -> bool:
    """Whether an index of these columns, each `name:` and a digit for DESC and for NULLS FIRST, has the order."""
    ahead = [_spelled(name, column, turned=False) for name, column in zip(names, columns, strict=True)]
    back = [_spelled(name, column, turned=True) for name, column in zip(names, columns, strict=True)]
    certain = unique and len(held) < len(names) and not any(column.nullable for column in columns[: len(held)])
    if certain and list(held) in (ahead[: len(held)], back[: len(held)]):
        return True
    starts = range(len(held) - len(names) + 1) if anywhere else range(min(1, len(held) - len(names) + 1))
    return any(list(held[start : start + len(names)]) in (ahead, back) for start in starts)


def _spelled(name: str, column: Sorted, *, turned: bool) -> str:
    led = column.led_by_null if column.nullable else column.desc
    return f"{name}:{column.desc ^ turned:d}{led ^ turned:d}"
