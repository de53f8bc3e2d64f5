"""What mypy and pyright must reveal; checked, and run by nobody."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, assert_type

from strata import Collection, DataStore, Job, MemPolicy, MigrationReport, Q, Schema
from tests.models import Player


def by_class(ds: DataStore) -> None:
    assert_type(ds.get(Player, "p1"), Player)
    assert_type(ds.get(Player, "p1", default=None), Player | None)
    assert_type(ds.get(Player, "p1", default=0), Player | int)
    assert_type(ds.get_many(Player, ["p1"]), dict[Any, Player])
    assert_type(ds.search(Player, Q()), list[Player])
    assert_type(ds.search_cached(Player, Q().build()), list[Player])
    assert_type(ds.search_iter(Player), Iterator[Player])
    assert_type(ds.set(Player, "p1", Player("p1", "a")), Player)


def by_name(ds: DataStore) -> None:
    assert_type(ds.get("players", "p1"), Any)
    assert_type(ds.search("players"), list[Any])
    assert_type(ds.count("players"), int)
    assert_type(ds.exists("players", "p1"), bool)


def by_handle(ds: DataStore) -> None:
    players = ds.register(Schema(Player, l1=MemPolicy()))
    assert_type(players, Collection[Player])
    assert_type(players.get("p1"), Player)
    assert_type(players.get("p1", default=None), Player | None)
    assert_type(players.get_many(["p1"]), dict[Any, Player])
    assert_type(players.search(), list[Player])
    assert_type(players.set("p1", Player("p1", "a")), Player)


def jobs(ds: DataStore) -> None:
    assert_type(ds.warm_cache(Player), int)
    assert_type(ds.warm_cache(Player, background=True), Job)
    assert_type(ds.migrate(), MigrationReport)
    assert_type(ds.migrate(background=True), Job)
