"""`Config`: every setting of a store, checked once, printed without its secrets."""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self
from urllib.parse import urlsplit

from strata.codec import JSON, MsgPack
from strata.contracts import Codec, Logger, MetricsRecorder
from strata.crypto import EncryptionKeys, keys_from, parse_base64_key
from strata.errors import InvalidConfigError, StrataError
from strata.keyspace import Keyspace
from strata.policies import (
    Durability,
    Duration,
    EvictionPolicy,
    L1PoolConfig,
    L2PoolConfig,
    L3PoolConfig,
    WriteMode,
    count,
    seconds,
)

# libpq's `password = 'it''s'`: blanks around the sign, quotes with escapes in them, and sslpassword.
_NAMED_SECRET = re.compile(r"(\w*password)\s*=\s*(?:'(?:[^'\\]|\\.)*+'?|\S+)", re.IGNORECASE)
_SECRETS = frozenset({"redis_password", "encryption_key"})
_FOREIGN = frozenset({"redis_client", "celery_app", "metrics", "logger"})  # whose repr may show anything
_ADDRESSES = ("postgres_dsn", "postgres_direct_dsn", "redis_addr", "ledger_addr", "broker_url")


@dataclass(frozen=True, kw_only=True, repr=False)
class Config:
    """The settings of a `DataStore`; frozen. Raises `InvalidConfigError` for one that cannot work.

    Durations are seconds or `timedelta`. An address is required by the first use of a schema that has its tier,
    not by `register`. `redis_addr` is `host:port` or a `redis://`, `rediss://`, `unix://`, `redis+cluster://a:1,b:2` or
    `redis+sentinel://a:1,b:2/service/0` URL; `redis_client` is any redis-py client in its place. Where `postgres_dsn`
    leads through a connection pooler, `postgres_direct_dsn` is PostgreSQL's own address, for watched tables and
    migrations.

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
    default_l1_ttl: Duration = 300.0
    default_l2_ttl: Duration = 1800.0
    default_write_mode: WriteMode = WriteMode.WRITE_THROUGH
    write_behind_flush_interval: Duration = 0.5
    write_behind_flush_threshold: int = 100
    write_behind_max_retry: int = 5
    write_behind_durability: Durability = Durability.MEMORY
    write_behind_max_dirty: int = 100_000
    journal_dir: str | Path | None = None
    ledger_addr: str = ""
    broker_url: str = ""
    celery_app: Any = None
    invalidation_channel: str = "strata:invalidate"
    codec: Codec = field(default_factory=JSON)
    metrics: MetricsRecorder | None = None
    logger: Logger | None = None
    encryption_key: bytes | EncryptionKeys | None = None
    namespace: str = ""
    flush_on_sigterm: bool = False

    def __post_init__(self) -> None:
        for name in (*_ADDRESSES, "redis_password"):
            if not isinstance(getattr(self, name), str):
                raise InvalidConfigError(f"{name} is a {type(getattr(self, name)).__name__}; it must be a str")
        for name in ("default_l1_ttl", "default_l2_ttl", "write_behind_flush_interval"):
            number = seconds(getattr(self, name), name)
            if number is None:
                raise InvalidConfigError(f"{name} is None; it must be seconds or a timedelta")
            object.__setattr__(self, name, number)
        if not self.write_behind_flush_interval:
            raise InvalidConfigError("write_behind_flush_interval is 0; it must be more than 0 seconds")
        count(self.redis_db, "redis_db")
        for name in ("write_behind_flush_threshold", "write_behind_max_retry", "write_behind_max_dirty"):
            count(getattr(self, name), name, 1)
        self._check_kinds()
        if self.write_behind_durability is Durability.JOURNAL and self.journal_dir is None:
            raise InvalidConfigError("write_behind_durability is JOURNAL but journal_dir is not set; name a directory")
        if not self.invalidation_channel or not isinstance(self.invalidation_channel, str):
            raise InvalidConfigError("invalidation_channel is empty; it must be the name of a Redis channel")
        keys_from(self.encryption_key)
        Keyspace(self.namespace)

    @property
    def keyspace(self) -> Keyspace:
        """The names of all that this store keeps in a Redis or a broker."""
        return Keyspace(self.namespace)

    def _check_kinds(self) -> None:
        kinds: dict[str, type] = {
            "l1_pool": L1PoolConfig,
            "l2_pool": L2PoolConfig,
            "l3_pool": L3PoolConfig,
            "default_write_mode": WriteMode,
            "write_behind_durability": Durability,
            "flush_on_sigterm": bool,
        }
        for name, kind in kinds.items():
            if not isinstance(getattr(self, name), kind):
                raise InvalidConfigError(
                    f"{name} is a {type(getattr(self, name)).__name__}; it must be a {kind.__name__}"
                )
        for name, protocol in (("codec", Codec), ("metrics", MetricsRecorder), ("logger", Logger)):
            value = getattr(self, name)
            if isinstance(value, type) or ((value is not None or name == "codec") and not isinstance(value, protocol)):
                raise InvalidConfigError(
                    f"{name} does not have the methods of strata.{protocol.__name__}; give an object that does"
                )

    def __repr__(self) -> str:
        shown = []
        for item in dataclasses.fields(self):
            value = getattr(self, item.name)
            default = item.default if item.default is not dataclasses.MISSING else None
            if value == default or (
                item.default_factory is not dataclasses.MISSING and value == item.default_factory()
            ):
                continue
            if item.name in _SECRETS:
                value = "***"
            elif item.name in _ADDRESSES:
                value = masked(value)
            elif item.name in _FOREIGN:
                shown.append(f"{item.name}=<{type(value).__name__}>")
                continue
            shown.append(f"{item.name}={value!r}")
        return f"Config({', '.join(shown)})"

    @classmethod
    def from_env(cls, **overrides: Any) -> Self:
        """The settings found in the environment as `STRATA_` + the field's name in capitals; `overrides` win.

        Enums are given by name or value, pools as `max_conns=5,statement_timeout=2` (`max_entries=200,eviction=lfu`),
        keys in base64 (several as `k2:...,k1:...`, the first being the current one); objects cannot be given so.
        Raises `InvalidConfigError` naming the variable.
        """
        known = {item.name for item in dataclasses.fields(cls)}
        found: dict[str, Any] = {}
        for name in known - set(overrides):
            text = os.environ.get(f"STRATA_{name.upper()}")
            if text is not None and name in _READERS:
                found[name] = _read(name, text)
        return cls(**found, **overrides)


def masked(address: str) -> str:
    """An address, or several with `;` between, without what follows a user's name and without passwords among the
    parameters. What is no URL keeps nothing in front of an `@`."""
    if "://" not in address:
        return re.sub(r"^\S*@", "***@", _NAMED_SECRET.sub(r"\1=***", address))
    return ";".join(_masked_url(part) for part in address.split(";"))


def _masked_url(address: str) -> str:
    try:
        url = urlsplit(address)
    except ValueError:
        return "***"
    if "@" in address.removeprefix(f"{url.scheme}://{url.netloc}"):
        return f"{url.scheme}://***"  # a password with a /, ? or # in it: what stands where cannot be told
    login, at, place = url.netloc.rpartition("@")
    if at:
        place = f"{login.partition(':')[0]}:***@{place}" if ":" in login else f"{login}@{place}"
    query = "&".join(_without_secret(part) for part in url.query.split("&"))
    return f"{url.scheme}://{place}{url.path}{'?' if query else ''}{query}"


def _without_secret(part: str) -> str:
    name, _, _ = part.partition("=")
    return f"{name}=***" if "password" in name.lower() else part


def _read(name: str, text: str) -> Any:
    try:
        return _READERS[name](text)
    except StrataError:
        raise
    except (ValueError, KeyError, TypeError):
        raise InvalidConfigError(f"STRATA_{name.upper()} cannot be read as {name}; see Config.from_env") from None


def _member(kind: Any) -> Callable[[str], Any]:
    return lambda text: kind[text.upper()] if text.upper() in kind.__members__ else kind(text.lower())


def _pool(kind: Any) -> Callable[[str], Any]:
    def read(text: str) -> Any:
        pairs = dict(part.strip().split("=", 1) for part in text.split(",") if part.strip())
        return kind(**{key.strip(): _setting(key.strip(), value.strip()) for key, value in pairs.items()})

    return read


def _setting(name: str, text: str) -> Any:
    if name == "eviction":
        return _member(EvictionPolicy)(text)
    if name == "prepared":
        return {"true": True, "false": False}[text.lower()]
    return int(text) if text.isdigit() else float(text)


def _key(text: str) -> bytes | EncryptionKeys:
    if ":" not in text:
        return parse_base64_key(text)
    keys = {
        name.strip(): parse_base64_key(value) for name, _, value in (part.partition(":") for part in text.split(","))
    }
    return EncryptionKeys(current=next(iter(keys)), keys=keys)


def _flag(text: str) -> bool:
    return {"1": True, "true": True, "yes": True, "on": True, "0": False, "false": False, "no": False, "off": False}[
        text.lower()
    ]


def _codec(text: str) -> Codec:
    return {"json": JSON, "msgpack": MsgPack}[text.lower()]()


_READERS: Mapping[str, Callable[[str], Any]] = {
    **dict.fromkeys(
        (*_ADDRESSES, "redis_password", "journal_dir", "invalidation_channel", "namespace"),
        str,
    ),
    **dict.fromkeys(("default_l1_ttl", "default_l2_ttl", "write_behind_flush_interval"), float),
    **dict.fromkeys(
        ("redis_db", "write_behind_flush_threshold", "write_behind_max_retry", "write_behind_max_dirty"), int
    ),
    "l1_pool": _pool(L1PoolConfig),
    "l2_pool": _pool(L2PoolConfig),
    "l3_pool": _pool(L3PoolConfig),
    "default_write_mode": _member(WriteMode),
    "write_behind_durability": _member(Durability),
    "codec": _codec,
    "encryption_key": _key,
    "flush_on_sigterm": _flag,
}
