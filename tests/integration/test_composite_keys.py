"""Keys of several fields, in every tier, mode and operation: the id is the tuple, in the order of the fields."""

from __future__ import annotations

import enum
import random
import uuid
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, NamedTuple

import msgspec
import psycopg
import pydantic
import pytest

import strata
from strata import Collection, MemPolicy, PostgresPolicy, Q, RedisPolicy, Schema, WriteMode
from tests.behind import client, rows, run
from tests.composite import KEYS, TEXTS, Line, line
from tests.stores import MakeStore, sure
from tests.support import wait_until

pytestmark = pytest.mark.both_faces

L1, L2, L3 = MemPolicy(ttl=60), RedisPolicy(ttl=600), PostgresPolicy()
BEHIND = WriteMode.WRITE_BEHIND
TIERS: dict[str, dict[str, Any]] = {
    "through": {"l1": L1, "l2": L2, "l3": L3},
    "L1": {"l1": L1, "l2": None, "l3": None},
    "L2": {"l1": None, "l2": L2, "l3": None},
    "L1+L2": {"l1": L1, "l2": L2, "l3": None},
    "L1+L3": {"l1": L1, "l2": None, "l3": L3},
    "L2+L3": {"l1": None, "l2": L2, "l3": L3},
    "L3": {"l1": None, "l2": None, "l3": L3},
    "behind": {"l1": L1, "l2": L2, "l3": L3, "write_mode": BEHIND},
    "behind, no L2": {"l1": L1, "l2": None, "l3": L3, "write_mode": BEHIND},
}


class Struct(msgspec.Struct, frozen=True, kw_only=True):
    order: Annotated[str, strata.PrimaryKey]
    number: Annotated[int, strata.PrimaryKey]
    amount: int = 0
    note: str = ""


class Validated(pydantic.BaseModel):
    amount: int = pydantic.Field(0, ge=0)
    order: Annotated[str, strata.PrimaryKey]
    number: Annotated[int, strata.PrimaryKey]
    note: str = ""


@dataclass(frozen=True, slots=True)
class Member:
    """Of every type that a key may have; two of its fields are texts, which meet at the slash."""

    team: Annotated[str, strata.PrimaryKey]
    name: Annotated[str, strata.PrimaryKey]
    number: Annotated[int, strata.PrimaryKey]
    card: Annotated[uuid.UUID, strata.PrimaryKey]
    role: str = ""


@pytest.fixture(params=TIERS)
def tiers(request: pytest.FixtureRequest) -> dict[str, Any]:
    return TIERS[request.param]


def lines_of(make: MakeStore, tiers: dict[str, Any], model: Any = Line, **options: Any) -> Collection[Any]:
    store = make(**options.pop("config", {}))
    lines = store.register(Schema(model, name="lines", **(tiers | options)))
    if tiers["l3"] is not None:
        store.migrate()
    if tiers["l2"] is not None:
        sure(store)
    return lines


@pytest.mark.parametrize("model", [Line, Struct, Validated])
def test_records_are_kept_and_found_by_their_tuple(make: MakeStore, tiers: dict[str, Any], model: Any) -> None:
    lines = lines_of(make, tiers, model)
    given = {key: model(order=key[0], number=key[1], note=repr(key)) for key in KEYS}
    for key, given_line in given.items():
        assert lines.set(key, given_line) == given_line
    for _ in range(2):
        assert {key: lines.get(key) for key in KEYS} == given
        assert lines.get_many(KEYS) == given
        lines.invalidate_many(KEYS)
    if tiers["l2"] is not None:
        assert {key: lines.get(key, force_l2=True) for key in KEYS} == given
    if tiers["l3"] is not None:
        lines._store.flush_dirty()
        assert {key: lines.get(key, force_l3=True) for key in KEYS} == given
    lines.delete_many(KEYS[::2])
    assert lines.get_many(KEYS) == {key: given[key] for key in KEYS[1::2]}
    assert not any(lines.exists(key) for key in KEYS[::2])
    assert all(lines.exists(key) for key in KEYS[1::2])


