"""An application can be imported, and its tests collected, without any environment."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import pytest

from strata import Config, DataStore, InvalidConfigError, MemPolicy, PostgresPolicy, RedisPolicy, Schema, WriteMode
from tests.models import Note

DSN, ADDR = "postgresql://me@127.0.0.1:1/x", "127.0.0.1:1"
BEHIND = {"write_mode": WriteMode.WRITE_BEHIND, "l3": PostgresPolicy()}


@pytest.fixture(autouse=True)
def no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("STRATA_")]:
        monkeypatch.delenv(name)


@pytest.mark.parametrize(
    ("tiers", "settings", "field"),
    [
        ({"l2": RedisPolicy()}, {}, "redis_addr"),
        ({"l3": PostgresPolicy()}, {}, "postgres_dsn"),
        ({"l1": MemPolicy(), "l2": RedisPolicy(), "l3": PostgresPolicy()}, {"postgres_dsn": DSN}, "redis_addr"),
        ({"l1": MemPolicy(), "l2": RedisPolicy(), "l3": PostgresPolicy()}, {"redis_addr": ADDR}, "postgres_dsn"),
        ({"l3": PostgresPolicy(watch=True)}, {"redis_addr": ADDR}, "postgres_dsn"),
        ({"l3": PostgresPolicy(read_replica=DSN)}, {"redis_addr": ADDR}, "postgres_dsn"),
        (BEHIND, {}, "postgres_dsn"),
        (BEHIND, {"postgres_dsn": DSN}, "ledger_addr"),
        (BEHIND, {"postgres_dsn": DSN, "redis_addr": "redis+cluster://127.0.0.1:1"}, "broker_url"),
    ],
)
def test_a_schema_is_registered_and_refused_at_its_first_use(
    tiers: dict[str, Any], settings: dict[str, str], field: str
) -> None:
    calls: list[Callable[[DataStore], object]] = [
        lambda store: store.get("notes", 1),
        lambda store: store.set("notes", 1, Note(1)),
        lambda store: store.search("notes"),
        lambda store: store.warm_cache("notes"),
    ]
    with DataStore(Config.from_env(**settings)) as store:
        handle = store.register(Schema(Note, name="notes", **tiers))
        assert store.stats().gets == 0
        for call in calls:
            with pytest.raises(InvalidConfigError) as caught:
                call(store)
            said = str(caught.value)
            assert "'notes'" in said and field in said and f"STRATA_{field.upper()}" in said
        with pytest.raises(InvalidConfigError, match=field):
            handle.get(1)
        store.flush_dirty()


def test_without_a_database_there_is_no_migration() -> None:
    with DataStore(Config.from_env()) as store:
        store.register(Schema(Note, name="notes", l3=PostgresPolicy()))
        with pytest.raises(InvalidConfigError, match="STRATA_POSTGRES_DSN"):
            store.migrate()
