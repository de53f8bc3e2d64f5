"""The demonstration's model: a place of GeoNames."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from typing import Annotated

from strata.model import AutoNow, AutoNowAdd, Default, Indexed, PrimaryKey
from strata.policies import MemPolicy, PostgresPolicy, RedisPolicy, WriteMode
from strata.schema import Schema


@dataclass
class Place:
    """A place of GeoNames; `visits` is the field that the demonstration updates.

    It sets what it knows, and is the only one to: several writers that add to what they read would lose some.
    """

    id: Annotated[int, PrimaryKey]
    name: Annotated[str, Indexed]
    country: Annotated[str, Indexed]
    latitude: float
    longitude: float
    population: int
    timezone: str
    region: str | None = None
    alternate_names: list[str] = field(default_factory=list)
    visits: Annotated[int, Default(0)] = 0
    created_at: Annotated[datetime | None, AutoNowAdd] = None
    updated_at: Annotated[datetime | None, AutoNow] = None


SCHEMA = Schema(
    Place,
    name="places",
    l1=MemPolicy(ttl=300, max_entries=256),
    l2=RedisPolicy(ttl=1800),
    l3=PostgresPolicy(),
    write_mode=WriteMode.WRITE_BEHIND,
)
