"""The record of the write-behind benchmark, its schema, and the statement that stores it by hand."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Annotated, Any

from strata import MemPolicy, PostgresPolicy, PrimaryKey, RedisPolicy, Schema, WriteMode

NAME = "records"
TTL = 600  # seconds in L2
COLUMNS = "id, name, email, level, score, active, region, created, updated, extra"
VALUES = f"VALUES ({', '.join(['%s'] * 11)})"
BY_HAND = (
    f"INSERT INTO by_hand ({COLUMNS}, _strata_version) {VALUES} ON CONFLICT (id) DO UPDATE SET "
    "name = EXCLUDED.name, email = EXCLUDED.email, level = EXCLUDED.level, score = EXCLUDED.score, "
    "active = EXCLUDED.active, region = EXCLUDED.region, created = EXCLUDED.created, updated = EXCLUDED.updated, "
    "extra = EXCLUDED.extra, _strata_version = EXCLUDED._strata_version "
    "WHERE by_hand._strata_version < EXCLUDED._strata_version"
)
TASK = "benchmark.one"


@dataclass
class Record:
    """Ten fields, two datetimes, a nested dict."""

    id: Annotated[int, PrimaryKey]
    name: str = "andrew"
    email: str | None = "andrew@example.org"
    level: int = 7
    score: float = 12.5
    active: bool = True
    region: str = "eu-central"
    created: datetime = datetime(2026, 1, 2, 3, 4, 5, 678901, UTC)
    updated: datetime = datetime(2026, 2, 3, 4, 5, 6, 789012, UTC)
    extra: dict[str, int] = field(default_factory=lambda: {"wins": 3, "losses": 4})


def record_schema(
    mode: WriteMode = WriteMode.WRITE_BEHIND, *, name: str = NAME, l1: bool = True, l2: bool = True, l3: bool = True
) -> Schema[Record]:
    """In all tiers, or in some."""
    return Schema(
        Record,
        name=name,
        l1=MemPolicy(ttl=600, max_entries=0) if l1 else None,
        l2=RedisPolicy(ttl=TTL) if l2 else None,
        l3=PostgresPolicy() if l3 else None,
        write_mode=mode,
    )


def row_of(record: Record) -> list[Any]:
    """The values of its columns, as psycopg takes them."""
    return [
        record.id, record.name, record.email, record.level, record.score, record.active, record.region,
        record.created.isoformat(), record.updated.isoformat(), json.dumps(record.extra),
    ]  # fmt: skip
