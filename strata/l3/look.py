"""The look in the catalog that tells how a table is; Strata's own triggers change nothing and do not count."""

from __future__ import annotations

from collections.abc import Collection

from strata.l3.actual import Actual
from strata.l3.connection import Connection
from strata.l3.layout import VERSION, Layout
from strata.l3.outside import TRIGGERS
from strata.l3.statement import ARRAYS, INT2, INT4, JSON, TEXT, VARCHAR, Statement
from strata.model.fields import Kind

# Types besides a kind's own that give back every value that they take.
_ALSO_EXACT = {Kind.TEXT: {VARCHAR}, Kind.BIGINT: {INT4, INT2}, Kind.JSONB: {JSON}}
# Triggers for each row (1), before (2) or instead of (64) its INSERT (4) or UPDATE (16). Those of a partition fire for
# its rows. What a view or a foreign table does is not to be seen.
_TRIGGERS = """
SELECT c.relkind NOT IN ('r', 'p') OR EXISTS (
  SELECT FROM pg_trigger g
  WHERE g.tgrelid IN (SELECT c.oid UNION ALL SELECT relid FROM pg_partition_tree(c.oid)) AND g.tgenabled <> 'D'
    AND g.tgtype::int & 1 <> 0 AND g.tgtype::int & 66 <> 0 AND g.tgtype::int & {event} <> 0
    AND g.tgname::text !~ '{own}')
"""
_LOOK = f"""
SELECT a.attname::text, a.atttypid::int8, a.atttypmod, a.attgenerated <> '', a.attidentity = 'a',
       CASE WHEN t.typtype = 'e' THEN format_type(a.atttypid, a.atttypmod) END,
       NOT a.atthasdef AND a.attidentity = '' AND (a.attnotnull OR t.typnotnull) AND t.typdefault IS NULL,
       EXISTS (SELECT FROM pg_constraint k WHERE k.conrelid = c.oid AND k.contype = 'c' AND a.attnum = ANY(k.conkey)),
       i.fires, u.fires
FROM pg_class c
JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
JOIN pg_type t ON t.oid = a.atttypid
CROSS JOIN LATERAL ({_TRIGGERS.format(event=4, own=TRIGGERS)}) AS i(fires)
CROSS JOIN LATERAL ({_TRIGGERS.format(event=16, own=TRIGGERS)}) AS u(fires)
WHERE c.oid = to_regclass($1)
"""

# Of an identity, the sequence depends on the column; in a serial or another DEFAULT, the expression on the sequence.
_ASSIGNED = """
SELECT COALESCE(CASE WHEN a.attidentity = '' THEN pg_get_expr(f.adbin, f.adrelid)
                     ELSE format('nextval(%L::regclass)', s.name) END, ''), COALESCE(s.name, '')
FROM pg_attribute a LEFT JOIN pg_attrdef f ON f.adrelid = a.attrelid AND f.adnum = a.attnum
LEFT JOIN LATERAL (
    SELECT q.oid::regclass::text AS name FROM pg_depend d JOIN pg_class q ON q.relkind = 'S' AND CASE
        WHEN a.attidentity = '' THEN d.classid = 'pg_attrdef'::regclass AND d.objid = f.oid AND q.oid = d.refobjid
        ELSE d.refobjid = a.attrelid AND d.refobjsubid = a.attnum AND d.deptype = 'i' AND q.oid = d.objid END
    WHERE d.classid IN ('pg_attrdef'::regclass, 'pg_class'::regclass) AND d.refclassid = 'pg_class'::regclass
    LIMIT 1
) s ON true
WHERE a.attrelid = to_regclass($1) AND a.attname = $2
"""

_STILL = """
SELECT count(*) FROM pg_attribute a WHERE a.attrelid = to_regclass($1) AND a.attname::text = ANY($2)
AND NOT a.attisdropped AND (a.attgenerated <> '' OR a.attidentity = 'a')
"""


class TableLook:
    """The look at one table in the catalog. Immutable."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self._statement = Statement(_LOOK, (TEXT,), prepared=False)
        self._assigned = Statement(_ASSIGNED, (TEXT, TEXT), prepared=False)
        self._still = Statement(_STILL, (TEXT, ARRAYS[TEXT]))

    def still_computed(self, conn: Connection, names: Collection[str]) -> bool:
        """Whether all of these columns are generated, or GENERATED ALWAYS AS IDENTITY."""
        row = self._still.row(conn, (self._layout.table, list(names)))
        return row is not None and row[0] == len(names)

    def at(self, conn: Connection) -> Actual | None:
        """The table as it is; None where there is none."""
        rows = self._statement.rows(conn, (self._layout.table,))
        if not rows:
            return None
        inserting, updating = rows[0][8:]
        inexact, generated, fixed, narrower, casts, refused = set(), set(), set(), set(), [], bool(inserting)
        for name, oid, modifier, computed, identity, cast, needed, checked, *_ in rows:
            if name == VERSION:
                continue
            if name not in self._layout.places:
                refused = refused or (not computed and (needed or checked))
                continue
            if computed:
                generated.add(name)
            elif identity:
                fixed.add(name)
            if inserting or updating or not self._exact(name, oid, modifier):
                inexact.add(name)
            if modifier != -1 or oid != self._layout.oids[self._layout.places[name]]:
                narrower.add(name)
            if cast is not None:
                casts.append((name, cast))
        assigned, sequence = self._assigns(conn)
        return Actual(
            inexact=frozenset(inexact),
            generated=frozenset(generated),
            fixed=frozenset(fixed),
            restless=bool(inserting or updating or generated),
            insert_refused=refused,
            casts=tuple(casts),
            narrower=frozenset(narrower),
            assigned=assigned,
            sequence=sequence,
        )

    def _assigns(self, conn: Connection) -> tuple[str, str]:
        """By what a Generated key is made."""
        layout = self._layout
        key = layout.plan.key
        row = self._assigned.row(conn, (layout.table, key.names[0])) if key.generated else None
        return ("", "") if row is None else (row[0], row[1])

    def _exact(self, name: str, oid: int, modifier: int) -> bool:
        layout, kind = self._layout, self._layout.field(name).kind
        also = () if kind is None else _ALSO_EXACT.get(kind, ())
        return modifier == -1 and (oid == layout.oids[layout.places[name]] or oid in also)
