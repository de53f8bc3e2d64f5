"""What a schema may ask of each tier: small frozen values, checked when they are made.

Durations are seconds or `timedelta`; after construction they are `float` seconds, or None for the default
that `Config` holds. 0 means: never expires.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass, field
from datetime import timedelta
from typing import Any

from strata.errors import InvalidConfigError

Duration = float | timedelta


class WriteMode(enum.Enum):
    """When `set` returns, and which tiers it has reached by then.

    In each of them the last `set` of a key wins, whole: `get`, a change and `set` lose what others wrote in between.
    Count in SQL (`UPDATE ... SET n = n + 1`) beside `PostgresPolicy(watch=True)` or `invalidate`.
    """

    WRITE_THROUGH = "write_through"
    WRITE_THROUGH_L1_ASYNC = "write_through_l1_async"
    WRITE_BEHIND = "write_behind"


class EvictionPolicy(enum.Enum):
    """Which entry leaves a full L1: the least recently used, the least frequently used, or the oldest."""

    LRU = "lru"
    LFU = "lfu"
    FIFO = "fifo"


class SearchExpiry(enum.Enum):
    """How long the results of `search_cached` live: until their TTL ends, or until the schema is written, if sooner."""

    TTL = "ttl"
    ON_WRITE = "on_write"


class Durability(enum.Enum):
    """What a write-behind `set` has done when it returns.

    `MEMORY` keeps the record in the process until the next flush; `JOURNAL` appends it to a local file first;
    `LEDGER` hands it to Redis before returning.
    """

    MEMORY = "memory"
    JOURNAL = "journal"
    LEDGER = "ledger"


LONGEST = timedelta.max.total_seconds()


def seconds(value: Duration | None, what: str) -> float | None:
    """`value` as seconds. Raises `InvalidConfigError` for what is negative, no number, or beyond `timedelta.max`."""
    if value is None:
        return None
    number = value.total_seconds() if isinstance(value, timedelta) else value
    # Beyond it, milliseconds since 1970 do not fit Redis's 64 bits. (A NaN is not within either.)
    if isinstance(number, bool) or not isinstance(number, int | float) or not 0 <= number <= LONGEST:
        shown = "too large" if isinstance(number, int) and number > LONGEST else repr(value)
        wanted = "seconds (0 or more) or a timedelta, at most timedelta.max"
        raise InvalidConfigError(f"{what} is {shown}; it must be {wanted}")
    return float(number)


def count(value: int, what: str, least: int = 0) -> int:
    """`value`, a whole number of at least `least`. Raises `InvalidConfigError` otherwise."""
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise InvalidConfigError(f"{what} is {value!r}; it must be a whole number, {least} or more")
    return value


def fraction(value: float, what: str) -> float:
    """`value`, a part of the TTL below all of it; 0 is off. Raises `InvalidConfigError` otherwise."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 1:
        raise InvalidConfigError(f"{what} is {value!r}; it must be a fraction of the TTL, from 0 (off) to below 1")
    return float(value)


@dataclass(frozen=True, slots=True)
class MemPolicy:
    """L1. `max_entries` counts per shard of 256, so the schema holds 256 times as many; 0 is unlimited.

    Freshness, all off by default. `jitter`: by up to this fraction an entry's TTL is shortened, at random.
    `negative_ttl`: seconds for which "no such record" is remembered. `eager_refresh`: after this fraction of the TTL
    the first hit reloads the entry in the background. `fail_safe`: seconds beyond the TTL for which an entry may still
    be served while the tiers below are down.
    """

    ttl: Duration | None = None
    max_entries: int | None = None
    eviction: EvictionPolicy | None = None
    _: KW_ONLY
    jitter: float = 0.0
    negative_ttl: Duration = 0.0
    eager_refresh: float = 0.0
    fail_safe: Duration = 0.0

    def __post_init__(self) -> None:
        _fresh(self)
        if self.max_entries is not None:
            count(self.max_entries, "MemPolicy.max_entries")
        if self.eviction is not None and not isinstance(self.eviction, EvictionPolicy):
            raise InvalidConfigError(f"MemPolicy.eviction is {self.eviction!r}; it must be an EvictionPolicy")


@dataclass(frozen=True, slots=True)
class RedisPolicy:
    """L2. `key_prefix` stands in keys in place of the schema's name.

    `jitter`, `negative_ttl`, `eager_refresh` and `fail_safe` are as in `MemPolicy`, for entries of L2. `lease_wait`:
    seconds for which a `get` waits while another process loads the same record; 0 (the default) loads it as well.
    `search_expiry` is for `search_cached`; every process that writes the schema must give the same.
    """

    ttl: Duration | None = None
    key_prefix: str | None = None
    _: KW_ONLY
    jitter: float = 0.0
    negative_ttl: Duration = 0.0
    eager_refresh: float = 0.0
    fail_safe: Duration = 0.0
    lease_wait: Duration = 0.0
    search_expiry: SearchExpiry = SearchExpiry.TTL

    def __post_init__(self) -> None:
        _fresh(self)
        object.__setattr__(self, "lease_wait", seconds(self.lease_wait, "RedisPolicy.lease_wait") or 0.0)
        if not isinstance(self.search_expiry, SearchExpiry):
            raise InvalidConfigError(f"RedisPolicy.search_expiry is {self.search_expiry!r}; it must be a SearchExpiry")


