"""`update_where`: fields of all records that a query finds, in every mode, over every set of tiers with L3."""

from __future__ import annotations

import enum
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any

import pydantic
import pytest

import strata
from strata import (
    UNLOADED,
    ConstraintError,
    DataStore,
    EncodeError,
    InvalidConfigError,
    L3UnavailableError,
    MemPolicy,
    MigrationError,
    PostgresPolicy,
    Q,
    QueryError,
    RedisPolicy,
    Schema,
    SchemaHooks,
    SearchExpiry,
    WriteMode,
)
from strata.engine import where
from strata.testing import inspect
from tests.behind import comes_after, deferred, hand_off, idle, paced, persist, rows, run
from tests.models import Account, Player
from tests.stores import MakeStore, schema, sure

pytestmark = pytest.mark.both_faces

L1, L2, L3 = MemPolicy(ttl=60), RedisPolicy(ttl=600), PostgresPolicy()
BEHIND = WriteMode.WRITE_BEHIND
TIERS: dict[str, dict[str, Any]] = {
    "through": {"l1": L1, "l2": L2, "l3": L3},
    "through, L1 later": {"l1": L1, "l2": L2, "l3": L3, "write_mode": WriteMode.WRITE_THROUGH_L1_ASYNC},
    "through, no L2": {"l1": L1, "l2": None, "l3": L3},
    "through, no L1": {"l1": None, "l2": L2, "l3": L3},
    "behind": {"l1": L1, "l2": L2, "l3": L3, "write_mode": BEHIND},
    "behind, no L2": {"l1": L1, "l2": None, "l3": L3, "write_mode": BEHIND},
    "behind, no L1": {"l1": None, "l2": L2, "l3": L3, "write_mode": BEHIND},
}
EU = Q().where("region = $1", "eu")


class Rank(enum.Enum):
    LOW = "low"
    HIGH = "high"


@dataclass
class Item:
    id: Annotated[int, strata.PrimaryKey]
    region: str = "eu"
    level: int = 1
    code: Annotated[str | None, strata.Unique] = None
    rank: Rank = Rank.LOW
    tags: list[str] = field(default_factory=list)
    token: Annotated[str | None, strata.Encrypted] = None
    made: Annotated[datetime | None, strata.AutoNowAdd] = None
    changed: Annotated[datetime | None, strata.AutoNow] = None


@pytest.fixture(params=TIERS)
def tiers(request: pytest.FixtureRequest) -> dict[str, Any]:
    return TIERS[request.param]


@pytest.fixture
def steps_of_two(monkeypatch: pytest.MonkeyPatch) -> None:
    """More than two rows are many."""
    monkeypatch.setattr(where, "STEP", 2)


def store_of(make: MakeStore, tiers: dict[str, Any], model: type = Item, **options: Any) -> DataStore:
    store = make(encryption_key=bytes(32))
    store.register(Schema(model, name="items", **(tiers | options)))
    store.migrate()
    sure(store)
    return store


def filled(make: MakeStore, tiers: dict[str, Any], **options: Any) -> DataStore:
    """Items 1 to 4 are in the EU, 5 and 6 in the US."""
    store = store_of(make, tiers, **options)
    store.set_many("items", {id: Item(id, "eu" if id < 5 else "us", code=f"c{id}") for id in range(1, 7)})
    return store


def levels(store: DataStore, **options: Any) -> list[int]:
    return [store.get("items", id, **options).level for id in range(1, 7)]


# -- what is written -------------------------------------------------------------------------------------------------


def test_the_fields_of_all_records_that_are_found_are_written_and_no_others(
    make: MakeStore, tiers: dict[str, Any]
) -> None:
    store = filled(make, tiers)
    before = {id: store.get("items", id) for id in range(1, 7)}
    assert store.update_where("items", EU, level=7, rank=Rank.HIGH, tags=["a"]) == 4
    assert levels(store) == levels(store, force_l3=True) == [7, 7, 7, 7, 1, 1]
    for id in range(1, 7):
        found = store.get("items", id, force_l3=True)
        assert (found.code, found.region, found.made) == (before[id].code, before[id].region, before[id].made)
        if id < 5:
            assert (found.rank, found.tags) == (Rank.HIGH, ["a"]) and found.changed > before[id].changed
        else:
            assert found == before[id]
    store.flush_dirty()
    assert store.stats().dirty_count == 0