@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.long) for seed in (1, 2))])
def test_every_operation_does_what_it_does_to_a_dict(make: MakeStore, tiers: dict[str, Any], seed: int) -> None:
    rng = random.Random(seed)
    lines = lines_of(make, tiers)
    expected: Expected = {}
    keys = rng.sample(KEYS, 6)
    for turn in range(120):
        key, step = rng.choice(keys), STEPS[rng.randrange(len(STEPS))]
        step(lines, expected, key, turn)
        assert lines.get_many(keys) == expected
    if tiers["l3"] is not None:
        lines._store.flush_dirty()
        query = Q().where("amount >= $1", 0).order_by("order").desc().build()
        found = {(line.order, line.number): line for line in lines.search(query)}
        assert found == expected
        assert lines.count(query) == len(expected)


Expected = dict[Any, Line]


def set_(lines: Collection[Line], expected: Expected, key: Any, turn: int) -> None:
    expected[key] = lines.set(key, line(key, turn))


def set_many(lines: Collection[Line], expected: Expected, key: Any, turn: int) -> None:
    others = [*expected][:3]
    expected |= lines.set_many({other: line(other, turn) for other in dict.fromkeys([*others, key])})


def delete(lines: Collection[Line], expected: Expected, key: Any, turn: int) -> None:
    lines.delete(key)
    expected.pop(key, None)


def insert(lines: Collection[Line], expected: Expected, key: Any, turn: int) -> None:
    if key in expected:
        with pytest.raises(strata.AlreadyExistsError):
            lines.insert(line(key, turn))
    else:
        expected[key] = lines.insert(line(key, turn))


def update(lines: Collection[Line], expected: Expected, key: Any, turn: int) -> None:
    if key in expected:
        lines.update(key, note=f"update {turn}")
        expected[key] = replace(expected[key], note=f"update {turn}")


def modify(lines: Collection[Line], expected: Expected, key: Any, turn: int) -> None:
    if key in expected:
        expected[key] = lines.modify(key, lambda held: replace(held, amount=held.amount + 1, note="modified"))


def increment(lines: Collection[Line], expected: Expected, key: Any, turn: int) -> None:
    added = lines.increment(key, default=line(key, turn), amount=10)
    held = expected.get(key, line(key, turn))
    expected[key] = replace(held, amount=held.amount + 10)
    assert added == expected[key]


def get_or_set(lines: Collection[Line], expected: Expected, key: Any, turn: int) -> None:
    expected[key] = lines.get_or_set(key, lambda: line(key, turn))


def in_tx(lines: Collection[Line], expected: Expected, key: Any, turn: int) -> None:
    with lines._store.tx() as tx:
        tx.set(lines.name, key, line(key, turn))
    expected[key] = line(key, turn)


def invalidate(lines: Collection[Line], expected: Expected, key: Any, turn: int) -> None:
    lines.invalidate(key)  # the lowest tier, and what is written behind, keep it


STEPS = [set_, set_many, delete, insert, update, modify, increment, get_or_set, in_tx, invalidate]


# -- keys of texts that are alike, and what is no key -----------------------------------------------------------------


def member(key: Any) -> Member:
    team, name, number, card = key
    return Member(team, name, number, card, repr(key))


