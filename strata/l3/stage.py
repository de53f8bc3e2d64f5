"""The stage: a batch as one array a column, which the statements of a merge read as a table of the name `STAGE`.

The arrays are parameters of each statement, so nothing is left in a session, and no right to make temporary tables is
needed. Measured beside a temporary table that is filled by COPY: five times as fast with 20 rows, as fast with 1000 and
with 20 000. Rows come out of it in the order in which they went in, which is the order in which a merge locks the
table's rows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import chain
from struct import Struct
from typing import Any

import psycopg
from psycopg import adapt
from psycopg.abc import Buffer, Transformer
from psycopg.pq import Format

from strata.l3 import failures
from strata.l3.connection import Connection
from strata.l3.layout import VERSION, Layout, quote
from strata.l3.statement import ARRAYS, BOOL, DATE, FLOAT8, INT4, INT8, INTERVAL, TIME, TIMESTAMPTZ, UUID, Statement

STAGE = "_strata_stage"
ORDER = "_strata_order"  # the row's place in the batch
GROUP = "_strata_group"  # which statement of the merge it is for
# Joins go from the stage to the table, row by row: so an UPDATE locks in the stage's order, and reads no large table.
NESTED = "SET LOCAL enable_hashjoin = off; SET LOCAL enable_mergejoin = off"
_SIZES = {BOOL: 1, INT4: 4, DATE: 4, INT8: 8, FLOAT8: 8, TIMESTAMPTZ: 8, TIME: 8, UUID: 16, INTERVAL: 16}  # bytes
_LENGTH, _BOUNDS, _HEAD = Struct("!i").pack, Struct("!ii").pack, Struct("!iiI").pack


class Stage:
    """The stage of one layout. Immutable: the batch is in the connection, until its transaction ends."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self._names = (ORDER, GROUP, VERSION, *map(quote, layout.names))
        self._types = (INT4, INT4, INT8, *layout.oids)
        # The key's rows one by one, in the order of the stage: so two batches never wait for each other in a circle.
        self.lock_rows = self.statement(
            f"SELECT count(*) FROM {STAGE} s, LATERAL"
            f" (SELECT 1 FROM {layout.table} r WHERE {layout.key.same('r', 's')} FOR NO KEY UPDATE) l",
            of=layout.key.quoted,
        )
        # A scalar sub-select: one index look-up a row, in the order of the stage, whatever its size.
        self.unknown = f"(SELECT true FROM {layout.table} x WHERE {layout.key.same('x', 's')} LIMIT 1) IS NULL"
        self._known = self.statement(
            f"SELECT count(*) FROM {STAGE} s"
            f" WHERE (SELECT true FROM {layout.table} r WHERE {layout.key.same('r', 's')})",
            of=layout.key.quoted,
        )

    def statement(
        self, sql: str, types: Sequence[int] = (), *, of: Sequence[str] = (), prepared: bool = True
    ) -> Statement:
        """A statement over the stage, of which it is given the columns `of` (quoted), or all."""
        places = [place for place, name in enumerate(self._names) if name in (of or self._names)]
        names = ", ".join(self._names[place] for place in places)
        arrays = ", ".join(f"${number}" for number in range(len(types) + 1, len(types) + 1 + len(places)))
        stage = f"WITH {STAGE} AS (SELECT * FROM unnest({arrays}) AS a({names}))"
        joined = f"{stage}, {sql.removeprefix('WITH ')}" if sql.startswith("WITH ") else f"{stage} {sql}"
        return _Staged(joined, types, [ARRAYS[self._types[place]] for place in places], places, prepared)

    def known(self, conn: Connection) -> int:
        """How many of its keys have a row in the table."""
        row = self._known.row(conn)
        return int(row[0]) if row else 0

    def fill(self, conn: Connection, rows: Iterable[Sequence[Any]]) -> None:
        """Have the stage hold just these rows of (order, group, version, *values). Raises as `pack`."""
        self.load(conn, self.pack(conn, rows))

    def pack(self, conn: Connection, rows: Iterable[Sequence[Any]]) -> list[bytes]:
        """The rows as `load` takes them. Raises `diagnosis.BatchError` with the row's place for a value that the driver
        cannot send."""
        transformer: Transformer = adapt.Transformer(conn)
        columns = list(zip(*rows, strict=True)) or [()] * len(self._types)
        return [_array(oid, column, transformer) for oid, column in zip(self._types, columns, strict=True)]

    def load(self, conn: Connection, packed: list[bytes]) -> None:
        """Have the stage hold just the rows that were packed."""
        conn.staged = packed


class _Staged(Statement):
    """A statement whose last parameters are columns of the stage."""

    __slots__ = ("_own", "_places")

    def __init__(
        self, sql: str, types: Sequence[int], arrays: Sequence[int], places: Sequence[int], prepared: bool
    ) -> None:
        super().__init__(sql, (*types, *arrays), prepared=prepared)
        self._own = Statement("", types)
        self._places = places

    def _dump(self, transformer: Transformer, conn: Connection, values: Sequence[Any]) -> Sequence[Buffer | None]:
        own = self._own._dump(transformer, conn, values) or ()
        return [*own, *(conn.staged[place] for place in self._places)]

    def _dumps(self) -> Sequence[int]:
        return self._own.types


def copy_rows(conn: Connection, sql: str, types: Sequence[int], rows: Iterable[Sequence[Any]]) -> None:
    """Run a binary COPY of rows whose values are of these types.

    Raises `psycopg.Error`, and `diagnosis.BatchError` with the row's place for a value that the driver cannot send.
    """
    with conn.cursor().copy(sql.encode()) as copy:
        copy.set_types(types)
        write = copy.write_row
        place = 0
        try:
            for place, row in enumerate(rows):  # noqa: B007 read where it fails
                write(row)
        except psycopg.DataError as error:
            raise failures.row_error(error, place)  # noqa: B904 the cause is set


def _array(oid: int, column: Sequence[Any], transformer: Transformer) -> bytes:
    """An array of one dimension in PostgreSQL's binary format (src/backend/utils/adt/arrayfuncs.c, array_recv).

    Each step goes over the whole column in C: value by value it took five times as long.
    """
    dump = transformer.adapters.get_dumper_by_oid(oid, Format.BINARY)(type(None), transformer).dump
    whole = None not in column
    try:
        values = list(map(dump, column)) if whole else [None if value is None else dump(value) for value in column]
    except psycopg.DataError as error:
        raise failures.row_error(error, _refused(dump, column))  # noqa: B904 the cause is set
    if not values:
        return _HEAD(0, 0, oid)
    head = _HEAD(1, 0 if whole else 1, oid) + _BOUNDS(len(values), 1)
    size = _SIZES.get(oid)
    if size is not None and whole:
        mark = _LENGTH(size)
        return b"".join((head, mark, mark.join(values)))  # type: ignore[arg-type]  # none of them is None
    if whole:
        return head + b"".join(chain.from_iterable(zip(map(_LENGTH, map(len, values)), values, strict=True)))  # type: ignore[arg-type]
    return head + b"".join([_LENGTH(-1) if value is None else _LENGTH(len(value)) + value for value in values])


def _refused(dump: Callable[[Any], Buffer | None], column: Sequence[Any]) -> int:
    """The place of the first value that cannot be sent."""
    for place, value in enumerate(column):
        try:
            if value is not None:
                dump(value)
        except psycopg.DataError:
            return place
    raise AssertionError  # one of them was refused
