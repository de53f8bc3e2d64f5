"""`Config`: every field can come from the environment, and no secret is ever printed."""

from __future__ import annotations

import base64
import dataclasses
import pickle
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
    MsgPack,
    PostgresPolicy,
    Schema,
    WriteMode,
)
from tests.models import Point

K1, K2 = b"1" * 32, b"2" * 32
ENCODED = {key: base64.b64encode(key).decode() for key in (K1, K2)}
OBJECTS = {"redis_client", "celery_app", "metrics", "logger"}
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
        ("l3_pool", "max_conns=hunter2"),
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


def test_defaults_are_the_seeds() -> None:
    config = Config()
    assert (config.default_l1_ttl, config.default_l2_ttl) == (300, 1800)
    assert config.default_write_mode is WriteMode.WRITE_THROUGH
    assert (config.write_behind_flush_interval, config.write_behind_flush_threshold) == (0.5, 100)
    assert (config.write_behind_max_retry, config.write_behind_max_dirty) == (5, 100_000)
    assert config.invalidation_channel == "strata:invalidate"
    assert config.write_behind_durability is Durability.MEMORY
    assert isinstance(config.codec, strata.JSON)


def test_durations_are_seconds_or_timedelta() -> None:
    assert Config(default_l1_ttl=timedelta(minutes=1)).default_l1_ttl == 60.0
    assert Config(write_behind_flush_interval=timedelta(milliseconds=5)).write_behind_flush_interval == 0.005


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
    assert "hunter2" not in repr(Config(**{name: address}))


def test_an_address_without_a_password_is_printed_as_it_is() -> None:
    for address in ("host:6379", "postgres://me@host:5432/app?sslmode=require", "host=a dbname=b user=c", "unix:///x"):
        assert address in repr(Config(redis_addr=address))


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