def test_keys_that_are_alike_are_never_confused(make: MakeStore, tiers: dict[str, Any], redis_addr: str) -> None:
    card = uuid.UUID(int=7)
    pairs = [(a, b) for a in TEXTS for b in TEXTS]
    pairs += [("a", "b/c"), ("a/b", "c"), ("a~1b", "c"), ("a/b/c", "d"), ("a", "b~1c"), ("a~", "1b"), ("a~1", "b")]
    given = {(a, b, 1, card): member((a, b, 1, card)) for a, b in pairs}
    members = lines_of(make, tiers, Member)
    members.set_many(given)
    for _ in range(2):
        assert members.get_many(given) == given
        members.invalidate_many(given)
    if tiers["l3"] is not None:
        members._store.flush_dirty()
        assert {tuple(dataclass_key(found)): found for found in members.search_iter()} == given
    gone = list(given)[::3]
    members.delete_many(gone)
    assert members.get_many(given) == {key: given[key] for key in given if key not in set(gone)}


def dataclass_key(found: Member) -> tuple[Any, ...]:
    return found.team, found.name, found.number, found.card


def test_a_key_can_be_read_in_redis(make: MakeStore, redis_addr: str) -> None:
    lines = lines_of(make, TIERS["through"])
    for key in [("acme", 7), ("é 💥", -1), ("a/b~c", 0)]:
        lines.set(key, line(key, 1))
    wanted = {f"strata:lines:{text}" for text in ("acme/7", "é 💥/-1", "a~1b~0c/0")}
    assert {key.decode() for key in client(redis_addr).scan_iter("strata:lines:*")} == wanted


WRONG: list[Any] = [
    "a/1", 1, None, ("a",), ("a", 1, 2), (), ["a", 1], {"a": 1}, {"order": "a", "number": 1}, ("a", "1"), (1, "a"),
    ("a", True), ("a", 1.0), ("a", None), (None, 1), ("a", 2**63), ("a\0", 1), ("a\ud800", 1), (b"a", 1), ("a", [1]),
    ("x" * 2048, 1), (("a", 1), 1),
]  # fmt: skip


def test_what_is_no_key_is_refused_before_any_tier_is_asked(make: MakeStore, tiers: dict[str, Any]) -> None:
    lines = lines_of(make, tiers)
    lines.set(("a", 1), line(("a", 1), 1))
    assert lines.get(("a", 1)).amount == 1
    calls: list[Callable[[Any], Any]] = [
        lines.get, lines.exists, lines.delete, lines.invalidate, lambda id: lines.set(id, line(("a", 1), 2)),
        lambda id: lines.get_many([("a", 1), id]), lambda id: lines.increment(id, amount=1),
        lambda id: lines.update(id, amount=2), lambda id: lines.get_or_set(id, lambda: line(("a", 1), 3)),
        lambda id: lines.delete_many([id]), lambda id: lines.touch(id, 5), lambda id: lines.modify(id, lambda it: it),
    ]  # fmt: skip
    for id in WRONG:
        for call in calls:
            with pytest.raises(strata.EncodeError, match="key of Line"):
                call(id)
    assert lines.get(("a", 1)).amount == 1


def test_an_empty_text_in_a_key_is_a_missing_key(make: MakeStore) -> None:
    lines = lines_of(make, TIERS["through"])
    with pytest.raises(strata.MissingPrimaryKeyError, match="order in a key of Line is empty"):
        lines.get(("", 1))
    with pytest.raises(strata.MissingPrimaryKeyError, match=r"Line\.order is empty"):
        lines.set(("a", 1), line(("", 1), 1))
    with pytest.raises(strata.MissingPrimaryKeyError, match="order in a key of Line is empty"):
        lines.insert(line(("", 1), 1))


def test_the_message_says_what_a_key_is(make: MakeStore) -> None:
    lines = lines_of(make, TIERS["through"])
    with pytest.raises(strata.EncodeError, match=r"of type str; it must be a tuple of 2, \(order, number\)"):
        lines.get("a")
    with pytest.raises(strata.EncodeError, match=r"has 3 parts; it must be a tuple of 2, \(order, number\)"):
        lines.get(("a", 1, 2))
    with pytest.raises(strata.EncodeError, match=r"the id given is not the \('order', 'number'\) of the Line"):
        lines.set(("a", 1), line(("a", 2), 1))
    with pytest.raises(strata.EncodeError, match=r"'number' is a part of the key of Line, which no update changes"):
        lines.update(("a", 1), number=2)
    with pytest.raises(strata.NotFoundError) as caught:
        lines.get(("a", 404))
    assert caught.value.key == ("a", 404)


