"""`insert`, `update` and `modify`: what depends on the record as it is, in every mode, over every set of tiers."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Annotated, Any

import pytest

import strata
from strata import (
    UNLOADED,
    AlreadyExistsError,
    ConflictError,
    DataStore,
    EncodeError,
    MemPolicy,
    MissingPrimaryKeyError,
    NotFoundError,
    PostgresPolicy,
    RedisPolicy,
    Schema,
    SchemaHooks,
    StrataError,
    WriteMode,
)
from strata.testing import inspect
from tests.models import Note, Player
from tests.stores import MakeStore, schema, stores, sure

pytestmark = pytest.mark.both_faces

L1, L2, L3 = MemPolicy(ttl=60), RedisPolicy(ttl=600), PostgresPolicy()
TIERS: dict[str, dict[str, Any]] = {
    "L1+L2+L3": {"l1": L1, "l2": L2, "l3": L3},
    "L1+L3": {"l1": L1, "l2": None, "l3": L3},
    "L2+L3": {"l1": None, "l2": L2, "l3": L3},
    "behind": {"l1": L1, "l2": L2, "l3": L3, "write_mode": WriteMode.WRITE_BEHIND},
    "behind, no L2": {"l1": L1, "l2": None, "l3": L3, "write_mode": WriteMode.WRITE_BEHIND},
    "L1+L2": {"l1": L1, "l2": L2, "l3": None},
    "L2": {"l1": None, "l2": L2, "l3": None},
    "L1": {"l1": L1, "l2": None, "l3": None},
}
SHARED = [name for name in TIERS if name != "L1"]  # by several processes
Make = Callable[..., DataStore]


@pytest.fixture(params=TIERS)
def tiers(request: pytest.FixtureRequest) -> dict[str, Any]:
    return TIERS[request.param]


def store_of(make: MakeStore, tiers: dict[str, Any], model: type = Player, **options: Any) -> DataStore:
    store = make()
    store.register(Schema(model, name="records", **(tiers | options)))
    store.migrate()
    if any(tiers[name] is not None for name in ("l2", "l3")):
        sure(store)  # one that is not yet leaves it to repairs to tell L2
    return store


def at_once(count: int, call: Callable[[int], Any], *, refused: type[Exception]) -> list[bool]:
    """So many threads that make the call at the same time; whether each was not refused."""
    start = threading.Barrier(count)

    def made(number: int) -> bool:
        start.wait()
        try:
            call(number)
        except refused:
            return False
        return True

    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(made, range(count)))


def test_insert_stores_a_record_once(make: MakeStore, tiers: dict[str, Any]) -> None:
    store = store_of(make, tiers, Note)
    assert store.insert("records", Note(1, "first")) == Note(1, "first")
    with pytest.raises(AlreadyExistsError, match="has a record of this key") as raised:
        store.insert("records", Note(1, "second"))
    assert (raised.value.schema, raised.value.key, raised.value.sqlstate) == ("records", 1, "23505")
    assert store.get("records", 1) == Note(1, "first")
    store.delete("records", 1)
    store.flush_dirty()
    assert store.insert("records", Note(1, "third")) == Note(1, "third")
    assert store.get("records", 1) == Note(1, "third")


@pytest.mark.parametrize("tiers", [TIERS[name] for name in SHARED], ids=SHARED)
def test_of_many_that_insert_one_key_at_once_one_does(make: MakeStore, tiers: dict[str, Any]) -> None:
    pair = [store_of(make, tiers, Note) for _ in range(2)]
    done = at_once(
        8, lambda number: pair[number % 2].insert("records", Note(1, str(number))), refused=AlreadyExistsError
    )
    assert done.count(True) == 1
    assert {store.get("records", 1).text for store in pair} == {str(done.index(True))}


def test_insert_finds_a_deferred_write_that_is_pending(make: MakeStore) -> None:
    store = store_of(make, TIERS["behind"], Note)
    store.set("records", 1, Note(1, "deferred"))
    with pytest.raises(AlreadyExistsError):
        store.insert("records", Note(1, "inserted"))
    assert store.get("records", 1).text == "deferred"
    store.delete("records", 1)
    assert store.insert("records", Note(1, "inserted")).text == "inserted"
    store.flush_dirty()
    assert store.get("records", 1, force_l3=True).text == "inserted"


def test_update_writes_the_fields_that_are_named(make: MakeStore, tiers: dict[str, Any]) -> None:
    store = store_of(make, tiers)
    made = store.set("records", "p1", Player("p1", "andrew", email="a@example.org", level=3))
    store.flush_dirty()
    updated = store.update("records", "p1", level=4)
    assert updated.level == 4 and updated.id == "p1"
    if "write_mode" in tiers:
        assert updated.username is UNLOADED
    else:
        assert (updated.username, updated.email) == ("andrew", "a@example.org")
    found = store.get("records", "p1")
    assert (found.username, found.email, found.level) == ("andrew", "a@example.org", 4)
    assert found.created_at == made.created_at and found.updated_at >= made.updated_at


def test_update_of_what_is_not_there(make: MakeStore, tiers: dict[str, Any]) -> None:
    store = store_of(make, tiers, Note)
    if "write_mode" in tiers:
        store.update("records", 1, text="nowhere")
        assert store.get("records", 1, default=None) is None
        store.flush_dirty()
        assert [letter.op for letter in store.dead_letters.list()] == ["partial"]
    else:
        with pytest.raises(NotFoundError, match="no record of this key") as raised:
            store.update("records", 1, text="nowhere")
        assert (raised.value.schema, raised.value.key) == ("records", 1)
    assert store.get("records", 1, default=None) is None


@dataclass
class Link:
    """All of it but the key is written by an update."""

    one: Annotated[str, strata.PrimaryKey]
    other: Annotated[int, strata.PrimaryKey]
    weight: int = 0
    at: Annotated[datetime | None, strata.AutoNow] = None


THROUGH = [name for name in TIERS if "behind" not in name]


@pytest.mark.parametrize("tiers", [TIERS[name] for name in THROUGH], ids=THROUGH)
def test_update_of_every_field_makes_no_record(make: MakeStore, tiers: dict[str, Any]) -> None:
    store = store_of(make, tiers, Link)
    with pytest.raises(NotFoundError, match="no record of this key"):
        store.update("records", ("a", 1), weight=2)
    assert store.get("records", ("a", 1), default=None) is None
    made = store.set("records", ("a", 1), Link("a", 1))
    updated = store.update("records", ("a", 1), weight=2)
    assert updated.weight == 2 and updated.at >= made.at
    assert store.get("records", ("a", 1)) == updated


def test_expect_compares_in_one_step_with_the_write(make: MakeStore, tiers: dict[str, Any]) -> None:
    store = store_of(make, tiers)
    store.set("records", "p1", Player("p1", "andrew", level=3))
    assert store.update("records", "p1", expect={"level": 3, "email": None}, level=4).username == "andrew"
    with pytest.raises(ConflictError, match="another than expected in level") as raised:
        store.update("records", "p1", expect={"level": 3, "username": "andrew"}, level=5)
    assert (raised.value.schema, raised.value.key, raised.value.fields) == ("records", "p1", ("level",))
    assert "andrew" not in str(raised.value)
    assert store.get("records", "p1").level == 4
    with pytest.raises(NotFoundError):
        store.update("records", "p2", expect={"level": 3}, level=5)


@pytest.mark.parametrize("tiers", [TIERS[name] for name in SHARED], ids=SHARED)
def test_of_many_that_expect_the_same_one_writes(make: MakeStore, tiers: dict[str, Any]) -> None:
    pair = [store_of(make, tiers, Note) for _ in range(2)]
    pair[0].insert("records", Note(1, "free"))
    done = at_once(
        6,
        lambda number: pair[number % 2].update("records", 1, expect={"text": "free"}, text=str(number)),
        refused=ConflictError,
    )
    assert done.count(True) == 1
    assert {store.get("records", 1).text for store in pair} == {str(done.index(True))}


def test_modify_writes_what_the_function_makes_of_the_record(make: MakeStore, tiers: dict[str, Any]) -> None:
    store = store_of(make, tiers)
    store.set("records", "p1", Player("p1", "andrew", email="a@example.org"))

    def promote(player: Player) -> Player:
        player.level += 1
        return player

    assert store.modify("records", "p1", promote).level == 2
    found = store.get("records", "p1")
    assert (found.username, found.email, found.level) == ("andrew", "a@example.org", 2)
    assert store.modify("records", "p1", lambda player: None).level == 2
    with pytest.raises(NotFoundError):
        store.modify("records", "p2", promote)
    assert store.get("records", "p2", default=None) is None


@pytest.mark.parametrize("tiers", [TIERS[name] for name in SHARED], ids=SHARED)
def test_no_modification_is_lost_among_processes(make: MakeStore, tiers: dict[str, Any]) -> None:
    pair = [store_of(make, tiers, Note) for _ in range(2)]
    pair[0].insert("records", Note(1))

    def append(number: int) -> None:
        def change(note: Note) -> Note:
            note.tags.append(str(number))
            return note

        for _ in range(5):
            pair[number % 2].modify("records", 1, change)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(append, range(4)))
    for store in pair:
        assert sorted(store.get("records", 1).tags) == sorted(str(number) for number in range(4) for _ in range(5))


def test_modify_among_threads_of_memory_alone(make: MakeStore) -> None:
    store = store_of(make, TIERS["L1"], Note)
    store.insert("records", Note(1))

    def append(number: int) -> None:
        def change(note: Note) -> Note:
            note.tags.append(str(number))
            return note

        for _ in range(50):
            store.modify("records", 1, change)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(append, range(4)))
    assert len(store.get("records", 1).tags) == 200


def test_functions_that_change_each_other_s_records_in_redis_alone_do_not_wait_for_ever(
    dsn: str, redis_addr: str
) -> None:
    both = threading.Barrier(2)
    with stores(dsn, redis_addr) as make:
        store = store_of(make, {"l1": None, "l2": L2, "l3": None}, Note)
        store.set_many("records", {id: Note(id, "") for id in range(100)})

        def change(id: int) -> bool:
            """Change one record while the other one's turn is taken, whichever of them share one."""
            first = True

            def function(note: Note) -> Note:
                nonlocal first
                if first:
                    first = False
                    both.wait()
                    for other in set(range(100)) - {id}:
                        store.modify("records", other, lambda held: replace(held, tags=[*held.tags, str(id)]))
                return replace(note, text="changed")

            return bool(store.modify("records", id, function).text)

        with ThreadPoolExecutor(2) as pool:
            assert list(pool.map(change, [1, 2])) == [True, True]
        found = store.get_many("records", range(100))
        tags = {id: sorted(note.tags) for id, note in found.items()}
        assert tags == {id: [["1", "2"], ["2"], ["1"]][id if id < 3 else 0] for id in range(100)}
        assert found[1].text == found[2].text == "changed"


