"""What Strata itself needs in a table that another tool makes and alters: for that tool's migrations."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from strata.l3 import ddl, outside
from strata.l3.catalog import exists, table_facts
from strata.l3.compare import watch_partitions, watched_tables
from strata.l3.layout import VERSION, quote
from strata.l3.table import Table
from strata.model.keys import ModelKey
from strata.schema import Schema


def needs(conn: Any, table: str, over: Sequence[tuple[Table, Schema[Any]]], key: ModelKey | None = None) -> list[str]:
    """The statements that are still wanted: Strata's own tables, the column of versions, and triggers, where one of the
    schemas over the table is watched. `over`: tables and schemas, also of others. `key`: what the table's is by now,
    where that is not yet, or not any more, the schemas'."""
    statements = [line for name in ddl.SYSTEM_TABLES if not exists(conn, name) for line in ddl.system_table(name)]
    statements += ddl.later_columns(conn)
    if VERSION not in table_facts(conn, quote(table)).columns:
        statements.append(f"ALTER TABLE {quote(table)} ADD COLUMN {VERSION} BIGINT NOT NULL DEFAULT 0")
    for item in watched_tables([item for item in over if item[0].name == table]):
        item = item if key is None else replace(item, key=key)
        statements += [*outside.additions(conn, item), *watch_partitions(conn, over, item)]
    return statements


def removal(conn: Any, table: str) -> list[str]:
    """The statements that take it away again, but for Strata's own tables, which others may use."""
    triggers = [sql for _, sql in outside.leftovers(conn, {table})]
    column = VERSION in table_facts(conn, quote(table)).columns
    return triggers + [f"ALTER TABLE {quote(table)} DROP COLUMN {VERSION}"] * column
