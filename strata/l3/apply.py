"""Write-behind: a batch of changes goes to L3, each where it is newer than what is there, in any order and any
number of times.

A row is replaced, a tombstone set, only by a higher version, but for columns that newer writes did not carry
(`strata.l3.partials`); what a tombstone or the horizon covers is not inserted.
The shards' advisory locks come first, as a statement of their own: inside the upsert they were seen to resurrect a
deleted row, since its snapshot is older than the wait. The batch is merged in the order of the keys.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import psycopg
from msgspec.structs import replace

from strata.l3 import diagnosis, doubt, failures
from strata.l3.connection import Connection
from strata.l3.increments import Increments
from strata.l3.layout import HORIZONS, TOMBSTONES, VERSION, Layout
from strata.l3.outside import moving, own
from strata.l3.partials import Partials
from strata.l3.sqlstates import Failure, classify
from strata.l3.stage import GROUP, NESTED, ORDER, STAGE, Stage
from strata.l3.standing import RowNote, apart, on_top
from strata.l3.statement import INT4, Statement
from strata.l3.values import Applied, Change, Status
from strata.l3.writes import Writes
from strata.model.unloaded import UNLOADED
from strata.protocol.shards import shard_of
from strata.protocol.versions import LATE_NODES, above

_WHOLE, _DELETED = 0, -1  # groups of the stage; those of partial changes are numbered from 1


_APPLIED = Status.APPLIED  # an enum's member costs more by its name


class Applier:
    """The statements of `apply`. Thread-safe: it keeps no state but whether `_merge` is prepared."""

    def __init__(self, layout: Layout, writes: Writes, stage: Stage, partials: Partials) -> None:
        self._partials = partials
        self._increments = Increments(layout, stage, self._update)
        self._layout = layout
        self._writes = writes
        self._stage = stage
        table, key, name = layout.table, layout.key, STAGE
        tombstone = f"(SELECT d.version FROM {TOMBSTONES} d WHERE {layout.buried('d', key.text('s'))})"
        horizon = f"(SELECT h.version FROM {HORIZONS} h WHERE h.schema = {layout.schema})"
        # Scalar sub-selects: one index look-up a row, in the order of the stage, whatever its size.
        insert = f"{layout.insert} SELECT {layout.staged()}, s.{VERSION}"
        source = f"FROM {name} s WHERE s.{GROUP} = {_WHOLE} AND s.{VERSION} > COALESCE({tombstone}, -1)"
        above = f"s.{VERSION} > COALESCE({horizon}, -1)"
        # Without columns that L3 may hold otherwise, the number of rows says enough.
        self._counts = not layout.kept and not layout.updates_first
        returning = "" if self._counts else f"RETURNING {layout.returned(layout.kept)}"
        overwrite = (
            f"ON CONFLICT ({key.listed}) DO UPDATE SET {layout.assigned(layout.settable, 'EXCLUDED')}"
            f"{VERSION} = EXCLUDED.{VERSION} WHERE r.{VERSION} < EXCLUDED.{VERSION}"
        )
        if layout.updates_first:
            update = f"UPDATE {table} AS r SET {layout.assigned(layout.settable, 's')}{VERSION} = s.{VERSION}"
            newer = f"{key.same('r', 's')} AND r.{VERSION} < s.{VERSION}{moving(layout)}"
            merge = layout.upserting(
                f"{update} {source} AND {newer} {returning}",
                f"{insert} {source} AND {above} AND {stage.unknown} {'' if layout.monthly else overwrite} {returning}",
            )
        else:
            merge = (
                f"{insert} {source} AND ({above} OR (SELECT true FROM {table} x WHERE {key.same('x', 's')}))"
                f" {overwrite} {returning}"
            )
        self._merge = stage.statement(merge, prepared=not layout.updates_first)
        self._bury = stage.statement(
            f"INSERT INTO {TOMBSTONES} AS d (schema, id, version)"
            f" SELECT {layout.schema}, {key.text('s')}, s.{VERSION} FROM {name} s WHERE s.{GROUP} = {_DELETED} AND"
            f" (SELECT true FROM {table} r WHERE {key.same('r', 's')} AND r.{VERSION} <= s.{VERSION} LIMIT 1) IS NULL"
            f" ON CONFLICT (schema, id) DO UPDATE SET version = EXCLUDED.version, deleted_at = now()"
            f" WHERE d.version < EXCLUDED.version",
            of=(GROUP, VERSION, *key.quoted),
        )
        self._delete = stage.statement(
            f"DELETE FROM {table} r USING {name} s"
            f" WHERE s.{GROUP} = {_DELETED} AND {key.same('r', 's')} AND r.{VERSION} <= s.{VERSION}{own(layout.name)}",
            of=(GROUP, VERSION, *key.quoted),
            prepared=False,
        )
        self._look = stage.statement(
            f"SELECT s.{ORDER}, {tombstone}, {horizon}, {layout.returned(layout.kept)}"
            f" FROM {name} s LEFT JOIN {table} r ON {key.same('r', 's')}",
            of=(ORDER, *key.quoted),
            prepared=False,
        )

    def apply(self, conn: Connection, changes: Sequence[Change]) -> list[Applied]:
        """Bring each change to L3 if it is newer, no key twice; the answers are in the order of `changes`.

        The caller has opened a transaction. Raises `diagnosis.BatchError` for a batch that is refused: its
        `diagnosis` says why, its `index` which change is to blame where that is known. An outage passes as it is.
        """
        if not changes:
            return []
        order = sorted(range(len(changes)), key=lambda index: changes[index].key)
        adding = [index for index in order if changes[index].adds]
        if adding:  # all at once: who asked for more later would wait in a circle
            self._writes.lock_shards(conn, {shard_of(change.key_text): True for change in changes})
        answers: list[Applied | None] = [None] * len(changes)
        for some, apply in (
            ([index for index in order if not changes[index].adds], self._apply),
            (adding, self._increments.apply),
        ):
            if some:
                found = _blaming(some, partial(apply, conn, [changes[index] for index in some]), conn)
                for index, answer in zip(some, found, strict=True):
                    answers[index] = answer
        return [answer for answer in answers if answer is not None]

    def _apply(self, conn: Connection, changes: Sequence[Change]) -> list[Applied]:
        batch = _Sorted(list(changes), self._layout)
        # Alone where rows are deleted, and where some are written after the whole ones: these wait for rows in the
        # order of the keys, and nobody may wait for the others.
        self._writes.lock_shards(conn, batch.shards())
        # Deferred, so that a chain of renames is legal if it is so as a whole.
        nested = f"{NESTED}; " if self._layout.updates_first else ""
        conn.command(f"{nested}SET CONSTRAINTS ALL DEFERRED")
        self._stage.fill(conn, batch.staged())
        if batch.groups:  # else one could be found newer than its row, and older when that is to be written
            self._stage.lock_rows.execute(conn)
        known = self._merge.prepared_on(conn)
        merged, returned = self._merge_whole(conn) if batch.has(_WHOLE) else (0, [])
        late = self._lay_late(conn, batch) if merged < len(batch.changes) else set()
        for names, group in batch.groups.items():
            self._partials.note_staged(conn, group, names)
            self._update(names).execute(conn, (group,))
        if batch.has(_DELETED):
            self._delete.execute(conn)
            self._bury.execute(conn)  # but for rows that a trigger keeps
        conn.command("SET CONSTRAINTS ALL IMMEDIATE")
        if batch.mixed or self._layout.updates_first or merged < len(batch.changes):
            return self._look_up(conn, batch, late, known)
        if self._counts:
            return [Applied(change.key, _APPLIED, change.version) for change in batch.changes]
        return [self._applied(change, row[1:]) for change, row in zip(batch.changes, returned, strict=True)]

    def _merge_whole(self, conn: Connection) -> tuple[int, list[tuple[Any, ...]]]:
        """How many whole rows were written, and what L3 has in the columns that it may have kept."""
        if self._counts:
            return self._merge.execute(conn), []
        rows = self._merge.rows(conn)
        return len(rows), rows

    def _update(self, names: tuple[str, ...]) -> Statement:
        layout = self._layout
        return self._stage.statement(
            f"UPDATE {layout.table} AS r SET {layout.assigned(names, 's')}{VERSION} = s.{VERSION}"
            f" FROM {STAGE} s WHERE s.{GROUP} = $1 AND {layout.key.same('r', 's')}"
            f" AND r.{VERSION} < s.{VERSION}{moving(layout)}",
            (INT4,),
            prepared=False,
        )

    def _lay_late(self, conn: Connection, batch: _Sorted) -> set[int]:
        """Give rows the columns of which a change is the newest writer, although a newer one gave others; where.

        The version rises by the least there is, so that every write newer than the row's still is.
        """
        layout = self._layout
        found = set()
        for place, note in self._partials.late(conn):
            change = batch.changes[place]
            values = dict(zip(change.names or layout.names, change.values or (), strict=True))
            names = [n for n in layout.settable if n in values and note.decided(n) < change.version]
            if not names:
                continue
            held = {name: on_top(values[name], note.added, name, change.version) for name in names}
            row = layout.with_key(held, change.key, UNLOADED)
            version = above(note.version, LATE_NODES)
            if _is_whole(change, layout):
                base, columns = change.version, apart(note.base, note.columns, note.changed, change.version)
            else:
                base, columns = note.base, {**note.columns, **dict.fromkeys(names, change.version)}
            self._partials.change(conn, change.key_text, RowNote(version, base, columns, note.added))
            self._writes.lay(conn, row, version)
            found.add(place)
        return found

    def _look_up(self, conn: Connection, batch: _Sorted, late: set[int], known: bool) -> list[Applied]:
        """Ask what L3 has for every key: not all changes were newer, or some were deletions. `known`: the merge had
        been prepared before."""
        answers: list[Applied | None] = [None] * len(batch.changes)
        rows = self._look.rows(conn)
        for place, buried, horizon, version, *kept in rows:
            answer = self._judge(batch.changes[place], buried or 0, horizon or 0, version, kept)
            if answer.status is Status.SWALLOWED and known:
                # A rule may have made nothing of the merge when it was prepared. Such a plan outlives the rule: it
                # depends on no table, so that no change of one makes it void.
                self._merge.unprepare()
                raise doubt.OutdatedError(self._layout.name)
            answers[place] = replace(answer, late=place in late)
        return [answer for answer in answers if answer is not None]

    def _judge(self, change: Change, buried: int, horizon: int, version: int | None, kept: Sequence[Any]) -> Applied:
        key, held = change.key, 0 if version is None else version
        if version == change.version and not change.delete:
            return self._applied(change, kept)
        if held > change.version or buried > change.version or (buried == change.version and not change.delete):
            return Applied(key, Status.SUPERSEDED, max(held, buried))
        if version is None and buried == change.version:
            return Applied(key, Status.APPLIED, buried)
        if version is None and not _is_whole(change, self._layout) and not change.delete:
            return Applied(key, Status.MISSING_ROW, buried)
        below = version is None and change.version <= horizon
        return Applied(key, Status.BELOW_HORIZON if below else Status.SWALLOWED, max(held, buried))

    def _applied(self, change: Change, kept: Sequence[Any]) -> Applied:
        layout, values = self._layout, change.values or ()
        if change.names is None:
            other = bool(layout.other(layout.kept, [values[layout.places[name]] for name in layout.kept], kept))
        else:
            carried, held = dict(zip(change.names, values, strict=True)), dict(zip(layout.kept, kept, strict=True))
            names = [name for name in layout.kept if name in carried]
            other = layout.actual.restless or bool(
                layout.other(names, [carried[name] for name in names], [held[name] for name in names])
            )
        if not other:
            return Applied(change.key, _APPLIED, change.version)
        return Applied(change.key, _APPLIED, change.version, tuple(kept), layout.kept)


def _blaming(order: Sequence[int], apply: Callable[[], list[Applied]], conn: Connection) -> list[Applied]:
    """The answers to the changes at these places; an error blames one of them, by its place."""
    try:
        return apply()
    except psycopg.Error as error:
        if conn.closed or classify(error.sqlstate or "") is Failure.OUTAGE:
            raise
        raise failures.batch_error(error).at(order)  # noqa: B904 the cause is set
    except diagnosis.BatchError as error:
        error.at(order)
        raise


class _Sorted:
    """Changes in the order of their keys. `groups` numbers the sets of columns that partial ones carry, from 1."""

    def __init__(self, changes: list[Change], layout: Layout) -> None:
        self.changes = changes
        self.groups: dict[tuple[str, ...], int] = {}
        self._layout = layout
        self._group_of = [self._group(change) for change in changes]
        self.mixed = any(self._group_of)

    def shards(self) -> dict[int, bool]:
        """The shards of the changes, and whether they must be locked alone."""
        found: dict[int, bool] = {}
        for group, change in zip(self._group_of, self.changes, strict=True):
            shard = shard_of(change.key_text)
            found[shard] = found.get(shard, False) or group != _WHOLE
        return found

    def has(self, group: int) -> bool:
        """Whether there are changes of this group."""
        return group in self._group_of

    def staged(self) -> Iterator[tuple[Any, ...]]:
        """The changes as the stage takes them; columns that they do not carry are NULL there."""
        for place, (group, change) in enumerate(zip(self._group_of, self.changes, strict=True)):
            whole = group == _WHOLE and change.names in (None, self._layout.names)
            yield (place, group, change.version, *(change.values or () if whole else self._spread(change)))

    def _group(self, change: Change) -> int:
        if change.delete:
            return _DELETED
        if _is_whole(change, self._layout):
            return _WHOLE
        carried = set(change.names or ())
        names = tuple(name for name in self._layout.settable if name in carried)
        return self.groups.setdefault(names, len(self.groups) + 1)

    def _spread(self, change: Change) -> list[Any]:
        return self._layout.with_key(dict(zip(change.names or (), change.values or (), strict=True)), change.key)


def _is_whole(change: Change, layout: Layout) -> bool:
    return change.names is None or change.names == layout.names or set(change.names) >= set(layout.carried)
