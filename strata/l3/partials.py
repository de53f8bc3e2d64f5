"""What a row of a write-behind schema was written with, since it was last written whole.

A row has one version, but a write that does not carry all columns decides only on those that it carries. So with each
such write this is noted: the version at which the row was last written whole (its base), and for each column that was
written since, at which version. An older write that arrives late, from another process's buffer or the ledger, then
still gives the columns of which it is the newest writer; without the note they would be lost, although they were
acknowledged. The note is good while the row has its version: whatever is written whole makes it void, without a touch.

Columns that were changed by who looked at the row first, such as `n = n + 1` in SQL, or `modify`, are noted apart: no
older write is to give them its value either, but what was added before, and comes late, was not in what they saw, and
goes on top. So the trigger of a watched table notes what an UPDATE made outside has changed.

A note is written before its row: a trigger of the owner's that updates the row once more then finds it good, and adds
to it what it changed itself.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from strata.l3.connection import JSONB as JSONB_OID
from strata.l3.connection import Connection, JsonText
from strata.l3.layout import PARTIALS, VERSION, Layout
from strata.l3.stage import GROUP, ORDER, STAGE, Stage
from strata.l3.standing import RowNote, counted_text, note_of
from strata.l3.statement import ARRAYS, INT4, INT8, TEXT, Statement

NOTE = "to_jsonb(p.*)::text"  # with the columns that the release has given the table which made it

# A note goes on top of one that is good, or takes the place of one that is not.
ON_TOP = (
    " ON CONFLICT (schema, id) DO UPDATE SET version = EXCLUDED.version, at = now(),"
    " base = CASE WHEN p.version = EXCLUDED.base THEN p.base ELSE EXCLUDED.base END,"
    " columns = CASE WHEN p.version = EXCLUDED.base THEN p.columns ELSE '{}' END || EXCLUDED.columns,"
    " changed = CASE WHEN p.version = EXCLUDED.base THEN coalesce(p.changed, '{}') ELSE '{}' END || EXCLUDED.changed"
)


class Late(NamedTuple):
    """A change in the stage that came after a newer partial one: its place, and the row's note."""

    place: int
    note: RowNote


class Partials:
    """The statements over the notes. Thread-safe: it keeps no state of its own. The caller has opened a transaction."""

    def __init__(self, layout: Layout, stage: Stage) -> None:
        table, key, staged = layout.table, layout.key, STAGE
        insert = f"INSERT INTO {PARTIALS} AS p (schema, id, version, base, columns, changed) SELECT {layout.schema}"
        given = "(SELECT COALESCE(jsonb_object_agg(n, {version}), '{{}}') FROM unnest({names}) n)"
        last = key.width + 3
        version = f"GREATEST(${last + 1}, {layout.raised(f'r.{VERSION}', f'${last + 2}')})"
        written, changed = (given.format(version="v.version", names=f"${place}") for place in (last - 1, last))
        self._some = Statement(
            f"{insert}, v.id, v.version, v.old, {written}, {changed}"
            f" FROM (SELECT k._strata_id AS id, r.{VERSION} AS old, {version} AS version"
            f" FROM {key.unnested('k', 1, '_strata_id')}"
            f" JOIN {table} r ON {key.same('r', 'k')} ORDER BY {key.ordered('r')} FOR UPDATE OF r) v{ON_TOP}",
            (*key.arrays, ARRAYS[TEXT], ARRAYS[TEXT], ARRAYS[TEXT], INT8, INT8),
        )
        named = given.format(version=f"s.{VERSION}", names="$2")
        self._staged = stage.statement(
            f"{insert}, {key.text('s')}, s.{VERSION}, r.{VERSION}, {named}, '{{}}'"
            f" FROM {staged} s JOIN {table} r ON {key.same('r', 's')}"
            f" WHERE s.{GROUP} = $1 AND r.{VERSION} < s.{VERSION} ORDER BY s.{ORDER} FOR UPDATE OF r{ON_TOP}",
            (INT4, ARRAYS[TEXT]),
            of=(ORDER, GROUP, VERSION, *key.quoted),
            prepared=False,
        )
        self._late = stage.statement(
            f"SELECT s.{ORDER}, {NOTE}"
            f" FROM {staged} s JOIN {table} r ON {key.same('r', 's')}"
            f" JOIN {PARTIALS} p ON {layout.buried('p', key.text('s'))} AND p.version = r.{VERSION}"
            f" WHERE s.{GROUP} >= 0 AND s.{VERSION} < r.{VERSION} AND s.{VERSION} > p.base"
            f" ORDER BY s.{ORDER} FOR UPDATE OF r",
            of=(ORDER, GROUP, VERSION, *key.quoted),
            prepared=False,
        )
        self._noted = Statement(
            f"SELECT p.id FROM {PARTIALS} p WHERE p.schema = {layout.schema} AND p.id = ANY($1)", (ARRAYS[TEXT],)
        )
        change = f"UPDATE {PARTIALS} p SET version = $2, base = $3, columns = $4"
        types = (TEXT, INT8, INT8, JSONB_OID)
        self._change = Statement(f"{change} WHERE {layout.buried('p', '$1')}", types)
        self._change_counted = Statement(
            f"{change}, counted = $5 WHERE {layout.buried('p', '$1')}", (*types, JSONB_OID)
        )
        self._key = key
        self._kinds = layout.plan.numbers
        self._note_of = Statement(f"SELECT {NOTE} FROM {PARTIALS} p WHERE {layout.buried('p', '$1')}", (TEXT,))

    def note(
        self,
        conn: Connection,
        keys: Mapping[str, Any],
        names: Sequence[str],
        stamp: tuple[int, int],
        *,
        changes: bool = False,
    ) -> None:
        """A synchronous write, of this stamp and node, is about to update these columns of rows, by their keys' texts,
        which stay locked; `changes`: it makes the values of what the rows hold."""
        columns = ([], list(names)) if changes else (list(names), [])
        self._some.execute(conn, (*self._key.columns(keys.values()), list(keys), *columns, *stamp))

    def note_staged(self, conn: Connection, group: int, names: Sequence[str]) -> None:
        """As `note`, for the changes of a group in the stage."""
        self._staged.execute(conn, (group, list(names)))

    def late(self, conn: Connection) -> list[Late]:
        """Changes in the stage that are older than their rows, and newer than what some columns have."""
        return [Late(place, note_of(text, self._kinds)) for place, text in self._late.rows(conn)]

    def noted(self, conn: Connection, key_texts: Sequence[str]) -> set[str]:
        """Of these keys those that have a note, good or not."""
        return {row[0] for row in self._noted.rows(conn, (list(key_texts),))}

    def change(self, conn: Connection, key_text: str, note: RowNote) -> None:
        """The note of a key is this from now on, with the same columns `changed` as before."""
        columns = JsonText(json.dumps(note.columns))
        if note.added:
            counted = JsonText(counted_text(note.base, note.added))
            self._change_counted.execute(conn, (key_text, note.version, note.base, columns, counted))
        else:
            self._change.execute(conn, (key_text, note.version, note.base, columns))

    def note_of(self, conn: Connection, key_text: str) -> RowNote | None:
        """The note of a key, good or not."""
        row = self._note_of.row(conn, (key_text,))
        return None if row is None else note_of(row[0], self._kinds)
