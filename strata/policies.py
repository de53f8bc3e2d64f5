"""What a schema may ask of each tier: small frozen values, checked when they are made."""

from __future__ import annotations

import enum
from collections.abc import Iterable, Sequence
from dataclasses import KW_ONLY, dataclass, field
from typing import Any

from strata.durations import Seconds, duration
from strata.endpoints import read_dsn
from strata.errors import InvalidConfigError, shown


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


def count(value: int, what: str, least: int = 0) -> int:
    """`value`, a whole number of at least `least` and of 63 bits. Raises `InvalidConfigError` otherwise."""
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value < 1 << 63:
        raise InvalidConfigError(f"{what} is {shown(value)}; it must be a whole number, {least} or more")
    return value


def flag(value: bool, what: str) -> bool:
    """`value`, True or False. Raises `InvalidConfigError` for what only counts as one of them."""
    if not isinstance(value, bool):
        raise InvalidConfigError(f"{what} is {shown(value)}; it must be True or False")
    return value


def member(value: object, kind: type[enum.Enum], what: str) -> None:
    """Raise `InvalidConfigError`, which names its members, for what is none of the enum."""
    if not isinstance(value, kind):
        members = ", ".join(f"{kind.__name__}.{name}" for name in kind.__members__)
        raise InvalidConfigError(f"{what} is {shown(value)}; it must be one of {members}")