@pytest.mark.parametrize("tiers", [TIERS[name] for name in TIERS if "L3" in name or "behind" in name])
def test_modify_is_one_step_also_for_sql_from_outside(make: MakeStore, tiers: dict[str, Any]) -> None:
    store = store_of(make, tiers, Note)
    store.insert("records", Note(1, "first", meta={"n": 1}))
    with inspect(store).database.session() as conn:
        conn.command("UPDATE records SET text = 'by hand' WHERE id = 1")

    def count(note: Note) -> Note:
        note.meta["n"] += 1
        return note

    assert store.modify("records", 1, count) == Note(1, "by hand", meta={"n": 2})
    assert store.update("records", 1, expect={"text": "by hand"}, text="seen").meta == {"n": 2}
    assert store.get("records", 1) == Note(1, "seen", meta={"n": 2})


def test_modify_sees_a_deferred_write_that_is_pending(make: MakeStore) -> None:
    store = store_of(make, TIERS["behind"], Note)
    store.set("records", 1, Note(1, "deferred", tags=["a"]))

    def extend(note: Note) -> Note:
        return Note(note.id, note.text, [*note.tags, "b"])

    assert store.modify("records", 1, extend) == Note(1, "deferred", ["a", "b"])
    store.flush_dirty()
    assert store.get("records", 1, force_l3=True) == Note(1, "deferred", ["a", "b"])
    assert store.dead_letters.list() == []


