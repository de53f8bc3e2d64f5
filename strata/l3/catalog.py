"""What the database has: tables, columns and indexes, as plain facts."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field

from strata.l3.connection import Connection
from strata.l3.partition import Month

# A rule would do something else than what is asked, and says nothing of it; those of SELECT (1) make views.
_RELATION = """CASE WHEN c.relkind IN ('r', 'p')
    AND EXISTS (SELECT FROM pg_rewrite w WHERE w.ev_class = c.oid AND w.ev_type <> '1' AND w.ev_enabled <> 'D')
    THEN 'rules' ELSE c.relkind::text END"""
_TABLE = f"""
SELECT c.oid::int8, {_RELATION}, p.partstrat::text, p.partdefid::regclass::text,
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
                 AND COALESCE(c.contype::text, '') NOT IN ('p', 'u', 'x') AND t.tgname::text !~ $2)
"""
# Under a column's type, which may be a domain over others, lies the one that decides what it takes.
_COLUMNS = """
SELECT a.attname, format_type(a.atttypid, a.atttypmod), a.attnotnull, pg_get_expr(d.adbin, d.adrelid),
       a.attgenerated::text, a.attidentity::text, b.type,
       CASE WHEN b.typtype = 'e' THEN
         ARRAY(SELECT e.enumlabel::text FROM pg_enum e WHERE e.enumtypid = b.oid ORDER BY e.enumsortorder) END,
       COALESCE(NOT l.collisdeterministic, false)
FROM pg_attribute a LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
LEFT JOIN pg_collation l ON l.oid = a.attcollation
CROSS JOIN LATERAL (
    WITH RECURSIVE under AS (
        SELECT t.oid, t.typtype, t.typbasetype, t.typtypmod, a.atttypmod AS own FROM pg_type t WHERE t.oid = a.atttypid
        UNION ALL SELECT t.oid, t.typtype, t.typbasetype, t.typtypmod, u.typtypmod
        FROM under u JOIN pg_type t ON t.oid = u.typbasetype WHERE u.typtype = 'd'
    ) SELECT u.oid, format_type(u.oid, u.own) AS type, u.typtype FROM under u WHERE u.typtype <> 'd'
) b
WHERE a.attrelid = $1::int8::oid AND a.attnum > 0 AND NOT a.attisdropped
ORDER BY a.attnum
"""
_KIND = f"SELECT c.oid::int8, {_RELATION} FROM pg_class c WHERE c.oid = to_regclass($1)"
_INDEXES = """
SELECT c.relname, i.indisprimary, i.indisunique, i.indisvalid, i.indimmediate,
       i.indpred IS NULL AND NOT 0 = ANY(i.indkey) AND m.amname = 'btree',
       ARRAY(SELECT a.attname::text FROM unnest(i.indkey) WITH ORDINALITY AS k(attnum, place)
             JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = k.attnum
             WHERE k.place <= i.indnkeyatts ORDER BY k.place)
FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid JOIN pg_am m ON m.oid = c.relam
WHERE i.indrelid = $1::int8::oid
"""
# What an ALTER TYPE of a column meets. The first kinds are in its way whatever the types; the others only where the
# operators of the old type are none of the new one.
_DEPENDENTS = """
WITH d AS (
    SELECT d.classid, d.objid FROM pg_depend d
    WHERE d.refclassid = 'pg_class'::regclass AND d.refobjid = $1::int8::oid AND d.refobjsubid = $2::int4
), c AS (SELECT $1::int8::oid AS oid, $2::int4::int2 AS attnum)
SELECT DISTINCT 'view ' || r.ev_class::regclass::text, '' FROM d JOIN pg_rewrite r ON r.oid = d.objid
WHERE d.classid = 'pg_rewrite'::regclass
UNION ALL SELECT 'trigger ' || quote_ident(t.tgname), '' FROM d JOIN pg_trigger t ON t.oid = d.objid
WHERE d.classid = 'pg_trigger'::regclass AND NOT t.tgisinternal
UNION ALL SELECT 'policy ' || quote_ident(p.polname), '' FROM d JOIN pg_policy p ON p.oid = d.objid
WHERE d.classid = 'pg_policy'::regclass
UNION ALL SELECT 'generated column ' || quote_ident(a.attname), '' FROM c, d JOIN pg_attrdef f ON f.oid = d.objid
JOIN pg_attribute a ON a.attrelid = f.adrelid AND a.attnum = f.adnum
WHERE d.classid = 'pg_attrdef'::regclass AND a.attgenerated <> '' AND (f.adrelid <> c.oid OR f.adnum <> c.attnum)
UNION ALL SELECT 'the partitioning by it', '' FROM c JOIN pg_partitioned_table p ON p.partrelid = c.oid
WHERE c.attnum = ANY (p.partattrs::int2[])
UNION ALL SELECT quote_ident(n.conname) || ' ' || pg_get_constraintdef(n.oid),
    format('ALTER TABLE %s DROP CONSTRAINT %I', n.conrelid::regclass, n.conname)
FROM c JOIN pg_constraint n ON (n.conrelid = c.oid AND c.attnum = ANY (n.conkey))
                            OR (n.confrelid = c.oid AND c.attnum = ANY (n.confkey))