def test_every_process_reads_what_was_written_from_every_tier(make: MakeStore, tiers: dict[str, Any]) -> None:
    writer, reader = filled(make, tiers), store_of(make, tiers)
    for store in (writer, reader):
        assert levels(store) == [1] * 6
    writer.update_where("items", EU, level=7)
    for store in (writer, reader):
        assert levels(store) == levels(store, force_l2=True) == [7, 7, 7, 7, 1, 1]
        assert [item.level for item in store.get_many("items", range(1, 7)).values()] == [7, 7, 7, 7, 1, 1]


def test_nothing_is_found_and_nothing_happens(make: MakeStore, tiers: dict[str, Any]) -> None:
    store = filled(make, tiers)
    assert store.update_where("items", Q().where("region = $1", "asia"), level=7) == 0
    assert levels(store) == [1] * 6


def test_a_query_without_a_condition_means_all_rows_and_none_must_say_so(
    make: MakeStore, tiers: dict[str, Any]
) -> None:
    store = filled(make, tiers)
    with pytest.raises(QueryError, match=r"give Q\(\) where all rows are meant"):
        store.update_where("items", None, level=7)  # type: ignore[arg-type]
    assert store.update_where("items", Q(), level=7) == 6
    assert levels(store) == [7] * 6


def test_a_limit_takes_the_first_by_the_order(make: MakeStore, tiers: dict[str, Any]) -> None:
    store = filled(make, tiers)
    assert store.update_where("items", EU.limit(1), level=5) == 1
    assert levels(store) == [5, 1, 1, 1, 1, 1]
    assert store.update_where("items", Q().order_by("region").desc().order_by("id").desc().limit(3), level=6) == 3
    assert levels(store) == [5, 1, 1, 6, 6, 6]


def test_an_order_by_what_is_written_needs_a_small_limit(make: MakeStore) -> None:
    store = filled(make, TIERS["through"])
    for column, limit in (("level", 0), ("level", 5_001), ("changed", 0)):
        with pytest.raises(QueryError, match=rf"{column!r}, which is written.* 5,000 at most"):
            store.update_where("items", Q().order_by(column).limit(limit), level=7)
    assert levels(store) == [1] * 6
    assert store.update_where("items", Q().order_by("level").order_by("id").limit(2), level=7) == 2
    assert levels(store) == [7, 7, 1, 1, 1, 1]


def test_auto_now_is_stamped_and_the_first_time_stays(make: MakeStore, tiers: dict[str, Any]) -> None:
    store = filled(make, tiers)
    before = store.get("items", 1, force_l3=True)
    store.update_where("items", EU, made=datetime(2000, 1, 1, tzinfo=UTC))
    after = store.get("items", 1, force_l3=True)
    assert after.made == before.made and after.changed > before.changed


def test_each_row_has_a_ciphertext_of_its_own(make: MakeStore, tiers: dict[str, Any], dsn: str) -> None:
    store = filled(make, tiers)
    assert store.update_where("items", EU, token="sesame", level=3) == 4
    texts = {text for (text,) in rows(dsn, "SELECT token FROM items WHERE region = 'eu'")}
    assert len(texts) == 4 and all(text.startswith("s1:") for text in texts)
    assert store.get("items", 2).token == "sesame" == store.get("items", 2, force_l3=True).token
    assert store.update_where("items", EU, token=None) == 4
    assert store.get("items", 2).token is None
    assert rows(dsn, "SELECT DISTINCT token FROM items") == [(None,)]


def test_a_field_may_have_the_name_of_an_argument(make: MakeStore) -> None:
    store = store_of(make, TIERS["through"], Odd)
    store.insert("items", Odd("a"))
    assert store.update_where("items", Q(), schema=1, query=2, progress=3, self=4) == 1
    assert store.get("items", "a") == Odd("a", 1, 2, 3, 4)


@dataclass
class Odd:
    id: Annotated[str, strata.PrimaryKey]
    schema: int = 0
    query: int = 0
    progress: int = 0
    self: int = 0


def test_the_collection_has_the_call_too(make: MakeStore) -> None:
    store = make()
    players = store.register(schema(Player, name="players"))
    store.migrate()
    players.set_many({id: Player(id, id) for id in "abc"})
    told: list[int] = []
    assert players.update_where(Q().where("id > $1", "a"), told.append, level=9) == 2
    assert [players.get(id).level for id in "abc"] == [1, 9, 9] and told == [2]