def test_a_change_in_place_that_is_not_returned_is_no_silence(make: MakeStore, tiers: dict[str, Any]) -> None:
    store = store_of(make, tiers, Note)
    store.set("records", 1, Note(1, "old", ["a"]))

    def in_place(note: Note) -> None:
        note.tags.append("b")

    with pytest.raises(EncodeError, match="changed the Note that it was given, and returned None"):
        store.modify("records", 1, in_place)
    assert store.modify("records", 1, lambda note: None) == Note(1, "old", ["a"])
    assert store.get("records", 1) == Note(1, "old", ["a"])


def test_a_function_that_writes_the_record_that_it_decides_on_is_told_so(
    make: MakeStore, tiers: dict[str, Any]
) -> None:
    store = store_of(make, tiers, Note)
    store.set_many("records", {1: Note(1, "old"), 2: Note(2, "old")})

    def nested(note: Note) -> Note:
        store.modify("records", 2, lambda other: replace(other, text="new"))
        return store.modify("records", 1, lambda same: replace(same, text="lost"))

    with pytest.raises(StrataError, match="has written that very record; have it return"):
        store.modify("records", 1, nested)
    store.flush_dirty()
    assert (store.get("records", 1).text, store.get("records", 2).text) == ("old", "new")


def test_what_the_function_raises_leaves_all_as_it_was(make: MakeStore, tiers: dict[str, Any]) -> None:
    store = store_of(make, tiers, Note)
    store.insert("records", Note(1, "first"))

    def fail(note: Note) -> Note:
        note.text = "changed"
        raise ZeroDivisionError("the user's")

    with pytest.raises(ZeroDivisionError, match="the user's"):
        store.modify("records", 1, fail)
    assert store.get("records", 1) == Note(1, "first")
    assert store.update("records", 1, expect={"text": "first"}, text="second").text == "second"


