"""SQL that makes tables, columns and indexes; literals are quoted in one place."""

from __future__ import annotations

import datetime
import decimal
import hashlib
import uuid
from collections.abc import Sequence
from typing import Any

from strata.errors import InvalidModelError
from strata.l3.catalog import table_columns
from strata.l3.connection import Connection
from strata.l3.layout import HORIZONS, PARTIALS, REPAIRS, TOMBSTONES, VERSION, quote
from strata.l3.partition import Month, Partition
from strata.model.columns import Column
from strata.model.defaults import default_of
from strata.model.fields import Field, Kind
from strata.policies import Index

MIGRATIONS = "_strata_migrations"
HASH_PARTITIONS = 16
UUID7_SINCE, PARTITIONED_IDENTITY_SINCE = 180_000, 170_000  # versions of PostgreSQL
_LONGEST_NAME = 63  # bytes of an identifier
_MONTHS_OF_ROWS = """DO $$ DECLARE m TIMESTAMP; BEGIN
  FOR m IN SELECT DISTINCT date_trunc('month', {at} AT TIME ZONE 'UTC') FROM {old} WHERE isfinite({at}) LOOP
    IF to_regclass(format('%I', '{table}_' || to_char(m, '"y"YYYY"m"MM'))) IS NULL THEN
      EXECUTE format('CREATE TABLE %I PARTITION OF %I FOR VALUES FROM (%L) TO (%L)',
        '{table}_' || to_char(m, '"y"YYYY"m"MM'), '{table}',
        m AT TIME ZONE 'UTC', (m + interval '1 month') AT TIME ZONE 'UTC');
    END IF;
  END LOOP;
END $$"""

