"""The staging table: a temporary copy of a table's columns, filled by binary COPY and merged by few statements.

It lives as long as the session and is emptied by the end of the transaction; to make a new one for each batch was
measured 1.1 to 2.5 times slower. Rows come out of it in the order in which they went in (a heap that was just
emptied, read by one process from its start), which is the order in which a merge locks the table's rows.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from hashlib import blake2b
from typing import Any

import psycopg
from psycopg.abc import Buffer
from psycopg.copy import Writer

from strata.l3 import failures
from strata.l3.connection import Connection
from strata.l3.layout import VERSION, Layout, quote
from strata.l3.statement import INT4, INT8, Statement

ORDER = "_strata_order"  # the row's place in the batch
GROUP = "_strata_group"  # which statement of the merge it is for
# Joins go from the stage to the table, row by row: so an UPDATE locks in the stage's order, and reads no large table.
NESTED = "SET LOCAL enable_hashjoin = off; SET LOCAL enable_mergejoin = off"


class Stage:
    """The staging table of one layout, in any number of connections. The caller has opened the transaction."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        columns = "".join(f", {quote(field.name)} {field.sql_type}" for field in layout.plan.columns)
        shape = f"{ORDER} INT, {GROUP} INT, {VERSION} BIGINT{columns}"
        self.name = f"_strata_stage_{blake2b(shape.encode(), digest_size=8).hexdigest()}"
        self._create = f"CREATE TEMP TABLE IF NOT EXISTS {self.name} ({shape}) ON COMMIT DELETE ROWS"
        self._copy = f"COPY {self.name} FROM STDIN (FORMAT BINARY)"
        self._types = (INT4, INT4, INT8, *layout.oids)
        # The key's rows one by one, in the order of the stage: so two batches never wait for each other in a circle.
        self.lock_rows = Statement(
            f"SELECT count(*) FROM {self.name} s, LATERAL"
            f" (SELECT 1 FROM {layout.table} r WHERE r.{layout.key} = s.{layout.key} FOR NO KEY UPDATE) l"
        )

        # A scalar sub-select: one index look-up a row, in the order of the stage, whatever its size.
        self.unknown = f"(SELECT true FROM {layout.table} x WHERE x.{layout.key} = s.{layout.key} LIMIT 1) IS NULL"
        self._known = Statement(
            f"SELECT count(*) FROM {self.name} s"
            f" WHERE (SELECT true FROM {layout.table} r WHERE r.{layout.key} = s.{layout.key})"
        )

    def known(self, conn: Connection) -> int:
        """How many of its keys have a row in the table."""
        row = self._known.row(conn)
        return int(row[0]) if row else 0

    def fill(self, conn: Connection, rows: Iterable[Sequence[Any]], before: str = "") -> None:
        """Have the table hold just these rows of (order, group, version, *values).

        `before` is run first, in the same round trip. Raises as `copy_rows`.
        """
        self._clear(conn, before)
        copy_rows(conn, self._copy, self._types, rows)

    def pack(self, conn: Connection, rows: Iterable[Sequence[Any]]) -> bytes:
        """The rows as `load` takes them; nothing is sent. Raises as `copy_rows`."""
        buffer = _Buffer()
        with psycopg.Copy(conn.cursor(), binary=True, writer=buffer) as copy:
            _write(copy, self._types, rows)
        return b"".join(buffer.parts)

    def load(self, conn: Connection, packed: bytes) -> None:
        """Have the table hold just the rows that were packed."""
        self._clear(conn, "")
        with conn.cursor().copy(self._copy.encode()) as copy:
            copy.write(packed)

    def _clear(self, conn: Connection, before: str) -> None:
        # Created each time, which costs little where it exists: it may have gone with a transaction that was rolled
        # back, or be in another session of a pooler.
        again = f"; TRUNCATE {self.name}" if self.name in conn.staged else ""
        conn.command(f"{before}{self._create}{again}")
        conn.staged.add(self.name)


def copy_rows(conn: Connection, sql: str, types: Sequence[int], rows: Iterable[Sequence[Any]]) -> None:
    """Run a binary COPY of rows whose values are of these types.

    Raises `psycopg.Error`, and `failures.BatchError` with the row's place for a value that the driver cannot send.
    """
    with conn.cursor().copy(sql.encode()) as copy:
        _write(copy, types, rows)


def _write(copy: psycopg.Copy, types: Sequence[int], rows: Iterable[Sequence[Any]]) -> None:
    copy.set_types(types)
    write = copy.write_row
    place = 0
    try:
        for place, row in enumerate(rows):  # noqa: B007 read where it fails
            write(row)
    except psycopg.DataError as error:
        raise failures.row_error(error, place)  # noqa: B904 the cause is set


class _Buffer(Writer):
    """Keeps what a COPY would send."""

    def __init__(self) -> None:
        self.parts: list[bytes] = []

    def write(self, data: Buffer) -> None:
        self.parts.append(bytes(data))
