"""`Config`: every field can come from the environment, and no secret is ever printed."""

from __future__ import annotations

import base64
import dataclasses
import pickle
import re
from datetime import timedelta
from typing import Any

import pytest
import redis

import strata
from strata import (
    Config,
    DataStore,
    Durability,
    EncryptionKeys,
    EvictionPolicy,
    InvalidConfigError,
    L1PoolConfig,
    L2PoolConfig,
    L3PoolConfig,
    MemPolicy,
    MsgPack,
    PostgresPolicy,
    RedisPolicy,
    Retention,
    Schema,
    WriteMode,
)
from tests.models import Point

K1, K2 = b"1" * 32, b"2" * 32
ENCODED = {key: base64.b64encode(key).decode() for key in (K1, K2)}
OBJECTS = {"redis_client", "celery_app", "metrics", "tracer", "logger"}
ENVIRONMENT: dict[str, tuple[str, Any]] = {
    "postgres_dsn": ("postgres://me@host/app", "postgres://me@host/app"),
    "postgres_direct_dsn": ("postgres://me@server/app", "postgres://me@server/app"),
    "redis_addr": ("redis+cluster://a:1,b:2", "redis+cluster://a:1,b:2"),
    "redis_password": ("hunter2", "hunter2"),
    "redis_db": ("3", 3),
    "l1_pool": ("max_entries=200, eviction=lfu", L1PoolConfig(max_entries=200, eviction=EvictionPolicy.LFU)),
    "l2_pool": ("pool_size=7,dial_timeout=0.5", L2PoolConfig(pool_size=7, dial_timeout=0.5)),
    "l3_pool": ("max_conns=3,prepared=false", L3PoolConfig(max_conns=3, prepared=False)),
    "default_l1_ttl": ("1.5", 1.5),
    "default_l2_ttl": ("0", 0.0),
    "default_write_mode": ("WRITE_BEHIND", WriteMode.WRITE_BEHIND),
    "write_behind_flush_interval": ("0.25", 0.25),
    "write_behind_flush_threshold": ("7", 7),
    "write_behind_max_retry": ("8", 8),
    "write_behind_durability": ("ledger", Durability.LEDGER),
    "write_behind_max_dirty": ("9", 9),
    "retention": ("dead_letter_ttl=60,max_tombstones=5", Retention(dead_letter_ttl=60, max_tombstones=5)),
    "journal_dir": ("/var/lib/app", "/var/lib/app"),
    "ledger_addr": ("ledger:6379", "ledger:6379"),
    "broker_url": ("amqp://host//", "amqp://host//"),
    "invalidation_channel": ("my:channel", "my:channel"),
    "namespace": ("shop", "shop"),
    "flush_on_sigterm": ("true", True),
    "codec": ("msgpack", MsgPack()),
    "encryption_key": (f"k2:{ENCODED[K2]},k1:{ENCODED[K1]}", EncryptionKeys("k2", {"k1": K1, "k2": K2})),
}


def test_every_field_that_is_no_object_can_come_from_the_environment() -> None:
    assert {item.name for item in dataclasses.fields(Config)} == set(ENVIRONMENT) | OBJECTS


@pytest.mark.parametrize("name", ENVIRONMENT)
def test_a_field_is_read_from_the_environment(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    text, value = ENVIRONMENT[name]
    monkeypatch.setenv(f"STRATA_{name.upper()}", text)
    found = getattr(Config.from_env(), name)
    assert type(found) is type(value) if name == "codec" else found == value
    assert getattr(Config.from_env(**{name: getattr(Config(), name)}), name) == getattr(Config(), name)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("redis_db", "many"),
        ("redis_db", "-1"),
        ("l1_pool", "nonsense"),
        ("l1_pool", "eviction=mru"),
        ("l3_pool", "max_conns=many"),
        ("l3_pool", "no_such=1"),
        ("default_l1_ttl", "soon"),
        ("default_l1_ttl", "-1"),
        ("default_l2_ttl", "nan"),
        ("default_write_mode", "WRITE_SOMETIMES"),
        ("write_behind_flush_threshold", "0"),
        ("write_behind_durability", "journal"),
        ("codec", "pickle"),
        ("encryption_key", "hunter2"),
        ("encryption_key", base64.b64encode(b"hunter2").decode()),
    ],
)
def test_what_cannot_be_read_is_refused_by_name_and_not_shown(
    monkeypatch: pytest.MonkeyPatch, name: str, text: str
) -> None:
    monkeypatch.setenv(f"STRATA_{name.upper()}", text)
    with pytest.raises(InvalidConfigError, match=f"(?i){name.split('_')[0]}") as caught:
        Config.from_env()
    assert "hunter2" not in str(caught.value)