def fraction(value: float, what: str) -> float:
    """`value`, a part of the TTL below all of it; 0 is off. Raises `InvalidConfigError` otherwise."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 1:
        raise InvalidConfigError(f"{what} is {shown(value)}; it must be a fraction of the TTL, from 0 (off) to below 1")
    return float(value)


@dataclass(frozen=True)
class MemPolicy:
    """What L1, the memory of a process, keeps of a schema. Raises `InvalidConfigError` for what cannot work.

    Attributes:
        ttl: Seconds that an entry lives; 0 never expires. Default: `Config.default_l1_ttl`.
        max_entries: Entries a shard, of which a schema has 256, so that it holds 256 times as many; 0 is unlimited.
            Default: `L1PoolConfig.max_entries`.
        eviction: Which entry leaves when there is no more room. Default: `L1PoolConfig.eviction`.
        jitter: The fraction of its TTL, 0 to below 1, by up to which a life is shortened, at random. Default: 0, off.
        negative_ttl: Seconds for which "no such record" is remembered. Default: 0, off.
        eager_refresh: The fraction of its TTL, 0 to below 1, after which the first hit reloads an entry in the
            background. Default: 0, off.
        fail_safe: Seconds beyond its TTL for which an entry may be served while the tiers below are down. Default: 0,
            off.
    """

    ttl: Seconds[float | None] = duration(None)
    max_entries: int | None = None
    eviction: EvictionPolicy | None = None
    _: KW_ONLY
    jitter: float = 0.0
    negative_ttl: Seconds[float] = duration(0.0)
    eager_refresh: float = 0.0
    fail_safe: Seconds[float] = duration(0.0)

    def __post_init__(self) -> None:
        _fresh(self)
        if self.max_entries is not None:
            count(self.max_entries, "MemPolicy.max_entries")
        if self.eviction is not None:
            member(self.eviction, EvictionPolicy, "MemPolicy.eviction")


@dataclass(frozen=True)
class RedisPolicy:
    """What L2, Redis, keeps of a schema. Raises `InvalidConfigError` for what cannot work.

    Attributes:
        ttl: Seconds that an entry lives; 0 never expires. Default: `Config.default_l2_ttl`.
        key_prefix: What stands in keys in the place of the schema's name: an identifier, of one schema of the store
            only. Default: the schema's name.
        jitter: The fraction of its TTL, 0 to below 1, by up to which a life is shortened, at random. Default: 0, off.
        negative_ttl: Seconds for which "no such record" is remembered. Default: 0, off.
        eager_refresh: The fraction of its TTL, 0 to below 1, after which the first hit reloads an entry in the
            background. Default: 0, off.
        fail_safe: Seconds beyond its TTL for which an entry may be served while L3 is down. Default: 0, off.
        lease_wait: Seconds for which a `get` waits while another process loads the same record, and a `get_or_set`
            while it makes it. Default: 0, which does so as well.
        search_expiry: When results of `search_cached` end; every process that writes the schema must give the same.
            Default: `SearchExpiry.TTL`.
        max_searches: Results of `search_cached` that are kept at once; one more takes the place of another. Default:
            16,384.
    """

    ttl: Seconds[float | None] = duration(None)
    key_prefix: str | None = None
    _: KW_ONLY
    jitter: float = 0.0
    negative_ttl: Seconds[float] = duration(0.0)
    eager_refresh: float = 0.0
    fail_safe: Seconds[float] = duration(0.0)
    lease_wait: Seconds[float] = duration(0.0)
    search_expiry: SearchExpiry = SearchExpiry.TTL
    max_searches: int = 16_384

    def __post_init__(self) -> None:
        _fresh(self)
        count(self.max_searches, "RedisPolicy.max_searches", 1)
        _texts(self, "key_prefix")
        member(self.search_expiry, SearchExpiry, "RedisPolicy.search_expiry")


@dataclass(frozen=True)
class PostgresPolicy:
    """The table of a schema in L3, PostgreSQL. Raises `InvalidConfigError` for what cannot work.

    Attributes:
        table_name: The table, an SQL identifier. Default: the schema's name.
        read_replica: The DSN of a replica, which `search` and `count` ask. Default: none, the primary is asked.
        partition_by: The key, by whose hash the table is divided, or a `datetime` column, by whose months it is.
            Default: none, one table.
        soft_timeout: Seconds after which a `get` that waits for L3 returns a stale value, where a `fail_safe` has kept
            one; the load goes on in the background. Default: none, it waits as long as L3's own time-outs allow.
        hard_timeout: Seconds, more than `soft_timeout`, after which it raises `L3UnavailableError`; the load goes on in
            the background. Default: none.
        watch: Whether `migrate` gives the table a trigger, to which every instance listens, so that rows changed
            outside of Strata are seen too. Default: False.
        managed: Whether Strata makes and alters the table. False: it is another tool's, and `migrate` only says what it
            lacks. Default: True.
    """

    table_name: str | None = None
    read_replica: str | None = field(default=None, repr=False)
    partition_by: str | None = None
    _: KW_ONLY
    soft_timeout: Seconds[float | None] = duration(None, positive=True)
    hard_timeout: Seconds[float | None] = duration(None, positive=True)
    watch: bool = False
    managed: bool = True

    def __post_init__(self) -> None:
        soft, hard = self.soft_timeout, self.hard_timeout
        if soft is not None and hard is not None and soft >= hard:
            raise InvalidConfigError(
                f"PostgresPolicy.soft_timeout is {soft!r}, hard_timeout {hard!r}; the soft one must be the shorter"
            )
        _texts(self, "table_name", "read_replica", "partition_by")
        if self.read_replica:
            read_dsn(self.read_replica, "PostgresPolicy.read_replica")
        for name in ("watch", "managed"):
            flag(getattr(self, name), f"PostgresPolicy.{name}")


@dataclass(frozen=True, slots=True)
class Index:
    """An index of a table. Raises `InvalidConfigError` for what cannot work.

    Attributes:
        fields: The names of its columns, one or more, the first one first.
        name: Its name, an SQL identifier. Default: one made from table and columns.
        unique: Whether no two rows may be equal in these columns. Default: False.
    """

    fields: Sequence[str]
    name: str | None = None
    unique: bool = False

    def __post_init__(self) -> None:
        named = () if isinstance(self.fields, str) or not isinstance(self.fields, Iterable) else tuple(self.fields)
        if not named or not all(isinstance(name, str) for name in named):
            said = f"Index.fields is {shown(self.fields)}"
            raise InvalidConfigError(f"{said}; it must be a list of one or more column names")
        flag(self.unique, "Index.unique")
        _texts(self, "name")
        object.__setattr__(self, "fields", named)


@dataclass(frozen=True, slots=True)
class L1PoolConfig:
    """What holds for every `MemPolicy` that does not say. Raises `InvalidConfigError` for what cannot work.

    Attributes:
        max_entries: Entries a shard, of which a schema has 256; 0 is unlimited. Default: 400, which is 102,400 records.
        eviction: Which entry leaves when there is no more room. Default: `EvictionPolicy.LRU`.
    """

    max_entries: int = 400
    eviction: EvictionPolicy = EvictionPolicy.LRU

    def __post_init__(self) -> None:
        count(self.max_entries, "L1PoolConfig.max_entries")
        member(self.eviction, EvictionPolicy, "L1PoolConfig.eviction")


@dataclass(frozen=True)
class L2PoolConfig:
    """Connections to Redis: how many at most, and how long each step may take. Raises `InvalidConfigError` for what
    cannot work.

    Attributes:
        pool_size: Connections at most, of one process to one Redis, or to each node of a Cluster. Default: 50.
        dial_timeout: Seconds in which a connection is made. Default: 1.
        read_timeout: Seconds of each wait: for an answer, for more of one that has begun to come, and for one of
            `pool_size` connections to be free. Default: 1.
        write_timeout: Seconds in which a call's commands are sent. Default: 1.
    """

    pool_size: int = 50
    dial_timeout: Seconds[float] = duration(1.0, positive=True)
    read_timeout: Seconds[float] = duration(1.0, positive=True)
    write_timeout: Seconds[float] = duration(1.0, positive=True)

    def __post_init__(self) -> None:
        count(self.pool_size, "L2PoolConfig.pool_size", 1)


@dataclass(frozen=True)
class L3PoolConfig:
    """Connections to PostgreSQL: how many, how long they live, and how long one statement may take. Raises
    `InvalidConfigError` for what cannot work.

    Attributes:
        max_conns: Connections at most, of one process to one server. Default: 10.
        min_conns: Connections that are opened with the first, and stay beyond `max_conn_idle_time`. Default: 0.
        max_conn_lifetime: Seconds after which a connection is not used again. Default: 3600.
        max_conn_idle_time: Seconds after which an idle connection is closed. Default: 600.
        acquire_timeout: Seconds until one of `max_conns` is free. Default: 5.
        connect_timeout: Seconds until a new connection is open, for each host that the DSN names; whole ones, and two
            at least, as libpq counts. Default: 3.
        statement_timeout: Seconds that one statement may take. It is PostgreSQL's own; a server that does not even say
            that they are over is given up soon after. Default: 15.
        lock_timeout: Seconds that one statement may wait for a lock, likewise. Default: 5.
        prepared: Whether statements are prepared, under names that no other connection can have. False is for a pooler
            in transaction mode that does not keep them apart (PgBouncer before 1.21): nothing at all is then left in a
            session. Default: True.
    """

    max_conns: int = 10
    min_conns: int = 0
    max_conn_lifetime: Seconds[float] = duration(3600.0, positive=True)
    max_conn_idle_time: Seconds[float] = duration(600.0, positive=True)
    acquire_timeout: Seconds[float] = duration(5.0, positive=True)
    connect_timeout: Seconds[float] = duration(3.0, positive=True)
    statement_timeout: Seconds[float] = duration(15.0, positive=True)
    lock_timeout: Seconds[float] = duration(5.0, positive=True)
    prepared: bool = True

    def __post_init__(self) -> None:
        flag(self.prepared, "L3PoolConfig.prepared")
        count(self.max_conns, "L3PoolConfig.max_conns", 1)
        count(self.min_conns, "L3PoolConfig.min_conns")
        if self.min_conns > self.max_conns:
            raise InvalidConfigError(
                f"L3PoolConfig.min_conns is {self.min_conns}, max_conns only {self.max_conns}; make it at most that"
            )


@dataclass(frozen=True)
class Retention:
    """How long, and how many of, what is kept on behalf of deferred writes (see docs/retention.md). Raises
    `InvalidConfigError` for what cannot work.

    Tombstones say of deleted records that they were; dead letters are the writes that were given up.

    Attributes:
        tombstone_ttl: Seconds that a tombstone is kept: what is written behind, and held up for longer, may not be a
            new row any more; 0 is without end. Default: 604,800, which is 7 days.
        max_tombstones: Tombstones of a schema; of more the oldest go, but none within the hour; 0 is without end.
            Default: 1,000,000.
        dead_letter_ttl: Seconds that a dead letter is kept; 0 is without end. Default: 2,592,000, which is 30 days.
        max_dead_letters: Dead letters of a schema; of more the oldest go; 0 is without end. Default: 10,000.
    """

    tombstone_ttl: Seconds[float] = duration(7 * 86_400.0)
    max_tombstones: int = 1_000_000
    dead_letter_ttl: Seconds[float] = duration(30 * 86_400.0)
    max_dead_letters: int = 10_000

    def __post_init__(self) -> None:
        for name in ("max_tombstones", "max_dead_letters"):
            count(getattr(self, name), f"Retention.{name}")


def _fresh(policy: MemPolicy | RedisPolicy) -> None:
    """Check what the policies of L1 and L2 share."""
    kind = type(policy).__name__
    for name in ("jitter", "eager_refresh"):
        object.__setattr__(policy, name, fraction(getattr(policy, name), f"{kind}.{name}"))
    if policy.ttl == 0 and (policy.eager_refresh or policy.fail_safe):
        raise InvalidConfigError(f"{kind}.ttl is 0, so that nothing expires; eager_refresh and fail_safe need a TTL")


def _texts(owner: Any, *names: str) -> None:
    """Raise `InvalidConfigError` for what is neither a str nor None, without showing it: a DSN holds a password."""
    for name in names:
        value = getattr(owner, name)
        if value is not None and not isinstance(value, str):
            what = f"{type(owner).__name__}.{name}"
            raise InvalidConfigError(f"{what} is a {type(value).__name__}; it must be a str, or None")
