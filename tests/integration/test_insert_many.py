"""`insert_many`: records whose keys no record has yet, all or nothing, in every mode, over every set of tiers."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, Any

import psycopg
import pytest

import strata
from strata import (
    UNLOADED,
    AlreadyExistsError,
    ConstraintError,
    DataStore,
    EncodeError,
    HookError,
    MemPolicy,
    MissingPrimaryKeyError,
    PostgresPolicy,
    RedisPolicy,
    Schema,
    SchemaHooks,
    WriteMode,
)
from strata.testing import inspect
from tests.models import Note, Player
from tests.stores import MakeStore, sure
from tests.support import wait_until

pytestmark = pytest.mark.both_faces

L1, L2, L3 = MemPolicy(ttl=60), RedisPolicy(ttl=600), PostgresPolicy()
BEHIND = WriteMode.WRITE_BEHIND
WITH_L3: dict[str, dict[str, Any]] = {
    "through": {"l1": L1, "l2": L2, "l3": L3},
    "through, L1 later": {"l1": L1, "l2": L2, "l3": L3, "write_mode": WriteMode.WRITE_THROUGH_L1_ASYNC},
    "L1+L3": {"l1": L1, "l2": None, "l3": L3},
    "L2+L3": {"l1": None, "l2": L2, "l3": L3},
    "L3": {"l1": None, "l2": None, "l3": L3},
    "behind": {"l1": L1, "l2": L2, "l3": L3, "write_mode": BEHIND},
    "behind, no L2": {"l1": L1, "l2": None, "l3": L3, "write_mode": BEHIND},
}
TIERS: dict[str, dict[str, Any]] = WITH_L3 | {
    "L1+L2": {"l1": L1, "l2": L2, "l3": None},
    "L2": {"l1": None, "l2": L2, "l3": None},
    "L1": {"l1": L1, "l2": None, "l3": None},
}
SIZES = [1, 16, 17, 300]  # by single statements, and by COPY
each_way = pytest.mark.parametrize("count", SIZES)
with_l3 = pytest.mark.parametrize("tiers", WITH_L3.values(), ids=WITH_L3)


@dataclass
class Visit:
    """Partitioned by month."""

    id: Annotated[int, strata.PrimaryKey]
    at: datetime
    text: str = ""


@pytest.fixture(params=TIERS)
def tiers(request: pytest.FixtureRequest) -> dict[str, Any]:
    return TIERS[request.param]


def store_of(make: MakeStore, tiers: dict[str, Any], model: type = Note, **options: Any) -> DataStore:
    store = make()
    store.register(Schema(model, name="records", **(tiers | options)))
    store.migrate()
    if any(tiers[name] is not None for name in ("l2", "l3")):
        sure(store)
    return store


def notes(count: int, text: str = "") -> list[Note]:
    return [Note(number, text) for number in range(1, count + 1)]


def texts(store: DataStore, count: int) -> list[str]:
    found = store.get_many("records", range(1, count + 1))
    return [found[number].text for number in sorted(found)]


@each_way
def test_records_are_returned_as_stored_in_the_order_given(make: MakeStore, tiers: dict[str, Any], count: int) -> None:
    store = store_of(make, tiers, Player)
    given = [Player(f"p{number}", f"name {number}", level=number) for number in reversed(range(count))]
    stored = store.insert_many("records", given)
    assert [(player.id, player.username, player.level) for player in stored] == [
        (player.id, player.username, player.level) for player in given
    ]
    assert all(player.created_at and player.updated_at for player in stored)
    assert given[0].created_at is None
    assert store.get_many("records", [player.id for player in given]) == {player.id: player for player in stored}
    assert store.stats().sets == count
    stored[0].level = -1
    assert store.get("records", given[0].id).level == count - 1


def test_any_iterable_of_records_is_taken_and_an_empty_one_is_no_error(make: MakeStore, tiers: dict[str, Any]) -> None:
    store = store_of(make, tiers)

    def some() -> Iterator[Note]:
        yield from notes(3, "generated")

    assert store.insert_many("records", some()) == notes(3, "generated")
    assert store.insert_many("records", []) == store.insert_many("records", iter(())) == []
    assert texts(store, 3) == ["generated"] * 3


@with_l3
@each_way
def test_where_a_key_is_there_nothing_is_written_and_the_error_names_it(
    make: MakeStore, tiers: dict[str, Any], count: int
) -> None:
    store = store_of(make, tiers)
    store.insert("records", Note(count, "first"))
    with pytest.raises(AlreadyExistsError, match="has a record of this key") as raised:
        store.insert_many("records", notes(count, "second"))
    assert (raised.value.schema, raised.value.key, raised.value.sqlstate) == ("records", count, "23505")
    assert texts(store, count) == ["first"]
    assert store.count("records") == 1
    store.delete("records", count)
    store.flush_dirty()
    assert store.insert_many("records", notes(count, "third")) == notes(count, "third")
    assert texts(store, count) == ["third"] * count


def test_without_l3_those_before_the_one_that_is_there_stay(make: MakeStore) -> None:
    for name in ("L1+L2", "L2", "L1"):
        store = make()
        store.register(Schema(Note, name="records", **TIERS[name]))
        store.delete_many("records", [1, 2, 3])
        store.insert("records", Note(2, "first"))
        with pytest.raises(AlreadyExistsError) as raised:
            store.insert_many("records", notes(3, "second"))
        assert raised.value.key == 2
        assert texts(store, 3) == ["second", "first"]


def test_a_key_that_is_given_twice_is_refused_before_anything_is_written(
    make: MakeStore, tiers: dict[str, Any]
) -> None:
    store = store_of(make, tiers)
    with pytest.raises(AlreadyExistsError) as raised:
        store.insert_many("records", [Note(1), Note(2), Note(3), Note(2)])
    assert raised.value.key == 2
    assert store.get_many("records", [1, 2, 3]) == {}


@each_way
def test_another_constraint_is_told_as_such_and_nothing_is_written(make: MakeStore, count: int) -> None:
    store = store_of(make, WITH_L3["through"], Player)
    store.insert("records", Player("taken", "name 0"))
    with pytest.raises(ConstraintError) as raised:
        store.insert_many("records", [Player(f"p{number}", f"name {number}") for number in range(count)])
    assert not isinstance(raised.value, AlreadyExistsError) and raised.value.sqlstate == "23505"
    assert store.count("records") == 1


@pytest.mark.parametrize("name", ["behind", "behind, no L2"])
@each_way
def test_a_deferred_write_that_is_pending_counts_as_there(make: MakeStore, name: str, count: int) -> None:
    store = store_of(make, WITH_L3[name])
    store.set("records", count, Note(count, "deferred"))
    with pytest.raises(AlreadyExistsError) as raised:
        store.insert_many("records", notes(count, "inserted"))
    assert raised.value.key == count
    assert texts(store, count) == ["deferred"]
    store.delete("records", count)
    assert store.insert_many("records", notes(count, "inserted")) == notes(count, "inserted")
    store.flush_dirty()
    assert texts(store, count) == ["inserted"] * count
    assert store.count("records") == count


@pytest.mark.parametrize("name", ["behind", "behind, no L2"])
@each_way
def test_what_was_deleted_before_does_not_come_in_the_way_later(make: MakeStore, name: str, count: int) -> None:
    """The rows' versions are above those of the tombstones."""
    store, other = store_of(make, WITH_L3[name]), store_of(make, WITH_L3[name])
    store.insert_many("records", notes(count, "old"))
    store.delete_many("records", range(1, count + 1))
    store.flush_dirty()
    other.insert_many("records", notes(count, "new"))
    store.flush_dirty()
    assert texts(store, count) == texts(other, count) == ["new"] * count


