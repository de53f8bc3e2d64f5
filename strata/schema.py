"""A schema: one model, the tiers it lives in, and how writes travel."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass, field
from typing import Generic, TypeVar

from strata.hooks import SchemaHooks
from strata.policies import Index, MemPolicy, PostgresPolicy, RedisPolicy, WriteMode

T = TypeVar("T")


@dataclass(frozen=True)
class Schema(Generic[T]):
    """Binds `model` to its tiers; a tier exists where its policy is given, and at least one must be.

    `name` defaults to the class name in snake_case, `write_mode` to `Config.default_write_mode`. Names are checked
    by `DataStore.register`.

    >>> from dataclasses import dataclass
    >>> @dataclass
    ... class PlayerScore:
    ...     id: str
    >>> Schema(PlayerScore, l1=MemPolicy(ttl=60)).name
    'player_score'
    """

    model: type[T]
    _: KW_ONLY
    name: str = ""
    l1: MemPolicy | None = None
    l2: RedisPolicy | None = None
    l3: PostgresPolicy | None = None
    write_mode: WriteMode | None = None
    indexes: Sequence[Index] = ()
    hooks: SchemaHooks = field(default_factory=SchemaHooks)

    def __post_init__(self) -> None:
        if not self.name:
            object.__setattr__(self, "name", snake_case(getattr(self.model, "__name__", "")))
        object.__setattr__(self, "indexes", tuple(self.indexes))


def snake_case(name: str) -> str:
    """`PlayerScore` as `player_score`, `HTTPLog` as `http_log`."""
    spaced = re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", name)
    return spaced.lower()
