"""The shards of the ledger, each with Redis keys of its own (`Ledger.key`)."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from typing import NamedTuple

from strata.protocol.shards import SHARDS, shard_of


class Shard(NamedTuple):
    """One shard of a schema's ledger."""

    schema: str
    number: int

    @property
    def tag(self) -> str:
        """What puts its keys into one slot of a Cluster."""
        return f"{self.schema}:{self.number}"


@cache
def shards_of(schema: str) -> tuple[Shard, ...]:
    """All shards of a schema."""
    return tuple(Shard(schema, number) for number in range(SHARDS))


def home_of(schema: str, key_text: str) -> Shard:
    """The shard of a key."""
    return shards_of(schema)[shard_of(key_text)]


def by_home(schema: str, versions: Iterable[tuple[str, int]]) -> list[tuple[Shard, list[tuple[str, int]]]]:
    """Versions by key text, those of each shard together."""
    homes: dict[Shard, list[tuple[str, int]]] = {}
    for key_text, version in versions:
        homes.setdefault(home_of(schema, key_text), []).append((key_text, version))
    return list(homes.items())