class Tenant(enum.StrEnum):
    ACME = "acme"


class Place(NamedTuple):
    order: str
    number: int


@pytest.mark.parametrize("id", [Place("acme", 7), (Tenant.ACME, 7), Place(Tenant.ACME, 7)])
def test_a_tuple_of_a_class_of_its_own_is_the_tuple_that_it_is(make: MakeStore, tiers: dict[str, Any], id: Any) -> None:
    lines = lines_of(make, tiers)
    stored = lines.set(id, line(("acme", 7), 1))
    for key in (("acme", 7), id):
        for _ in range(2):
            assert lines.get(key) == stored
        assert list(lines.get_many([key])) == [("acme", 7)]
        assert type(next(iter(lines.get_many([key])))) is tuple
    lines.delete(id)
    assert lines.get(("acme", 7), default=None) is None


def test_only_a_key_of_one_field_can_be_generated() -> None:
    @dataclass
    class Made:
        tenant: Annotated[str, strata.PrimaryKey]
        id: Annotated[int | None, strata.PrimaryKey, strata.Generated] = None

    with pytest.raises(strata.InvalidModelError, match=r"Made\.id is Generated and one of several .*\(tenant, id\)"):
        Schema(Made, name="made")
        strata.model.compile_model(Made)


# -- queries ----------------------------------------------------------------------------------------------------------

WITH_L3 = {name: tiers for name, tiers in TIERS.items() if tiers["l3"] is not None}


@pytest.fixture(params=WITH_L3)
def full(request: pytest.FixtureRequest) -> dict[str, Any]:
    return WITH_L3[request.param]


def filled(make: MakeStore, tiers: dict[str, Any], **options: Any) -> Collection[Line]:
    """Lines of three orders, with ten numbers each."""
    lines = lines_of(make, tiers, **options)
    keys = [(order, number) for order in ("a", "B", "a/b") for number in range(10)]
    lines.set_many({key: line(key, key[1] % 3) for key in keys})
    lines._store.flush_dirty()
    return lines


def test_pages_neither_repeat_nor_lose_a_row_and_end_with_the_key(make: MakeStore, full: dict[str, Any]) -> None:
    lines = filled(make, full)
    for order in ((), ("amount",), ("number",), ("number", "amount"), ("order", "number")):
        for desc in (False, True):
            query = Q().limit(7)
            for column in order:
                query = query.order_by(column).desc() if desc else query.order_by(column)
            seen, after = [], None
            while True:
                page = lines.search_page(query.build(), after=after)
                seen += [(found.order, found.number) for found in page.records]
                if (after := page.next) is None:
                    break
            whole = [(found.order, found.number) for found in lines.search(query.limit(100).build())]
            assert seen == whole and len(set(seen)) == len(seen) == 30


def test_rows_are_changed_and_deleted_by_a_query(make: MakeStore, full: dict[str, Any]) -> None:
    lines = filled(make, full)
    before = lines.get_many([("a", n) for n in range(10)])
    assert lines.update_where(Q().where("number < $1", 5).build(), note="low", amount=100) == 15
    assert {lines.get((order, number)).note for order in ("a", "B", "a/b") for number in range(5)} == {"low"}
    assert lines.get(("a", 7)) == before["a", 7]
    assert lines.delete_where(Q().where('"order" = $1', "a/b").limit(4).build()) == 4
    assert lines.delete_where(Q().where('"order" = $1', "a/b").build()) == 6
    assert lines.count() == 20 and not lines.exists(("a/b", 3)) and lines.exists(("a", 3))


