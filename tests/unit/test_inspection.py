"""A look behind a store changes nothing of it."""

from __future__ import annotations

import inspect as standard
from typing import Any

import pytest

from strata import Config, DataStore, InvalidConfigError, MemPolicy, WriteMode
from strata.testing import Inspection, inspect
from tests.models import Point
from tests.stores import schema

NOUNS = [name for name, _ in standard.getmembers(Inspection, lambda it: isinstance(it, property)) if name[0] != "_"]
OF_REDIS = {"redis", "ledger_redis", "bus"}
OF_POSTGRES = {"database", "ownership", "listener"}
OF_WRITES = {
    "writebehind", "ledger", "buffer", "journal", "replay", "flusher", "handoff", "doorbell", "workers", "drainer",
    "redrive", "persister", "renewer", "outcomes", "giving_up", "bypass",
}  # fmt: skip


def lacking(store: DataStore) -> set[str]:
    """What a store says that it does not have."""
    found = set()
    for name in NOUNS:
        try:
            getattr(inspect(store), name)
        except InvalidConfigError as error:
            assert "this store has no" in str(error)
            found.add(name)
    return found


def test_what_a_store_does_not_have_is_an_error_and_is_not_built() -> None:
    with DataStore(Config()) as store:
        store.register(schema(Point, name="points", l2=None, l3=None))
        assert lacking(store) == OF_REDIS | OF_POSTGRES | OF_WRITES
        assert lacking(store) == OF_REDIS | OF_POSTGRES | OF_WRITES  # as before
        assert inspect(store).schemas["points"].schema.l1 == MemPolicy(ttl=60)
        assert inspect(store).breakers == {}


def test_looking_at_every_part_starts_no_thread_and_asks_no_server() -> None:
    config = Config(postgres_dsn="postgresql://u@127.0.0.1:1/x", redis_addr="127.0.0.1:1", broker_url="memory://")
    with DataStore(config) as store:
        store.register(schema(Point, name="points", write_mode=WriteMode.WRITE_BEHIND))
        assert lacking(store) == {"listener", "journal", "replay"}
        assert set(inspect(store).breakers) == {"cache", "primary"}
        assert all(breaker.closed for breaker in inspect(store).breakers.values())
        assert not any(daemon.started for daemon in inspect(store).daemons)


@pytest.mark.parametrize("thing", [None, "store", Config()], ids=["nothing", "a name", "settings"])
def test_only_a_store_can_be_looked_behind(thing: Any) -> None:
    with pytest.raises(InvalidConfigError, match="takes a DataStore"):
        inspect(thing)
