"""The application of the soak: five schemas of different kinds, whose records live for less than a minute."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from datetime import datetime
from typing import Annotated

import pytest

import strata
from strata import (
    Config,
    DataStore,
    Durability,
    EvictionPolicy,
    L1PoolConfig,
    MemPolicy,
    PostgresPolicy,
    RedisPolicy,
    Retention,
    Schema,
    SearchExpiry,
    WriteMode,
)
from strata.maintenance import housekeeping
from strata.writebehind.dirty import journal
from strata.writebehind.ledger import ledger

KEY = b"k" * 32
# What is kept for days, seen to once an hour, or begun anew after eight MB, comes and goes several times within a run.
KEPT = Retention(tombstone_ttl=60, dead_letter_ttl=60)
ledger.TOLD_SECONDS = 60
pytest.MonkeyPatch().setattr(journal, "SEGMENT_BYTES", 256 << 10)  # where it is read
housekeeping.INTERVAL, housekeeping.HELD_MS, housekeeping.DONE_MS = 5.0, 10_000, 15_000
CHECKS = "ALTER TABLE account ADD CHECK (level < 5000); ALTER TABLE event ADD CHECK (kind <> 'poison')"


@dataclass
class Session:
    """Without L3: it lives until its TTL."""

    id: Annotated[str, strata.PrimaryKey]
    user: int = 0
    data: dict[str, int] = field(default_factory=dict)


@dataclass
class Profile:
    """Written through; absences are remembered."""

    id: Annotated[int, strata.PrimaryKey]
    name: Annotated[str, strata.Unique]
    level: Annotated[int, strata.Indexed] = 0
    created_at: Annotated[datetime | None, strata.AutoNowAdd] = None
    updated_at: Annotated[datetime | None, strata.AutoNow] = None


@dataclass
class Account:
    """Written behind; with a column that is encrypted and one that no cache holds."""

    id: Annotated[int, strata.PrimaryKey]
    email: Annotated[str, strata.Encrypted] = ""
    notes: Annotated[str | None, strata.OmitCache] = None
    tags: list[str] = field(default_factory=list)
    level: int = 0


@dataclass
class Event:
    """Written behind into a table with partitions; stale values are served for a while."""

    id: Annotated[int, strata.PrimaryKey]
    kind: str = "x"
    size: int = 0


@dataclass
class Price:
    """Changed outside of Strata, too."""

    id: Annotated[int, strata.PrimaryKey]
    cents: int = 0
    label: str = ""


def make_store() -> DataStore:
    """The store of a process, by its environment."""
    durable = "STRATA_JOURNAL_DIR" in os.environ
    store = DataStore(
        Config.from_env(
            encryption_key=KEY,
            default_l1_ttl=30,
            default_l2_ttl=45,
            l1_pool=L1PoolConfig(max_entries=1_000),
            write_behind_max_retry=2,
            retention=KEPT,
            write_behind_durability=Durability.JOURNAL if durable else Durability.MEMORY,
        )
    )
    behind, through = WriteMode.WRITE_BEHIND, WriteMode.WRITE_THROUGH
    absent = MemPolicy(negative_ttl=5), RedisPolicy(negative_ttl=5)
    aging = MemPolicy(eviction=EvictionPolicy.LFU, eager_refresh=0.8, fail_safe=20)
    by_write = RedisPolicy(search_expiry=SearchExpiry.ON_WRITE)
    l3, divided, watched = PostgresPolicy(), PostgresPolicy(partition_by="id"), PostgresPolicy(watch=True)
    store.register(Schema(Session, l2=RedisPolicy(ttl=20)))
    store.register(Schema(Profile, l1=absent[0], l2=absent[1], l3=l3, write_mode=through))
    store.register(Schema(Account, l1=MemPolicy(), l2=by_write, l3=l3, write_mode=behind))
    store.register(Schema(Event, l1=aging, l2=RedisPolicy(), l3=divided, write_mode=behind))
    store.register(Schema(Price, l1=MemPolicy(eviction=EvictionPolicy.FIFO), l2=RedisPolicy(), l3=watched))
    return store


if os.environ.get("SOAK_ROLE") == "worker":
    store = make_store()