def test_hooks_are_called_as_by_set(make: MakeStore, tiers: dict[str, Any]) -> None:
    told: list[Any] = []

    def before_set(note: Note) -> Note | None:
        if note.text is not UNLOADED:
            note.text = note.text.strip()
        return note

    store = store_of(make, tiers, Note, hooks=SchemaHooks(before_set=before_set, after_set=told.append))
    assert store.insert("records", Note(1, " first ")).text == "first"
    assert store.modify("records", 1, lambda note: Note(1, " second ")).text == "second"
    assert store.update("records", 1, expect={"text": "second"}, text=" third ").text == "third"
    assert [note.text for note in told] == ["first", "second", "third"]


def test_the_function_may_be_a_coroutine_function(make: MakeStore, tiers: dict[str, Any]) -> None:
    store = store_of(make, tiers, Note)
    store.insert("records", Note(1, "first"))

    async def change(note: Note) -> Note:
        await asyncio.sleep(0)
        return Note(note.id, f"{note.text}, then second")

    asyncio.run(store.aio.modify("records", 1, change))
    assert store.get("records", 1).text == "first, then second"


def test_what_stands_in_l2_and_cannot_be_read_is_no_record(make: MakeStore) -> None:
    store = store_of(make, TIERS["L2"], Note)
    store.set("records", 1, Note(1, "first"))
    inside = inspect(store)
    key = inside.schemas["records"].l2.key("1")  # type: ignore[union-attr]
    raw = inside.redis.execute("GET", key)
    inside.redis.execute("SET", key, raw[:25] + b"nothing that can be read")
    with pytest.raises(NotFoundError):
        store.modify("records", 1, lambda note: note)
    assert store.insert("records", Note(1, "second")) == store.get("records", 1)


