"""What the database has: tables, columns, indexes, as plain facts."""

from __future__ import annotations

from dataclasses import dataclass, field

from strata.l3.connection import Connection

_COLUMNS = """
SELECT a.attname, format_type(a.atttypid, a.atttypmod), a.attnotnull, pg_get_expr(d.adbin, d.adrelid)
FROM pg_attribute a LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
WHERE a.attrelid = to_regclass($1) AND a.attnum > 0 AND NOT a.attisdropped
ORDER BY a.attnum
"""
_INDEXES = """
SELECT c.relname, i.indisunique, i.indpred IS NOT NULL,
       ARRAY(SELECT a.attname::text FROM unnest(i.indkey) WITH ORDINALITY AS k(attnum, place)
             JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = k.attnum ORDER BY k.place)
FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid
WHERE i.indrelid = to_regclass($1)
"""


@dataclass(frozen=True, slots=True)
class Column:
    """A column as it is. `default` is PostgreSQL's own text of the expression."""

    name: str
    sql_type: str
    not_null: bool
    default: str | None


@dataclass(frozen=True, slots=True)
class IndexFacts:
    """An index as it is; `partial` ones cover some rows only."""

    name: str
    unique: bool
    partial: bool
    columns: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class TableFacts:
    """A table as it is; without columns where there is none."""

    columns: dict[str, Column] = field(default_factory=dict)
    indexes: tuple[IndexFacts, ...] = ()

    def has_index(self, columns: tuple[str, ...], *, unique: bool) -> bool:
        """Whether an index over just these columns, in this order, is there; a unique one serves as a plain one."""
        return any(
            item.columns == columns and not item.partial and (item.unique or not unique) for item in self.indexes
        )


def table_facts(conn: Connection, quoted: str) -> TableFacts:
    """The table of this quoted name on the search path."""
    columns = {row[0]: Column(*row) for row in conn.execute(_COLUMNS, (quoted,)).fetchall()}
    if not columns:
        return TableFacts()
    rows = conn.execute(_INDEXES, (quoted,)).fetchall()
    return TableFacts(columns, tuple(IndexFacts(row[0], row[1], row[2], tuple(row[3])) for row in rows))
