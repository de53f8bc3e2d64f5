"""`delete_where`: all records that a query finds, in every mode, over every set of tiers with L3."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any

import pytest

import strata
from strata import (
    ConstraintError,
    DataStore,
    InvalidConfigError,
    L3UnavailableError,
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
from tests.integration.test_update_where import BEHIND, L1, L2, L3, TIERS
from tests.models import Player
from tests.stores import MakeStore, schema, sure

pytestmark = pytest.mark.both_faces

EU = Q().where("region = $1", "eu")


@dataclass
class Item:
    id: Annotated[int, strata.PrimaryKey]
    region: str = "eu"
    level: int = 1


@pytest.fixture(params=TIERS)
def tiers(request: pytest.FixtureRequest) -> dict[str, Any]:
    return TIERS[request.param]


def store_of(make: MakeStore, tiers: dict[str, Any], **options: Any) -> DataStore:
    store = make()
    store.register(Schema(Item, name="items", **(tiers | options)))
    store.migrate()
    sure(store)
    return store


def filled(make: MakeStore, tiers: dict[str, Any], **options: Any) -> DataStore:
    """Items 1 to 4 are in the EU, 5 and 6 in the US."""
    store = store_of(make, tiers, **options)
    store.set_many("items", {id: Item(id, "eu" if id < 5 else "us") for id in range(1, 7)})
    return store


def ids(store: DataStore, **options: Any) -> list[int]:
    return [id for id in range(1, 7) if store.get("items", id, default=None, **options) is not None]


# -- what is deleted -------------------------------------------------------------------------------------------------


def test_all_records_that_are_found_are_deleted_from_every_tier_and_no_others(
    make: MakeStore, tiers: dict[str, Any]
) -> None:
    writer, reader = filled(make, tiers), store_of(make, tiers)
    for store in (writer, reader):
        assert ids(store) == [1, 2, 3, 4, 5, 6]
    assert writer.delete_where("items", EU) == 4
    for store in (writer, reader):
        assert ids(store) == ids(store, force_l2=True) == ids(store, force_l3=True) == [5, 6]
        assert list(store.get_many("items", range(1, 7))) == [5, 6]
        assert [store.exists("items", id) for id in (1, 6)] == [False, True]
    writer.flush_dirty()
    assert writer.stats().dirty_count == 0 and writer.stats().deletes == 4


def test_nothing_is_found_and_nothing_happens(make: MakeStore, tiers: dict[str, Any]) -> None:
    store = filled(make, tiers)
    assert store.delete_where("items", Q().where("region = $1", "asia")) == 0
    assert ids(store) == [1, 2, 3, 4, 5, 6]


def test_a_query_without_a_condition_means_all_rows_and_none_must_say_so(
    make: MakeStore, tiers: dict[str, Any]
) -> None:
    store = filled(make, tiers)
    with pytest.raises(QueryError, match=r"give Q\(\) where all rows are meant"):
        store.delete_where("items", None)  # type: ignore[arg-type]
    assert store.delete_where("items", Q()) == 6
    assert ids(store) == [] and store.count("items") == 0


def test_a_limit_takes_the_first_by_the_order(make: MakeStore, tiers: dict[str, Any]) -> None:
    store = filled(make, tiers)
    assert store.delete_where("items", EU.limit(1)) == 1
    assert store.delete_where("items", Q().order_by("region").desc().order_by("id").desc().limit(3)) == 3
    assert ids(store) == [2, 3]


def test_what_was_deleted_can_be_inserted_again(make: MakeStore, tiers: dict[str, Any]) -> None:
    store, other = filled(make, tiers), store_of(make, tiers)
    store.delete_where("items", EU)
    assert other.insert("items", Item(1, "again")).region == "again"
    store.set("items", 2, Item(2, "again"))
    store.flush_dirty()
    assert [reader.get("items", id).region for reader in (store, other) for id in (1, 2)] == ["again"] * 4


def test_the_collection_has_the_call_too(make: MakeStore) -> None:
    store = make()
    players = store.register(schema(Player, name="players"))
    store.migrate()
    players.set_many({id: Player(id, id) for id in "abc"})
    told: list[int] = []
    assert players.delete_where(Q().where("id > $1", "a"), told.append) == 2
    assert [players.exists(id) for id in "abc"] == [True, False, False] and told == [2]


def test_many_rows_are_deleted_in_steps_of_which_progress_is_told(
    make: MakeStore, tiers: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(where, "STEP", 2)
    store = filled(make, tiers)
    ids(store)
    told: list[int] = []
    assert store.delete_where("items", Q().order_by("id").desc().limit(5), told.append) == 5
    assert told == [2, 4, 5]
    assert ids(store) == ids(store, force_l3=True) == [1]


def test_few_rows_are_deleted_all_or_none(make: MakeStore, tiers: dict[str, Any], dsn: str) -> None:
    store = filled(make, tiers)
    run(dsn, "CREATE TABLE parts (item BIGINT REFERENCES items); INSERT INTO parts VALUES (3)")
    with pytest.raises(ConstraintError) as raised:
        store.delete_where("items", Q())
    assert raised.value.sqlstate == "23503"
    assert ids(store) == ids(store, force_l3=True) == [1, 2, 3, 4, 5, 6]


BAD: dict[str, tuple[Callable[[DataStore], Any], type[Exception], str]] = {
    "offset": (lambda store: store.delete_where("items", EU.offset(1)), QueryError, "has offset"),
    "fields": (lambda store: store.delete_where("items", EU.fields("id")), QueryError, "has fields"),
    "order": (lambda store: store.delete_where("items", EU.order_by("x")), QueryError, "no column"),
    "condition": (lambda store: store.delete_where("items", Q().where("lvl = 1")), QueryError, "lvl"),
    "no query": (lambda store: store.delete_where("items", 5), QueryError, "must be a Q"),  # type: ignore[arg-type]
    "no function": (
        lambda store: store.delete_where("items", EU, 5), InvalidConfigError, "progress is 5"),  # type: ignore[arg-type]
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
@pytest.mark.parametrize("tiers", [TIERS["through"], TIERS["behind"]], ids=["through", "behind"])
def test_bad_input_is_refused_before_anything_is_deleted(make: MakeStore, tiers: dict[str, Any], case: str) -> None:
    call, error, said = BAD[case]
    store = filled(make, tiers)
    with pytest.raises(error, match=said):
        call(store)
    assert ids(store) == ids(store, force_l3=True) == [1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize("tiers", [{"l1": L1, "l2": L2}, {"l1": L1}, {"l2": L2}], ids=["L1+L2", "L1", "L2"])
def test_a_schema_without_l3_has_no_rows_to_find(make: MakeStore, tiers: dict[str, Any]) -> None:
    store = make()
    store.register(Schema(Player, name="players", **tiers))
    with pytest.raises(L3UnavailableError, match="has no L3, which this call asks"):
        store.delete_where("players", Q())


def test_a_database_that_was_not_migrated_is_said_to_be(make: MakeStore) -> None:
    store = make()
    store.register(schema(Player, name="players"))
    with pytest.raises(MigrationError, match=r"run migrate\(\)"):
        store.delete_where("players", Q())


def test_hooks_of_single_records_do_not_run(make: MakeStore, tiers: dict[str, Any]) -> None:
    told: list[Any] = []
    hooks = SchemaHooks(before_get=told.append, on_evict=lambda key, item: told.append(key))
    store = filled(make, tiers, hooks=hooks)
    assert store.delete_where("items", EU) == 4
    assert told == []


@dataclass
class Event:
    id: Annotated[int, strata.PrimaryKey]
    at: datetime
    text: str = ""


MAY = datetime(2026, 5, 17, tzinfo=UTC)


@pytest.mark.parametrize("mode", [WriteMode.WRITE_THROUGH, BEHIND], ids=["through", "behind"])
@pytest.mark.parametrize("by", [None, "at"], ids=["one table", "by month"])
def test_what_is_old_is_deleted_in_portions(make: MakeStore, mode: WriteMode, by: str | None) -> None:
    store = make()
    store.register(schema(Event, name="events", l3=PostgresPolicy(partition_by=by, watch=True), write_mode=mode))
    store.migrate()
    store.set_many("events", {id: Event(id, MAY + timedelta(days=20 * id)) for id in range(8)})
    old = Q().where("at < $1", MAY + timedelta(days=99)).order_by("at").limit(2)
    assert [store.delete_where("events", old) for _ in range(4)] == [2, 2, 1, 0]
    assert [store.exists("events", id) for id in range(8)] == [False] * 5 + [True] * 3


def test_rows_that_a_trigger_keeps_are_said_to_be(make: MakeStore, dsn: str) -> None:
    store = filled(make, TIERS["through"])
    run(
        dsn,
        "CREATE FUNCTION keep() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NULL; END $$;"
        "CREATE TRIGGER keep BEFORE DELETE ON items FOR EACH ROW WHEN (OLD.id = 2) EXECUTE FUNCTION keep()",
    )
    with pytest.raises(ConstraintError, match="a trigger or rule of table 'items' kept the row"):
        store.delete_where("items", EU)
    assert ids(store, force_l3=True) == [1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize("mode", [WriteMode.WRITE_THROUGH, BEHIND], ids=["through", "behind"])
def test_kept_searches_are_dropped_as_by_any_write(make: MakeStore, mode: WriteMode) -> None:
    l2 = RedisPolicy(ttl=600, search_expiry=SearchExpiry.ON_WRITE)
    store = filled(make, {"l1": L1, "l2": l2, "l3": L3, "write_mode": mode})
    assert len(store.search_cached("items", Q())) == store.count("items") == 6
    store.delete_where("items", EU)
    assert [item.id for item in store.search_cached("items", Q())] == [5, 6]
    assert store.count("items") == 2


# -- beside what is deferred -----------------------------------------------------------------------------------------


def by_hand(make: MakeStore) -> DataStore:
    """A store that defers, and does nothing by itself but what a test asks of it."""
    store = make()
    paced(store)
    store.register(deferred(Item, name="items"))
    store.migrate()
    sure(store)
    idle(store)
    return store


@pytest.mark.parametrize("handed_off", [False, True], ids=["in the buffer", "in the ledger"])
@pytest.mark.parametrize("whose", ["own", "another's"])
def test_an_older_deferred_write_does_not_bring_a_deleted_row_back(
    make: MakeStore, whose: str, handed_off: bool
) -> None:
    store, other = by_hand(make), by_hand(make)
    store.set_many("items", {id: Item(id) for id in (1, 2)})
    store.set("items", 1, Item(1, level=3))
    store.update("items", 2, level=4)
    if handed_off:
        hand_off(store)
    by = store if whose == "own" else other
    comes_after(by, store)
    assert by.delete_where("items", EU) == 2
    store.flush_dirty()
    persist(other, "items")
    for reader in (store, other):
        assert ids(reader) == ids(reader, force_l2=True) == ids(reader, force_l3=True) == []
    assert store.count("items") == 0


@pytest.mark.parametrize("handed_off", [False, True], ids=["in the buffer", "in the ledger"])
def test_a_newer_deferred_write_stays(make: MakeStore, handed_off: bool) -> None:
    store, other = by_hand(make), by_hand(make)
    store.set_many("items", {id: Item(id) for id in (1, 2)})
    assert other.delete_where("items", EU) == 2
    comes_after(store, other)
    store.set("items", 1, Item(1, level=9))
    if handed_off:
        hand_off(store)
    assert ids(store) == [1]
    store.flush_dirty()
    assert ids(store, force_l3=True) == ids(other) == [1]


@pytest.mark.parametrize("handed_off", [False, True], ids=["in the buffer", "in the ledger"])
def test_a_row_that_is_found_is_judged_with_its_pending_write(make: MakeStore, handed_off: bool) -> None:
    store = by_hand(make)
    store.set_many("items", {id: Item(id) for id in (1, 2, 3)})
    store.set("items", 1, Item(1, "us", 2))
    store.update("items", 2, region="us")
    if handed_off:
        hand_off(store)
    assert store.delete_where("items", EU) == 1
    assert ids(store) == [1, 2]
    store.flush_dirty()
    assert ids(store, force_l3=True) == [1, 2]
    assert store.stats().dirty_count == 0 and store.dead_letters.list() == []


def test_every_row_that_was_deleted_has_a_tombstone(make: MakeStore, dsn: str) -> None:
    store = by_hand(make)
    store.set_many("items", {id: Item(id) for id in (1, 2, 3)})
    versions = dict(rows(dsn, "SELECT id::text, _strata_version FROM items"))
    store.delete_where("items", Q())
    buried = dict(rows(dsn, "SELECT id, version FROM _strata_tombstones WHERE schema = 'items'"))
    assert buried.keys() == versions.keys() and all(buried[id] > versions[id] for id in versions)
    assert inspect(store).versions.stamp() > max(buried.values())