SAID = {
    ("redis_db", "x"): "STRATA_REDIS_DB is 'x'; it must be a whole number",
    ("l3_pool", "max_conns=abc"): "STRATA_L3_POOL is 'max_conns=abc'; in 'max_conns=abc' it must be a whole number",
    ("l3_pool", "max_conns=0"): "STRATA_L3_POOL: L3PoolConfig.max_conns is 0",
    (
        "l3_pool",
        "maxconns=3",
    ): "STRATA_L3_POOL is 'maxconns=3'; it has no 'maxconns'; its parts, each as name=value, are max_conns, m",
    (
        "l3_pool",
        "20",
    ): "STRATA_L3_POOL is '20'; '20' is none of its parts; its parts, each as name=value, are max_conns,",
    ("l3_pool", "prepared=maybe"): "in 'prepared=maybe' it must be one of 1, true",
    ("l1_pool", "eviction=mru"): "in 'eviction=mru' it must be one of lru, lfu, fifo",
    ("retention", "max_tombstones=2.5"): "in 'max_tombstones=2.5' it must be a whole number",
    ("default_write_mode", "behind"): "'behind'; it must be one of write_through, write_through_l1_async, write_behind",
    ("write_behind_durability", "disk"): "'disk'; it must be one of memory, journal, ledger",
    ("codec", "xml"): "STRATA_CODEC is 'xml'; it must be one of json, msgpack",
    ("flush_on_sigterm", "maybe"): "STRATA_FLUSH_ON_SIGTERM is 'maybe'; it must be one of 1, true",
    ("default_l1_ttl", "abc"): "STRATA_DEFAULT_L1_TTL is 'abc'; it must be a number of seconds",
    ("encryption_key", "hunter2"): "STRATA_ENCRYPTION_KEY: the key is not base64; it must be 32 bytes in base64",
    ("encryption_key", "aHVudGVy"): "STRATA_ENCRYPTION_KEY: the key is 6 bytes; it must be exactly 32 bytes",
    ("encryption_key", f"k2:{ENCODED[K2]},k1:aHVudGVy"): "STRATA_ENCRYPTION_KEY: key number 2 is 6 bytes",
    ("encryption_key", f"k2:{ENCODED[K2]},hun:ter!"): "STRATA_ENCRYPTION_KEY: key number 2 is not base64",
}


@pytest.mark.parametrize(("name", "text"), SAID)
def test_a_variable_that_cannot_be_read_is_told_with_what_was_given_and_what_would_be_right(
    monkeypatch: pytest.MonkeyPatch, name: str, text: str
) -> None:
    monkeypatch.setenv(f"STRATA_{name.upper()}", text)
    with pytest.raises(InvalidConfigError) as caught:
        Config.from_env()
    assert SAID[name, text] in str(caught.value)


