"""Databases, tables and rows for the tests of L3, on every PostgreSQL that is supported."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from typing import Annotated, Any

import strata
from strata import PostgresPolicy, Schema
from strata.l3.migrations import Migrator
from strata.l3.pool import Database
from strata.l3.table import Table
from strata.l3.values import Change
from strata.model import compile_model
from strata.policies import L3PoolConfig
from strata.waits.clock import SystemClock
from tests import databases
from tests.databases import VERSIONS

NODE = 3
NOW = datetime(2026, 5, 1, 12, tzinfo=UTC)


@dataclass
class Item:
    """The record of most tests; `first` is what L3 keeps."""

    id: Annotated[str, strata.PrimaryKey]
    name: Annotated[str, strata.Unique]
    size: int = 0
    note: str | None = None
    first: Annotated[datetime | None, strata.AutoNowAdd] = None
    last: Annotated[datetime | None, strata.AutoNow] = None


@dataclass
class Everything:
    """A column of every type; a reserved word and capitals among the names."""

    id: Annotated[uuid.UUID, strata.PrimaryKey]
    text: str = ""
    number: int = 0
    real: float = 0.0
    flag: bool = False
    at: datetime | None = None
    data: bytes | None = None
    nested: dict[str, Any] = field(default_factory=dict)
    amount: Decimal | None = None
    day: date | None = None
    hour: time | None = None
    span: timedelta | None = None
    order: int = 0
    CamelCase: str = ""


@contextmanager
def fresh(version: int = VERSIONS[0], *, collation: str = "C", **config: Any) -> Iterator[Database]:
    """An empty database on a server of this version."""
    with databases.fresh(version, collation=collation) as dsn:
        database = Database(dsn, L3PoolConfig(**config), clock=SystemClock())
        yield database
        database.close()


def unmade(
    model: type[Any] = Item, name: str = "", *, deferred: bool = False, partition_by: str | None = None
) -> Table:
    """The table of a model, which no database has yet."""
    name = name or model.__name__.lower() + "s"
    return Table(compile_model(model), name, schema_name=name, deferred=deferred, partition_by=partition_by)


def make_table(database: Database, model: type[Any] = Item, *, deferred: bool = False, **policy: Any) -> Table:
    """The table of a model, migrated."""
    table = unmade(model, policy.pop("name", ""), deferred=deferred, partition_by=policy.get("partition_by"))
    name = table.name
    Migrator(database, [(table, Schema(model, name=name, l3=PostgresPolicy(**policy)))]).migrate()
    return table


def row(key: str, size: int = 0, *, name: str = "", note: str | None = None, at: datetime = NOW) -> tuple[Any, ...]:
    """An `Item` as a row."""
    return key, name or f"name of {key}", size, note, at, at


def change(key: str, version: int, size: int = 0, **options: Any) -> Change:
    """A whole `Item` as a pending change."""
    return Change(key, key, version, values=row(key, size, **options))


def deletion(key: str, version: int) -> Change:
    """A pending deletion."""
    return Change(key, key, version, delete=True)


def partial(key: str, version: int, **columns: Any) -> Change:
    """A pending change of some columns."""
    return Change(key, key, version, names=("id", *columns), values=(key, *columns.values()))


def stamp(micros: int, node: int = NODE) -> int:
    """A version of that time."""
    return micros << 11 | node
