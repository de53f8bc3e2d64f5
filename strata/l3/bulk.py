"""`set_many` and `insert_many`: many synchronous writes at once, by binary COPY.

Rows of keys that are all new go straight into the table, which takes no more time than a text COPY of them; others go
by way of the stage, some thousand at a time, and an UPDATE or an upsert with the version rule of single
writes. While the server merges one part, the client packs the next one and reads the answer of the one before. All in
the order of the keys, which is that of the locks: so batches wait for each other, and never in a circle.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import psycopg
from psycopg.pq.abc import PGresult

from strata.l3 import diagnosis, failures
from strata.l3.connection import Connection
from strata.l3.layout import HORIZONS, TOMBSTONES, VERSION, Layout
from strata.l3.outside import moving
from strata.l3.sqlstates import PASSING, classify
from strata.l3.stage import GROUP, NESTED, ORDER, STAGE, Stage, copy_rows
from strata.l3.statement import ARRAYS, INT4, INT8, TEXT, Started, Statement
from strata.l3.writes import Writes, Written
from strata.model.unloaded import UNLOADED

FEW = 16  # rows up to which single upserts take less time than a COPY (measured)
PART = 20_000  # rows staged at a time; about 5 MB
_SAMPLE = 32  # keys looked up before all of them are
_AS_BEFORE = "SET LOCAL enable_hashjoin TO DEFAULT; SET LOCAL enable_mergejoin TO DEFAULT"


class Bulk:
    """The bulk statements of a table. Thread-safe: `_direct` only ever goes from true to false."""

    def __init__(self, layout: Layout, writes: Writes, stage: Stage) -> None:
        self._layout = layout
        self._writes = writes
        self._stage = stage
        self._kept_places = [layout.places[name] for name in layout.kept]
        # Until the table turns out to have other types than the plan; a COPY does not return what became of its rows.
        self._direct = not (layout.actual.inexact or layout.actual.generated)
        self._copy = f"COPY {layout.table} ({layout.columns}, {VERSION}) FROM STDIN (FORMAT BINARY)"
        self._old = self._old_statement()
        self._merge = self._merge_statement()
        self._add = self._add_statement()
        self._overwrite = self._update_statement(layout.settable, layout.kept)

    def set_many(
        self, conn: Connection, rows: Sequence[tuple[Any, ...]], versions: Sequence[int], node: int
    ) -> list[Written]:
        """Upsert each row as `upsert` does, no key twice; the answers are in the order of `rows`.

        The caller has opened a transaction. Raises `EncodeError` for an UNLOADED column that has no row to keep it.
        """
        return self._in_order(conn, rows, versions, node, self._write)

    def insert_many(
        self, conn: Connection, rows: Sequence[tuple[Any, ...]], versions: Sequence[int], node: int
    ) -> list[Written]:
        """Insert each row, no key twice; the answers are in the order of `rows`.

        The caller has opened a transaction, unless it is one row in a table that is good `alone`. Raises
        `AlreadyExistsError` for a key that has a row, and `EncodeError` for an UNLOADED column.
        """
        return self._in_order(conn, rows, versions, node, self._insert)

    def _in_order(
        self,
        conn: Connection,
        rows: Sequence[tuple[Any, ...]],
        versions: Sequence[int],
        node: int,
        write: Callable[[Connection, _Batch], list[Written]],
    ) -> list[Written]:
        """What `write` answers to the batch in the order of its keys, in the order of `rows`."""
        layout, key_of_row = self._layout, self._layout.key_of_row
        if layout.actual.generated:
            rows = [tuple(layout.filled(row)) for row in rows]
        if layout.locked:
            self._writes.lock_keys(conn, (layout.plan.key_text(key_of_row(row)) for row in rows), alone=False)
        order = sorted(range(len(rows)), key=lambda index: key_of_row(rows[index]))
        batch = _Batch([rows[index] for index in order], [versions[index] for index in order], node)
        written = write(conn, batch) if layout.locked else self._writes.insisting(conn, lambda: write(conn, batch))
        answers: list[Any] = [None] * len(rows)
        for index, answer in zip(order, written, strict=True):
            answers[index] = answer
        return answers

    def _write(self, conn: Connection, batch: _Batch) -> list[Written]:
        # What is written in part is noted by key (`strata.l3.partials`) where it is written behind.
        if len(batch.rows) <= FEW or batch.mixed or (self._layout.deferred and batch.groups):
            put = self._writes.put
            return [
                put(conn, row, version, batch.node) for row, version in zip(batch.rows, batch.versions, strict=True)
            ]
        try:
            return self._write_many(conn, batch)
        except diagnosis.BatchError as error:
            raise diagnosis.unfit(error)  # noqa: B904 the cause is set

    def _write_many(self, conn: Connection, batch: _Batch) -> list[Written]:
        if batch.groups:
            return self._update(conn, batch)
        keys = list(map(self._layout.key_of_row, batch.rows))
        sample = keys[:: max(1, len(keys) // _SAMPLE)]
        some = self._old.row(conn, self._old_values(sample, batch))
        if some is None and self._copied(conn, batch, keys):
            return [Written(version) for version in batch.versions]
        return self._in_parts(conn, batch)

    def _insert(self, conn: Connection, batch: _Batch) -> list[Written]:
        layout, writes = self._layout, self._writes
        keys = list(map(layout.key_of_row, batch.rows))
        if batch.groups:
            raise writes.unwritten(conn, [])
        # By month no index keeps them unique; and an INSERT may be refused for another reason, although they are there.
        taken = writes.taken(conn, keys) if layout.updates_first else None
        if taken is not None:
            raise diagnosis.already_there(layout.schema_name, taken)
        if len(keys) <= FEW:
            add = writes.insert
            return [
                add(conn, row, version, batch.node) for row, version in zip(batch.rows, batch.versions, strict=True)
            ]
        try:
            if self._copied(conn, batch, keys):
                return [Written(version) for version in batch.versions]
            return [written for part in batch.parts() for written in self._insert_part(conn, part)]
        except diagnosis.BatchError as error:
            raise diagnosis.unfit(error)  # noqa: B904 the cause is set

    def _insert_part(self, conn: Connection, part: _Batch) -> list[Written]:
        self._stage.fill(conn, part.staged())
        rows = self._add.rows(conn, (part.node,))
        if len(rows) == len(part.rows):
            width = self._layout.key.width
            return [self._written(values, row[width:]) for values, row in zip(part.rows, rows, strict=True)]
        added = {self._layout.key.split(row)[0] for row in rows}
        keys = list(map(self._layout.key_of_row, part.rows))
        raise self._writes.uninserted(conn, [key for key in keys if key not in added])

    def _copied(self, conn: Connection, batch: _Batch, keys: list[Any]) -> bool:
        """Whether the rows, of which none was there, went straight into the table; else nothing was written."""
        return self._direct and self._all_new(conn, batch, keys) and self._copy_into(conn, batch)

    def _all_new(self, conn: Connection, batch: _Batch, keys: list[Any]) -> bool:
        return self._old.row(conn, self._old_values(keys, batch)) is None

    def _old_values(self, keys: list[Any], batch: _Batch) -> tuple[Any, ...]:
        columns = self._layout.key.columns(keys)
        if not self._layout.deferred:
            return (*columns,)
        return *columns, [self._layout.plan.key_text(key) for key in keys], min(batch.versions)

    def _copy_into(self, conn: Connection, batch: _Batch) -> bool:
        """COPY into the table itself; false, and nothing written, where that is not possible."""
        conn.command("SAVEPOINT strata_copy")
        try:
            types = (*self._layout.oids, INT8)
            copy_rows(conn, self._copy, types, ((*row, v) for row, v in zip(batch.rows, batch.versions, strict=True)))
        except psycopg.Error as error:
            if conn.closed or failures.lost(error) or classify(error.sqlstate or "") in PASSING:
                raise
            # Somebody was faster with one of the keys, a constraint refuses a row (then the merge will say so), or the
            # table's types, policies or rules do not allow it.
            self._direct = (error.sqlstate or "")[:2] == "23"
            conn.command("ROLLBACK TO strata_copy")
            return False
        conn.command("RELEASE strata_copy")
        return True

    def _in_parts(self, conn: Connection, batch: _Batch) -> list[Written]:
        answers: list[Written] = []
        running: _Running | None = None
        conn.command(NESTED)
        try:
            for part in batch.parts():
                packed = self._stage.pack(conn, part.staged())
                finished = running
                if finished is not None:
                    finished.wait()
                    running = None
                    if finished.missing:
                        answers += self._read(conn, finished)
                self._stage.load(conn, packed)
                running = self._start(conn, part)
                if finished is not None and not finished.missing:
                    answers += self._read(conn, finished)
            if running is not None:
                running.wait()
                answers += self._read(conn, running)
        except BaseException:
            if running is not None:
                running.drain()
            raise
        conn.command(_AS_BEFORE)
        return answers

    def _start(self, conn: Connection, part: _Batch) -> _Running:
        """Merge what the stage holds: by UPDATE, which is faster, where all of it has rows."""
        if self._stage.known(conn) == len(part.rows):
            return _Running(part, self._overwrite.start(conn, (part.node, 0)), updating=True)
        return _Running(part, self._merge.start(conn, (part.node,)), updating=False)

    def _read(self, conn: Connection, finished: _Running) -> list[Written]:
        part, rows = finished.part, finished.rows()
        if not finished.updating and not self._layout.updates_first:
            if len(rows) != len(part.rows):
                raise diagnosis.suppressed(self._layout.name)
            return [self._written(values, row) for values, row in zip(part.rows, rows, strict=True)]
        answers: list[Any] = [None] * len(part.rows)
        # Each row comes after its place, or, where some were updated and then others inserted, after its key.
        key, key_of_row = self._layout.key, self._layout.key_of_row
        places = None if finished.updating else {key_of_row(values): index for index, values in enumerate(part.rows)}
        for row in rows:
            id, rest = (row[0], row[1:]) if places is None else key.split(row)
            index = id if places is None else places[id]
            answers[index] = self._written(part.rows[index], rest)
        if None not in answers:
            return answers
        put = self._writes.put  # deleted since they were looked for
        return [
            put(conn, part.rows[index], part.versions[index], part.node) if answer is None else answer
            for index, answer in enumerate(answers)
        ]

    def _written(self, values: tuple[Any, ...], row: tuple[Any, ...]) -> Written:
        # `Writes.written` for whole rows, of which most tables have none or one column to look at.
        kept = self._kept_places
        if not kept:
            return Written(row[0])
        if len(kept) == 1 and values[kept[0]] == row[1]:
            return Written(row[0])
        return self._writes.written(values, self._layout.kept, row)

    def _update(self, conn: Connection, batch: _Batch) -> list[Written]:
        """None of the rows was loaded whole: each must be there."""
        layout, stage = self._layout, self._stage
        stage.fill(conn, batch.staged())
        stage.lock_rows.rows(conn)
        answers: list[Any] = [None] * len(batch.rows)
        for loaded, number in batch.groups.items():
            names = tuple(name for name in layout.settable if loaded[layout.places[name]])
            unset = layout.unset(names)
            for row in self._update_statement(names, unset).rows(conn, (batch.node, number)):
                answers[row[0]] = self._writes.written(batch.rows[row[0]], unset, row[1:])
        if None in answers:
            left = [layout.key_of_row(row) for row, answer in zip(batch.rows, answers, strict=True) if answer is None]
            raise self._writes.unwritten(conn, left)
        return answers

    def _update_statement(self, names: Sequence[str], returned: Sequence[str]) -> Statement:
        layout = self._layout
        return self._stage.statement(
            f"UPDATE {layout.table} AS r SET {layout.assigned(names, 's')}"
            f"{VERSION} = GREATEST(s.{VERSION}, {layout.raised(f'r.{VERSION}', '$1')})"
            f" FROM {STAGE} s WHERE s.{GROUP} = $2 AND {layout.key.same('r', 's')}{moving(layout)}"
            f" RETURNING s.{ORDER}, {layout.returned(returned)}",
            (INT8, INT4),
            prepared=False,
        )

    def _add_statement(self) -> Statement:
        """Inserts what the stage holds, and returns of each row that was not there its key before the rest."""
        layout = self._layout
        version = layout.inserted(f"s.{VERSION}", "$1", layout.key.text("s"))
        unless = "" if layout.monthly else f"ON CONFLICT ({layout.key.listed}) DO NOTHING"
        return self._stage.statement(
            f"{layout.insert} SELECT {layout.staged()}, {version} FROM {STAGE} s {unless}"
            f" RETURNING {layout.shown_key('r')}, {layout.returned(layout.kept)}",
            (INT8,),
        )

    def _merge_statement(self) -> Statement:
        layout, stage = self._layout, self._stage
        version = layout.inserted(f"s.{VERSION}", "$1", layout.key.text("s"))
        insert = f"{layout.insert} SELECT {layout.staged()}, {version}"
        source = f"FROM {STAGE} s WHERE s.{GROUP} = 0"
        returned = layout.returned(layout.kept)
        overwrite = "" if layout.monthly else layout.overwrite("$1")
        if not layout.updates_first:
            return stage.statement(f"{insert} {source} {overwrite} RETURNING {returned}", (INT8,))
        raised = f"GREATEST({version}, {layout.raised(f'r.{VERSION}', '$1')})"
        returning = f"RETURNING {layout.shown_key('r')}, {returned}"
        return self._stage.statement(
            layout.upserting(
                f"UPDATE {layout.table} AS r SET {layout.assigned(layout.settable, 's')}{VERSION} = {raised} {source}"
                f" AND {layout.key.same('r', 's')}{moving(layout)} {returning}",
                f"{insert} {source} AND {stage.unknown} {overwrite} {returning}",
            ),
            (INT8,),
            prepared=False,
        )

    def _old_statement(self) -> Statement:
        """Finds a row if one of the keys has a row, or, written behind, a tombstone, or lies below the horizon."""
        layout, key = self._layout, self._layout.key
        # A scalar sub-select is looked up in the index for each key, whatever the planner thinks of the table's size.
        sql = (
            f"(SELECT 1 FROM {key.unnested('k')}"
            f" WHERE (SELECT true FROM {layout.table} r WHERE {key.same('r', 'k')}) LIMIT 1)"
        )
        if not layout.deferred:
            return Statement(sql, key.arrays)
        texts, oldest = (f"${key.width + place}" for place in (1, 2))
        sql += (
            f" UNION ALL (SELECT 1 FROM unnest({texts}) AS k(id)"
            f" WHERE (SELECT true FROM {TOMBSTONES} d WHERE {layout.buried('d', 'k.id')}) LIMIT 1)"
            f" UNION ALL (SELECT 1 FROM {HORIZONS} h WHERE h.schema = {layout.schema} AND h.version >= {oldest})"
        )
        return Statement(sql, (*key.arrays, ARRAYS[TEXT], INT8))


class _Running:
    """A part whose merge was sent."""

    def __init__(self, part: _Batch, started: Started, updating: bool) -> None:
        self.part = part
        self.updating = updating
        self._started = started
        self._waited = False
        self._result: PGresult | None = None

    def wait(self) -> None:
        """Wait for the server. Raises `psycopg.Error`."""
        self._waited = True
        self._result = self._started.wait()

    def drain(self) -> None:
        """Free the connection for the rollback; what the server says does not matter any more."""
        if not self._waited:
            try:
                self._started.wait()
            except psycopg.Error:
                pass  # the error that led here is the one to tell

    @property
    def missing(self) -> bool:
        """Whether some rows were not there to be updated."""
        return self.updating and self._result is not None and self._result.ntuples < len(self.part.rows)

    def rows(self) -> list[tuple[Any, ...]]:
        """The rows of the answer."""
        return [] if self._result is None else self._started.load(self._result)


class _Batch:
    """Rows in the order of their keys. `groups` numbers the sets of columns that were loaded, from 1; 0 is whole."""

    def __init__(self, rows: list[tuple[Any, ...]], versions: list[int], node: int, *, whole: bool = False) -> None:
        self.rows = rows
        self.versions = versions
        self.node = node
        self.groups: dict[tuple[bool, ...], int] = {}
        self._group_of = [0] * len(rows) if whole else [self._group(row) for row in rows]

    def parts(self) -> Iterator[_Batch]:
        """Batches of some thousand rows, all of them loaded whole."""
        for start in range(0, len(self.rows), PART):
            end = start + PART
            yield _Batch(self.rows[start:end], self.versions[start:end], self.node, whole=True)

    @property
    def mixed(self) -> bool:
        """Whether some rows, but not all, were loaded whole.

        They cannot be written in two passes: each would hold rows that another batch's first pass waits for.
        """
        return bool(self.groups) and 0 in self._group_of

    def staged(self) -> Iterator[tuple[Any, ...]]:
        """The rows as the stage takes them."""
        for index, (group, version, row) in enumerate(zip(self._group_of, self.versions, self.rows, strict=True)):
            values = row if group == 0 else (None if value is UNLOADED else value for value in row)
            yield (index, group, version, *values)

    def _group(self, row: tuple[Any, ...]) -> int:
        if UNLOADED not in row:
            return 0
        return self.groups.setdefault(tuple(value is not UNLOADED for value in row), len(self.groups) + 1)