def test_a_search_that_is_kept_ends_with_a_write_of_its_records(make: MakeStore) -> None:
    lines = filled(make, {"l1": L1, "l2": RedisPolicy(ttl=600, search_expiry=strata.SearchExpiry.ON_WRITE), "l3": L3})
    query = Q().where('"order" = $1', "a").order_by("number").build()
    assert [found.number for found in lines.search_cached(query)] == list(range(10))
    lines.delete(("a", 3))
    wait_until(lambda: 3 not in [found.number for found in lines.search_cached(query)])


def test_a_hook_is_told_of_whole_keys_alone(make: MakeStore) -> None:
    told: list[Any] = []
    lines = filled(make, TIERS["through"], hooks=strata.SchemaHooks(before_get=told.append))
    for fields in (["amount"], ["order"], ["number", "amount"], ["order", "number"]):
        lines.search(Q().where('"order" = $1', "a").fields(*fields).limit(1).build())
    assert told == [("a", 0)]


@dataclass
class Entry:
    """Names a line."""

    id: int
    line_order: str
    line_number: int | None


def test_records_of_several_schemas_are_read_together_and_fetched_by_their_fields(make: MakeStore) -> None:
    lines = filled(make, TIERS["through"])
    members = lines._store.register(Schema(Member, name="members", **TIERS["through"]))
    lines._store.migrate()
    key = ("a", "a", 1, uuid.UUID(int=1))
    members.set(key, member(key))
    found = lines._store.get_batch([("lines", ("a", 1)), ("members", key), ("lines", ("a", 404))])
    assert found == [lines.get(("a", 1)), member(key), None]
    notes = [Entry(1, "a", 3), Entry(2, "B", 4), Entry(3, "a", None), Entry(4, "a", 404), Entry(5, "a", 3)]
    named = lines._store.prefetch(notes, ("line_order", "line_number"), "lines")
    assert named == lines.get_many([("a", 3), ("B", 4)])
    with pytest.raises(strata.EncodeError, match=r"Entry has no field 'number'"):
        lines._store.prefetch(notes, ("line_order", "number"), "lines")
    with pytest.raises(strata.EncodeError, match="must be a tuple of 2"):
        lines._store.prefetch(notes, "line_order", "lines")


def test_a_record_that_has_no_row_yet_is_inserted_in_bulk(make: MakeStore, full: dict[str, Any]) -> None:
    lines = lines_of(make, full)
    new = [line((f"o{n % 7}", n), 1) for n in range(300)]
    assert lines.insert_many(new) == new
    with pytest.raises(strata.AlreadyExistsError) as caught:
        lines.insert_many([line(("o1", 1000), 1), *new[50:80]])
    assert caught.value.key in {(found.order, found.number) for found in new[50:80]}
    assert not lines.exists(("o1", 1000)) and lines.count() == 300
    assert lines.set_many({(found.order, found.number): found for found in new})
    assert lines.delete_where(Q().build()) == 300


# -- tables -----------------------------------------------------------------------------------------------------------


def test_the_table_has_the_key_and_every_row_is_found_by_its_index(make: MakeStore, dsn: str) -> None:
    filled(make, TIERS["through"])
    key = rows(dsn, "SELECT pg_get_constraintdef(oid) FROM pg_constraint WHERE conrelid = 'lines'::regclass")
    assert ('PRIMARY KEY ("order", number)',) in key
    with psycopg.connect(dsn) as conn:
        conn.execute("SET enable_seqscan = off")
        plan = conn.execute("EXPLAIN SELECT * FROM lines WHERE (\"order\", number) = ('a', 1)").fetchall()
    assert "Index" in str(plan)