@dataclass(frozen=True, slots=True)
class PostgresPolicy:
    """L3. `read_replica` is a DSN asked by `search` and `count`; `partition_by` names the key, by
    whose hash the table is divided, or a `datetime` column, by whose months it is.

    `soft_timeout`: seconds after which a `get` that waits for L3 returns a stale value, where `fail_safe` has kept
    one. `hard_timeout`: seconds after which it raises `L3UnavailableError`. Either way the load goes on in the
    background. None (the default) waits as long as L3's own time-outs allow.

    `watch`: `migrate` gives the table a trigger, and every instance listens to it, so that rows changed outside of
    Strata are seen too.

    `managed=False`: the table is another tool's, which makes and changes it; `migrate` only says what it lacks.
    """

    table_name: str | None = None
    read_replica: str | None = field(default=None, repr=False)
    partition_by: str | None = None
    _: KW_ONLY
    soft_timeout: Duration | None = None
    hard_timeout: Duration | None = None
    watch: bool = False
    managed: bool = True

    def __post_init__(self) -> None:
        for name in ("soft_timeout", "hard_timeout"):
            if getattr(self, name) is not None:
                _positive(self, name)
        soft, hard = self.soft_timeout, self.hard_timeout
        if soft is not None and hard is not None and soft >= hard:  # type: ignore[operator]
            raise InvalidConfigError(
                f"PostgresPolicy.soft_timeout is {soft!r}, hard_timeout {hard!r}; the soft one must be the shorter"
            )
        for name in ("watch", "managed"):
            if not isinstance(getattr(self, name), bool):
                raise InvalidConfigError(f"PostgresPolicy.{name} is {getattr(self, name)!r}; it must be True or False")


@dataclass(frozen=True, slots=True)
class Index:
    """An index over one or more columns; without `name` one is made from table and columns."""

    fields: Sequence[str]
    name: str | None = None
    unique: bool = False

    def __post_init__(self) -> None:
        if isinstance(self.fields, str) or not all(isinstance(name, str) for name in self.fields) or not self.fields:
            raise InvalidConfigError(f"Index.fields is {self.fields!r}; it must be a list of one or more column names")
        object.__setattr__(self, "fields", tuple(self.fields))


@dataclass(frozen=True, slots=True)
class L1PoolConfig:
    """Defaults for every `MemPolicy` that does not say. `max_entries` counts per shard of 256."""

    max_entries: int = 0
    eviction: EvictionPolicy = EvictionPolicy.LRU

    def __post_init__(self) -> None:
        count(self.max_entries, "L1PoolConfig.max_entries")
        if not isinstance(self.eviction, EvictionPolicy):
            raise InvalidConfigError(f"L1PoolConfig.eviction is {self.eviction!r}; it must be an EvictionPolicy")


@dataclass(frozen=True, slots=True)
class L2PoolConfig:
    """Connections to Redis: how many at most, and how long each step may take (seconds)."""

    pool_size: int = 50
    dial_timeout: Duration = 1.0
    read_timeout: Duration = 1.0
    write_timeout: Duration = 1.0

    def __post_init__(self) -> None:
        count(self.pool_size, "L2PoolConfig.pool_size", 1)
        _positive(self, "dial_timeout", "read_timeout", "write_timeout")


@dataclass(frozen=True, slots=True)
class L3PoolConfig:
    """Connections to PostgreSQL: how many, how long they live, and how long one statement may take (seconds).

    `prepared`: statements are prepared, under names that no other connection can have. False is for a connection
    pooler in transaction mode that does not keep them apart (PgBouncer before 1.21): then nothing at all is left in a
    session.
    """

    max_conns: int = 10
    min_conns: int = 0
    max_conn_lifetime: Duration = 3600.0
    max_conn_idle_time: Duration = 600.0
    acquire_timeout: Duration = 5.0
    connect_timeout: Duration = 3.0
    statement_timeout: Duration = 15.0
    lock_timeout: Duration = 5.0
    prepared: bool = True

    def __post_init__(self) -> None:
        if not isinstance(self.prepared, bool):
            raise InvalidConfigError(f"L3PoolConfig.prepared is {self.prepared!r}; it must be True or False")
        count(self.max_conns, "L3PoolConfig.max_conns", 1)
        count(self.min_conns, "L3PoolConfig.min_conns")
        if self.min_conns > self.max_conns:
            raise InvalidConfigError(
                f"L3PoolConfig.min_conns is {self.min_conns}, max_conns only {self.max_conns}; make it at most that"
            )
        _positive(self, "max_conn_lifetime", "max_conn_idle_time", "acquire_timeout", "connect_timeout")
        _positive(self, "statement_timeout", "lock_timeout")


def _fresh(policy: MemPolicy | RedisPolicy) -> None:
    """Check and convert what the policies of L1 and L2 share."""
    kind = type(policy).__name__
    for name in ("ttl", "negative_ttl", "fail_safe"):
        object.__setattr__(policy, name, seconds(getattr(policy, name), f"{kind}.{name}"))
    for name in ("negative_ttl", "fail_safe"):
        if getattr(policy, name) is None:
            raise InvalidConfigError(f"{kind}.{name} is None; it must be seconds (0 is off) or a timedelta")
    for name in ("jitter", "eager_refresh"):
        object.__setattr__(policy, name, fraction(getattr(policy, name), f"{kind}.{name}"))
    if policy.ttl == 0 and (policy.eager_refresh or policy.fail_safe):
        raise InvalidConfigError(f"{kind}.ttl is 0, so that nothing expires; eager_refresh and fail_safe need a TTL")


def _positive(owner: Any, *names: str) -> None:
    for name in names:
        what = f"{type(owner).__name__}.{name}"
        number = seconds(getattr(owner, name), what)
        if not number:
            raise InvalidConfigError(f"{what} is {getattr(owner, name)!r}; it must be more than 0 seconds")
        object.__setattr__(owner, name, number)