# -- many rows -------------------------------------------------------------------------------------------------------


def test_many_rows_are_written_in_steps_of_which_progress_is_told(
    make: MakeStore, tiers: dict[str, Any], steps_of_two: None
) -> None:
    store = filled(make, tiers)
    levels(store)
    told: list[int] = []
    assert store.update_where("items", Q().where("id < $1", 6), told.append, level=7) == 5
    assert told == [2, 4, 5]
    assert levels(store) == levels(store, force_l3=True) == [7, 7, 7, 7, 7, 1]
    assert store.update_where("items", Q().order_by("code").desc().limit(3), level=8) == 3
    assert levels(store) == [7, 7, 7, 8, 8, 8]


def test_what_progress_raises_ends_the_call_and_the_steps_before_stay(make: MakeStore, steps_of_two: None) -> None:
    store = filled(make, TIERS["through"])

    def stop(done: int) -> None:
        raise ZeroDivisionError("the user's")

    with pytest.raises(ZeroDivisionError, match="the user's"):
        store.update_where("items", Q(), stop, level=7)
    assert levels(store) == [7, 7, 1, 1, 1, 1]
    assert store.update_where("items", Q().where("level < $1", 7), level=7) == 4


def test_few_rows_are_written_all_or_none_and_of_many_the_error_says_how_many_were(
    make: MakeStore, tiers: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    store = filled(make, tiers)
    with inspect(store).database.session() as conn:
        conn.command("ALTER TABLE items ADD CHECK (id < 6 OR level < 5)")
    before = levels(store)
    with pytest.raises(ConstraintError) as raised:
        store.update_where("items", Q(), level=7)
    assert raised.value.sqlstate == "23514" and "rows were changed" not in str(raised.value)
    assert levels(store) == before == levels(store, force_l3=True)
    monkeypatch.setattr(where, "STEP", 2)
    with pytest.raises(ConstraintError, match="4 rows were changed before, in steps of 2"):
        store.update_where("items", Q(), level=7)
    assert levels(store) == [7, 7, 7, 7, 1, 1] == levels(store, force_l3=True)


# -- what is refused -------------------------------------------------------------------------------------------------


def test_a_value_that_two_rows_cannot_have_changes_nothing(make: MakeStore, tiers: dict[str, Any]) -> None:
    store = filled(make, tiers)
    with pytest.raises(ConstraintError) as raised:
        store.update_where("items", EU, code="same", level=7)
    assert raised.value.sqlstate == "23505"
    assert levels(store) == [1] * 6 == levels(store, force_l3=True)
    assert store.update_where("items", EU.limit(1), code="one") == 1


BAD: dict[str, tuple[Callable[[DataStore], Any], type[Exception], str]] = {
    "no field": (lambda store: store.update_where("items", EU), EncodeError, "update_where was given no field"),
    "unknown field": (lambda store: store.update_where("items", EU, txet=1), EncodeError, "no stored field 'txet'"),
    "the key": (lambda store: store.update_where("items", EU, id=9), EncodeError, "'id' is the key of Item"),
    "wrong type": (lambda store: store.update_where("items", EU, level="x"), EncodeError, "Item.level is of type str"),
    "None": (lambda store: store.update_where("items", EU, level=None), EncodeError, "Item.level is None"),
    "UNLOADED": (lambda store: store.update_where("items", EU, level=UNLOADED), EncodeError, "level is UNLOADED"),
    "beyond BIGINT": (lambda store: store.update_where("items", EU, level=1 << 63), EncodeError, "BIGINT"),
    "offset": (lambda store: store.update_where("items", EU.offset(1), level=2), QueryError, "has offset"),
    "fields": (lambda store: store.update_where("items", EU.fields("id"), level=2), QueryError, "has fields"),
    "order": (lambda store: store.update_where("items", EU.order_by("x"), level=2), QueryError, "no column"),
    "order by a secret": (
        lambda store: store.update_where("items", EU.order_by("token"), level=2), QueryError, "Encrypted"),
    "condition": (lambda store: store.update_where("items", Q().where("lvl = 1"), level=2), QueryError, "lvl"),
    "argument": (
        lambda store: store.update_where("items", Q().where("level = $1", "x"), level=2), QueryError, "PostgreSQL"),
    "no query": (lambda store: store.update_where("items", 5, level=2), QueryError, "must be a Q"),  # type: ignore[arg-type]
    "no function": (
        lambda store: store.update_where("items", EU, 5, level=2),  # type: ignore[arg-type]
        InvalidConfigError, "progress is 5"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
@pytest.mark.parametrize("tiers", [TIERS["through"], TIERS["behind"]], ids=["through", "behind"])
def test_bad_input_is_refused_before_anything_is_written(make: MakeStore, tiers: dict[str, Any], case: str) -> None:
    call, error, said = BAD[case]
    store = filled(make, tiers)
    before = [store.get("items", id) for id in range(1, 7)]
    with pytest.raises(error, match=said):
        call(store)
    assert [store.get("items", id, force_l3=True) for id in range(1, 7)] == before


def test_a_secret_needs_a_key(make: MakeStore) -> None:
    store = make()
    store.register(schema(Account, name="accounts"))
    store.migrate()
    with pytest.raises(EncodeError, match=r"Encrypted fields .*token.* and no key"):
        store.update_where("accounts", Q(), token="sesame")
    assert store.update_where("accounts", Q(), name="x", token=None) == 0


@pytest.mark.parametrize("tiers", [{"l1": L1, "l2": L2}, {"l1": L1}, {"l2": L2}], ids=["L1+L2", "L1", "L2"])
def test_a_schema_without_l3_has_no_rows_to_find(make: MakeStore, tiers: dict[str, Any]) -> None:
    store = make()
    store.register(Schema(Player, name="players", **tiers))
    with pytest.raises(L3UnavailableError, match="has no L3, which this call asks"):
        store.update_where("players", Q(), level=2)


def test_a_database_that_was_not_migrated_is_said_to_be(make: MakeStore) -> None:
    store = make()
    store.register(schema(Player, name="players"))
    with pytest.raises(MigrationError, match=r"run migrate\(\)"):
        store.update_where("players", Q(), level=2)


# -- hooks, models and tables ----------------------------------------------------------------------------------------


def test_hooks_of_single_records_do_not_run(make: MakeStore, tiers: dict[str, Any]) -> None:
    told: list[Any] = []
    hooks = SchemaHooks(before_set=lambda item: told.append(item), after_set=told.append, before_get=told.append)
    store = store_of(make, tiers, hooks=hooks)
    store.insert("items", Item(1))
    told.clear()
    assert store.update_where("items", Q(), level=2) == 1
    assert told == []


class Badge(pydantic.BaseModel):
    id: Annotated[uuid.UUID, strata.PrimaryKey]
    name: Annotated[str, pydantic.StringConstraints(strip_whitespace=True, min_length=2)]
    level: pydantic.PositiveInt = 1


def test_values_go_through_the_validators_of_a_pydantic_model(make: MakeStore, tiers: dict[str, Any]) -> None:
    store = store_of(make, tiers, Badge)
    ids = [uuid.UUID(int=number) for number in range(3)]
    store.set_many("items", {id: Badge(id=id, name="old") for id in ids})
    assert store.update_where("items", Q().where("id <> $1", ids[0]), name="  new ", level="5") == 2
    assert [(badge.name, badge.level) for badge in (store.get("items", id) for id in ids)] == [
        ("old", 1), ("new", 5), ("new", 5)
    ]  # fmt: skip
    with pytest.raises(EncodeError, match="refused by the model's validators"):
        store.update_where("items", Q(), level=0)


@dataclass
class Event:
    id: Annotated[int, strata.PrimaryKey]
    at: datetime
    text: str = ""


MAY = datetime(2026, 5, 17, tzinfo=UTC)


@pytest.mark.parametrize("mode", [WriteMode.WRITE_THROUGH, BEHIND], ids=["through", "behind"])
def test_rows_of_partitions_by_month_are_written_and_may_move(make: MakeStore, mode: WriteMode) -> None:
    store = make()
    store.register(schema(Event, name="events", l3=PostgresPolicy(partition_by="at"), write_mode=mode))
    store.migrate()
    store.set_many("events", {id: Event(id, MAY + timedelta(days=30 * id)) for id in range(4)})
    assert store.update_where("events", Q().where("id < 3"), text="seen", at=MAY) == 3
    assert [store.get("events", id).at == MAY for id in range(4)] == [True, True, True, False]
    assert [store.get("events", id, force_l3=True).text for id in range(4)] == ["seen"] * 3 + [""]
    assert store.count("events") == 4


@pytest.mark.parametrize("watch", [False, True], ids=["not watched", "watched"])
def test_columns_that_the_model_does_not_have_stay_and_a_trigger_s_are_read(
    make: MakeStore, dsn: str, watch: bool
) -> None:
    run(
        dsn,
        "CREATE TABLE items (id BIGINT PRIMARY KEY, at TIMESTAMPTZ NOT NULL, text VARCHAR(9) NOT NULL,"
        " note TEXT NOT NULL, up TEXT GENERATED ALWAYS AS (upper(text)) STORED,"
        " _strata_version BIGINT NOT NULL DEFAULT 0);"
        "INSERT INTO items (id, at, text, note) SELECT n, now(), 'old', 'kept' FROM generate_series(1, 3) n;"
        "CREATE FUNCTION shout() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN NEW.text := NEW.text || '!';"
        " RETURN NEW; END $$; CREATE TRIGGER shout BEFORE UPDATE ON items FOR EACH ROW EXECUTE FUNCTION shout()",
    )
    store = make()
    store.register(schema(Event, name="items", l3=PostgresPolicy(managed=watch, watch=watch)))
    store.migrate()
    assert store.get("items", 1).text == "old"
    assert store.update_where("items", Q().where("note = $1 AND id < 3", "kept"), text="new") == 2
    assert store.get("items", 1).text == "new!" == store.get("items", 2).text
    assert rows(dsn, "SELECT note, up FROM items ORDER BY id") == [("kept", "NEW!"), ("kept", "NEW!"), ("kept", "OLD")]


def test_rows_that_a_trigger_keeps_are_said_to_be(make: MakeStore, dsn: str) -> None:
    store = filled(make, TIERS["through"])
    run(
        dsn,
        "CREATE FUNCTION keep() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NULL; END $$;"
        "CREATE TRIGGER keep BEFORE UPDATE ON items FOR EACH ROW WHEN (OLD.id = 2) EXECUTE FUNCTION keep()",
    )
    with pytest.raises(ConstraintError, match="a trigger or rule of table 'items' kept the row"):
        store.update_where("items", EU, level=7)
    assert levels(store, force_l3=True) == [1] * 6


def test_the_primary_is_asked_where_there_is_a_replica(make: MakeStore, dsn: str) -> None:
    nowhere = "postgresql://nobody@127.0.0.1:1/nothing"
    store = filled(make, TIERS["through"], l3=PostgresPolicy(read_replica=nowhere))
    assert store.update_where("items", EU, level=7) == 4


def test_a_row_whose_key_is_none_to_strata_is_written_too(make: MakeStore, dsn: str) -> None:
    for mode in (WriteMode.WRITE_THROUGH, BEHIND):
        store = make()
        store.register(schema(Player, name=f"players_{mode.value}", write_mode=mode))
        store.migrate()
        name = f"players_{mode.value}"
        store.insert(name, Player("a", "a"))
        run(dsn, f"INSERT INTO {name} (id, username) VALUES ('', 'by hand')")
        assert store.update_where(name, Q(), level=7) == 2
        assert rows(dsn, f"SELECT level FROM {name}") == [(7,), (7,)]
        assert store.delete_where(name, Q().where("id = ''")) == 1


# -- kept searches ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", [WriteMode.WRITE_THROUGH, BEHIND], ids=["through", "behind"])
def test_kept_searches_are_dropped_as_by_any_write(make: MakeStore, mode: WriteMode) -> None:
    l2 = RedisPolicy(ttl=600, search_expiry=SearchExpiry.ON_WRITE)
    store = filled(make, {"l1": L1, "l2": l2, "l3": L3, "write_mode": mode})
    high = Q().where("level > $1", 5)
    assert store.search_cached("items", high) == [] and store.count("items", high) == 0
    store.update_where("items", EU, level=7)
    assert [item.id for item in store.search_cached("items", high)] == [1, 2, 3, 4]
    assert store.count("items", high) == 4


# -- beside what is deferred -----------------------------------------------------------------------------------------


def by_hand(make: MakeStore) -> DataStore:
    """A store that defers, and does nothing by itself but what a test asks of it."""
    store = make(encryption_key=bytes(32))
    paced(store)
    store.register(deferred(Item, name="items"))
    store.migrate()
    sure(store)
    idle(store)
    return store


@pytest.mark.parametrize("handed_off", [False, True], ids=["in the buffer", "in the ledger"])
def test_an_older_deferred_write_does_not_come_over_the_columns_that_were_written(
    make: MakeStore, handed_off: bool
) -> None:
    store, other = by_hand(make), by_hand(make)
    store.set_many("items", {id: Item(id) for id in (1, 2)})
    store.set("items", 1, Item(1, level=3, code="deferred"))
    if handed_off:
        hand_off(store)
    comes_after(other, store)
    assert other.update_where("items", EU, level=7) == 2
    store.flush_dirty()
    persist(other, "items")
    for reader in (store, other):
        found = reader.get("items", 1, force_l3=True)
        assert (found.level, found.code) == (7, "deferred")
        assert (reader.get("items", 1).level, reader.get("items", 1).code) == (7, "deferred")


@pytest.mark.parametrize("handed_off", [False, True], ids=["in the buffer", "in the ledger"])
def test_a_newer_deferred_write_comes_over_what_was_written(make: MakeStore, handed_off: bool) -> None:
    store, other = by_hand(make), by_hand(make)
    store.set_many("items", {id: Item(id) for id in (1, 2)})
    assert other.update_where("items", EU, level=7) == 2
    comes_after(store, other)
    store.set("items", 1, Item(1, level=9))
    if handed_off:
        hand_off(store)
    assert store.get("items", 1).level == 9
    store.flush_dirty()
    assert [store.get("items", id, force_l3=True).level for id in (1, 2)] == [9, 7]
    assert [other.get("items", id).level for id in (1, 2)] == [9, 7]


@pytest.mark.parametrize("handed_off", [False, True], ids=["in the buffer", "in the ledger"])
def test_a_row_that_is_found_is_judged_with_its_pending_write(make: MakeStore, handed_off: bool) -> None:
    store = by_hand(make)
    store.set_many("items", {id: Item(id) for id in (1, 2)})
    store.set("items", 1, Item(1, region="us", level=2))
    if handed_off:
        hand_off(store)
    assert store.update_where("items", EU, level=7) == 1
    assert [(store.get("items", id).region, store.get("items", id).level) for id in (1, 2)] == [("us", 2), ("eu", 7)]
    store.flush_dirty()
    assert [store.get("items", id, force_l3=True).level for id in (1, 2)] == [2, 7]
    assert store.stats().dirty_count == 0 and store.dead_letters.list() == []


def test_a_deferred_write_that_l3_does_not_have_is_not_found(make: MakeStore) -> None:
    store = by_hand(make)
    store.set("items", 1, Item(1))
    assert store.update_where("items", EU, level=7) == 0
    store.flush_dirty()
    assert store.update_where("items", EU, level=7) == 1


def test_what_was_added_before_is_in_order_with_it(make: MakeStore) -> None:
    store = by_hand(make)
    store.set_many("items", {1: Item(1, level=10)})
    store.increment("items", 1, level=5)
    assert store.update_where("items", EU, level=100) == 1
    assert store.increment("items", 1, level=1).level == 101
    store.flush_dirty()
    assert store.get("items", 1, force_l3=True).level == 101


def test_a_row_that_no_longer_fits_when_it_is_locked_is_left_alone(
    make: MakeStore, tiers: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    store, other = filled(make, tiers), store_of(make, tiers)
    levels(other)
    claimed = where._Step._claim

    def meanwhile(step: Any, part: Any) -> None:
        monkeypatch.setattr(where._Step, "_claim", claimed)
        with inspect(store).database.session() as conn:
            conn.command("UPDATE items SET region = 'us' WHERE id = 2; DELETE FROM items WHERE id = 3")
        claimed(step, part)

    monkeypatch.setattr(where._Step, "_claim", meanwhile)
    assert store.update_where("items", EU, level=7) == 2
    assert [store.get("items", id, force_l3=True).level for id in (1, 2, 4)] == [7, 1, 7]
    for reader in (store, other):
        assert [reader.get("items", id, force_l2=True).level for id in (1, 2, 4)] == [7, 1, 7]