@dataclass
class Price:
    id: Annotated[int, strata.PrimaryKey]
    amount: Decimal
    flags: dict[str, Any]
    secret: Annotated[str | None, strata.Encrypted] = None


def test_modify_writes_what_python_takes_for_equal_and_a_row_does_not(make: MakeStore) -> None:
    store = store_of(lambda: make(encryption_key=bytes(32)), TIERS["L1+L2+L3"], Price)
    store.insert("records", Price(1, Decimal("1.0"), {"on": 1}, "x"))
    store.modify("records", 1, lambda price: Price(1, Decimal("1.00"), {"on": True}, "x"))
    found = store.get("records", 1, force_l3=True)
    assert str(found.amount) == "1.00" and found.flags["on"] is True and found.secret == "x"


@dataclass
class Event:
    id: Annotated[int, strata.PrimaryKey]
    at: datetime
    text: str = ""


BAD: dict[str, tuple[Callable[[DataStore], Any], type[Exception], str]] = {
    "no field": (lambda store: store.update("records", 1), EncodeError, "given no field"),
    "unknown field": (lambda store: store.update("records", 1, txet="x"), EncodeError, "no stored field 'txet'"),
    "the key": (lambda store: store.update("records", 1, id=2), EncodeError, "the key of Note"),
    "wrong type": (lambda store: store.update("records", 1, text=5), EncodeError, "text"),
    "wrong expectation": (
        lambda store: store.update("records", 1, expect={"text": 5}, text="x"), EncodeError, "text"),
    "unknown expectation": (
        lambda store: store.update("records", 1, expect={"txet": 5}, text="x"), EncodeError, "no stored field 'txet'"),
    "expectation of another kind": (
        lambda store: store.update("records", 1, expect=5, text="x"),  # type: ignore[call-overload]
        EncodeError, "takes a mapping"),
    "another model": (lambda store: store.insert("records", Player("p1", "a")), EncodeError, "stores Note"),
    "no function": (lambda store: store.modify("records", 1, 5), EncodeError, "takes a function"),  # type: ignore[call-overload]
    "another's record": (lambda store: store.modify("records", 1, lambda note: Player("p", "a")), EncodeError, "Note"),
    "another key": (lambda store: store.modify("records", 1, lambda note: Note(2)), EncodeError, "must agree"),
    "an empty key": (lambda store: store.insert("players", Player("", "a")), MissingPrimaryKeyError, "empty"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
@pytest.mark.parametrize(
    "tiers", [TIERS[name] for name in ("L1+L2+L3", "behind", "L2")], ids=["through", "behind", "L2"]
)
def test_bad_input_is_refused_before_anything_is_written(make: MakeStore, tiers: dict[str, Any], case: str) -> None:
    call, error, said = BAD[case]
    store = make()
    store.register(Schema(Note, name="records", **tiers))
    store.register(Schema(Player, name="players", **tiers))
    store.migrate()
    store.insert("records", Note(1, "first"))
    with pytest.raises(error, match=said):
        call(store)
    store.flush_dirty()
    assert store.get("records", 1, force_l2=True) == Note(1, "first")
    assert store.dead_letters.list() == []


def test_a_record_that_a_partition_by_month_has(make: MakeStore) -> None:
    store = make()
    store.register(schema(Event, name="records", l3=PostgresPolicy(partition_by="at")))
    store.migrate()
    at = datetime(2026, 5, 17, tzinfo=UTC)
    store.insert("records", Event(1, at, "first"))
    with pytest.raises(AlreadyExistsError):
        store.insert("records", Event(1, at + timedelta(days=90), "second"))
    moved = store.modify("records", 1, lambda event: Event(1, at + timedelta(days=90), event.text))
    assert store.update("records", 1, expect={"text": "first"}, text="third").at == moved.at
    assert store.get("records", 1, force_l3=True) == Event(1, moved.at, "third")