@with_l3
@each_way
def test_of_many_that_insert_the_same_at_once_one_does(make: MakeStore, tiers: dict[str, Any], count: int) -> None:
    pair = [store_of(make, tiers) for _ in range(2)]
    start = threading.Barrier(4)

    def insert(number: int) -> bool:
        start.wait()
        try:
            pair[number % 2].insert_many("records", notes(count, str(number)))
        except AlreadyExistsError:
            return False
        return True

    with ThreadPoolExecutor(4) as pool:
        done = list(pool.map(insert, range(4)))
    assert done.count(True) == 1
    for store in pair:
        assert texts(store, count) == [str(done.index(True))] * count


@with_l3
def test_an_absence_that_is_remembered_ends_with_the_insert(make: MakeStore, tiers: dict[str, Any]) -> None:
    l1, l2 = MemPolicy(ttl=60, negative_ttl=60), RedisPolicy(ttl=60, negative_ttl=60)
    remembering = {"l1": tiers["l1"] and l1, "l2": tiers["l2"] and l2}
    pair = [store_of(make, tiers | remembering) for _ in range(2)]
    for store in pair:
        assert [store.get("records", id, default=None) for id in (1, 2)] == [None, None]
    pair[0].insert_many("records", notes(2, "there"))
    assert texts(pair[0], 2) == ["there"] * 2
    wait_until(lambda: texts(pair[1], 2) == ["there"] * 2)


