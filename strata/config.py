"""`Config`: every setting of a store, checked once, printed without its secrets."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from strata.addresses import masked
from strata.codec import JSON
from strata.contracts import Codec, Logger, MetricsRecorder, Tracer, fulfils
from strata.durations import Seconds, duration
from strata.encryption_keys import EncryptionKeys, keys_from
from strata.endpoints import check_app, check_broker, check_client, read_dsn, read_redis
from strata.environment import check_names, settings
from strata.errors import InvalidConfigError, shown
from strata.policies import (
    Durability,
    L1PoolConfig,
    L2PoolConfig,
    L3PoolConfig,
    Retention,
    WriteMode,
    count,
    flag,
    member,
)
from strata.protocol.keyspace import Keyspace

_SECRETS = frozenset({"redis_password", "encryption_key"})
_FOREIGN = frozenset({"redis_client", "celery_app", "metrics", "tracer", "logger"})  # whose repr may show anything
_OF_REDIS = ("redis_addr", "ledger_addr")
_ADDRESSES = ("postgres_dsn", "postgres_direct_dsn", *_OF_REDIS, "broker_url")


@dataclass(frozen=True, kw_only=True, repr=False)
class Config:
    """The settings of a `DataStore`; frozen. Raises `InvalidConfigError` for what cannot work.

    Durations are seconds or a `timedelta`, and are read back as seconds. An address is needed at the first use of a
    schema that has its tier, not by `register`.

    Attributes:
        postgres_dsn: The address of PostgreSQL, L3: `postgresql://user:password@host:5432/database`, or libpq's
            `host=... dbname=...`. Default: none.
        postgres_direct_dsn: PostgreSQL's own address, for watched tables and migrations, where `postgres_dsn` leads
            through a connection pooler. Default: that of `postgres_dsn`.
        redis_addr: The address of Redis, L2: `host:port`, or a URL: `redis://`, `rediss://`, `unix://`,
            `redis+cluster://a:1,b:2` or `redis+sentinel://a:1,b:2/service/0`. Default: none.
        redis_password: The password of `redis_addr` and `ledger_addr`, where these name none. Default: none.
        redis_db: The number of the database, where the addresses name none. Default: 0.
        redis_client: A redis-py client (standalone, Sentinel, Cluster) in the place of `redis_addr`; it is copied.
            Default: none.
        l1_pool: What holds for every schema's L1. Default: `L1PoolConfig()`.
        l2_pool: Connections to Redis, and their time-outs. Default: `L2PoolConfig()`.
        l3_pool: Connections to PostgreSQL, and their time-outs. Default: `L3PoolConfig()`.
        default_l1_ttl: Seconds that an entry of L1 lives where its policy does not say; 0 never expires. Default: 300.
        default_l2_ttl: Seconds that an entry of L2 lives where its policy does not say; 0 never expires. Default: 1800.
        default_write_mode: How schemas are written that do not say. Default: `WriteMode.WRITE_THROUGH`.
        write_behind_flush_interval: Seconds after which what is written behind is handed on, at the latest; more than
            0. Default: 0.5.
        write_behind_flush_threshold: Keys, not counting those that the last hand-off had, at which all that wait are
            handed on at once. Default: 100.
        write_behind_max_retry: Times that a deferred write which failed is tried again. Default: 5.
        write_behind_durability: What a deferred `set` has done when it returns. Default: `Durability.MEMORY`.
        write_behind_max_dirty: Pending writes that a process keeps; beyond it `set` goes to Redis or PostgreSQL itself.
            Default: 100,000.
        retention: How long tombstones and dead letters are kept. Default: `Retention()`.
        journal_dir: The directory of the journal, for `Durability.JOURNAL`. Default: none.
        ledger_addr: The address of the Redis that deferred writes go through, as in `redis_addr`. Default: that of
            `redis_addr`.
        broker_url: The address of Celery's broker. Default: the ledger's Redis; with a Cluster or a `redis_client`
            write-behind needs one.
        celery_app: A Celery app of yours, by which workers are called. Default: one of Strata's own.
        invalidation_channel: The Redis channel on which processes tell each other of changes. Default:
            "strata:invalidate".
        codec: How records are encoded in L2. Default: `JSON()`.
        metrics: What is told of counters, durations and gauges. Default: none.
        tracer: What makes spans of what goes past L1. Default: none.
        logger: What is told of mistakes and outages. Default: `StandardLogger()`, the standard library's `logging`.
        encryption_key: The key of `Encrypted` fields, exactly 32 bytes; or `EncryptionKeys`, several by id. Default:
            none.
        namespace: What stands in front of everything that is kept in a Redis or a broker, so that applications can
            share one: letters, digits, `_`, `.` and `-`, at most 63. Default: "", nothing.
        flush_on_sigterm: Whether SIGTERM has pending writes flushed before the process ends. Default: False.

    >>> Config(postgres_dsn="postgres://me:secret@localhost/app")
    Config(postgres_dsn='postgres://me:***@localhost/app')
    """

    postgres_dsn: str = ""
    postgres_direct_dsn: str = ""
    redis_addr: str = ""
    redis_password: str = ""
    redis_db: int = 0
    redis_client: Any = None
    l1_pool: L1PoolConfig = field(default_factory=L1PoolConfig)
    l2_pool: L2PoolConfig = field(default_factory=L2PoolConfig)
    l3_pool: L3PoolConfig = field(default_factory=L3PoolConfig)
    default_l1_ttl: Seconds[float] = duration(300.0)
    default_l2_ttl: Seconds[float] = duration(1800.0)
    default_write_mode: WriteMode = WriteMode.WRITE_THROUGH
    write_behind_flush_interval: Seconds[float] = duration(0.5, positive=True)
    write_behind_flush_threshold: int = 100
    write_behind_max_retry: int = 5
    write_behind_durability: Durability = Durability.MEMORY
    write_behind_max_dirty: int = 100_000
    retention: Retention = field(default_factory=Retention)
    journal_dir: str | Path | None = None
    ledger_addr: str = ""
    broker_url: str = ""
    celery_app: Any = None
    invalidation_channel: str = "strata:invalidate"
    codec: Codec = field(default_factory=JSON)
    metrics: MetricsRecorder | None = None
    tracer: Tracer | None = None
    logger: Logger | None = None
    encryption_key: bytes | EncryptionKeys | None = None
    namespace: str = ""
    flush_on_sigterm: bool = False

    def __post_init__(self) -> None:
        for name in (*_ADDRESSES, "redis_password", "invalidation_channel"):
            text = getattr(self, name)
            if not isinstance(text, str):
                raise InvalidConfigError(f"{name} is a {type(text).__name__}; it must be a str")
            if "\0" in text or any("\ud800" <= char <= "\udfff" for char in text):
                raise InvalidConfigError(f"{name} holds a NUL, or half of a surrogate pair; it must be text")
        if self.journal_dir is not None and not isinstance(self.journal_dir, str | Path):
            raise InvalidConfigError(f"journal_dir is a {type(self.journal_dir).__name__}; it must be a str or a Path")
        count(self.redis_db, "redis_db")
        for name in ("write_behind_flush_threshold", "write_behind_max_retry", "write_behind_max_dirty"):
            count(getattr(self, name), name, 1)
        self._check_kinds()
        self._check_servers()
        if self.write_behind_durability is Durability.JOURNAL and self.journal_dir is None:
            raise InvalidConfigError("write_behind_durability is JOURNAL but journal_dir is not set; name a directory")
        if not self.invalidation_channel:
            raise InvalidConfigError("invalidation_channel is empty; it must be the name of a Redis channel")
        keys_from(self.encryption_key)
        Keyspace(self.namespace)

    @property
    def keyspace(self) -> Keyspace:
        """The names of all that this store keeps in a Redis or a broker."""
        return Keyspace(self.namespace)

    def _check_kinds(self) -> None:
        member(self.default_write_mode, WriteMode, "default_write_mode")
        member(self.write_behind_durability, Durability, "write_behind_durability")
        flag(self.flush_on_sigterm, "flush_on_sigterm")
        kinds = {"l1_pool": L1PoolConfig, "l2_pool": L2PoolConfig, "l3_pool": L3PoolConfig, "retention": Retention}
        for name, kind in kinds.items():
            value = getattr(self, name)
            if not isinstance(value, kind):
                raise InvalidConfigError(f"{name} is {shown(value)}; it must be a {kind.__name__}(...)")
        protocols = {"codec": Codec, "metrics": MetricsRecorder, "tracer": Tracer, "logger": Logger}
        for name, protocol in protocols.items():
            value = getattr(self, name)
            if (value is not None or name == "codec") and not fulfils(value, protocol):
                raise InvalidConfigError(
                    f"{name} does not have the methods of strata.{protocol.__name__}; give an object that does"
                )

    def _check_servers(self) -> None:
        for name in ("postgres_dsn", "postgres_direct_dsn"):
            if getattr(self, name):
                read_dsn(getattr(self, name), name)
        redis = {name: read_redis(getattr(self, name), name) for name in _OF_REDIS if getattr(self, name)}
        for name, given in list(redis.items())[:1]:  # another one may be of another server, with a login of its own
            if self.redis_db and given.database not in (None, self.redis_db):
                both = f"redis_db is {self.redis_db}, but the database in {name} is {given.database}"
                raise InvalidConfigError(f"{both}; give one of them, or the same")
            if self.redis_password and given.password not in (None, self.redis_password):
                both = f"redis_password is another password than the one in {name}"
                raise InvalidConfigError(f"{both}; give one of them, or the same")
        if self.broker_url:
            check_broker(self.broker_url, "broker_url")
        if self.redis_client is not None:
            check_client(self.redis_client)
        if self.celery_app is not None:
            check_app(self.celery_app)

    def __repr__(self) -> str:
        parts = []
        for item in dataclasses.fields(self):
            value = getattr(self, item.name)
            if item.name in _FOREIGN:
                if value is not None:
                    parts.append(f"{item.name}=<{type(value).__name__}>")
                continue
            default = item.default if item.default is not dataclasses.MISSING else None
            if value == default or (
                item.default_factory is not dataclasses.MISSING and value == item.default_factory()
            ):
                continue
            if item.name in _SECRETS:
                value = "***"
            elif item.name in _ADDRESSES:
                value = masked(value)
            parts.append(f"{item.name}={value!r}")
        return f"Config({', '.join(parts)})"

    @classmethod
    def from_env(cls, **overrides: Any) -> Self:
        """The settings found in the environment as `STRATA_` + the field's name in capitals; `overrides` win.

        Enums are given by name or value, pools as `max_conns=5,statement_timeout=2` (`max_entries=200,eviction=lfu`),
        and `retention` likewise; keys in base64 (several as `k2:...,k1:...`, the first being the current one); objects
        cannot be given so. An empty variable counts as unset.
        Raises `InvalidConfigError` naming the variable, also for one that is a misspelt name of a setting.
        """
        check_names(CONFIG_FIELDS)
        return cls(**settings(CONFIG_FIELDS - set(overrides)), **overrides)


CONFIG_FIELDS = frozenset(item.name for item in dataclasses.fields(Config))
