"""Increments of a write-behind schema: what was added to columns is added to rows, each of its points once.

Rows are locked, then what each holds by now, and what of the increments is in it, decides what it is to hold
(`strata.l3.standing`); that is written, and noted beside the row, in the same transaction. The shard's lock keeps other
writers of the schema out, the row's lock those of other programs.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

from strata.l3 import diagnosis
from strata.l3.connection import Connection
from strata.l3.layout import HORIZONS, PARTIALS, TOMBSTONES, VERSION, Layout
from strata.l3.partials import COUNTED
from strata.l3.sqlstates import Failure
from strata.l3.stage import GROUP, ORDER, STAGE, Stage
from strata.l3.standing import RowNote, Standing, counted_text, note_of
from strata.l3.statement import ARRAYS, INT8, TEXT, Statement
from strata.l3.values import Applied, Change, Status
from strata.model.atoms import BIGINT_MAX, BIGINT_MIN
from strata.model.numbers import kinds_of
from strata.protocol.versions import L3_NODE, NODE_BITS

_MADE = -2  # the group, in the stage, of rows that are made of a default
OUT_OF_RANGE = "22003"


class Increments:
    """Thread-safe: it keeps no state of its own. `update` gives the statement that sets columns from the stage."""

    def __init__(self, layout: Layout, stage: Stage, update: Callable[[tuple[str, ...]], Statement]) -> None:
        self._layout = layout
        self._stage = stage
        self._update = update
        self._kinds = kinds_of(layout.plan)
        self._numbers = tuple(self._kinds)
        key, table, told = layout.key, layout.table, f"s.{layout.key}::text"
        shown = "".join(f", {layout.shown([name], 'r')}" for name in self._numbers)
        self._look = stage.statement(
            f"SELECT s.{ORDER}, (SELECT d.version FROM {TOMBSTONES} d WHERE {layout.buried('d', told)}),"
            f" (SELECT h.version FROM {HORIZONS} h WHERE h.schema = {layout.schema}),"
            f" r.{VERSION}, p.version, p.base, p.columns::text, {COUNTED}{shown}"
            f" FROM {STAGE} s LEFT JOIN {table} r ON r.{key} = s.{key}"
            f" LEFT JOIN {PARTIALS} p ON {layout.buried('p', told)}",
            of=(ORDER, key),
            prepared=False,
        )
        self._make = stage.statement(
            f"{layout.insert} SELECT {layout.staged()}, s.{VERSION} FROM {STAGE} s WHERE s.{GROUP} = {_MADE}",
            prepared=False,
        )
        self._note = Statement(
            f"INSERT INTO {PARTIALS} (schema, id, version, base, columns, counted)"
            f" SELECT {layout.schema}, n.id, n.version, n.base, n.columns::jsonb, n.counted::jsonb"
            f" FROM unnest($1, $2, $3, $4, $5) AS n(id, version, base, columns, counted)"
            f" ON CONFLICT (schema, id) DO UPDATE SET version = EXCLUDED.version, base = EXCLUDED.base,"
            f" columns = EXCLUDED.columns, counted = EXCLUDED.counted, at = now()",
            (ARRAYS[TEXT], ARRAYS[INT8], ARRAYS[INT8], ARRAYS[TEXT], ARRAYS[TEXT]),
        )

    def apply(self, conn: Connection, changes: Sequence[Change]) -> list[Applied]:
        """Bring changes that add to columns to L3, no key twice, sorted by key; the shards are locked, alone.

        Raises as `Applier.apply`.
        """
        key = self._layout.plan.key.name
        self._stage.fill(conn, ((place, 0, c.version, *self._row(c.key, {})) for place, c in enumerate(changes)))
        self._stage.lock_rows.execute(conn)
        answers: list[Applied | None] = [None] * len(changes)
        groups: dict[tuple[str, ...], int] = {}
        rows: list[tuple[Any, ...]] = []
        notes: list[tuple[str, int, int, str, str]] = []
        for place, buried, horizon, version, noted, base, columns, counted, *numbers in self._look.rows(conn):
            change = changes[place]
            note = None if noted is None else note_of(noted, base, columns, counted, self._kinds)
            held = self._standing(version, buried or 0, note, numbers)
            before = None if held.values is None else dict(held.values)
            came = held.lay(change, self._layout.names, key)
            if before is None and came and change.version <= (horizon or 0):
                answers[place] = Applied(change.key, Status.BELOW_HORIZON, buried or 0)
                continue
            if not came and change.version <= held.version and (before is None or change.version <= (version or 0)):
                answers[place] = self._stands(change, before is None, held.version)
                continue
            if held.values is None:
                answers[place] = Applied(change.key, Status.MISSING_ROW, buried or 0)
                continue
            self._check(held, place)
            late = version is not None and version > change.version
            now = ((version >> NODE_BITS) + 1) << NODE_BITS | L3_NODE if late else change.version
            written = {
                name: value
                for name, value in held.values.items()
                if before is None or name not in before or before[name] is not value
            }
            if before is None:
                group = _MADE
            else:
                group = groups.setdefault(tuple(n for n in self._layout.settable if n in written), len(groups) + 1)
            rows.append((place, group, now, *self._row(change.key, written)))
            columns = json.dumps({name: at for name, at in held.columns.items() if at > held.base})
            notes.append((change.key_text, now, held.base, columns, counted_text(held.base, held.added)))
            status = Status.SUPERSEDED if late else Status.APPLIED
            kept = tuple(held.values[name] for name in self._numbers)
            answers[place] = Applied(change.key, status, now, kept, self._numbers, late)
        self._write(conn, rows, groups, notes)
        return [answer for answer in answers if answer is not None]

    def _write(
        self,
        conn: Connection,
        rows: list[tuple[Any, ...]],
        groups: dict[tuple[str, ...], int],
        notes: list[tuple[str, int, int, str, str]],
    ) -> None:
        if not rows:
            return
        self._stage.fill(conn, rows)
        for names, group in groups.items():
            self._update(names).execute(conn, (group,))
        if any(row[1] == _MADE for row in rows):
            self._make.execute(conn)
        self._note.execute(conn, [list(column) for column in zip(*notes, strict=True)])

    def _standing(self, version: int | None, buried: int, note: RowNote | None, numbers: Sequence[Any]) -> Standing:
        if version is None:
            return Standing.gone(buried)
        return Standing.of(self._numbers, version, numbers, note)

    def _stands(self, change: Change, gone: bool, version: int) -> Applied:
        """The answer where nothing is to be done: it is in the row, or was written over, or deleted."""
        status = Status.SUPERSEDED if gone or version > change.version else Status.APPLIED
        return Applied(change.key, status, version)

    def _check(self, held: Standing, place: int) -> None:
        for name in self._numbers:
            value = (held.values or {}).get(name)
            if type(value) is int and not BIGINT_MIN <= value <= BIGINT_MAX:
                told = f"bigint out of range: what was added to {name} is more than the column can hold"
                raise diagnosis.BatchError(diagnosis.Diagnosis(Failure.PERMANENT, OUT_OF_RANGE, message=told), place)

    def _row(self, key: Any, written: dict[str, Any]) -> list[Any]:
        row = [written.get(name) for name in self._layout.names]
        row[self._layout.key_place] = key
        return row