@each_way
def test_records_in_a_table_that_is_partitioned_by_month(make: MakeStore, count: int) -> None:
    store = store_of(make, WITH_L3["through"], Visit, l3=PostgresPolicy(partition_by="at"))
    now = datetime.now(UTC)
    visits = [Visit(number, now) for number in range(1, count + 1)]
    assert store.insert_many("records", visits) == visits
    with pytest.raises(AlreadyExistsError) as raised:
        store.insert_many("records", [Visit(0, now), Visit(count, datetime(2001, 2, 3, tzinfo=UTC))])
    assert raised.value.key == count
    assert store.count("records") == count


@each_way
def test_what_the_table_makes_of_a_row_is_returned(make: MakeStore, dsn: str, count: int) -> None:
    with psycopg.connect(dsn, autocommit=True) as conn:
        conn.execute("CREATE TABLE records (id BIGINT PRIMARY KEY, text VARCHAR, tags JSONB, meta JSONB)")
        conn.execute("CREATE FUNCTION up() RETURNS trigger LANGUAGE plpgsql AS"
                     " 'BEGIN NEW.text := upper(NEW.text); RETURN NEW; END'")  # fmt: skip
        conn.execute("CREATE TRIGGER up BEFORE INSERT ON records FOR EACH ROW EXECUTE FUNCTION up()")
    store = store_of(make, WITH_L3["through"])
    assert [note.text for note in store.insert_many("records", notes(count, "a"))] == ["A"] * count
    assert texts(store, count) == ["A"] * count


def test_mistakes_are_told_before_anything_is_written(make: MakeStore, tiers: dict[str, Any]) -> None:
    def refuse(note: Note) -> None:
        if note.text == "bad":
            raise ValueError(note.text)

    store = store_of(make, tiers, hooks=SchemaHooks(before_set=refuse))
    insert: Callable[[Any], Any] = lambda records: store.insert_many("records", records)  # noqa: E731
    for mistake in (None, 7, "text", b"bytes", {1: Note(1)}, [Note(1), None], [Note(1), Player("p", "p")]):
        with pytest.raises(EncodeError):
            insert(mistake)
    with pytest.raises(EncodeError, match=r"Note\.text"):
        insert([Note(1), Note(2, text=7)])  # type: ignore[arg-type]
    with pytest.raises(HookError):
        insert([Note(1), Note(2, "bad")])
    with pytest.raises(EncodeError, match="UNLOADED"):
        insert([Note(2, tags=UNLOADED)])
    with pytest.raises(EncodeError, match="UNLOADED"):
        store.insert("records", Note(2, tags=UNLOADED))
    if tiers["l3"] is not None:
        assert store.count("records") == 0
    with pytest.raises(MissingPrimaryKeyError):
        store_of(make, tiers | {"l2": None} if tiers["l3"] or tiers["l1"] else TIERS["L1"], Player).insert_many(
            "records", [Player("", "nobody")]
        )


def test_hooks_run_for_each_record(make: MakeStore, tiers: dict[str, Any]) -> None:
    told: list[tuple[str, int]] = []

    def before(note: Note) -> Note:
        told.append(("before", note.id))
        return Note(note.id, note.text.upper())

    hooks = SchemaHooks(before_set=before, after_set=lambda note: told.append((note.text, note.id)))
    store = store_of(make, tiers, hooks=hooks)
    assert [note.text for note in store.insert_many("records", notes(2, "a"))] == ["A", "A"]
    assert told == [("before", 1), ("before", 2), ("A", 1), ("A", 2)]


def test_another_instance_reads_what_was_inserted(make: MakeStore) -> None:
    for name, tiers in WITH_L3.items():
        pair = [make() for _ in range(2)]
        for store in pair:
            store.register(Schema(Note, name=f"of_{list(WITH_L3).index(name)}", **tiers))
            store.migrate()
        schema = f"of_{list(WITH_L3).index(name)}"
        pair[0].insert_many(schema, notes(20, name))
        assert pair[1].get_many(schema, range(1, 21)) == {note.id: note for note in notes(20, name)}
        assert not inspect(pair[0]).unfinished
