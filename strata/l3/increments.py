"""Increments of a write-behind schema: what was added to columns is added to rows, each of its points once.

Rows are locked, then what each holds by now, and what of the increments is in it, decides what it is to hold
(`strata.l3.standing`); that is written, and noted beside the row, in the same transaction. The shard's lock keeps other
writers of the schema out, the row's lock those of other programs.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from msgspec.structs import replace

from strata.l3 import diagnosis
from strata.l3.connection import Connection
from strata.l3.layout import HORIZONS, PARTIALS, TOMBSTONES, VERSION, Layout
from strata.l3.partials import NOTE
from strata.l3.sqlstates import Failure
from strata.l3.stage import GROUP, ORDER, STAGE, Stage
from strata.l3.standing import Standing, counted_text, note_of
from strata.l3.statement import ARRAYS, INT8, TEXT, Statement
from strata.l3.values import Applied, Change, Status
from strata.model.atoms import BIGINT_MAX, BIGINT_MIN
from strata.protocol.added import newest, origins
from strata.protocol.versions import LATE_NODES, above

_MADE = -2  # the group, in the stage, of rows that are made of a default
OUT_OF_RANGE = "22003"


class Increments:
    """Thread-safe: it keeps no state of its own. `update` gives the statement that sets columns from the stage."""

    def __init__(self, layout: Layout, stage: Stage, update: Callable[[tuple[str, ...]], Statement]) -> None:
        self._layout = layout
        self._stage = stage
        self._update = update
        self._kinds = layout.plan.numbers
        # Whether a row holds what was reckoned.
        self._is_known = not (layout.actual.restless or layout.actual.inexact)
        key, table, told = layout.key, layout.table, layout.key.text("s")
        self._look = stage.statement(
            f"SELECT s.{ORDER}, (SELECT d.version FROM {TOMBSTONES} d WHERE {layout.buried('d', told)}),"
            f" (SELECT h.version FROM {HORIZONS} h WHERE h.schema = {layout.schema}),"
            f" r.{VERSION}, {NOTE}, {layout.shown(layout.names, 'r')}"
            f" FROM {STAGE} s LEFT JOIN {table} r ON {key.same('r', 's')}"
            f" LEFT JOIN {PARTIALS} p ON {layout.buried('p', told)}",
            of=(ORDER, *key.quoted),
            prepared=False,
        )
        self._make = stage.statement(
            f"{layout.insert} SELECT {layout.staged()}, s.{VERSION} FROM {STAGE} s WHERE s.{GROUP} = {_MADE}",
            prepared=False,
        )
        self._note = Statement(
            f"INSERT INTO {PARTIALS} (schema, id, version, base, columns, counted, changed)"
            f" SELECT {layout.schema}, n.id, n.version, n.base, n.columns::jsonb, n.counted::jsonb, n.changed::jsonb"
            f" FROM unnest($1, $2, $3, $4, $5, $6) AS n(id, version, base, columns, counted, changed)"
            f" ON CONFLICT (schema, id) DO UPDATE SET version = EXCLUDED.version, base = EXCLUDED.base,"
            f" columns = EXCLUDED.columns, counted = EXCLUDED.counted, changed = EXCLUDED.changed, at = now()",
            (ARRAYS[TEXT], ARRAYS[INT8], ARRAYS[INT8], ARRAYS[TEXT], ARRAYS[TEXT], ARRAYS[TEXT]),
        )

    def apply(self, conn: Connection, changes: Sequence[Change]) -> list[Applied]:
        """Bring changes that add to columns to L3, no key twice, sorted by key; the shards are locked, alone.

        Raises as `Applier.apply`.
        """
        layout, with_key = self._layout, self._layout.with_key
        self._stage.fill(conn, ((place, 0, c.version, *with_key({}, c.key)) for place, c in enumerate(changes)))
        self._stage.lock_rows.execute(conn)
        answers: list[Applied | None] = [None] * len(changes)
        groups: dict[tuple[str, ...], int] = {}
        rows: list[tuple[Any, ...]] = []
        notes: list[tuple[str, int, int, str, str, str]] = []
        for place, buried, horizon, version, noted, *values in self._look.rows(conn):
            change = changes[place]
            note = None if noted is None else note_of(noted, self._kinds)
            there = version is not None
            gone = Standing.gone(max(buried or 0, horizon or 0))
            held = Standing.of(layout.names, version, values, note) if there else gone
            came = reckoned(held, change, layout.names, layout.plan.key.names, horizon or 0)
            answers[place] = came.applied if self._is_known else replace(came.applied, row=None)
            if came.written is None:
                continue
            self._check(came.written, place)
            names = tuple(name for name in layout.settable if name in came.written)
            group = groups.setdefault(names, len(groups) + 1) if there else _MADE
            now = came.applied.version
            rows.append((place, group, now, *with_key(came.written, change.key)))
            written, changed = json.dumps(held.columns), json.dumps(held.changed)
            notes.append((change.key_text, now, held.base, written, counted_text(held.base, held.added), changed))
        self._write(conn, rows, groups, notes)
        return [answer for answer in answers if answer is not None]

    def _write(
        self,
        conn: Connection,
        rows: list[tuple[Any, ...]],
        groups: dict[tuple[str, ...], int],
        notes: list[tuple[str, int, int, str, str, str]],
    ) -> None:
        if not rows:
            return
        self._note.execute(conn, [list(column) for column in zip(*notes, strict=True)])
        self._stage.fill(conn, rows)
        for names, group in groups.items():
            self._update(names).execute(conn, (group,))
        if any(row[1] == _MADE for row in rows):
            self._make.execute(conn)

    def _check(self, written: Mapping[str, Any], place: int) -> None:
        for name in self._kinds:
            value = written.get(name)
            if type(value) is int and not BIGINT_MIN <= value <= BIGINT_MAX:
                told = f"bigint out of range: what was added to {name} is more than the column can hold"
                raise diagnosis.BatchError(diagnosis.Diagnosis(Failure.PERMANENT, OUT_OF_RANGE, message=told), place)


class Reckoned(NamedTuple):
    """What becomes of an increment: the answer, and the columns that are written with it, None where nothing is."""

    applied: Applied
    written: dict[str, Any] | None = None


def reckoned(held: Standing, change: Change, names: Sequence[str], keys: Sequence[str], horizon: int) -> Reckoned:
    """Add to what a row, or none, holds, which is changed. The version rises by the least there is where a newer write
    has given other columns, or one of the same version was of other writers, so that every write newer than the row's
    still is."""
    before, version = held.values, held.version
    earlier = {} if before is None else dict(before)
    came = held.lay(change, names, keys)
    if before is None and change.version <= horizon:
        return Reckoned(Applied(change.key, Status.BELOW_HORIZON, version))
    if before is None and held.values is None:
        status = Status.SUPERSEDED if version >= newest(change.added) else Status.MISSING_ROW
        return Reckoned(Applied(change.key, status, version))
    if not came and change.version <= version:
        status = Status.SUPERSEDED if version > change.version else Status.APPLIED
        return Reckoned(Applied(change.key, status, version))
    assert held.values is not None
    late = before is not None and version >= change.version
    now = above(version, LATE_NODES) if late else change.version
    written = {n: value for n, value in held.values.items() if n not in earlier or earlier[n] is not value}
    status = Status.SUPERSEDED if late else Status.APPLIED
    counted = tuple(dict.fromkeys(series.column for series in change.added))
    kept, row = (tuple(held.values[name] for name in some) for some in (counted, names))
    return Reckoned(Applied(change.key, status, now, kept, counted, late, row, origins(held.added)), written)