@pytest.mark.parametrize(
    "columns",
    [
        '"order" TEXT, number BIGINT, amount BIGINT, note TEXT, tags JSONB, PRIMARY KEY ("order", number)',
        '"order" VARCHAR(80), number SMALLINT, amount INT, note TEXT, tags JSONB, PRIMARY KEY (number, "order")',
        (
            "number INT NOT NULL, \"order\" TEXT NOT NULL, amount BIGINT, note TEXT, tags JSONB, more TEXT DEFAULT 'x',"
            ' UNIQUE ("order", number)'
        ),
    ],
    ids=["as ours", "narrower, in another order", "unique"],
)
def test_a_table_that_is_there_is_used_as_it_is(make: MakeStore, full: dict[str, Any], dsn: str, columns: str) -> None:
    run(dsn, f"CREATE TABLE lines ({columns})")
    run(dsn, "INSERT INTO lines VALUES ('a', 1, 5, 'there', NULL)") if columns.startswith('"order"') else None
    indexes = "SELECT count(*) FROM pg_index WHERE indrelid = 'lines'::regclass"
    before = rows(dsn, indexes)
    lines = lines_of(make, full)
    assert rows(dsn, indexes) == before
    if columns.startswith('"order"'):
        assert lines.get(("a", 1)).note == "there"
    given = {("b", n): line(("b", n), 1) for n in range(50)}
    assert lines.set_many(given) == given
    assert lines.increment(("b", 1), amount=5).amount == 6
    lines.delete(("b", 2))
    lines._store.flush_dirty()
    found = {(one.order, one.number): one for one in lines.search(Q().where('"order" = $1', "b").build())}
    given["b", 1].amount = 6
    del given["b", 2]
    assert found == given


def test_a_key_in_another_order_is_told_of_until_there_is_an_index_for_walks(make: MakeStore, dsn: str) -> None:
    columns = '"order" TEXT, number BIGINT, amount BIGINT, note TEXT, tags JSONB'
    run(dsn, f'CREATE TABLE lines ({columns}, PRIMARY KEY (number, "order"))')
    lines = lines_of(make, TIERS["through"])
    [told] = told_of_orders(lines)
    assert "an index of another order (number, order)" in told.text
    indexed = lines_of(make, TIERS["through"], indexes=[strata.Index(["order", "number"])])
    assert not told_of_orders(indexed)
    assert len(rows(dsn, "SELECT FROM pg_indexes WHERE tablename = 'lines'")) == 2
    run(dsn, "DROP INDEX lines_order_number_idx")
    run(dsn, told.sql)
    assert not told_of_orders(lines)


def told_of_orders(lines: Collection[Any]) -> list[strata.ManualChange]:
    return [change for change in lines._store.migrate().manual if "another order" in change.text]


@pytest.mark.parametrize("key", ['PRIMARY KEY (number, "order")', 'PRIMARY KEY ("order", number)'])
def test_a_deferrable_constraint_of_the_key_is_told_of_with_what_takes_it_away(
    make: MakeStore, dsn: str, key: str
) -> None:
    columns = '"order" TEXT, number BIGINT, amount BIGINT, note TEXT, tags JSONB'
    for more in ("DEFERRABLE", 'DEFERRABLE, CONSTRAINT another UNIQUE ("order", number)'):
        run(dsn, f"DROP TABLE IF EXISTS lines; CREATE TABLE lines ({columns}, CONSTRAINT ours {key} {more})")
        lines = lines_of(make, TIERS["through"])
        [told] = lines._store.migrate().blocking
        run(dsn, told.sql)
        assert not lines._store.migrate().blocking
        lines.set(("a", 1), line(("a", 1), 1))


@pytest.mark.parametrize("fields", [["number", "order"], ["order", "number"]])
@pytest.mark.parametrize("key", ['("order", number)', '(number, "order")', None])
def test_an_index_over_the_fields_of_the_key_is_in_no_write_s_way(
    make: MakeStore, full: dict[str, Any], dsn: str, fields: list[str], key: str | None
) -> None:
    if key is not None:
        columns = '"order" TEXT, number BIGINT, amount BIGINT, note TEXT, tags JSONB'
        run(dsn, f"CREATE TABLE lines ({columns}, PRIMARY KEY {key})")
    lines = lines_of(make, full, indexes=[strata.Index(fields, unique=True)])
    lines.set(("a", 1), line(("a", 1), 1))
    lines._store.flush_dirty(5)
    assert lines.get(("a", 1), force_l3=True) == line(("a", 1), 1)
    assert not lines._store.migrate().blocking


