"""What the database has: tables, columns and indexes, as plain facts."""

from __future__ import annotations

from dataclasses import dataclass, field

from strata.l3.connection import Connection

_TABLE = "SELECT c.oid::int8, c.relkind::text FROM pg_class c WHERE c.oid = to_regclass($1)"
_COLUMNS = """
SELECT a.attname, format_type(a.atttypid, a.atttypmod), a.attnotnull, pg_get_expr(d.adbin, d.adrelid),
       a.attgenerated <> '' OR a.attidentity = 'a'
FROM pg_attribute a LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
WHERE a.attrelid = $1::int8::oid AND a.attnum > 0 AND NOT a.attisdropped
ORDER BY a.attnum
"""
_INDEXES = """
SELECT c.relname, i.indisunique, i.indisvalid, i.indimmediate,
       i.indpred IS NULL AND NOT 0 = ANY(i.indkey) AND m.amname = 'btree',
       ARRAY(SELECT a.attname::text FROM unnest(i.indkey) WITH ORDINALITY AS k(attnum, place)
             JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = k.attnum
             WHERE k.place <= i.indnkeyatts ORDER BY k.place)
FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid JOIN pg_am m ON m.oid = c.relam
WHERE i.indrelid = $1::int8::oid
"""
_BROKEN = "SELECT EXISTS (SELECT FROM pg_index WHERE indexrelid = to_regclass($1) AND NOT indisvalid)"
_CONFLICTING = "SELECT EXISTS (SELECT FROM pg_class WHERE oid = to_regclass($1))"


@dataclass(frozen=True, slots=True)
class ColumnFacts:
    """A column as it is. `default` is PostgreSQL's text of the expression; `computed` ones take no value of ours."""

    name: str
    sql_type: str
    not_null: bool
    default: str | None
    computed: bool


@dataclass(frozen=True, slots=True)
class IndexFacts:
    """An index as it is. `plain` is a B-tree over whole columns and all rows; `immediate` is not deferrable."""

    name: str
    unique: bool
    valid: bool
    immediate: bool
    plain: bool
    columns: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class TableFacts:
    """A table as it is; `kind` is that of `pg_class`, "r" or "p" (partitioned), and empty where there is none."""

    kind: str = ""
    columns: dict[str, ColumnFacts] = field(default_factory=dict)
    indexes: tuple[IndexFacts, ...] = ()

    def index_over(self, columns: tuple[str, ...], *, unique: bool) -> IndexFacts | None:
        """A working index over just these columns, in this order; a unique one serves as a plain one, too."""
        fit = (item for item in self.indexes if item.columns == columns and item.plain and item.valid)
        return next((item for item in fit if item.unique or not unique), None)

    def broken_index(self, name: str) -> bool:
        """Whether an index of this name was left behind unfinished."""
        return any(item.name == name and not item.valid for item in self.indexes)


def table_facts(conn: Connection, quoted: str) -> TableFacts:
    """The table of this quoted name on the search path."""
    found = conn.execute(_TABLE, (quoted,)).fetchone()
    if found is None:
        return TableFacts()
    oid, kind = found
    columns = {row[0]: ColumnFacts(*row) for row in conn.execute(_COLUMNS, (oid,)).fetchall()}
    rows = conn.execute(_INDEXES, (oid,)).fetchall()
    indexes = [IndexFacts(row[0], row[1], row[2], row[3], row[4], tuple(row[5])) for row in rows]
    return TableFacts(kind, columns, tuple(indexes))


def exists(conn: Connection, quoted: str) -> bool:
    """Whether there is a table, or anything that would be in its way."""
    row = conn.execute(_CONFLICTING, (quoted,)).fetchone()
    return bool(row and row[0])


def is_broken(conn: Connection, quoted: str) -> bool:
    """Whether there is an index of this name that was left unfinished."""
    row = conn.execute(_BROKEN, (quoted,)).fetchone()
    return bool(row and row[0])


def has_rows(conn: Connection, quoted: str) -> bool:
    """Whether the table has a row."""
    row = conn.execute(f"SELECT EXISTS (SELECT FROM {quoted})".encode()).fetchone()
    return bool(row and row[0])
