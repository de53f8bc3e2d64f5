"""Rows of several tables, in one round trip."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from strata.l3 import statement
from strata.l3.connection import Connection
from strata.l3.reads import Row
from strata.l3.table import Table


def rows_of(conn: Connection, asked: Sequence[tuple[Table, Sequence[Any]]]) -> list[Mapping[Any, Row]]:
    """The rows found of each table, by key. Raises `psycopg.Error`."""
    if len(asked) == 1:
        [(table, keys)] = asked
        return [table.get_many(conn, keys)]
    answers = statement.together(conn, [table.asking(conn, keys) for table, keys in asked])
    return [table.keyed(rows) for (table, _), rows in zip(asked, answers, strict=True)]
