"""Tags: what has one is read anew everywhere once it was invalidated, by one marker, in every schema of the store."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Annotated, Any

import pytest

import strata
from strata import (
    DataStore,
    EncodeError,
    HookError,
    InvalidConfigError,
    L2UnavailableError,
    MemPolicy,
    Q,
    RedisPolicy,
    Schema,
    SearchExpiry,
    WriteMode,
)
from strata.embedded import EmbeddedCluster
from strata.protocol import markers
from strata.testing import inspect
from tests.behind import client, hand_off, idle, paced, persist
from tests.held import Held, execute
from tests.models import Note
from tests.stores import ALL, MakeStore, stores, sure
from tests.support import wait_until

pytestmark = pytest.mark.both_faces

TEAMS = {1: "red", 2: "blue", 3: "red"}
REDS = {1: "new", 2: "old", 3: "new"}


@dataclass
class Player:
    id: Annotated[int, strata.PrimaryKey]
    team: str = ""
    name: str = "old"


def teams(record: Any) -> list[str]:
    return [f"team:{record.team}"]


@pytest.fixture
def held_up(dsn: str, redis_addr: str) -> Any:
    """As `make`, of stores that are called by threads: what is held up would hold up a loop."""
    with stores(dsn, redis_addr) as factory:
        yield factory


def ready(make: MakeStore, *, name: str = "players", **options: Any) -> DataStore:
    store = make()
    store.register(Schema(Player, name=name, **(ALL | {"tags": teams} | options)))
    store.migrate()
    if any((ALL | options)[tier] for tier in ("l2", "l3")):
        sure(store)
    return store


def filled(make: MakeStore, **options: Any) -> tuple[DataStore, DataStore]:
    """Two stores, as in two processes, which have read the players."""
    one, other = ready(make, **options), ready(make, **options)
    one.set_many(Player, {id: Player(id, team) for id, team in TEAMS.items()})
    assert names(one) == names(other) == dict.fromkeys(TEAMS, "old")
    return one, other


def names(store: DataStore) -> dict[int, str]:
    return {id: store.get(Player, id).name for id in TEAMS}


def change(dsn: str, text: str = "new") -> None:
    execute(dsn, f"UPDATE players SET name = '{text}'")


TIERS: dict[str, dict[str, Any]] = {
    "all": {},
    "no L1": {"l1": None},
    "no L2": {"l2": None},
    "L1 later": {"write_mode": WriteMode.WRITE_THROUGH_L1_ASYNC},
    "never expiring": {"l1": MemPolicy(ttl=0), "l2": RedisPolicy(ttl=0)},
    "aging": {"l2": RedisPolicy(ttl=600, fail_safe=600, eager_refresh=0.9, jitter=0.1)},
    "fail-safe": {"l1": MemPolicy(ttl=60, fail_safe=60)},
}


@pytest.mark.parametrize("tiers", TIERS)
def test_what_has_the_tag_is_read_anew_in_every_process_and_nothing_else(make: MakeStore, dsn: str, tiers: str) -> None:
    one, other = filled(make, **TIERS[tiers])
    change(dsn)
    one.invalidate_tag("team:red")
    assert names(one) == REDS
    wait_until(lambda: names(other) == REDS)
    assert {id: player.name for id, player in other.get_many(Player, TEAMS).items()} == REDS
    if tiers != "no L2":
        assert {id: one.get(Player, id, force_l2=True).name for id in TEAMS} == REDS


@pytest.mark.parametrize("tiers", ["all", "no L1", "no L2"])
@pytest.mark.parametrize("touched", ["before", "after"])
def test_a_record_that_was_touched_has_its_tags(make: MakeStore, dsn: str, tiers: str, touched: str) -> None:
    one, other = filled(make, **TIERS[tiers])
    change(dsn)
    for store in (one, other) if touched == "before" else ():
        store.touch(Player, 1, 3600)
    one.invalidate_tag("team:red")
    if touched == "after":
        other.touch(Player, 1, 3600)  # which is no news of the record
    assert names(one) == REDS
    wait_until(lambda: names(other) == REDS)


def test_it_goes_over_all_schemas_of_the_store(make: MakeStore, dsn: str) -> None:
    one, other = ready(make), ready(make)
    for store in (one, other):
        store.register(Schema(Player, name="trainers", **ALL, tags=teams))
        store.register(Schema(Player, name="fans", **ALL, tags=lambda record: ["fan"]))
        store.migrate()
    every = ("players", "trainers", "fans")
    for name in every:
        one.set(name, 1, Player(1, "red"))
        assert other.get(name, 1).name == "old"
        execute(dsn, f"UPDATE {name} SET name = 'new'")
    one.invalidate_tag("team:red")
    assert [one.get(name, 1).name for name in every] == ["new", "new", "old"]
    wait_until(lambda: [other.get(name, 1).name for name in every] == ["new", "new", "old"])


def test_a_tag_of_many_records_costs_one_write(make: MakeStore, dsn: str, redis_addr: str) -> None:
    store = ready(make)
    store.set_many(Player, {id: Player(id, "red") for id in range(2000)})
    before = client(redis_addr).info("commandstats")["cmdstat_evalsha"]["calls"]
    store.invalidate_tag("team:red")
    assert client(redis_addr).info("commandstats")["cmdstat_evalsha"]["calls"] - before < 10
    assert len(client(redis_addr).keys("strata:players:*")) == 2000  # which nobody reads any more
    execute(dsn, "UPDATE players SET name = 'new'")
    assert store.get(Player, 1999).name == "new"


def test_a_record_has_several_tags_and_any_of_them_does(make: MakeStore, dsn: str) -> None:
    store = ready(make, tags=lambda record: (f"team:{record.team}", f"id:{record.id}", "é" * 256))
    store.set_many(Player, {id: Player(id, team) for id, team in TEAMS.items()})
    for number, tag in enumerate(("team:red", "id:1", "é" * 256)):
        change(dsn, f"new{number}")
        store.invalidate_tag(tag)
        assert store.get(Player, 1).name == f"new{number}"
    assert store.get(Player, 2).name == "new2"


def test_a_record_is_found_by_the_tags_that_it_has_now(make: MakeStore, dsn: str) -> None:
    one, other = filled(make)
    one.set(Player, 1, Player(1, "blue"))
    wait_until(lambda: other.get(Player, 1).team == "blue")
    change(dsn)
    one.invalidate_tag("team:red")
    assert names(one) == {1: "old", 2: "old", 3: "new"}
    one.invalidate_tag("team:blue")
    assert names(one) == dict.fromkeys(TEAMS, "new")


def test_what_is_read_afterwards_is_cached_as_before(make: MakeStore, dsn: str) -> None:
    one, _ = filled(make)
    one.invalidate_tag("team:red")
    names(one)
    change(dsn)
    assert names(one) == dict.fromkeys(TEAMS, "old")  # from L1
    one_more = ready(make)
    assert names(one_more) == dict.fromkeys(TEAMS, "old")  # from L2
    assert one_more.stats().l3_hits == 0 and one_more.stats().corrupt == 0


def test_a_store_that_starts_later_honours_it(make: MakeStore, dsn: str) -> None:
    one, _ = filled(make)
    change(dsn)
    one.invalidate_tag("team:red")
    later = make()
    later.register(Schema(Player, name="players", **ALL, tags=teams))
    assert names(later) == REDS  # without waiting for its bus


@pytest.mark.parametrize("missing", ["none", "l1", "l2"])
@pytest.mark.parametrize("call", ["get", "get_many", "search", "search_cached", "warm_cache"])
def test_what_began_to_be_read_before_it_fills_nothing_after_it(
    held_up: MakeStore, dsn: str, call: str, missing: str
) -> None:
    tiers = {} if missing == "none" else {missing: None}
    store, other = filled(held_up, **tiers)
    store.invalidate(Player, 1)
    held = Held(store, "players")
    held.pause()
    args = {"get": (1,), "get_many": ([1],)}.get(call, ())
    thread = threading.Thread(target=getattr(store, call), args=(Player, *args))
    thread.start()
    assert held.arrived.wait(30)
    change(dsn)
    messages = inspect(store).inbox.messages
    other.invalidate_tag("team:red")
    wait_until(lambda: inspect(store).inbox.messages > messages)
    held.go()
    thread.join(30)
    assert store.get(Player, 1).name == other.get(Player, 1).name == "new"


def test_who_asks_after_it_does_not_share_what_began_to_be_read_before(held_up: MakeStore, dsn: str) -> None:
    store, _ = filled(held_up)
    store.invalidate(Player, 1)
    held = Held(store, "players")
    held.pause()
    found: dict[int, str] = {}

    def ask(number: int) -> None:
        found[number] = store.get(Player, 1).name

    threads = [threading.Thread(target=ask, args=[number]) for number in range(2)]
    threads[0].start()
    assert held.arrived.wait(30)
    change(dsn)
    store.invalidate_tag("team:red")
    threads[1].start()
    flights = inspect(store).schemas["players"].l1.claims._flights
    # Where the process is unsure, as one that gets no time is, nobody waits for what began before.
    wait_until(lambda: 1 in found or any(f._waiting for known in list(flights.values()) if (f := known())))
    held.go()
    for thread in threads:
        thread.join(30)
    assert found == {0: "old", 1: "new"}


def test_pending_writes_stay(make: MakeStore, dsn: str) -> None:
    store = make()
    paced(store)
    behind = Schema(Player, name="players", **ALL, tags=teams, write_mode=WriteMode.WRITE_BEHIND)
    store.register(behind)
    store.migrate()
    sure(store)
    idle(store)
    other = make()
    other.register(behind)
    sure(other)
    idle(other)
    store.set(Player, 1, Player(1, "red", "buffered"))
    store.invalidate_tag("team:red")
    assert store.get(Player, 1).name == "buffered"
    hand_off(store)
    other.invalidate_tag("team:red")
    assert other.get(Player, 1).name == "buffered"
    persist(store, "players")
    assert execute(dsn, "SELECT name FROM players") == ("buffered",)
    change(dsn)
    other.invalidate_tag("team:red")
    assert other.get(Player, 1).name == "new"


@pytest.mark.parametrize("tiers", [{"l3": None}, {"l1": None, "l3": None}, {"l2": None, "l3": None}])
def test_the_lowest_tier_of_a_schema_stays(make: MakeStore, tiers: dict[str, Any]) -> None:
    store = ready(make, **tiers)
    store.set(Player, 1, Player(1, "red"))
    store.invalidate_tag("team:red")
    assert store.get(Player, 1).name == "old"


@pytest.mark.parametrize("expiry", SearchExpiry)
def test_kept_results_of_a_schema_with_tags_end_with_any_tag(make: MakeStore, dsn: str, expiry: SearchExpiry) -> None:
    one, other = filled(make, l2=RedisPolicy(ttl=600, search_expiry=expiry))
    query = Q().order_by("id").fields("id", "name")

    def found(store: DataStore) -> set[str]:
        return {player.name for player in store.search_cached(Player, query)}

    assert found(one) == found(other) == {"old"}
    change(dsn)
    assert found(other) == {"old"}
    one.invalidate_tag("team:green")  # of no record in the result: by now one may have moved there
    assert found(one) == {"new"}
    wait_until(lambda: found(other) == {"new"})
    change(dsn, "newer")
    assert found(one) == found(other) == {"new"}  # which is kept


def test_an_eviction_takes_the_tags_along(make: MakeStore) -> None:
    store = ready(make, l1=MemPolicy(ttl=60, max_entries=1))
    for id in range(600):
        store.set(Player, id, Player(id, f"t{id % 7}"))
    l1 = inspect(store).schemas["players"].l1
    assert l1.store is not None and l1.store.tagged is not None
    assert set(l1.store.tagged._tags) == set(l1.entries)
    assert sum(map(len, l1.store.tagged._keys.values())) == len(l1.entries) == 256


# -- results of functions -------------------------------------------------------------------------------------------


class Counted:
    def __init__(self, store: DataStore, tags: Any) -> None:
        self.calls = 0

        @store.cached(ttl=60, name="results", tags=tags)
        def points(team: str, *, season: int = 1) -> int:
            self.calls += 1
            return self.calls

        self.points = points


def by_team(team: str, *, season: int = 1) -> list[str]:
    return [f"team:{team}", f"season:{season}"]


def test_results_go_by_the_tags_of_their_arguments(make: MakeStore) -> None:
    one, other = Counted(ready(make), by_team), Counted(store := ready(make), by_team)
    assert [one.points("red"), one.points("blue"), one.points("red"), other.points("red")] == [1, 2, 1, 1]
    store.invalidate_tag("team:red")
    assert (other.points("red"), other.points("blue")) == (1, 2) and other.calls == 1
    wait_until(lambda: one.points("red") == 1 and one.points("blue") == 2)
    store.invalidate_tag("season:1")
    assert (other.points("red"), other.points("blue"), other.calls) == (2, 3, 3)


@pytest.mark.parametrize("tags", [["scores"], ("scores", "all"), {"scores"}], ids=["list", "tuple", "set"])
def test_a_list_of_tags_is_that_of_every_result(make: MakeStore, tags: Any) -> None:
    counted = Counted(store := ready(make), tags)
    assert [counted.points("red"), counted.points("blue"), counted.points("red")] == [1, 2, 1]
    store.invalidate_tag("scores")
    assert [counted.points("red"), counted.points("blue")] == [3, 4]


def test_results_in_memory_alone_go_too(make: MakeStore) -> None:
    counted = Counted(store := make(redis_addr=""), by_team)
    assert [counted.points("red"), counted.points("blue")] == [1, 2]
    store.invalidate_tag("team:red")
    assert [counted.points("red"), counted.points("blue")] == [3, 2]
    store.invalidate_all("results")
    assert [counted.points("red"), counted.points("blue")] == [4, 5]


def test_invalidate_all_ends_every_result_of_a_function(make: MakeStore) -> None:
    one, other = Counted(store := ready(make), None), Counted(ready(make), None)
    assert [one.points("red"), other.points("red")] == [1, 1]
    store.invalidate_all("results")
    assert one.points("red") == 2
    wait_until(lambda: other.points("red") == 2)


def test_a_call_that_began_before_is_not_kept(make: MakeStore) -> None:
    store = ready(make)
    begun, free, calls = threading.Event(), threading.Event(), []

    @store.cached(ttl=60, tags=["slow"])
    def slow() -> int:
        calls.append(1)
        begun.set()
        assert free.wait(30)
        return len(calls)

    thread = threading.Thread(target=slow)
    thread.start()
    assert begun.wait(30)
    store.invalidate_tag("slow")
    free.set()
    thread.join(30)
    assert slow() == 2
    assert slow() == 2


# -- mistakes -------------------------------------------------------------------------------------------------------


def raising(record: Any) -> list[str]:
    raise KeyError("secret")


WRONG: dict[str, Any] = {
    "a str": lambda record: "team:red",
    "bytes": lambda record: b"team",
    "None": lambda record: None,
    "a number": lambda record: 7,
    "a dict": lambda record: {"team": "red"},
    "a number among them": lambda record: ["team", 7],
    "None among them": lambda record: [None],
    "an empty one": lambda record: [""],
    "a long one": lambda record: ["x" * 257],
    "a lone surrogate": lambda record: ["\ud800"],
    "ten thousand": lambda record: [str(number) for number in range(10_000)],
    "no end": lambda record: iter(int, 1),
    "raises": raising,
}


@pytest.mark.parametrize("wrong", WRONG)
def test_what_are_no_tags_is_refused_before_anything_is_written(make: MakeStore, dsn: str, wrong: str) -> None:
    store = ready(make, tags=WRONG[wrong])
    with pytest.raises(HookError, match=r"tags of schema 'players' .*; nothing was done") as raised:
        store.set(Player, 1, Player(1, "red"))
    assert "secret" not in str(raised.value)
    assert (wrong == "raises") == isinstance(raised.value.__cause__, KeyError)
    for call in (
        lambda: store.set_many(Player, {1: Player(1)}),
        lambda: store.insert(Player, Player(1)),
        lambda: store.get_or_set(Player, 1, lambda: Player(1)),
        lambda: store.tx().set(Player, 1, Player(1)).commit(),
    ):
        with pytest.raises(HookError):
            call()
    assert execute(dsn, "SELECT count(*) FROM players") == (0,)


@pytest.mark.parametrize("wrong", WRONG)
def test_a_row_whose_tags_cannot_be_told_is_read_and_not_cached(make: MakeStore, dsn: str, wrong: str) -> None:
    store = ready(make, tags=WRONG[wrong])
    execute(dsn, "INSERT INTO players (id, team, name) VALUES (1, 'red', 'old')")
    assert store.get(Player, 1).name == "old"
    change(dsn)
    assert store.get(Player, 1).name == store.get_many(Player, [1])[1].name == "new"
    assert store.search(Player)[0].name == "new"
    assert store.stats().hook_errors > 0


@pytest.mark.parametrize("tag", ["", "x" * 257, "\ud800", 7, None, b"a", ["a"]], ids=repr)
def test_what_is_no_tag_is_refused(make: MakeStore, tag: Any) -> None:
    store = ready(make)
    with pytest.raises(EncodeError, match="tags must"):
        store.invalidate_tag(tag)


async def awaited_tags(record: Any) -> list[str]:
    return []


@pytest.mark.parametrize("tags", [["a"], "a", 7, awaited_tags], ids=["list", "str", "int", "coroutine function"])
def test_tags_of_a_schema_are_a_plain_function(tags: Any) -> None:
    with pytest.raises(InvalidConfigError, match="tags of a Schema"):
        Schema(Player, l1=MemPolicy(), tags=tags)


@pytest.mark.parametrize("tags", ["a", 7, [7], [""], [None]], ids=repr)
def test_tags_of_results_are_a_list_or_a_function(make: MakeStore, tags: Any) -> None:
    with pytest.raises(InvalidConfigError, match="tags of cached"):
        make(redis_addr="").cached(tags=tags)


@pytest.mark.parametrize("tags", [lambda team, **_: "a", lambda team, **_: 1 / 0, list], ids=["str", "0", "args"])
def test_a_function_of_tags_that_fails_keeps_the_function_from_being_called(make: MakeStore, tags: Any) -> None:
    counted = Counted(make(redis_addr=""), tags)
    with pytest.raises(HookError, match=r"tags of .*points\(\) .*; it was not called"):
        counted.points("red")
    assert counted.calls == 0


@dataclass
class Hidden:
    id: Annotated[int, strata.PrimaryKey]
    open: str = ""
    no_l1: Annotated[str, strata.OmitL1] = ""
    no_cache: Annotated[list[str], strata.OmitCache] = field(default_factory=list)


HIDDEN: dict[str, Any] = {
    "in a text": lambda record: [f"of:{record.no_l1}"],
    "added to": lambda record: ["of:" + record.no_l1],
    "as it is": lambda record: [record.no_l1],
    "its items": lambda record: record.no_cache,
    "compared": lambda record: ["yes"] if record.no_l1 == "x" else [],
    "asked": lambda record: ["yes"] if record.no_cache else [],
    "a call of its": lambda record: [record.no_l1.upper()],
}


@pytest.mark.parametrize("how", HIDDEN)
def test_a_field_that_is_not_in_every_cache_can_be_no_tag(make: MakeStore, how: str) -> None:
    store = make()
    store.register(Schema(Hidden, name="hidden", **ALL, tags=HIDDEN[how]))
    store.migrate()
    with pytest.raises(HookError):
        store.set(Hidden, 1, Hidden(1, "a", "b", ["c"]))


def test_other_fields_of_such_a_model_can(make: MakeStore, dsn: str) -> None:
    store = make()
    store.register(Schema(Hidden, name="hidden", **ALL, tags=lambda record: [record.open]))
    store.migrate()
    sure(store)
    store.set(Hidden, 1, Hidden(1, "a", "b", ["c"]))
    assert store.get(Hidden, 1).no_l1 is strata.UNLOADED
    execute(dsn, "UPDATE hidden SET open = 'new'")
    store.invalidate_tag("a")
    assert store.get(Hidden, 1).open == "new"


def test_fields_that_are_written_alone_have_no_tags_of_their_own(make: MakeStore) -> None:
    one, other = filled(make)
    one.update(Player, 1, team="blue")
    wait_until(lambda: other.get(Player, 1).team == "blue")
    assert one.get(Player, 1) == Player(1, "blue", "old")


# -- bounds, and losses ---------------------------------------------------------------------------------------------


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    monkeypatch.setattr(markers, "MOST", 5)
    monkeypatch.setattr("strata.coherence.marking.MOST", 5)
    yield 5


def test_markers_are_bounded_and_those_left_out_hold_all_the_same(
    make: MakeStore, dsn: str, redis_addr: str, few: int
) -> None:
    one, other = filled(make)
    change(dsn)
    one.invalidate_tag("team:red")
    for number in range(3 * few):
        one.invalidate_tag(f"none:{number}")
    for store in (one, other):
        wait_until(lambda store=store: f"none:{3 * few - 1}" in inspect(store).markers.tags)  # type: ignore[misc]
        assert len(inspect(store).markers.tags) == few
    assert client(redis_addr).zcard("strata:{markers}:tags") == few
    assert names(one)[1] == names(other)[1] == "new"
    later = ready(make)
    assert names(later)[1] == "new"


def test_without_redis_it_says_so_and_memory_is_dropped(dsn: str, own_valkey: strata.embedded.EmbeddedValkey) -> None:
    with stores(dsn, own_valkey.addr) as make:
        store, _ = filled(make)
        change(dsn)
        own_valkey.kill()
        with pytest.raises(L2UnavailableError):
            store.invalidate_tag("team:red")
        assert store.get(Player, 1).name == "new"


@pytest.mark.in_turn
@pytest.mark.slow
def test_on_a_cluster(dsn: str) -> None:
    with EmbeddedCluster() as cluster, stores(dsn, cluster.url) as make:
        one, other = filled(make)
        change(dsn)
        one.invalidate_tag("team:red")
        assert names(one) == REDS
        wait_until(lambda: names(other) == REDS)
        assert names(ready(make)) == REDS


def test_a_schema_without_tags_is_not_concerned(make: MakeStore, dsn: str) -> None:
    store = ready(make)
    store.register(Schema(Note, name="notes", **ALL))
    store.migrate()
    store.set("notes", 1, Note(1, "team:red", ["team:red"]))
    execute(dsn, "UPDATE notes SET text = 'new'")
    store.invalidate_tag("team:red")
    assert store.get("notes", 1).text == "team:red"
