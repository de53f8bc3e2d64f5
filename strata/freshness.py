"""What a schema's policies say together of fresh and stale: checked at `register`, read by the engine."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from strata.errors import InvalidConfigError
from strata.policies import MemPolicy, PostgresPolicy, RedisPolicy
from strata.schema import Schema


@dataclass(frozen=True, slots=True)
class Freshness:
    """`soft` and `hard` are the time-outs of a read's L3, `lease_wait` the wait for another process's load, all in
    seconds, 0 = off; `fail_safe`: whether a stale value may stand in for an outage. `plain`: none of this but the wait
    for others, so that a read waits for its load, and has its error."""

    soft: float = 0.0
    hard: float = 0.0
    lease_wait: float = 0.0
    fail_safe: bool = False
    plain: bool = True

    @property
    def timed(self) -> bool:
        """Whether a read gives up waiting for L3 before L3's own time-outs do."""
        return bool(self.soft or self.hard)


def freshness_of(schema: Schema[Any]) -> Freshness:
    """The options of the three policies. Raises `InvalidConfigError` for one that could not do anything."""
    l1, l2, l3 = schema.l1 or MemPolicy(), schema.l2 or RedisPolicy(), schema.l3 or PostgresPolicy()
    _needs(schema, "MemPolicy", l1, bool(schema.l2 or schema.l3), ("negative_ttl", "eager_refresh", "fail_safe"))
    _needs(schema, "RedisPolicy", l2, bool(schema.l3), ("negative_ttl", "eager_refresh", "fail_safe"))
    fail_safe = bool(l1.fail_safe or l2.fail_safe)
    if l3.soft_timeout is not None and not fail_safe:
        raise InvalidConfigError(
            f"schema {schema.name!r} has a soft_timeout, but keeps no stale value that a read could return then; "
            "give its MemPolicy or RedisPolicy a fail_safe"
        )
    soft, hard = l3.soft_timeout or 0.0, l3.hard_timeout or 0.0
    return Freshness(soft, hard, l2.lease_wait, fail_safe, plain=not (soft or hard or fail_safe))


def _needs(schema: Schema[Any], kind: str, policy: Any, below: bool, names: tuple[str, ...]) -> None:
    for name in names:
        if getattr(policy, name) and not below:
            raise InvalidConfigError(
                f"schema {schema.name!r} has {kind}.{name}, but no tier below it to load from; leave it out"
            )
