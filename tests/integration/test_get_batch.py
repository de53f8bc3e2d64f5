"""`get_batch`: records of several schemas, in the order asked for, with the round trips of one schema."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Annotated, Any
from uuid import UUID

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict, make_conninfo

import strata
from strata import (
    UNLOADED,
    DataStore,
    DecodeError,
    EncodeError,
    HookError,
    L2PoolConfig,
    L2UnavailableError,
    L3PoolConfig,
    L3UnavailableError,
    MissingPrimaryKeyError,
    SchemaHooks,
    SchemaNotFoundError,
    StrataError,
    WriteMode,
)
from strata.embedded import EmbeddedCluster
from strata.l3.table import Table
from strata.testing import Proxy, inspect
from tests.behind import hand_off, idle, paced
from tests.models import Note, Player, Point
from tests.stores import MakeStore, schema, stores, sure
from tests.support import wait_until
from tests.trips import Trips, counted

pytestmark = pytest.mark.both_faces

SHORT = L2PoolConfig(dial_timeout=0.2, read_timeout=0.5, write_timeout=0.5)


@dataclass
class Team:
    id: Annotated[UUID, strata.PrimaryKey]
    name: str = ""


BLUE = Team(UUID(int=7), "blue")
ANN, NOTE, POINT = Player("a", "ann"), Note(1, "one"), Point("p", 1, 2)
PAIRS: list[tuple[Any, Any]] = [("notes", 1), (Team, BLUE.id), (Player, "a"), ("points", "p")]


def registered(store: DataStore, **options: Any) -> DataStore:
    """A store of notes, teams and players, and of points without L3."""
    for model, name in ((Note, "notes"), (Team, "teams"), (Player, "players")):
        store.register(schema(model, name=name, **options))
    points = {name: value for name, value in options.items() if name != "write_mode"}
    store.register(schema(Point, name="points", **(points | {"l3": None})))
    store.migrate()
    sure(store)
    return store


def filled(store: DataStore) -> DataStore:
    store.set("notes", 1, NOTE)
    store.set("teams", BLUE.id, BLUE)
    store.set("players", "a", ANN)
    store.set("points", "p", POINT)
    return store


def named(records: list[Any]) -> list[Any]:
    return [None if record is None else type(record) for record in records]


ALL = [Note, Team, Player, Point]
OPTIONS: dict[str, dict[str, Any]] = {
    "all tiers": {},
    "without L1": {"l1": None},
    "behind": {"write_mode": WriteMode.WRITE_BEHIND},
    "async L1": {"write_mode": WriteMode.WRITE_THROUGH_L1_ASYNC},
}


@pytest.mark.parametrize("options", OPTIONS)
def test_records_come_in_the_order_asked_for_whatever_tier_has_them(make: MakeStore, options: str) -> None:
    store = filled(registered(make(), **OPTIONS[options]))
    store.flush_dirty()
    for reader in (store, registered(make(), **OPTIONS[options])):
        for _ in range(2):
            assert named(reader.get_batch(PAIRS)) == ALL
            assert named(reader.get_batch(PAIRS[::-1])) == ALL[::-1]


def test_without_redis_and_l1_records_come_from_postgres_in_one_round_trip(make: MakeStore) -> None:
    store = make()
    for model, name in ((Note, "notes"), (Team, "teams"), (Player, "players")):
        store.register(schema(model, name=name, l1=None, l2=None))
    store.register(schema(Point, name="points", l2=None, l3=None))
    store.migrate()
    assert named(filled(store).get_batch(PAIRS)) == ALL


def test_what_is_absent_has_the_default_at_its_place(make: MakeStore) -> None:
    store = filled(registered(make()))
    wanted: list[tuple[Any, Any]] = [("notes", 9), *PAIRS, ("points", "q")]
    assert named(store.get_batch(wanted)) == [None, *ALL, None]
    assert store.get_batch([("notes", 9)], default=0) == [0]
    assert store.get_batch([]) == []
    assert store.get_batch(iter(wanted)) == store.get_batch(wanted)


def test_what_is_asked_for_twice_is_asked_for_once_and_is_private_to_the_caller(make: MakeStore) -> None:
    seen: list[Any] = []
    store = make()
    store.register(schema(Note, name="notes", hooks=SchemaHooks(before_get=seen.append)))
    store.migrate()
    store.set("notes", 1, NOTE)
    first, second = store.get_batch([("notes", 1), (Note, 1)])
    assert first is second and seen == [1]
    first.text = "changed"
    assert store.get("notes", 1) == NOTE


def test_hooks_run_for_each_record_and_one_that_raises_ends_the_call(make: MakeStore) -> None:
    def shout(note: Note) -> Note:
        return Note(note.id, note.text.upper())

    def refuse(id: Any) -> None:
        if id == "x":
            raise ValueError(id)

    store = make()
    store.register(schema(Note, name="notes", hooks=SchemaHooks(after_get=shout)))
    store.register(schema(Point, name="points", hooks=SchemaHooks(before_get=refuse)))
    store.migrate()
    store.set("notes", 1, NOTE)
    store.set("points", "p", POINT)
    assert store.get_batch([("notes", 1), ("points", "p")]) == [Note(1, "ONE"), POINT]
    with pytest.raises(HookError):
        store.get_batch([("notes", 1), ("points", "x")])


@pytest.mark.parametrize(
    ("wanted", "error"),
    [
        (None, EncodeError), ("ab", EncodeError), ({"notes": 1}, EncodeError), ([1], EncodeError),
        (["ab"], EncodeError), ([("notes", 1, 2)], EncodeError), ([("notes", "x")], EncodeError),
        ([("points", "")], MissingPrimaryKeyError), ([("nothing", 1)], SchemaNotFoundError),
        ([(7, 1)], SchemaNotFoundError),
    ],
)  # fmt: skip
def test_a_mistake_is_an_error_of_the_family_before_anything_is_asked(
    make: MakeStore, wanted: Any, error: type[Exception]
) -> None:
    store = filled(registered(make()))
    with pytest.raises(error):
        store.get_batch([*PAIRS, *wanted] if isinstance(wanted, list) else wanted)


def test_gets_hits_and_misses_are_those_of_each_schema(make: MakeStore) -> None:
    store = filled(registered(make()))
    before = store.stats()
    store.get_batch([*PAIRS, ("notes", 9)])
    after = store.stats()
    assert (after.gets - before.gets, after.misses - before.misses) == (5, 1)


# -- round trips ----------------------------------------------------------------------------------------------------

SINGLE: dict[str, Any] = {"notes": 1, "teams": BLUE.id, "players": "a"}


def trips_of(make: MakeStore, monkeypatch: pytest.MonkeyPatch, prepare: Any, wanted: Any, **options: Any) -> Any:
    """What a call costs over connections that are open, and have its statements prepared."""
    store = filled(registered(make(), **options))
    store.flush_dirty()
    return fewest(store, monkeypatch, prepare, wanted)


def fewest(store: DataStore, monkeypatch: pytest.MonkeyPatch, prepare: Any, wanted: Any, **options: Any) -> Trips:
    calls = []
    for _ in range(5):
        prepare(store)
        with counted(store, monkeypatch) as trips:
            store.get_batch(wanted, **options)
        calls.append(trips)
    return Trips(min(trips.redis for trips in calls), min(trips.postgres for trips in calls))


def cold(store: DataStore) -> None:
    for name, id in SINGLE.items():
        store.invalidate(name, id)


def nothing(store: DataStore) -> None:
    """All is as it was."""


def test_what_l2_has_of_many_schemas_is_one_round_trip_to_redis_and_none_to_postgres(
    make: MakeStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    trips = trips_of(make, monkeypatch, nothing, PAIRS, l1=None)
    assert (trips.redis, trips.postgres) == (1, 0)


def test_what_l1_has_is_no_round_trip(make: MakeStore, monkeypatch: pytest.MonkeyPatch) -> None:
    trips = trips_of(make, monkeypatch, nothing, PAIRS)
    assert (trips.redis, trips.postgres) == (0, 0)


@pytest.mark.parametrize("options", OPTIONS)
def test_what_only_postgres_has_of_many_schemas_costs_the_round_trips_of_one(
    make: MakeStore, monkeypatch: pytest.MonkeyPatch, options: str
) -> None:
    one = trips_of(make, monkeypatch, cold, [("notes", 1)], **OPTIONS[options])
    many = trips_of(make, monkeypatch, cold, PAIRS, **OPTIONS[options])
    assert many == one
    assert many.postgres == 1


def test_a_schema_without_redis_is_read_together_with_those_that_have_it(
    make: MakeStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = make()
    store.register(schema(Note, name="notes"))
    store.register(schema(Player, name="players", l1=None, l2=None))
    store.migrate()
    sure(store)
    store.set("notes", 1, NOTE)
    store.set("players", "a", ANN)
    wanted: list[tuple[Any, Any]] = [("players", "a"), ("notes", 1)]
    trips = fewest(store, monkeypatch, lambda store: store.invalidate("notes", 1), wanted)
    assert trips.postgres == 1 and named(store.get_batch(wanted)) == [Player, Note]


@dataclass
class Photo:
    id: Annotated[int, strata.PrimaryKey]
    data: Annotated[str, strata.OmitCache] = ""


def test_whole_records_of_many_schemas_are_completed_together(make: MakeStore, monkeypatch: pytest.MonkeyPatch) -> None:
    store = make()
    for name in ("photos", "drawings"):
        store.register(schema(Photo, name=name))
    store.migrate()
    sure(store)
    for name in ("photos", "drawings"):
        store.set(name, 1, Photo(1, name))
    wanted = [("photos", 1), ("drawings", 1)]
    trips = fewest(store, monkeypatch, nothing, wanted, whole=True)
    assert [photo.data for photo in store.get_batch(wanted)] == [UNLOADED, UNLOADED]
    assert [photo.data for photo in store.get_batch(wanted, whole=True)] == ["photos", "drawings"]
    assert (trips.redis, trips.postgres) == (0, 1)


@pytest.mark.in_turn
def test_a_cluster_and_plain_connections_to_postgres_do_as_well(dsn: str) -> None:
    config: dict[str, Any] = {"broker_url": "memory://", "l3_pool": L3PoolConfig(prepared=False)}
    with EmbeddedCluster() as cluster, stores(dsn, cluster.url) as make:
        store = filled(registered(make(**config)))
        cold(store)
        assert named(store.get_batch(PAIRS)) == ALL
        assert named(registered(make(**config), l1=None).get_batch(PAIRS)) == ALL


# -- what is under way, and what is away ----------------------------------------------------------------------------


def test_own_writes_that_are_pending_are_seen_and_those_that_others_have_handed_off(make: MakeStore) -> None:
    writer, reader = make(), make()
    for store in (writer, reader):
        paced(store)
        registered(store, write_mode=WriteMode.WRITE_BEHIND)
        idle(store)
    filled(writer)
    writer.increment("players", "a", level=4)
    assert [record and type(record) for record in writer.get_batch(PAIRS)] == ALL
    assert writer.get_batch([("players", "a"), ("notes", 1)])[0].level == 5
    assert named(reader.get_batch(PAIRS)) == [None, None, None, Point]
    hand_off(writer)
    for name, id in SINGLE.items():
        bound = inspect(reader).schemas[name]
        assert bound.l2 is not None
        bound.l2.server.execute("DEL", bound.l2.key(bound.plan.key_text(id)))
        bound.l1.forget(id)
    assert named(reader.get_batch(PAIRS)) == ALL
    writer.delete("notes", 1)
    assert named(writer.get_batch(PAIRS)) == [None, Team, Player, Point]


def test_a_record_that_is_loaded_fills_the_caches_and_one_that_is_written_meanwhile_does_not(
    make: MakeStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = filled(registered(make()))
    cold(store)
    answer = Table.together
    wrote: list[Any] = []

    def late(conn: Any, asked: Any) -> Any:
        rows = answer(conn, asked)
        if not wrote:
            wrote.append(DataStore.set(store, "players", "a", Player("a", "new")))
        return rows

    with monkeypatch.context() as patch:
        patch.setattr(Table, "together", staticmethod(late))
        assert [record.username for record in store.get_batch([("players", "a"), ("notes", 1)])[:1]] == ["ann"]
    assert store.get("players", "a").username == "new"
    assert 1 in inspect(store).schemas["notes"].l1.entries


@contextmanager
def between(dsn: str, redis_addr: str) -> Iterator[tuple[Proxy, Proxy, dict[str, str]]]:
    """Links to both servers that can be cut, and the addresses over them."""
    place: dict[str, Any] = conninfo_to_dict(dsn)
    with Proxy(f"{place['host']}:{place['port']}") as postgres, Proxy(redis_addr) as redis:
        through = {"postgres_dsn": make_conninfo(dsn, host="127.0.0.1", port=postgres.port), "redis_addr": redis.addr}
        yield postgres, redis, through


def test_where_redis_is_away_postgres_answers_for_all_that_are_there(
    make: MakeStore, dsn: str, redis_addr: str
) -> None:
    with between(dsn, redis_addr) as (_, redis, through):
        store = filled(registered(make(l2_pool=SHORT, **through), l1=None))
        redis.refuse()
        assert named(store.get_batch(PAIRS[:3])) == ALL[:3]
        with pytest.raises(L2UnavailableError):  # the points are nowhere else
            store.get_batch(PAIRS)


def test_where_postgres_is_away_caches_answer_and_what_is_in_none_is_an_error(
    make: MakeStore, dsn: str, redis_addr: str
) -> None:
    with between(dsn, redis_addr) as (postgres, _, through):
        store = filled(registered(make(**through)))
        postgres.refuse()
        assert named(store.get_batch(PAIRS)) == ALL
        with pytest.raises(L3UnavailableError):
            store.get_batch([*PAIRS, ("notes", 9)])
        assert named(store.get_batch(PAIRS)) == ALL
        postgres.resume()
        wait_until(lambda: _read(store) == [*ALL, None])


def _read(store: DataStore) -> Any:
    try:
        return named(store.get_batch([*PAIRS, ("notes", 9)]))
    except L3UnavailableError:
        return None


def test_no_claim_is_left_where_the_call_fails(make: MakeStore, dsn: str, redis_addr: str) -> None:
    with between(dsn, redis_addr) as (postgres, _, through):
        store = filled(registered(make(**through)))
        postgres.refuse()
        with pytest.raises(L3UnavailableError):
            store.get_batch([("notes", 9), ("players", "z")])
        assert [len(bound.l1.claims._claims) for bound in inspect(store).schemas.values()] == [0, 0, 0, 0]


def test_a_row_that_cannot_be_read_is_an_error_and_the_other_schemas_rows_fill(make: MakeStore, dsn: str) -> None:
    store = filled(registered(make()))
    cold(store)
    with psycopg.connect(dsn) as conn:
        conn.execute("ALTER TABLE notes ALTER COLUMN text DROP NOT NULL")
        conn.execute("UPDATE notes SET text = NULL")
    with pytest.raises(DecodeError) as raised:
        store.get_batch(PAIRS)
    assert (raised.value.schema, raised.value.key) == ("notes", 1)
    assert "a" in inspect(store).schemas["players"].l1.entries


def test_a_table_that_is_not_there_is_an_error_and_the_connection_is_good_afterwards(make: MakeStore, dsn: str) -> None:
    store = filled(registered(make()))
    cold(store)
    store.get_batch(PAIRS)
    cold(store)
    with psycopg.connect(dsn) as conn:
        conn.execute("ALTER TABLE teams RENAME TO others")
    with pytest.raises(StrataError):
        store.get_batch(PAIRS)
    with psycopg.connect(dsn) as conn:
        conn.execute("ALTER TABLE others RENAME TO teams")
    assert named(store.get_batch(PAIRS)) == ALL


def test_statements_whose_result_has_changed_are_prepared_anew(make: MakeStore, dsn: str) -> None:
    store = filled(registered(make()))
    cold(store)
    store.get_batch(PAIRS)
    cold(store)
    with psycopg.connect(dsn) as conn:
        conn.execute("ALTER TABLE players ALTER COLUMN level TYPE integer")
        conn.execute("ALTER TABLE teams RENAME COLUMN name TO was")
        conn.execute("ALTER TABLE teams ADD COLUMN name varchar(20) NOT NULL DEFAULT 'red'")
    assert named(store.get_batch(PAIRS)) == ALL
