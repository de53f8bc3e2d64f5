"""`search`, `search_cached`, `count`, `search_iter` and warming, through the store."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import psycopg
import pytest

import strata
from strata import UNLOADED, DataStore, MemPolicy, PostgresPolicy, Q, Query, QueryError, RedisPolicy, Schema
from strata.testing import inspect
from tests.models import Account, Note, Player
from tests.stores import MakeStore, schema, sure
from tests.support import wait_until


@pytest.fixture
def store(make: MakeStore) -> DataStore:
    store = make()
    store.register(schema(Player, name="players"))
    store.migrate()
    store.set_many("players", {f"p{n:03}": Player(f"p{n:03}", f"user{n}", level=n % 10) for n in range(250)})
    return store


def test_search_binds_arguments_orders_limits_and_skips(store: DataStore) -> None:
    query = Q().where("level >= $1 AND username <> $2", 8, "user8").order_by("id").desc().limit(5).offset(1)
    found = store.search(Player, query)
    assert [player.id for player in found] == ["p248", "p239", "p238", "p229", "p228"]
    assert store.search(Player, query.build()) == found


def test_search_finds_a_hundred_without_a_limit_and_all_by_iterating(store: DataStore) -> None:
    assert len(store.search(Player)) == 100
    assert len(store.search(Player, Q().limit(0))) == 100
    assert len(store.search(Player, Query(limit=1000))) == 250
    assert sum(1 for _ in store.search_iter(Player, Q().where("level = $1", 3), chunk=7)) == 25


def test_count_asks_the_database_and_ignores_order_limit_and_offset(store: DataStore) -> None:
    assert store.count(Player) == 250
    assert store.count(Player, Q().where("level = $1", 3).order_by("id").limit(2).offset(9)) == 25


def test_found_records_fill_both_caches(store: DataStore, make: MakeStore) -> None:
    other = make()
    other.register(schema(Player, name="players"))
    sure(other)
    store.invalidate("players", "p001")
    found = other.search(Player, Q().where("id = ANY($1)", ["p001", "p002"]).order_by("id"))
    before = other.stats()
    assert other.get_many(Player, ["p001", "p002"]) == {"p001": found[0], "p002": found[1]}
    after = other.stats()
    assert (after.l3_hits, after.l1_hits - before.l1_hits) == (before.l3_hits, 2)


def test_a_projection_holds_what_was_asked_for_and_fills_nothing(store: DataStore, make: MakeStore) -> None:
    other = make()
    other.register(schema(Player, name="players"))
    store.invalidate("players", "p001")
    found = other.search(Player, Q().where("id = $1", "p001").fields("id", "level"))[0]
    assert (found.id, found.level, found.username) == ("p001", 1, UNLOADED)
    assert other.get(Player, "p001").username == "user1"
    assert other.stats().l3_hits == 1


def test_search_cached_keeps_the_result_until_it_is_forced(store: DataStore, dsn: str) -> None:
    query = Q().where("level = $1", 9).order_by("id").limit(3)
    first = store.search_cached(Player, query)
    with psycopg.connect(dsn, autocommit=True) as conn:
        conn.execute("UPDATE players SET level = 0 WHERE id = %s", (first[0].id,))
    assert store.search_cached(Player, query) == first
    assert store.search_cached(Player, Q().where("level = $1", 8).order_by("id").limit(3)) != first
    fresh = store.search_cached(Player, query.force_l3())
    assert first[0].id not in {player.id for player in fresh}


def test_search_cached_keeps_neither_omitted_columns_nor_plaintext(make: MakeStore, redis_addr: str) -> None:
    store = make(encryption_key=b"k" * 32)
    accounts = store.register(schema(Account, name="accounts"))
    store.migrate()
    accounts.set("a", Account("a", "Ann", secret="hush", token="plain-token"))
    store.search_cached("accounts", Q())
    again = store.search_cached("accounts", Q())
    assert (again[0].secret, again[0].token) == (UNLOADED, "plain-token")
    server = inspect(store).redis
    keys = server.execute("KEYS", "strata:{search}*")
    data = server.execute("GET", keys[0])
    assert b"hush" not in data and b"plain-token" not in data


@pytest.mark.parametrize(
    "query",
    [
        Q().order_by("level; DROP TABLE players"),
        Q().order_by("nope"),
        Q().fields("id", "nope"),
        Q().fields('id" FROM pg_user --'),
    ],
)
def test_columns_that_are_not_the_schemas_are_refused(store: DataStore, query: Q) -> None:
    for call in (store.search, store.search_cached):
        with pytest.raises(strata.QueryError):
            call("players", query)
    assert store.count("players") == 250


def test_a_clause_that_the_database_refuses_is_a_query_error(store: DataStore) -> None:
    for where in ("nope = 1", "level = = 2", "level / 0 = 1"):
        with pytest.raises(strata.QueryError):
            store.search(Player, Q().where(where))


def test_percent_signs_and_dollars_in_text_are_left_alone(store: DataStore) -> None:
    assert (
        store.search(Player, Q().where("username LIKE 'user24%' AND username <> '$1' AND level = $1", 1))[0].id
        == "p241"
    )


def test_a_replica_answers_search_and_count_and_fills_nothing(make: MakeStore, dsn: str) -> None:
    store = make()
    store.register(Schema(Note, name="notes", l1=MemPolicy(), l2=RedisPolicy(), l3=PostgresPolicy(read_replica=dsn)))
    store.migrate()
    store.set("notes", 1, Note(1, "one"))
    store.invalidate("notes", 1)
    assert store.search("notes")[0].text == "one"
    assert store.count("notes") == 1
    assert store.stats().l1_entries == 0


def test_warming_fills_both_caches_and_says_how_many(store: DataStore, make: MakeStore) -> None:
    other = make()
    other.register(schema(Player, name="players"))
    sure(other)
    assert store.warm_cache(Player, 10) == 10
    server = inspect(store).redis
    server.execute("FLUSHALL")
    wait_until(lambda: server.execute("PUBSUB", "NUMSUB", "strata:invalidate")[1] >= 1)
    assert other.warm_cache(Player) == 250
    assert other.stats().l1_entries == 250
    found = other.get_many(Player, [f"p{n:03}" for n in range(250)])
    assert len(found) == 250 and other.stats().l3_hits == 0


def test_warming_never_puts_a_row_over_something_newer(store: DataStore) -> None:
    store.set(Player, "p001", Player("p001", "user1", level=77))
    store.warm_cache(Player)
    assert store.get(Player, "p001", force_l2=True).level == 77


@pytest.mark.parametrize("count", [65_534, 70_000])
def test_more_arguments_than_the_protocol_counts_are_refused_before_any_tier_is_asked(
    make: MakeStore, count: int
) -> None:
    elsewhere = make(postgres_dsn="postgresql://nobody@127.0.0.1:1/nothing", redis_addr="127.0.0.1:1")
    players = elsewhere.register(schema(Player, name="players"))
    query = Q().where(f"level IN ({','.join(f'${n}' for n in range(1, count + 1))})", *range(count))
    for call in (players.search, players.search_cached, players.search_iter, players.count):
        with pytest.raises(strata.QueryError, match=r"65533.*ANY"):
            call(query)


def test_as_many_arguments_as_the_protocol_counts_are_taken(store: DataStore) -> None:
    query = Q().where(f"level IN ({','.join(f'${n}' for n in range(1, 65_534))})", *range(65_533)).limit(500)
    assert len(store.search(Player, query)) == store.count(Player, query) == 250


def test_a_query_that_is_to_blame_opens_no_breaker(store: DataStore) -> None:
    for where, args in [
        ("level / 0 = 1", ()),
        ("level = $1", ("many",)),
        ("level = $1", (object(),)),
        ("level = ANY($1)", ([1, 2.5],)),
        ("username ~ $1", ("[a-z",)),
        (f"{'(' * 20_000}true{')' * 20_000}", ()),
    ]:
        for call in (store.search, store.count, lambda name, query: list(store.search_iter(name, query))):
            with pytest.raises(strata.QueryError):
                call(Player, Q().where(where, *args))
    assert store.get(Player, "p001", force_l3=True).username == "user1"


@pytest.mark.parametrize("ids", ["p001", b"p001", 7, None])
def test_one_id_where_many_are_wanted_is_refused(store: DataStore, ids: Any) -> None:
    calls: tuple[Callable[..., object], ...] = (store.get_many, store.delete_many)
    for call in calls:
        with pytest.raises(strata.EncodeError, match="iterable of ids"):
            call("players", ids)
    assert store.count("players") == 250


@pytest.mark.parametrize(
    ("query", "said"),
    [
        (Q().where("level = $1", "abc"), r"22P02.*; it cannot read the argument of \$1 as"),
        (Q().where("level = $2 AND username = $1", "a", "abc"), r"22P02.*; it cannot read the argument of \$2 as"),
        (Q().where("username = $1 AND level = $2", "a", object()), r"not sent .*the argument of \$2 has a type"),
        (Q().where("level = ANY($1) AND username = $2", [1, "a"], "a"), r"not sent .*the argument of \$1 .* mixed"),
    ],
)
def test_an_argument_that_is_to_blame_is_named(store: DataStore, query: Q, said: str) -> None:
    calls: list[Callable[[], object]] = [
        lambda: store.search(Player, query),
        lambda: store.count(Player, query),
        lambda: list(store.search_iter(Player, query)),
    ]
    for call in calls:
        with pytest.raises(QueryError, match=said) as caught:
            call()
        assert "abc" not in str(caught.value)
