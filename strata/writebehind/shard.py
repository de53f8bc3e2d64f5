"""The shards of the ledger, each with Redis keys of its own."""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

from strata.shards import SHARDS, shard_of


class Shard(NamedTuple):
    """One shard of a schema's ledger."""

    schema: str
    number: int

    def key(self, name: str) -> str:
        """The Redis key of one of its parts."""
        return f"strata:{{{self.schema}:{self.number}}}:{name}"

    def keys(self, *names: str) -> list[str]:
        """The Redis keys of some of its parts."""
        head = f"strata:{{{self.schema}:{self.number}}}:"
        return [head + name for name in names]


@cache
def shards_of(schema: str) -> tuple[Shard, ...]:
    """All shards of a schema."""
    return tuple(Shard(schema, number) for number in range(SHARDS))


def home_of(schema: str, key_text: str) -> Shard:
    """The shard of a key."""
    return shards_of(schema)[shard_of(key_text)]
