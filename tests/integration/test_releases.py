"""Two releases of an application on one Redis: what one keeps is right for the other, or a miss that costs little."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, make_dataclass
from typing import Annotated, Any

import pytest

import strata
from strata import JSON, UNLOADED, Collection, MsgPack, Q, Query, RedisPolicy, SearchExpiry
from strata.l2.values import Put
from strata.testing import inspect
from tests.behind import client, run
from tests.stores import MakeStore, schema

UNTIL_TTL, ON_WRITE = RedisPolicy(ttl=600), RedisPolicy(ttl=600, search_expiry=SearchExpiry.ON_WRITE)


@dataclass
class Plain:
    id: Annotated[int, strata.PrimaryKey]
    level: int = 0


@dataclass
class Longer:
    id: Annotated[int, strata.PrimaryKey]
    level: int = 0
    banned: Annotated[bool, strata.Default(False)] = False


@dataclass
class Hidden:
    id: Annotated[int, strata.PrimaryKey]
    level: Annotated[int, strata.OmitCache] = 0


@dataclass
class Retyped:
    id: Annotated[int, strata.PrimaryKey]
    level: str = ""


@dataclass
class Line:
    name: str = ""


@dataclass
class LongLine:
    name: str = ""
    size: int = 7


def nested(line: type) -> type:
    return make_dataclass(
        "Nested",
        [("id", Annotated[int, strata.PrimaryKey]), ("lines", list[line], field(default_factory=list))],  # type: ignore[valid-type]
    )


def release(make: MakeStore, model: type, l2: RedisPolicy = UNTIL_TTL, **config: Any) -> Collection[Any]:
    """A release's players, with whatever its model adds to the table."""
    store = make(**config)
    players = store.register(schema(model, name="players", l1=None, l2=l2))
    store.migrate()
    return players


def stats(players: Collection[Any]) -> dict[str, int]:
    return players._store.stats().by_schema["players"]  # type: ignore[return-value]


@contextmanager
def commands(redis_addr: str, *names: str) -> Iterator[dict[str, int]]:
    """How often Redis was sent these commands."""
    counted: dict[str, int] = {}
    server = client(redis_addr)
    server.config_resetstat()
    yield counted
    told = server.info("commandstats")
    for name in names:
        counted[name] = told.get(f"cmdstat_{name}", {"calls": 0})["calls"]


@pytest.mark.parametrize("l2", [UNTIL_TTL, ON_WRITE], ids=["until-ttl", "on-write"])
def test_a_kept_result_is_never_served_without_a_field_that_the_release_has(make: MakeStore, l2: RedisPolicy) -> None:
    old = release(make, Plain, l2)
    old.set(1, Plain(1, 5))
    assert old.search_cached() == [Plain(1, 5)]
    new = release(make, Longer, l2)
    assert new.search_cached() == [Longer(1, 5, False)]
    assert new.search_cached(Q().fields("id", "banned"))[0].banned is False


@pytest.mark.parametrize("l2", [UNTIL_TTL, ON_WRITE], ids=["until-ttl", "on-write"])
def test_two_releases_keep_their_results_side_by_side(make: MakeStore, dsn: str, l2: RedisPolicy) -> None:
    old = release(make, Plain, l2)
    old.set(1, Plain(1, 5))
    new = release(make, Longer, l2)
    for players in (old, new):
        assert players.search_cached()[0].level == 5
    run(dsn, "UPDATE players SET level = 6")
    for _ in range(3):
        for players in (old, new):
            assert players.search_cached()[0].level == 5
    assert [stats(players)["l2_hits"] for players in (old, new)] == [3, 3]


def test_results_of_models_that_read_alike_are_shared(make: MakeStore, dsn: str) -> None:
    one = release(make, Plain)
    one.set(1, Plain(1, 5))
    assert one.search_cached() == [Plain(1, 5)]
    run(dsn, "UPDATE players SET level = 6")
    model = make_dataclass("Player", [("level", int), ("id", Annotated[int, strata.PrimaryKey])])
    assert release(make, model).search_cached()[0].level == 5


def test_a_field_that_leaves_the_caches_is_not_served_from_what_was_kept_before(make: MakeStore) -> None:
    before = release(make, Plain)
    before.set(1, Plain(1, 5))
    before.search_cached()
    after = release(make, Hidden)
    assert after.search_cached() == [Hidden(1, 5)]
    assert after.search_cached()[0].level is UNLOADED
    assert before.search_cached() == [Plain(1, 5)]


