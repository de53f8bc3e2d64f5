"""What the database has: tables, columns and indexes, as plain facts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from strata.l3.connection import Connection
from strata.l3.partition import Month

_TABLE = """
SELECT c.oid::int8, c.relkind::text, p.partstrat::text, p.partdefid::regclass::text,
       ARRAY(SELECT COALESCE(a.attname::text, '') FROM unnest(p.partattrs::int2[]) WITH ORDINALITY AS k(attnum, place)
             LEFT JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum = k.attnum ORDER BY k.place)
FROM pg_class c LEFT JOIN pg_partitioned_table p ON p.partrelid = c.oid
WHERE c.oid = to_regclass($1)
"""
# The bounds are those of a partition by one timestamp; MINVALUE and MAXVALUE are not in quotes.
_FREE = r"""
WITH parts AS (
    SELECT pg_get_expr(c.relpartbound, c.oid) AS bound
    FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid WHERE i.inhparent = to_regclass($1)
), taken AS (
    SELECT COALESCE(substring(bound FROM $q$FROM \('([^']*)'\)$q$)::timestamptz, '-infinity') AS low,
           COALESCE(substring(bound FROM $q$TO \('([^']*)'\)$q$)::timestamptz, 'infinity') AS high
    FROM parts WHERE bound <> 'DEFAULT'
)
SELECT m.place FROM unnest($2::timestamptz[], $3::timestamptz[]) WITH ORDINALITY AS m(low, high, place)
WHERE NOT EXISTS (SELECT FROM taken t WHERE t.low < m.high AND t.high > m.low) ORDER BY m.place
"""
# A trigger of the default partition that would fire for rows on their way to another; those of constraints that are
# checked late do nothing then, nor do Strata's.
_ON_DELETE = """
SELECT EXISTS (SELECT FROM pg_trigger t LEFT JOIN pg_constraint c ON c.oid = t.tgconstraint
               WHERE t.tgrelid = to_regclass($1) AND t.tgenabled <> 'D' AND t.tgtype::int & 8 <> 0
                 AND COALESCE(c.contype::text, '') NOT IN ('p', 'u', 'x') AND t.tgname NOT LIKE $2)
"""
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
    """A table as it is; `kind` is that of `pg_class`, "r" or "p" (partitioned), and empty where there is none.

    `divided_by` are the columns of a partitioned one, an expression being the empty string; `strategy` is "r" (range),
    "h" (hash) or "l" (list); `rest` is its default partition's quoted name.
    """

    kind: str = ""
    strategy: str | None = None
    divided_by: tuple[str, ...] = ()
    rest: str | None = None
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
    oid, kind, strategy, rest, divided_by = found
    columns = {row[0]: ColumnFacts(*row) for row in conn.execute(_COLUMNS, (oid,)).fetchall()}
    rows = conn.execute(_INDEXES, (oid,)).fetchall()
    indexes = [IndexFacts(row[0], row[1], row[2], row[3], row[4], tuple(row[5])) for row in rows]
    return TableFacts(kind, strategy, tuple(divided_by), None if rest == "-" else rest, columns, tuple(indexes))


def free_months(conn: Connection, quoted: str, months: Sequence[Month]) -> list[Month]:
    """Those of the months that no partition of the table, the default one aside, has any part of."""
    starts, ends = [month.start for month in months], [month.next().start for month in months]
    return [months[row[0] - 1] for row in conn.execute(_FREE, (quoted, starts, ends)).fetchall()]


def fires_on_delete(conn: Connection, quoted: str, but: str) -> bool:
    """Whether a deletion has consequences: a trigger, but for those named like `but`, or a foreign key to the table."""
    row = conn.execute(_ON_DELETE, (quoted, but)).fetchone()
    return bool(row and row[0])


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
