"""`set_many`: many synchronous writes at once, by binary COPY.

Rows of keys that are all new go straight into the table, which takes less time than a text COPY of them; others go
by way of the staging table and an upsert with the version rule of single writes. All in the order of the keys.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import psycopg

from strata.l3 import failures
from strata.l3.connection import Connection
from strata.l3.layout import HORIZONS, TOMBSTONES, VERSION, Layout
from strata.l3.stage import GROUP, ORDER, Stage, copy_rows
from strata.l3.statement import ARRAYS, INT4, INT8, TEXT, Statement
from strata.l3.writes import Writes, Written
from strata.model.markers import UNLOADED

FEW = 16  # rows up to which single upserts take less time than a COPY (measured)


class Bulk:
    """The bulk statements of a table. Thread-safe: `_direct` only ever goes from true to false."""

    def __init__(self, layout: Layout, writes: Writes, stage: Stage) -> None:
        self._layout = layout
        self._writes = writes
        self._stage = stage
        self._direct = True  # until the table turns out to have other types than the plan
        self._copy = f"COPY {layout.table} ({layout.columns}, {VERSION}) FROM STDIN (FORMAT BINARY)"
        self._known = self._known_statement()
        key_text = f"s.{layout.key}::text"
        self._merge = Statement(
            f"INSERT INTO {layout.table} AS r ({layout.columns}, {VERSION})"
            f" SELECT {layout.columns}, {layout.inserted(f's.{VERSION}', '$1', key_text)}"
            f" FROM {stage.name} s WHERE s.{GROUP} = 0 {layout.overwrite('$1')}"
            f" RETURNING {layout.returned(layout.kept)}",
            (INT8,),
        )

    def set_many(
        self, conn: Connection, rows: Sequence[tuple[Any, ...]], versions: Sequence[int], node: int
    ) -> list[Written]:
        """Upsert each row as `upsert` does, no key twice; the answers are in the order of `rows`.

        The caller has opened a transaction. Raises `EncodeError` for an UNLOADED column that has no row to keep it.
        """
        layout, place = self._layout, self._layout.key_place
        if layout.deferred:
            self._writes.lock_keys(conn, (layout.plan.key_text(row[place]) for row in rows), alone=False)
        order = sorted(range(len(rows)), key=lambda index: rows[index][place])
        answers: list[Written] = [Written(0)] * len(rows)
        if len(rows) <= FEW:
            for index in order:
                answers[index] = self._writes.put(conn, rows[index], versions[index], node)
            return answers
        batch = _Batch([rows[index] for index in order], [versions[index] for index in order], node)
        for index, written in zip(order, self._write(conn, batch), strict=True):
            answers[index] = written
        return answers

    def _write(self, conn: Connection, batch: _Batch) -> list[Written]:
        if not batch.groups and self._direct and self._all_new(conn, batch) and self._insert(conn, batch):
            return [Written(version) for version in batch.versions]
        return self._upsert(conn, batch)

    def _all_new(self, conn: Connection, batch: _Batch) -> bool:
        place = self._layout.key_place
        keys = [row[place] for row in batch.rows]
        if not self._layout.deferred:
            return self._known.row(conn, (keys,)) is None
        texts = [self._layout.plan.key_text(key) for key in keys]
        return self._known.row(conn, (keys, texts, min(batch.versions))) is None

    def _insert(self, conn: Connection, batch: _Batch) -> bool:
        """COPY into the table itself; false, and nothing written, where that is not possible."""
        conn.command("SAVEPOINT strata_copy")
        try:
            types = (*self._layout.oids, INT8)
            copy_rows(conn, self._copy, types, ((*row, v) for row, v in zip(batch.rows, batch.versions, strict=True)))
        except psycopg.Error as error:
            if conn.closed or failures.lost(error) or failures.classify(error.sqlstate or "") in failures.PASSING:
                raise
            # Somebody was faster with one of the keys, a constraint refuses a row (then the merge will say so), or the
            # table's types, policies or rules do not allow it.
            self._direct = (error.sqlstate or "")[:2] == "23"
            conn.command("ROLLBACK TO strata_copy")
            return False
        conn.command("RELEASE strata_copy")
        return True

    def _upsert(self, conn: Connection, batch: _Batch) -> list[Written]:
        layout, stage = self._layout, self._stage
        answers: list[Written | None] = [None] * len(batch.rows)
        stage.fill(conn, batch.staged())
        if batch.groups:
            stage.lock_rows.rows(conn)
        whole = batch.whole()
        if whole:
            returned = self._merge.rows(conn, (batch.node,))
            if len(returned) != len(whole):
                raise failures.suppressed(layout.name)
            for index, row in zip(whole, returned, strict=True):
                answers[index] = self._writes.written(batch.rows[index], layout.kept, row)
        for loaded, number in batch.groups.items():
            self._update(conn, batch, batch.names(loaded, layout), number, answers)
        if None in answers:
            raise self._writes.missing()
        return [answer for answer in answers if answer is not None]

    def _update(
        self, conn: Connection, batch: _Batch, loaded: tuple[str, ...], number: int, answers: list[Written | None]
    ) -> None:
        layout = self._layout
        unset = layout.unset(loaded)
        statement = Statement(
            f"UPDATE {layout.table} AS r SET {layout.assigned(loaded, 's')}"
            f"{VERSION} = GREATEST(s.{VERSION}, {layout.raised(f'r.{VERSION}', '$1')})"
            f" FROM {self._stage.name} s WHERE s.{GROUP} = $2 AND r.{layout.key} = s.{layout.key}"
            f" RETURNING s.{ORDER}, {layout.returned(unset)}",
            (INT8, INT4),
            prepared=False,
        )
        returned = statement.rows(conn, (batch.node, number))
        for index, *row in returned:
            answers[index] = self._writes.written(batch.rows[index], unset, row)

    def _known_statement(self) -> Statement:
        """Finds a row if one of the keys has a row, or, written behind, a tombstone, or lies below the horizon."""
        layout = self._layout
        # A scalar sub-select is looked up in the index for each key, whatever the planner thinks of the table's size.
        sql = (
            f"(SELECT 1 FROM unnest($1) AS k(key)"
            f" WHERE (SELECT true FROM {layout.table} r WHERE r.{layout.key} = k.key) LIMIT 1)"
        )
        if not layout.deferred:
            return Statement(sql, (ARRAYS[layout.key_oid],))
        sql += (
            f" UNION ALL (SELECT 1 FROM unnest($2) AS k(id)"
            f" WHERE (SELECT true FROM {TOMBSTONES} d WHERE {layout.buried('d', 'k.id')}) LIMIT 1)"
            f" UNION ALL (SELECT 1 FROM {HORIZONS} h WHERE h.schema = {layout.schema} AND h.version >= $3)"
        )
        return Statement(sql, (ARRAYS[layout.key_oid], ARRAYS[TEXT], INT8))


class _Batch:
    """Rows in the order of their keys. `groups` numbers the sets of columns that were loaded, from 1; 0 is whole."""

    def __init__(self, rows: list[tuple[Any, ...]], versions: list[int], node: int) -> None:
        self.rows = rows
        self.versions = versions
        self.node = node
        self.groups: dict[tuple[bool, ...], int] = {}
        self._group_of = [self._group(row) for row in rows]

    def whole(self) -> list[int]:
        """The places of the rows that were loaded whole."""
        return [index for index, group in enumerate(self._group_of) if group == 0]

    def staged(self) -> list[tuple[Any, ...]]:
        """The rows as the stage takes them."""
        return [
            (index, group, version, *(row if group == 0 else (None if value is UNLOADED else value for value in row)))
            for index, (group, version, row) in enumerate(zip(self._group_of, self.versions, self.rows, strict=True))
        ]

    def names(self, loaded: tuple[bool, ...], layout: Layout) -> tuple[str, ...]:
        """The columns that an update sets for a group."""
        return tuple(name for name in layout.settable if loaded[layout.places[name]])

    def _group(self, row: tuple[Any, ...]) -> int:
        if UNLOADED not in row:
            return 0
        return self.groups.setdefault(tuple(value is not UNLOADED for value in row), len(self.groups) + 1)