@pytest.mark.parametrize("name", ENVIRONMENT)
def test_an_empty_variable_counts_as_unset(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    for text in ("",) if name == "redis_password" else ("", " "):
        monkeypatch.setenv(f"STRATA_{name.upper()}", text)
        value, default = getattr(Config.from_env(), name), getattr(Config(), name)
        assert value == default or type(value) is type(default) is strata.JSON


@pytest.mark.parametrize(
    ("typo", "meant"),
    [
        ("STRATA_POSTGRESS_DSN", "STRATA_POSTGRES_DSN"),
        ("STRATA_REDIS_ADR", "STRATA_REDIS_ADDR"),
        ("STRATA_LEGDER_ADDR", "STRATA_LEDGER_ADDR"),
        ("STRATA_WRITE_BEHIND_MAX_RETRIES", "STRATA_WRITE_BEHIND_MAX_RETRY"),
    ],
)
def test_a_misspelt_variable_is_refused(monkeypatch: pytest.MonkeyPatch, typo: str, meant: str) -> None:
    monkeypatch.setenv(typo, "1")
    with pytest.raises(InvalidConfigError, match=f"{typo} is no variable of Strata's; is {meant} meant"):
        Config.from_env()


@pytest.mark.parametrize(
    "name",
    [
        "APP", "METRICS_ADDR", "WORKER_WAIT", "WORKER_TRIES", "SECRET_KEY", "DB", "DB_PASSWORD", "FLOWER_USER",
        "FLOWER_PASSWORD", "TEST_ERRORS", "TEST_METRICS", "CHAOS_SEED", "REDIS_URL", "REDIS_ADDR_2", "POSTGRES_DSN_OLD",
    ],
)  # fmt: skip
def test_a_variable_of_others_is_left_alone(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv(f"STRATA_{name}", "1")
    Config.from_env()


@pytest.mark.parametrize(
    ("kind", "given", "said"),
    [
        (Config, {"default_write_mode": "wb"}, "default_write_mode is 'wb'; it must be one of WriteMode.WRITE_T"),
        (Config, {"write_behind_durability": "x"}, "write_behind_durability is 'x'; it must be one of Durability.M"),
        (Config, {"flush_on_sigterm": 1}, "flush_on_sigterm is 1; it must be True or False"),
        (Config, {"l3_pool": {"max_conns": 3}}, r"l3_pool is {'max_conns': 3}; it must be a L3PoolConfig\("),
        (Schema, {"write_mode": "wb"}, "write_mode of a Schema is 'wb'; it must be one of WriteMode.WRITE_"),
        (Schema, {"write_mode": WriteMode}, "write_mode of a Schema is <enum 'WriteMode'>; it must be one"),
        (Schema, {"l1": 60}, r"l1 of a Schema is 60; it must be a MemPolicy\(\.\.\.\), or None"),
        (Schema, {"l1": strata.MemPolicy}, r"l1 of a Schema is <class.*it must be a MemPolicy\("),
        (Schema, {"hooks": {}}, r"hooks of a Schema is {}; it must be a SchemaHooks\(\.\.\.\)$"),
        (strata.MemPolicy, {"eviction": "mru"}, "MemPolicy.eviction is 'mru'; it must be one of EvictionPolicy.LRU"),
    ],
)
def test_what_is_none_of_a_kind_is_told_with_what_would_be_one(kind: Any, given: dict[str, Any], said: str) -> None:
    model = {"model": Point} if kind is Schema else {}
    with pytest.raises(InvalidConfigError, match=said):
        kind(**model, **given)


def test_defaults_are_the_seeds() -> None:
    config = Config()
    assert (config.default_l1_ttl, config.default_l2_ttl) == (300, 1800)
    assert config.default_write_mode is WriteMode.WRITE_THROUGH
    assert (config.write_behind_flush_interval, config.write_behind_flush_threshold) == (0.5, 100)
    assert (config.write_behind_max_retry, config.write_behind_max_dirty) == (5, 100_000)
    assert config.invalidation_channel == "strata:invalidate"
    assert config.write_behind_durability is Durability.MEMORY
    assert isinstance(config.codec, strata.JSON)


SETTINGS: list[Any] = [Config, L2PoolConfig, L3PoolConfig, MemPolicy, RedisPolicy, PostgresPolicy, Retention]
DURATIONS = [
    pytest.param(kind, item.name, item.default, id=f"{kind.__name__}.{item.name}")
    for kind in SETTINGS
    for item in dataclasses.fields(kind)
    if "Seconds" in str(item.type)
]


def test_no_duration_of_the_settings_is_forgotten() -> None:
    words = re.compile(r"ttl|timeout|time$|fail_safe|wait|interval")
    names = {f"{kind.__name__}.{item.name}" for kind in SETTINGS for item in dataclasses.fields(kind)}
    assert {name for name in names if words.search(name)} == {param.id for param in DURATIONS}


@pytest.mark.parametrize(("kind", "name", "default"), DURATIONS)
def test_a_duration_is_given_as_seconds_or_timedelta_and_read_as_seconds(kind: Any, name: str, default: Any) -> None:
    fresh = {"fail_safe": {"ttl": 60}}.get(name, {})
    for given, read in ((timedelta(minutes=2), 120.0), (3, 3.0), (0.5, 0.5)):
        made = getattr(kind(**{**fresh, name: given}), name)
        assert (made, type(made)) == (read, float)
    assert getattr(kind(), name) == default == getattr(kind, name)


@pytest.mark.parametrize(("kind", "name", "default"), DURATIONS)
def test_a_duration_that_can_be_none_is_refused_by_name_where_it_is_given(kind: Any, name: str, default: Any) -> None:
    for wrong in (-1, "60", float("nan"), True, timedelta(days=-1), 10**400, *([None] if default is not None else [])):
        with pytest.raises(InvalidConfigError, match=rf"^{kind.__name__}\.{name} is .*; it must be seconds"):
            kind(**{name: wrong})


def test_a_time_out_cannot_be_0_and_what_ends_at_0_can() -> None:
    never = [param.id for param in DURATIONS if _refused(param.values[0], str(param.values[1]))]
    assert never == [
        "Config.write_behind_flush_interval", "L2PoolConfig.dial_timeout", "L2PoolConfig.read_timeout",
        "L2PoolConfig.write_timeout", "L3PoolConfig.max_conn_lifetime", "L3PoolConfig.max_conn_idle_time",
        "L3PoolConfig.acquire_timeout", "L3PoolConfig.connect_timeout", "L3PoolConfig.statement_timeout",
        "L3PoolConfig.lock_timeout", "PostgresPolicy.soft_timeout", "PostgresPolicy.hard_timeout",
    ]  # fmt: skip


def _refused(kind: Any, name: str) -> bool:
    try:
        kind(**{name: timedelta(0)})
    except InvalidConfigError as error:
        return str(error).endswith("it must be more than 0 seconds")
    return False


def test_a_config_is_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        Config().redis_db = 1  # type: ignore[misc]


@pytest.mark.parametrize(
    "options",
    [
        {"postgres_dsn": None},
        {"redis_addr": 6379},
        {"redis_db": "0"},
        {"redis_db": -1},
        {"default_l1_ttl": -1},
        {"default_l2_ttl": None},
        {"default_l1_ttl": float("nan")},
        {"default_l2_ttl": 1e300},
        {"default_l2_ttl": 2**63},
        {"default_l1_ttl": 10**400},
        {"default_write_mode": "write_behind"},
        {"write_behind_flush_interval": 0},
        {"write_behind_flush_threshold": 0},
        {"write_behind_max_retry": True},
        {"write_behind_durability": Durability.JOURNAL},
        {"invalidation_channel": ""},
        {"codec": None},
        {"codec": MsgPack},
        {"logger": print},
        {"metrics": object()},
        {"tracer": object()},
        {"l3_pool": {"max_conns": 3}},
        {"encryption_key": "k" * 32},
    ],
    ids=lambda options: next(iter(options)),
)
def test_a_setting_that_cannot_work_is_refused_when_it_is_made(options: dict[str, Any]) -> None:
    with pytest.raises(InvalidConfigError):
        Config(**options)


ADDRESSES = [
    "postgres://me:hunter2@host/db",
    "postgres://me:hunter2@host/db?password=hunter2&sslpassword=hunter2",
    "postgres://me:hun/hunter2@host/db",
    "postgres://me:hun?hunter2@host/db",
    "postgres://me:hun#hunter2@host/db",
    "postgres:/me:hunter2@host/db",
    "me:hunter2@host:5432",
    "host=a password=hunter2 user=me",
    "host=a password = hunter2 user=me",
    "host=a PASSWORD='it is \\' hunter2' user=me",
    "host=a password='hunter2",
    "host=a sslpassword=hunter2",
    "redis://:hunter2@host:1/0",
    "redis+sentinel://:hunter2@a:1,b:2/service/0",
    "redis+cluster://:hunter2@a:1,:hunter2@b:2",
    "rediss://host:1/0?password=hunter2",
    "amqp://me:hunter2@a//;amqp://me:hunter2@b//",
]


@pytest.mark.parametrize("address", ADDRESSES)
@pytest.mark.parametrize("name", ["postgres_dsn", "redis_addr", "ledger_addr", "broker_url"])
def test_no_address_prints_its_password(name: str, address: str) -> None:
    try:
        said = repr(Config(**{name: address}))  # type: ignore[arg-type]
    except InvalidConfigError as error:
        said = f"{error} {error.__cause__}"
        assert name in said
    assert "hunter2" not in said


@pytest.mark.parametrize(
    ("name", "address"),
    [
        ("redis_addr", "host:6379"),
        ("redis_addr", "unix:///x"),
        ("postgres_dsn", "postgres://me@host:5432/app?sslmode=require"),
        ("postgres_dsn", "host=a dbname=b user=c"),
    ],
)
def test_an_address_without_a_password_is_printed_as_it_is(name: str, address: str) -> None:
    assert address in repr(Config(**{name: address}))  # type: ignore[arg-type]


def test_nothing_that_holds_secrets_prints_them() -> None:
    secret = "hunter2hunter2hunter2hunter2hun!"
    client = redis.Redis(password=secret)
    config = Config(redis_password=secret, encryption_key=secret.encode(), redis_client=client)
    keys = EncryptionKeys("k1", {"k1": secret.encode()})
    policy = PostgresPolicy(read_replica=f"postgres://me:{secret}@host/db")
    store = DataStore(config)
    handle = store.register(Schema(Point, name="points", l1=strata.MemPolicy()))
    for thing in (config, keys, policy, Schema(Point, l3=policy), store, handle, store.stats(), store.tx()):
        for text in (repr(thing), str(thing), f"{thing}"):
            assert "hunter2" not in text
    store.close()


def test_unloaded_and_errors_survive_pickle_between_processes() -> None:
    error = strata.NotFoundError("none", schema="players", key="p1")
    again = pickle.loads(pickle.dumps(error))
    assert (str(again), again.schema, again.key) == ("none", "players", "p1")
    assert pickle.loads(pickle.dumps(strata.UNLOADED)) is strata.UNLOADED


def test_an_object_that_has_its_methods_by_getattr_will_do_as_the_proxies_of_logging_libraries() -> None:
    said: list[tuple[str, str]] = []

    class Proxy:
        def __getattr__(self, name: str) -> Any:
            if name.startswith("_"):
                raise AttributeError(name)
            return lambda msg, **fields: said.append((name, msg))

    config = Config(logger=Proxy())
    assert config.logger is not None
    config.logger.warning("hello")
    assert said == [("warning", "hello")]
