"""SQL that makes tables, columns and indexes; names and literals quoted in one place."""

from __future__ import annotations

import datetime
import decimal
import enum
import hashlib
import typing
import uuid
from collections.abc import Sequence
from typing import Any

from strata.errors import InvalidModelError
from strata.model.fields import Field, Kind
from strata.policies import Index

VERSION_COLUMN = "_strata_version"
HASH_PARTITIONS = 16
_LONGEST_NAME = 63  # bytes of an identifier

SYSTEM_TABLES = {
    "_strata_migrations": (
        "file_name TEXT PRIMARY KEY, checksum TEXT NOT NULL, applied_at TIMESTAMPTZ NOT NULL DEFAULT now()"
    ),
    "_strata_tombstones": (
        "schema TEXT NOT NULL, id TEXT NOT NULL, version BIGINT NOT NULL, "
        "deleted_at TIMESTAMPTZ NOT NULL DEFAULT now(), PRIMARY KEY (schema, id)"
    ),
    "_strata_horizons": "schema TEXT PRIMARY KEY, version BIGINT NOT NULL",
    "_strata_repairs": (
        "schema TEXT NOT NULL, id TEXT NOT NULL, version BIGINT NOT NULL, "
        "at TIMESTAMPTZ NOT NULL DEFAULT now(), PRIMARY KEY (schema, id, version)"
    ),
}

# What old rows get in a NOT NULL column that the model gives no Default for.
_ZEROS = {
    Kind.TEXT: "''",
    Kind.BIGINT: "0",
    Kind.DOUBLE: "0",
    Kind.BOOLEAN: "false",
    Kind.TIMESTAMPTZ: "'epoch'",
    Kind.BYTEA: "''",
    Kind.UUID: "'00000000-0000-0000-0000-000000000000'",
    Kind.NUMERIC: "0",
    Kind.DATE: "'epoch'",
    Kind.TIME: "'00:00'",
    Kind.INTERVAL: "'0'",
}


def name(identifier: str) -> str:
    """A quoted identifier."""
    return '"' + identifier.replace('"', '""') + '"'


def literal(value: Any) -> str:
    """A quoted literal. Raises `InvalidModelError` for a value that has no literal."""
    if isinstance(value, enum.Enum):
        value = str(value.value)
    if value is None:
        return "NULL"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float | decimal.Decimal):
        return str(value) if value == value and abs(value) != float("inf") else f"'{value}'"
    if isinstance(value, bytes):
        return f"'\\x{value.hex()}'::bytea"
    if isinstance(value, datetime.timedelta):
        return f"'{value.days} days {value.seconds}.{value.microseconds:06} seconds'::interval"
    if isinstance(value, str | uuid.UUID | datetime.date | datetime.time):
        text = value.isoformat() if isinstance(value, datetime.date | datetime.time) else str(value)
        return "'" + text.replace("'", "''") + "'"
    raise InvalidModelError(f"Default({type(value).__name__}) has no SQL literal; give it as Default(sql=...)")


def default(field: Field) -> str | None:
    """The expression of the column's DEFAULT, or None."""
    if field.default is None:
        return None
    return field.default.sql if field.default.sql is not None else literal(field.default.value)


def zero(field: Field) -> str:
    """What old rows get in a new NOT NULL column."""
    if field.choices is not None:
        return literal(next(iter(field.choices)))
    if field.kind is Kind.JSONB:
        base = typing.get_origin(field.annotation) or field.annotation
        return "'[]'" if base in (list, tuple, set) else "'{}'"
    assert field.kind is not None
    return _ZEROS[field.kind]


def column(field: Field) -> str:
    """The column as CREATE TABLE and ADD COLUMN want it."""
    words = [name(field.name), field.sql_type]
    if not field.nullable:
        words.append("NOT NULL")
    expression = default(field)
    if expression is not None:
        words.append(f"DEFAULT {expression}")
    return " ".join(words)


def create_table(table: str, columns: Sequence[Field], key: Field, partition_by: str | None) -> list[str]:
    """The statements that make a table, with its partitions where there are any."""
    lines = [column(field) for field in columns]
    lines.append(f"{VERSION_COLUMN} BIGINT NOT NULL DEFAULT 0")
    lines.append(f"PRIMARY KEY ({name(key.name)})")
    made = f"CREATE TABLE {name(table)} ({', '.join(lines)})"
    if partition_by is None:
        return [made]
    parts = [
        f"CREATE TABLE {name(short(f'{table}_p{part:02}'))} PARTITION OF {name(table)} "
        f"FOR VALUES WITH (MODULUS {HASH_PARTITIONS}, REMAINDER {part})"
        for part in range(HASH_PARTITIONS)
    ]
    return [f"{made} PARTITION BY HASH ({name(partition_by)})", *parts]


def add_column(table: str, field: Field) -> list[str]:
    """The statements that add a column to a table that may have rows."""
    add = f"ALTER TABLE {name(table)} ADD COLUMN {column(field)}"
    if field.nullable or default(field) is not None:
        return [add]
    return [f"{add} DEFAULT {zero(field)}", f"ALTER TABLE {name(table)} ALTER COLUMN {name(field.name)} DROP DEFAULT"]


def unique(table: str, fields: Sequence[str], given: str | None, *, deferrable: bool) -> str:
    """The statement that adds a UNIQUE constraint; deferrable ones let a batch be legal only as a whole."""
    constraint = given or short(f"{table}_{'_'.join(fields)}_key")
    tail = " DEFERRABLE INITIALLY IMMEDIATE" if deferrable else ""
    columns = ", ".join(map(name, fields))
    return f"ALTER TABLE {name(table)} ADD CONSTRAINT {name(constraint)} UNIQUE ({columns}){tail}"


def index(table: str, item: Index) -> str:
    """The statement that makes a plain index."""
    columns = ", ".join(map(name, item.fields))
    return f"CREATE INDEX {name(index_name(table, item))} ON {name(table)} ({columns})"


def index_name(table: str, item: Index) -> str:
    """The index's own name, or one made from table and columns."""
    return item.name or short(f"idx_{table}_{'_'.join(item.fields)}")


def short(identifier: str) -> str:
    """An identifier of at most 63 bytes, with a digest of what was cut off."""
    if len(identifier) <= _LONGEST_NAME:
        return identifier
    return f"{identifier[: _LONGEST_NAME - 9]}_{hashlib.sha256(identifier.encode()).hexdigest()[:8]}"
