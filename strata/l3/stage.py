"""The staging table: a temporary copy of a table's columns, filled by binary COPY and merged by one statement.

It lives as long as the session and is emptied by the end of the transaction; to make a new one for each batch was
measured 1.1 to 2.5 times slower. Rows come out of it in the order in which they went in (a heap that was just
emptied, read by one process from its start), which is the order in which the merge locks the table's rows.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any
from zlib import crc32

import psycopg

from strata.l3 import failures
from strata.l3.connection import Connection
from strata.l3.layout import VERSION, Layout, quote
from strata.l3.statement import INT4

ORDER = "_strata_order"  # the row's place in the batch
GROUP = "_strata_group"  # which statement of the merge it is for


class Stage:
    """The staging table of one layout, in any number of connections."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        columns = "".join(f", {quote(field.name)} {field.sql_type}" for field in layout.plan.columns)
        shape = f"{ORDER} INT, {GROUP} INT, {VERSION} BIGINT{columns}"
        self.name = f"_strata_stage_{crc32(shape.encode()):08x}"
        self._create = f"CREATE TEMP TABLE IF NOT EXISTS {self.name} ({shape}) ON COMMIT DELETE ROWS"
        self._copy = f"COPY {self.name} FROM STDIN (FORMAT BINARY)"
        self._types = (INT4, INT4, 20, *layout.oids)

    def open(self, conn: Connection, before: str = "") -> None:
        """Have the table there, and empty; `before` is run in the same round trip. The transaction is open.

        Asked for each batch: it may have gone with a transaction that was rolled back, or stayed behind in another
        session of a pooler. It is emptied where the transaction has used it before.
        """
        # The number of the transaction's batch cannot be told here without state; an empty table is cheap to empty.
        conn.command(f"{before}{self._create}")

    def fill(self, conn: Connection, rows: Iterable[Sequence[Any]]) -> None:
        """Copy rows of (order, group, version, *values) in."""
        fill(conn, self._copy, self._types, rows)


def fill(conn: Connection, copy: str, types: Sequence[int], rows: Iterable[Sequence[Any]]) -> None:
    """Run a binary COPY of rows whose values have these types. Raises `psycopg.Error`.

    `BatchError`, with the row's place, is raised for a value that the driver cannot send.
    """
    place = 0
    with conn.cursor().copy(copy) as writer:
        writer.set_types(types)
        write = writer.write_row
        try:
            for place, row in enumerate(rows):  # noqa: B007 used when it fails
                write(row)
        except psycopg.DataError as error:
            raise failures.refused_row(error, place) from None