def test_a_table_without_such_a_key_gets_it_where_its_rows_allow(make: MakeStore, dsn: str) -> None:
    run(dsn, 'CREATE TABLE lines ("order" TEXT PRIMARY KEY, number BIGINT, amount BIGINT, note TEXT, tags JSONB)')
    run(dsn, "INSERT INTO lines VALUES ('a', 1, 1, '', NULL)")
    lines = lines_of(make, TIERS["through"])
    assert lines.get(("a", 1)).amount == 1
    lines.set(("b", 1), line(("b", 1), 2))
    with pytest.raises(strata.ConstraintError):  # the key that was there still is one
        lines.set(("b", 2), line(("b", 2), 2))


@pytest.mark.parametrize("by", ["order", "number"])
def test_a_table_is_divided_by_the_hash_of_a_field_of_its_key(make: MakeStore, dsn: str, by: str) -> None:
    for mode in (WriteMode.WRITE_THROUGH, BEHIND):
        lines = filled(make, {"l1": L1, "l2": L2, "l3": PostgresPolicy(partition_by=by)}, write_mode=mode)
        assert lines.count() == 30 and lines.get(("a", 1), force_l3=True).number == 1
        lines.delete(("a", 1))
        lines._store.flush_dirty()
        assert lines.count() == 29
    strategy = "SELECT pg_get_partkeydef('lines'::regclass)"
    assert rows(dsn, strategy)[0][0] in (f'HASH ("{by}")', f"HASH ({by})")


@dataclass
class Visit:
    site: Annotated[str, strata.PrimaryKey]
    number: Annotated[int, strata.PrimaryKey]
    at: datetime
    note: str = ""


@pytest.mark.parametrize("mode", [WriteMode.WRITE_THROUGH, BEHIND])
def test_a_table_is_divided_by_months_and_a_key_has_one_row_in_all_of_them(
    make: MakeStore, dsn: str, mode: WriteMode
) -> None:
    visits = lines_of(make, {"l1": L1, "l2": L2, "l3": PostgresPolicy(partition_by="at"), "write_mode": mode}, Visit)
    now = datetime.now(UTC).replace(day=1)
    moments = [now, now + timedelta(days=40), now - timedelta(days=900)]
    for turn, at in enumerate([*moments, *moments]):
        given = {(site, n): Visit(site, n, at, f"turn {turn}") for site in ("a", "a/b") for n in range(30)}
        assert visits.set_many(given) == given
        visits._store.flush_dirty()
        visits.set(("a", 1), Visit("a", 1, moments[turn % 2], "moved"))
        visits._store.flush_dirty()
        assert rows(dsn, "SELECT count(*), count(DISTINCT (site, number)) FROM lines") == [(60, 60)]
    assert visits.get(("a", 1), force_l3=True).note == "moved"
    assert visits.update_where(Q().where("number = $1", 1).build(), at=moments[2]) == 2
    visits.delete(("a/b", 1))
    visits._store.flush_dirty()
    assert rows(dsn, "SELECT count(*) FROM lines WHERE number = 1") == [(1,)]


@pytest.mark.parametrize("by", ["note", "nothing"])
def test_what_cannot_divide_a_table_is_refused(make: MakeStore, by: str) -> None:
    with pytest.raises(strata.InvalidModelError, match="partition_by is a field of the key, 'order' or 'number'"):
        lines_of(make, {"l1": L1, "l2": None, "l3": PostgresPolicy(partition_by=by)})