def test_a_field_that_a_nested_record_gained_gets_what_the_row_says(make: MakeStore, dsn: str) -> None:
    old, new = nested(Line), nested(LongLine)
    before = release(make, old)
    before.set(1, old(1, [Line("a")]))
    assert before.search_cached()[0].lines == [Line("a")]
    after = release(make, new)
    assert after.search_cached()[0].lines == [LongLine("a", 7)]
    run(dsn, """UPDATE players SET lines = '[{"name": "a", "size": 9}]'""")
    assert before.search_cached()[0].lines == [Line("a")]
    assert after.search_cached()[0].lines == [LongLine("a", 7)]


def test_a_kept_result_that_lacks_a_column_is_a_miss_counted_and_replaced(make: MakeStore, redis_addr: str) -> None:
    players = release(make, Longer)
    players.set(1, Longer(1, 5, True))
    expected = players.search_cached()
    redis = client(redis_addr)
    (key,) = redis.keys("strata:{search}*")
    bound = inspect(players._store).schemas["players"]
    fingerprint = Query().fingerprint(bound.plan.outline).encode()
    assert redis.get(key).startswith(fingerprint)
    # What is found under the right key may still be anything.
    redis.set(key, fingerprint + b"\x91\xc4" + _short(bound.plan.pack_row((1, 5), ("id", "level"))))
    assert players.search_cached() == expected
    assert stats(players)["corrupt"] == 1
    assert players.search_cached() == expected
    assert stats(players)["corrupt"] == 1


def _short(data: bytes) -> bytes:
    return bytes([len(data)]) + data


@pytest.mark.parametrize("codec", [JSON(), MsgPack()], ids=["json", "msgpack"])
def test_many_values_of_another_release_cost_what_absent_ones_cost(
    make: MakeStore, redis_addr: str, codec: Any
) -> None:
    old = release(make, Plain, codec=codec)
    old.set_many({id: Plain(id, id) for id in range(600)})
    new = release(make, Longer, codec=codec)
    wanted = {id: Longer(id, id) for id in range(600)}
    with commands(redis_addr, "evalsha", "eval") as sent:
        assert new.get_many(range(600)) == wanted
    # Three chunks of leases, and of fills, where a script that is new goes thrice; and heartbeats.
    assert sent["evalsha"] + sent["eval"] < 60
    assert stats(new)["corrupt"] == 600
    with commands(redis_addr, "evalsha", "eval") as sent:
        assert new.get_many(range(600)) == wanted
        assert old.get_many(range(600)) == {id: Plain(id, id) for id in range(600)}
    assert sent["evalsha"] + sent["eval"] < 60  # heartbeats
    assert (stats(new)["corrupt"], stats(old)["corrupt"]) == (600, 0)


def test_beside_an_old_release_that_writes_a_new_one_misses_once_a_write(make: MakeStore) -> None:
    old = release(make, Plain)
    old.set(1, Plain(1, 1))
    new = release(make, Longer)
    for level in (2, 3):
        old.set(1, Plain(1, level))
        for _ in range(3):
            assert (new.get(1), old.get(1)) == (Longer(1, level), Plain(1, level))
        assert stats(new)["corrupt"] == level - 1
    assert stats(old)["corrupt"] == 0
    new.set(1, Longer(1, 9, True))
    assert (old.get(1), new.get(1)) == (Plain(1, 9), Longer(1, 9, True))


def test_a_value_whose_type_changed_is_a_miss(make: MakeStore, dsn: str) -> None:
    old = release(make, Plain)
    old.set(1, Plain(1, 5))
    assert (old.get(1), old.search_cached()) == (Plain(1, 5), [Plain(1, 5)])
    run(dsn, "ALTER TABLE players ALTER COLUMN level TYPE TEXT USING level::text")
    new = release(make, Retyped)
    assert (new.get(1), new.search_cached()) == (Retyped(1, "5"), [Retyped(1, "5")])


def test_a_value_of_another_release_does_not_come_back_over_a_newer_one(make: MakeStore, redis_addr: str) -> None:
    old = release(make, Plain)
    old.set(1, Plain(1, 5))
    new = release(make, Longer)
    tier = inspect(new._store).schemas["players"].l2
    assert tier is not None
    found = tier.read("1")
    old.set(1, Plain(1, 6))
    assert tier.fill(found.token, [Put("1", 1, Longer(1, 5))]) == set()
    assert new.get(1) == Longer(1, 6)