LATER = ("counted", "changed")  # columns of `PARTIALS` that an earlier release made it without
SYSTEM_TABLES = {
    MIGRATIONS: (
        "file_name TEXT PRIMARY KEY, checksum TEXT NOT NULL, applied_at TIMESTAMPTZ NOT NULL DEFAULT clock_timestamp()"
    ),
    TOMBSTONES: (
        "schema TEXT NOT NULL, id TEXT NOT NULL, version BIGINT NOT NULL, "
        "deleted_at TIMESTAMPTZ NOT NULL DEFAULT now(), PRIMARY KEY (schema, id)"
    ),
    HORIZONS: "schema TEXT PRIMARY KEY, version BIGINT NOT NULL",
    PARTIALS: (
        "schema TEXT NOT NULL, id TEXT NOT NULL, version BIGINT NOT NULL, base BIGINT NOT NULL, "
        "columns JSONB NOT NULL, at TIMESTAMPTZ NOT NULL DEFAULT now(), counted JSONB, changed JSONB, "
        "PRIMARY KEY (schema, id)"
    ),
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


def own_tables() -> list[str]:
    """The statements that make all of Strata's own tables as they should be, whatever is there of them."""
    made = [line for name in SYSTEM_TABLES for line in system_table(name)]
    return made + [f"ALTER TABLE {PARTIALS} ADD COLUMN IF NOT EXISTS {name} JSONB" for name in LATER]


def later_columns(conn: Connection) -> list[str]:
    """The statements that add to Strata's own tables what an earlier release has made them without."""
    _, columns = table_columns(conn, PARTIALS)
    missing = [name for name in LATER if columns and name not in columns]
    return [f"ALTER TABLE {PARTIALS} ADD COLUMN {name} JSONB" for name in missing]


def literal(value: Any) -> str:
    """The SQL of a value as a row has it. Raises `InvalidModelError` for one that has no literal."""
    if value is None:
        return "NULL"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        text = repr(value)
        return text if text[:1].isdigit() else f"'{text}'"  # not so NaN and Infinity, nor -0.0, which - would make 0
    if isinstance(value, int | decimal.Decimal):
        text = str(value)
        return text if text.lstrip("-")[:1].isdigit() else f"'{text}'"
    if isinstance(value, bytes):
        return f"'\\x{value.hex()}'::bytea"
    if isinstance(value, datetime.timedelta):
        # A sign of its own for each part: one in front would be that of all of them where IntervalStyle says so.
        return f"'{value.days:+} days +{value.seconds}.{value.microseconds:06} seconds'::interval"
    if isinstance(value, datetime.date | datetime.time):
        return f"'{value.isoformat()}'"
    if isinstance(value, str | uuid.UUID):
        return "'" + str(value).replace("'", "''") + "'"
    raise InvalidModelError(f"Default({type(value).__name__}) has no SQL literal; give it as Default(sql=...)")


def default(column: Column) -> str | None:
    """The expression of the column's DEFAULT, or None."""
    found = default_of(column)
    if found is None:
        return None
    return found.sql if found.sql is not None else literal(found.value)


def column(item: Column) -> str:
    """The column as CREATE TABLE and ADD COLUMN want it."""
    words = [quote(item.field.name), item.field.sql_type]
    if not item.field.nullable:
        words.append("NOT NULL")
    expression = default(item)
    if expression is not None:
        words.append(f"DEFAULT {expression}")
    return " ".join(words)


def assign_key(table: str, key: Field, *, server: int, partitioned: bool, filled: bool) -> list[str]:
    """The statements by which a table without a DEFAULT for its Generated key makes one, on a server of this version
    (180000 is 18.0); a table that is `filled` counts on from the highest key that it has."""
    name = quote(key.name)
    alter = f"ALTER TABLE {quote(table)} ALTER COLUMN {name}"
    if key.kind is Kind.UUID:
        return [f"{alter} SET DEFAULT {'uuidv7()' if server >= UUID7_SINCE else 'gen_random_uuid()'}"]
    made = [f"{alter} ADD GENERATED BY DEFAULT AS IDENTITY"]
    if partitioned and server < PARTITIONED_IDENTITY_SINCE:
        sequence = quote(short(f"{table}_{key.name}_seq"))
        made = [
            f"CREATE SEQUENCE {sequence} OWNED BY {quote(table)}.{name}",
            f"{alter} SET DEFAULT nextval({literal(sequence)}::regclass)",
        ]
    if filled:
        counter = f"pg_get_serial_sequence({literal(quote(table))}, {literal(key.name)})"
        made.append(f"SELECT setval({counter}, max({name})) FROM {quote(table)} HAVING max({name}) > 0")
    return made


def create_table(
    table: str,
    columns: Sequence[Column],
    keys: Sequence[str],
    partition: Partition | None = None,
    months: Sequence[Month] = (),
) -> list[str]:
    """The statements that make a table with its partitions: by a hash of its key, or these `months` and a default."""
    lines = [column(item) for item in columns]
    lines.append(f"{VERSION} BIGINT NOT NULL DEFAULT 0")
    lines.append(f"{_key_constraint(columns, keys, partition)}")
    made = f"CREATE TABLE {quote(table)} ({', '.join(lines)})"
    if partition is None:
        return [made]
    if not partition.monthly:
        parts = [
            f"CREATE TABLE {quote(short(f'{table}_p{part:02}'))} PARTITION OF {quote(table)} "
            f"FOR VALUES WITH (MODULUS {HASH_PARTITIONS}, REMAINDER {part})"
            for part in range(HASH_PARTITIONS)
        ]
        return [f"{made} PARTITION BY HASH ({quote(partition.column)})", *parts]
    parts = [f"CREATE TABLE {partition_name(table, m)} PARTITION OF {quote(table)} {within(m)}" for m in months]
    return [f"{made} PARTITION BY RANGE ({quote(partition.column)})", *parts, default_partition(table)]


def _key_constraint(columns: Sequence[Column], keys: Sequence[str], partition: Partition | None) -> str:
    if partition is None or not partition.monthly:
        return f"PRIMARY KEY ({_list(keys)})"
    # The partition's column must be in it; where that may be NULL, it cannot be the primary key.
    nullable = any(item.field.nullable for item in columns if item.field.name == partition.column)
    return f"{'UNIQUE' if nullable else 'PRIMARY KEY'} ({_list([*keys, partition.column])})"


def partition_name(table: str, month: Month) -> str:
    """The quoted name of a month's partition."""
    return quote(short(f"{table}_{month.suffix}"))


def default_partition(table: str) -> str:
    """The statement that makes the partition of everything that is in no month."""
    return f"CREATE TABLE {quote(short(f'{table}_default'))} PARTITION OF {quote(table)} DEFAULT"


def within(month: Month) -> str:
    """The bounds of a month's partition; the time zone is UTC, whatever the session's."""
    return f"FOR VALUES FROM ('{month.start.isoformat()}') TO ('{month.next().start.isoformat()}')"


def repartition(table: str, create: Sequence[str], copied: Sequence[str], month_of: str | None) -> str:
    """What to run by hand to have an existing table partitioned, while nobody writes to it.

    `create` makes the new table, `copied` are the columns that both have; `month_of` is the column whose months divide
    it: each that has rows gets a partition.
    """
    old, columns = quote(short(f"{table}_unpartitioned")), _list(copied)
    steps = ["BEGIN", f"LOCK TABLE {quote(table)}", f"ALTER TABLE {quote(table)} RENAME TO {old}", *create]
    if month_of is not None:
        steps.append(_MONTHS_OF_ROWS.format(at=quote(month_of), old=old, table=table.replace("'", "''")))
    steps.append(f"INSERT INTO {quote(table)} ({columns}) SELECT {columns} FROM {old}")
    return ";\n".join([*steps, f"DROP TABLE {old}", "COMMIT"]) + "; -- then migrate() makes the indexes"


def add_column(table: str, item: Column, old_rows: str | None) -> list[str]:
    """The statements that add a column; `old_rows` is the expression that rows get which are there already, where the
    column's DEFAULT does not say it."""
    add = f"ALTER TABLE {quote(table)} ADD COLUMN {column(item)}"
    if old_rows is None:
        return [add]
    name = quote(item.field.name)
    return [f"{add} DEFAULT {old_rows}", f"ALTER TABLE {quote(table)} ALTER COLUMN {name} DROP DEFAULT"]


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