WHERE n.contype IN ('c', 'f', 'x') AND n.conparentid = 0
UNION ALL SELECT 'index ' || pg_get_indexdef(x.indexrelid), format('DROP INDEX %s', x.indexrelid::regclass)
FROM c JOIN pg_index x ON x.indrelid = c.oid
WHERE NOT EXISTS (SELECT FROM pg_constraint n WHERE n.conindid = x.indexrelid AND n.contype IN ('p', 'u', 'x'))
  AND ((x.indpred IS NOT NULL OR x.indexprs IS NOT NULL)
       AND EXISTS (SELECT FROM d WHERE d.classid = 'pg_class'::regclass AND d.objid = x.indexrelid)
       OR c.attnum = ANY (x.indkey::int2[])
          AND EXISTS (SELECT FROM pg_opclass o WHERE o.oid = ANY (x.indclass::oid[]) AND NOT o.opcdefault))
"""
_BROKEN = "SELECT EXISTS (SELECT FROM pg_index WHERE indexrelid = to_regclass($1) AND NOT indisvalid)"
_CONFLICTING = "SELECT EXISTS (SELECT FROM pg_class WHERE oid = to_regclass($1))"
_LENGTH = re.compile(r"\([\d, -]*\)")


@dataclass(frozen=True, slots=True)
class ColumnFacts:
    """A column as it is. `default` is PostgreSQL's text of the expression.

    `generated` is "s" (stored), "v" (virtual) or empty, `identity` is "a" (always), "d" (by default) or empty, as in
    `pg_attribute`. `base` is the type under a domain, else `sql_type` itself; `labels` are those of an enum, else None.
    `folds`: its collation takes different texts for equal.
    """

    name: str
    sql_type: str
    not_null: bool
    default: str | None
    generated: str
    identity: str
    base: str
    labels: list[str] | None
    folds: bool

    @property
    def enum(self) -> bool:
        """Whether it is one."""
        return self.labels is not None

    @property
    def computed(self) -> bool:
        """Whether it takes no value of ours."""
        return bool(self.generated) or self.identity == "a"

    @property
    def bare(self) -> str:
        """The `base` without length, precision and schema: `numeric` of `numeric(10,2)`."""
        return _LENGTH.sub("", self.base).rpartition(".")[2]

    @property
    def demanding(self) -> bool:
        """Whether a row cannot be inserted without a value for it."""
        return self.not_null and self.default is None and not self.generated and not self.identity


@dataclass(frozen=True, slots=True)
class IndexFacts:
    """An index as it is. `plain` is a B-tree over whole columns and all rows; `immediate` is not deferrable; `primary`
    keeps the PRIMARY KEY."""

    name: str
    primary: bool
    unique: bool
    valid: bool
    immediate: bool
    plain: bool
    columns: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Dependents:
    """What hangs on a column: `blocking` is in the way of every change of its type; `dropped`, with the SQL that takes
    it away, of those to a type with other operators. Both as words that name and define it."""

    blocking: tuple[str, ...] = ()
    dropped: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class TableFacts:
    """A table as it is; `kind` is that of `pg_class`, "r" or "p" (partitioned), but "rules" where it has some for
    writes, and empty where there is none.

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

    def unique_indexes(self, columns: tuple[str, ...]) -> list[IndexFacts]:
        """The working indexes that keep these columns unique, in whatever order; the deferrable ones come first."""
        fit = [item for item in self.indexes if item.unique and item.plain and item.valid]
        same = [item for item in fit if sorted(item.columns) == sorted(columns)]
        return sorted(same, key=lambda item: item.immediate)

    def broken_index(self, name: str) -> bool:
        """Whether an index of this name was left behind unfinished."""
        return any(item.name == name and not item.valid for item in self.indexes)


def table_facts(conn: Connection, quoted: str) -> TableFacts:
    """The table of this quoted name on the search path."""
    found = conn.execute(_TABLE, (quoted,)).fetchone()
    if found is None:
        return TableFacts()
    oid, kind, strategy, rest, divided_by = found
    columns = _columns(conn, oid)
    rows = conn.execute(_INDEXES, (oid,)).fetchall()
    indexes = [IndexFacts(row[0], row[1], row[2], row[3], row[4], row[5], tuple(row[6])) for row in rows]
    return TableFacts(kind, strategy, tuple(divided_by), None if rest == "-" else rest, columns, tuple(indexes))


def table_columns(conn: Connection, quoted: str) -> tuple[str, dict[str, ColumnFacts]]:
    """The kind of a table, as in `TableFacts`, and its columns: as much of the catalog as its use needs."""
    found = conn.execute(_KIND, (quoted,)).fetchone()
    return ("", {}) if found is None else (found[1], _columns(conn, found[0]))


def _columns(conn: Connection, oid: int) -> dict[str, ColumnFacts]:
    rows = conn.execute(_COLUMNS, (oid,)).fetchall()
    return {row[0]: ColumnFacts(*row) for row in rows}


def dependents(conn: Connection, quoted: str, column: str) -> Dependents:
    """What hangs on a column of a table."""
    place = "SELECT attrelid::int8, attnum::int4 FROM pg_attribute WHERE attrelid = to_regclass($1) AND attname = $2"
    found = conn.execute(place.encode(), (quoted, column)).fetchone()
    rows = [] if found is None else conn.execute(_DEPENDENTS.encode(), found).fetchall()
    blocking = tuple(told for told, sql in rows if not sql)
    return Dependents(blocking, tuple((told, sql) for told, sql in rows if sql))


def free_months(conn: Connection, quoted: str, months: Sequence[Month]) -> list[Month]:
    """Those of the months that no partition of the table, the default one aside, has any part of."""
    starts, ends = [month.start for month in months], [month.next().start for month in months]
    return [months[row[0] - 1] for row in conn.execute(_FREE, (quoted, starts, ends)).fetchall()]


def fires_on_delete(conn: Connection, quoted: str, but: str) -> bool:
    """Whether a deletion has consequences: a trigger whose name does not fit `but`, or a foreign key to the table."""
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
