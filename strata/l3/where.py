"""Rows by a query: which of them fit, and then one statement that changes all of these, or deletes them.

The keys were found before, so that caches could be told before anything is changed. The rows are locked in the order of
their keys, by the condition as they are then, before they are changed: so batches wait for each other, and never in a
circle. In schemas that are written behind, what was deferred is older than this or newer, as beside any other
synchronous write: an update notes its columns (`strata.l3.partials`), a deletion leaves tombstones.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from strata.l3 import diagnosis
from strata.l3.connection import Connection
from strata.l3.layout import TOMBSTONES, VERSION, Layout, quote
from strata.l3.outside import moving, own
from strata.l3.partials import Partials
from strata.l3.statement import ARRAYS, INT8, TEXT, Statement
from strata.l3.values import Assigned, Held
from strata.model.unloaded import UNLOADED

_UPDATES = 64  # statements kept, one for each set of columns


class Selected:
    """The statements over rows that a query has found. Thread-safe: `_updates` is a cache, and losing a race costs one
    entry. The caller has opened a transaction, and holds the locks of the keys' shards where writers take them.

    Methods raise `psycopg.Error`, and `ConstraintError` where a trigger kept a row from being written, or deleted.
    """

    def __init__(self, layout: Layout, partials: Partials) -> None:
        self._layout = layout
        self._partials = partials
        key, returned = layout.key, f"RETURNING {layout.shown_key('r')}"
        stamp, node = (f"${key.width + place}" for place in (1, 2))
        self._returning = f"{returned}, r.{VERSION}"
        self._delete = layout.statement(
            f"DELETE FROM {layout.table} r WHERE {key.among('r')}{own(layout.name)}"
            f" {returned}, GREATEST({stamp}, {layout.raised(f'r.{VERSION}', node)})",
            *key.arrays,
            INT8,
            INT8,
        )
        self._bury = layout.statement(
            f"INSERT INTO {TOMBSTONES} AS d (schema, id, version)"
            f" SELECT {layout.schema}, s.id, s.version FROM unnest($1, $2) AS s(id, version) ORDER BY s.id"
            f" ON CONFLICT (schema, id) DO UPDATE SET deleted_at = now(),"
            f" version = GREATEST(EXCLUDED.version, {layout.raised('d.version', '$3')}) RETURNING d.id, d.version",
            ARRAYS[TEXT],
            ARRAYS[INT8],
            INT8,
        )
        self._updates: dict[tuple[tuple[str, ...], tuple[str, ...]], Statement] = {}

    def update(self, conn: Connection, held: Held, assigned: Assigned, version: int, node: int) -> dict[Any, int]:
        """Give the rows these values; returns their versions, by key."""
        layout, (values, sealed) = self._layout, assigned
        names = tuple(name for name in layout.settable if values[layout.places[name]] is not UNLOADED)
        if layout.deferred:
            self._partials.note(conn, held.named, names, (version, node))
        kind = names, tuple(name for name in names if name in sealed)
        statement = self._updates.get(kind)
        if statement is None:
            if len(self._updates) >= _UPDATES:
                self._updates.clear()
            statement = self._updates[kind] = self._update_statement(*kind)
        each = [*layout.key.columns(held.keys), *(sealed[name] for name in kind[1])]
        given = [values[layout.places[name]] for name in names if name not in sealed]
        return self._all(held, statement.rows(conn, (*each, version, node, *given)))

    def delete(self, conn: Connection, held: Held, version: int, node: int) -> dict[Any, int]:
        """Delete the rows; returns the versions of their deletions, by key."""
        gone = self._all(held, self._delete.rows(conn, (*self._layout.key.columns(held.keys), version, node)))
        if self._layout.deferred:
            versions = [gone[key] for key in held.named.values()]
            buried = self._bury.rows(conn, (list(held.named), versions, node))
            gone |= {held.named[text]: at for text, at in buried}
        return gone

    def _all(self, held: Held, rows: Sequence[tuple[Any, ...]]) -> dict[Any, int]:
        if len(rows) < len(held.keys):
            raise diagnosis.suppressed(self._layout.name)
        return {id: version for id, (version,) in map(self._layout.key.split, rows)}

    def _update_statement(self, names: tuple[str, ...], sealed: tuple[str, ...]) -> Statement:
        layout, key = self._layout, self._layout.key
        columns = {name: f"_strata_c{place}" for place, name in enumerate(sealed)}
        stamp = key.width + len(sealed) + 1  # after what is one for each row
        places = {name: f"${place}" for place, name in enumerate([n for n in names if n not in columns], stamp + 2)}
        places |= {name: f"s.{column}" for name, column in columns.items()}
        sets = "".join(f"{quote(name)} = {layout.given(name, places[name])}, " for name in names)
        oids = {name: layout.oids[layout.places[name]] for name in names}
        return layout.statement(
            f"UPDATE {layout.table} AS r SET {sets}"
            f"{VERSION} = GREATEST(${stamp}, {layout.raised(f'r.{VERSION}', f'${stamp + 1}')})"
            f" FROM {key.unnested('s', 1, *columns.values())}"
            f" WHERE {key.same('r', 's')}{moving(layout)} {self._returning}",
            *key.arrays,
            *(ARRAYS[oids[name]] for name in sealed),
            INT8,
            INT8,
            *(oid for name, oid in oids.items() if name not in columns),
        )
