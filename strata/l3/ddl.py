"""SQL that makes tables, columns and indexes; literals are quoted in one place."""

from __future__ import annotations

import datetime
import decimal
import hashlib
import uuid
from collections.abc import Sequence
from typing import Any

from strata.errors import InvalidModelError
from strata.l3.layout import HORIZONS, REPAIRS, TOMBSTONES, VERSION, quote
from strata.model.fields import Field
from strata.policies import Index

MIGRATIONS = "_strata_migrations"
HASH_PARTITIONS = 16
_LONGEST_NAME = 63  # bytes of an identifier

SYSTEM_TABLES = {
    MIGRATIONS: (
        "file_name TEXT PRIMARY KEY, checksum TEXT NOT NULL, applied_at TIMESTAMPTZ NOT NULL DEFAULT clock_timestamp()"
    ),
    TOMBSTONES: (
        "schema TEXT NOT NULL, id TEXT NOT NULL, version BIGINT NOT NULL, "
        "deleted_at TIMESTAMPTZ NOT NULL DEFAULT now(), PRIMARY KEY (schema, id)"
    ),
    HORIZONS: "schema TEXT PRIMARY KEY, version BIGINT NOT NULL",
    REPAIRS: (
        "schema TEXT NOT NULL, id TEXT NOT NULL, version BIGINT NOT NULL, "
        "at TIMESTAMPTZ NOT NULL DEFAULT now(), PRIMARY KEY (schema, id, version)"
    ),
}


def system_table(table: str) -> list[str]:
    """The statements that make one of Strata's own tables."""
    made = [f"CREATE TABLE IF NOT EXISTS {table} ({SYSTEM_TABLES[table]})"]
    if table == TOMBSTONES:
        made.append(f"CREATE INDEX IF NOT EXISTS {TOMBSTONES}_age ON {TOMBSTONES} (schema, deleted_at)")
    return made


def literal(value: Any) -> str:
    """The SQL of a value as a row has it. Raises `InvalidModelError` for one that has no literal."""
    if value is None:
        return "NULL"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float | decimal.Decimal):
        text = str(value)
        return text if text.lstrip("-")[:1].isdigit() else f"'{text}'"  # not so NaN and Infinity
    if isinstance(value, bytes):
        return f"'\\x{value.hex()}'::bytea"
    if isinstance(value, datetime.timedelta):
        return f"'{value.days} days {value.seconds}.{value.microseconds:06} seconds'::interval"
    if isinstance(value, datetime.date | datetime.time):
        return f"'{value.isoformat()}'"
    if isinstance(value, str | uuid.UUID):
        return "'" + str(value).replace("'", "''") + "'"
    raise InvalidModelError(f"Default({type(value).__name__}) has no SQL literal; give it as Default(sql=...)")


def default(field: Field) -> str | None:
    """The expression of the column's DEFAULT, or None."""
    if field.default is None:
        return None
    return field.default.sql if field.default.sql is not None else literal(field.default.value)


def column(field: Field) -> str:
    """The column as CREATE TABLE and ADD COLUMN want it."""
    words = [quote(field.name), field.sql_type]
    if not field.nullable:
        words.append("NOT NULL")
    expression = default(field)
    if expression is not None:
        words.append(f"DEFAULT {expression}")
    return " ".join(words)


def create_table(table: str, columns: Sequence[Field], key: str, *, hashed: bool) -> list[str]:
    """The statements that make a table; a `hashed` one is partitioned by the hash of its key."""
    lines = [column(field) for field in columns]
    lines.append(f"{VERSION} BIGINT NOT NULL DEFAULT 0")
    lines.append(f"PRIMARY KEY ({quote(key)})")
    made = f"CREATE TABLE {quote(table)} ({', '.join(lines)})"
    if not hashed:
        return [made]
    parts = [
        f"CREATE TABLE {quote(short(f'{table}_p{part:02}'))} PARTITION OF {quote(table)} "
        f"FOR VALUES WITH (MODULUS {HASH_PARTITIONS}, REMAINDER {part})"
        for part in range(HASH_PARTITIONS)
    ]
    return [f"{made} PARTITION BY HASH ({quote(key)})", *parts]


def add_column(table: str, field: Field, old_rows: str | None) -> list[str]:
    """The statements that add a column; `old_rows` is the expression that rows get which are there already."""
    add = f"ALTER TABLE {quote(table)} ADD COLUMN {column(field)}"
    if old_rows is None:
        return [add]
    return [f"{add} DEFAULT {old_rows}", f"ALTER TABLE {quote(table)} ALTER COLUMN {quote(field.name)} DROP DEFAULT"]


def unique(table: str, item: Index, *, deferrable: bool, using_index: bool = False) -> str:
    """The statement that adds a UNIQUE constraint; a deferrable one lets a batch be legal as a whole."""
    over = f"USING INDEX {quote(index_name(table, item))}" if using_index else f"({_list(item.fields)})"
    tail = " DEFERRABLE INITIALLY IMMEDIATE" if deferrable else ""
    return f"ALTER TABLE {quote(table)} ADD CONSTRAINT {quote(index_name(table, item))} UNIQUE {over}{tail}"


def index(table: str, item: Index, *, concurrently: bool = False) -> str:
    """The statement that makes an index."""
    kind = f"{'UNIQUE ' if item.unique else ''}INDEX{' CONCURRENTLY' if concurrently else ''}"
    return f"CREATE {kind} {quote(index_name(table, item))} ON {quote(table)} ({_list(item.fields)})"


def index_name(table: str, item: Index) -> str:
    """The index's own name, or one made from table and columns, as PostgreSQL would."""
    return item.name or short(f"{table}_{'_'.join(item.fields)}_{'key' if item.unique else 'idx'}")


def short(identifier: str) -> str:
    """An identifier of at most 63 bytes, with a digest of the whole where some was cut off."""
    if len(identifier) <= _LONGEST_NAME:
        return identifier
    return f"{identifier[: _LONGEST_NAME - 9]}_{hashlib.sha256(identifier.encode()).hexdigest()[:8]}"


def _list(columns: Sequence[str]) -> str:
    return ", ".join(map(quote, columns))
