"""Tables that others made, and change: what they make of a value is what every door returns and every cache holds, and
columns of which the model knows nothing are in nobody's way."""

from __future__ import annotations

import enum
import uuid
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime, time, timedelta
from decimal import Decimal
from typing import Annotated, Any

import pytest

import strata
from strata import UNLOADED, ConstraintError, DataStore, PostgresPolicy, TxFailedError, WriteMode
from strata.l3.actual import AS_MADE
from strata.l3.pool import Database
from strata.l3.table import Table
from strata.testing import inspect
from tests.behind import rows, run
from tests.stores import MakeStore, schema
from tests.support import wait_until

NOON = datetime(2026, 5, 1, 12, 0, 0, 700_000, tzinfo=UTC)
KEY = bytes(range(32))
MANY = 40  # more than are written one by one


class Mood(enum.Enum):
    GLAD = "glad"
    SAD = "sad"


@dataclass
class Item:
    """One column of each kind that a table may hold otherwise than it was given."""

    id: Annotated[int, strata.PrimaryKey]
    price: Decimal = Decimal("1.239")
    ratio: float = 0.1
    pieces: float = 2.6
    at: datetime = NOON
    hour: time = time(12, 0, 0, 700_000)
    span: timedelta = timedelta(seconds=1.7)
    day: datetime = NOON
    code: str = "ab "
    cut: str = "abc    "
    mood: Mood = Mood.SAD
    plain: str = "Plain"
    secret: Annotated[str | None, strata.Encrypted] = None
    first: Annotated[datetime | None, strata.AutoNowAdd] = None


ROUNDING = """CREATE TYPE mood AS ENUM ('glad', 'sad'); CREATE TABLE item (
    id BIGINT PRIMARY KEY, price NUMERIC(10, 2) NOT NULL, ratio REAL NOT NULL, pieces INTEGER NOT NULL,
    at TIMESTAMPTZ(0) NOT NULL, hour TIME(0) NOT NULL, span INTERVAL(0) NOT NULL, day DATE NOT NULL,
    code CHAR(5) NOT NULL, cut VARCHAR(4) NOT NULL, mood MOOD NOT NULL, plain TEXT NOT NULL, secret TEXT,
    first TIMESTAMPTZ(0))"""

DOORS: dict[str, Callable[[DataStore, type, dict[int, Any]], dict[int, Any]]] = {}


def door(function: Callable[[DataStore, type, dict[int, Any]], dict[int, Any]]) -> Any:
    DOORS[function.__name__] = function
    return function


@door
def one_by_one(store: DataStore, model: type, records: dict[int, Any]) -> dict[int, Any]:
    return {key: store.set(model, key, record) for key, record in records.items()}


@door
def few(store: DataStore, model: type, records: dict[int, Any]) -> dict[int, Any]:
    return store.set_many(model, records)


@door
def many(store: DataStore, model: type, records: dict[int, Any]) -> dict[int, Any]:
    some = next(iter(records.values()))
    rest = {key: replace(some, id=key) for key in range(1000, 1000 + MANY)}
    return {key: record for key, record in store.set_many(model, records | rest).items() if key in records}


@door
def transaction(store: DataStore, model: type, records: dict[int, Any]) -> dict[int, Any]:
    with store.tx() as tx:
        for key, record in records.items():
            tx.set(model, key, record)
    return {}


MODES = [WriteMode.WRITE_THROUGH, WriteMode.WRITE_BEHIND]
# Writing behind returns before L3 is asked: what is returned is what was given.
WAYS = [(mode, name) for mode in MODES for name in DOORS]


def two(make: MakeStore, dsn: str, sql: str, model: type, mode: WriteMode = MODES[0]) -> tuple[DataStore, DataStore]:
    """Two instances over a table that somebody else has made."""
    run(dsn, sql)
    made = []
    for _ in range(2):
        store = make(encryption_key=KEY)
        store.register(schema(model, write_mode=mode))
        made.append(store)
    made[0].migrate()
    return made[0], made[1]


def agree(one: DataStore, other: DataStore, model: type, key: int) -> Any:
    """The record as L3 has it, once every reader of both instances says the same."""
    one.flush_dirty(20)
    there: Any = None
    for store in (other, one):
        there = store.get(model, key, force_l3=True)
        for force_l2 in (True, False):
            wait_until(lambda: store.get(model, key, force_l2=force_l2) == there)  # noqa: B023 it ends before
    return there


def parts(store: DataStore, name: str) -> tuple[Table, Database]:
    bound = inspect(store).schemas[name]
    return bound.rows.table, bound.rows.primary


def check(one: DataStore, other: DataStore, name: str, mode: WriteMode, records: dict[int, Any]) -> dict[int, Any]:
    model = type(next(iter(records.values())))
    returned = DOORS[name](one, model, records)
    held = {key: agree(one, other, model, key) for key in records}
    if mode is WriteMode.WRITE_THROUGH or name != "one_by_one":
        assert all(returned[key] == held[key] for key in returned)
    return held


@pytest.mark.parametrize(("mode", "name"), WAYS, ids=lambda value: getattr(value, "value", value))
def test_what_a_column_rounds_cuts_or_pads_is_what_every_reader_gets(
    make: MakeStore, dsn: str, mode: WriteMode, name: str
) -> None:
    one, other = two(make, dsn, ROUNDING, Item, mode)
    for price in ("1.239", "7.005"):  # inserted, then updated
        held = check(one, other, name, mode, {key: Item(key, Decimal(price), secret="s") for key in (1, 2)})
    found = held[1]
    assert (found.price, found.pieces, found.code, found.cut) == (Decimal("7.01"), 3.0, "ab", "abc ")
    assert (found.ratio, found.mood, found.secret, found.plain) == (0.10000000149011612, Mood.SAD, "s", "Plain")
    assert (found.at.microsecond, found.hour.microsecond, found.span) == (0, 0, timedelta(seconds=2))
    assert found.day == NOON.replace(hour=0, microsecond=0)
    assert found.first is not None


@dataclass
class Page:
    id: Annotated[int, strata.PrimaryKey]
    slug: str
    words: int = 0
    letters: int = 0
    title: str = ""


TRIGGERED = """CREATE TABLE page (
    id BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY, slug TEXT NOT NULL, words BIGINT NOT NULL,
    letters BIGINT GENERATED ALWAYS AS (length(slug)) STORED, title TEXT NOT NULL, made BIGINT);
CREATE FUNCTION lowered() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN
    NEW.slug := lower(NEW.slug); NEW.words := NEW.words + 1; RETURN NEW; END$$;
CREATE FUNCTION made() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN NEW.made := NEW.id; RETURN NEW; END$$;
CREATE TRIGGER lowered BEFORE INSERT OR UPDATE ON page FOR EACH ROW EXECUTE FUNCTION lowered();
CREATE TRIGGER made BEFORE INSERT ON page FOR EACH ROW EXECUTE FUNCTION made()"""


@pytest.mark.parametrize(("mode", "name"), WAYS, ids=lambda value: getattr(value, "value", value))
def test_what_a_trigger_or_an_expression_makes_of_a_row_is_what_every_reader_gets(
    make: MakeStore, dsn: str, mode: WriteMode, name: str
) -> None:
    one, other = two(make, dsn, TRIGGERED, Page, mode)
    check(one, other, name, mode, {key: Page(key, "FIRST", 5, title="T") for key in (1, 2)})
    held = check(one, other, name, mode, {key: Page(key, "Second", 7, title="T") for key in (1, 2)})
    assert held[1] == Page(1, "second", 8, 6, "T")
    held = check(one, other, name, mode, {1: Page(1, UNLOADED, 1, UNLOADED, "part")})
    assert held[1] == Page(1, "second", 2, 6, "part")


def test_a_column_that_is_computed_needs_no_value(make: MakeStore, dsn: str) -> None:
    for mode in MODES:
        run(dsn, "DROP TABLE IF EXISTS page CASCADE; DROP FUNCTION IF EXISTS lowered, made")
        one, other = two(make, dsn, TRIGGERED, Page, mode)
        held = check(one, other, "one_by_one", mode, {5: Page(5, "New", 1, UNLOADED)})
        assert held[5] == Page(5, "new", 2, 3)
        one.delete(Page, 5)
        one.flush_dirty(20)


COMPUTED = (
    "CREATE TABLE made (id bigint GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY, n bigint NOT NULL, "
    "double bigint GENERATED ALWAYS AS (n * 2) STORED, made_at timestamptz NOT NULL, "
    "_strata_version bigint NOT NULL DEFAULT 0)"
)


@dataclass(kw_only=True)
class Made:
    id: Annotated[int | None, strata.PrimaryKey, strata.Generated] = None
    n: int = 1
    double: int = strata.UNLOADED
    made_at: Annotated[datetime, strata.AutoNowAdd] = datetime(1, 1, 1)


@pytest.mark.parametrize("mode", MODES)
def test_a_new_record_that_lacks_what_is_computed_is_whole_and_stamped(
    make: MakeStore, dsn: str, mode: WriteMode
) -> None:
    run(dsn, COMPUTED)
    store = make()
    records = store.register(schema(Made, name="made", l3=PostgresPolicy(managed=False), write_mode=mode))
    store.migrate()
    first = records.insert(Made(n=2))
    assert first.id is not None and first.double == 4 and first.made_at.year > 2000
    records.set(7, Made(id=7, n=3))
    store.flush_dirty(20)
    seventh = records.get(7, whole=True)
    assert (seventh.double, seventh.made_at.year > 2000) == (6, True)
    records.set(7, Made(id=7, n=4))
    store.flush_dirty(20)
    assert records.get(7, force_l3=True) == Made(id=7, n=4, double=8, made_at=seventh.made_at)


def test_a_trigger_that_is_added_later_is_noticed(make: MakeStore, dsn: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("strata.l3.table.LOOK_EVERY", 0.1)
    one, other = two(make, dsn, TRIGGERED.partition("CREATE FUNCTION")[0], Page)
    assert one.set(Page, 1, Page(1, "Old")).slug == "Old"
    run(dsn, "CREATE FUNCTION" + TRIGGERED.partition("CREATE FUNCTION")[2])
    wait_until(lambda: one.set(Page, 1, Page(1, "New")).slug == "new")
    assert agree(one, other, Page, 1).slug == "new"


def test_a_table_that_strata_made_is_exact_whether_it_is_watched_or_not(make: MakeStore) -> None:
    store = make(encryption_key=KEY)
    for name, watch in (("plain", False), ("watched", True)):
        items = store.register(schema(Item, name=name, l3=PostgresPolicy(watch=watch)))
        store.migrate()
        items.set(1, Item(1, secret="s"))
        table, _ = parts(store, name)
        assert table._sight.until > 0
        assert table._writing.layout.actual == AS_MADE


@dataclass
class Article:
    id: Annotated[int, strata.PrimaryKey]
    title: str
    read: int = 0


NEEDING = """CREATE TABLE article (id BIGINT GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY, title TEXT NOT NULL,
    read BIGINT NOT NULL, published BOOLEAN NOT NULL, state TEXT DEFAULT 'x', CHECK (state <> 'x'));
    INSERT INTO article SELECT n, 'old', 0, true, 'new' FROM generate_series(1, 3) n"""
MORE = "INSERT INTO article SELECT n, 'old', 0, true, 'new' FROM generate_series(1000, 1100) n"


@pytest.mark.parametrize(("mode", "name"), WAYS, ids=lambda value: getattr(value, "value", value))
def test_rows_that_exist_are_updated_without_columns_that_the_model_does_not_have(
    make: MakeStore, dsn: str, mode: WriteMode, name: str
) -> None:
    one, other = two(make, dsn, f"{NEEDING}; {MORE}", Article, mode)
    check(one, other, name, mode, {key: Article(key, "new", 7) for key in (1, 2)})
    held = check(one, other, name, mode, {key: Article(key, UNLOADED, 8) for key in (2, 3)})
    assert held == {2: Article(2, "new", 8), 3: Article(3, "old", 8)}
    assert rows(dsn, "SELECT DISTINCT published, state FROM article") == [(True, "new")]


@pytest.mark.parametrize(("mode", "name"), WAYS, ids=lambda value: getattr(value, "value", value))
def test_a_column_that_is_added_beside_running_processes_breaks_no_update(
    make: MakeStore, dsn: str, mode: WriteMode, name: str
) -> None:
    one, other = two(make, dsn, "SELECT 1", Article, mode)
    check(one, other, name, mode, {key: Article(key, "old") for key in (1, 2)})
    run(dsn, "ALTER TABLE article ADD COLUMN published BOOLEAN NOT NULL DEFAULT true")
    run(dsn, "ALTER TABLE article ALTER COLUMN published DROP DEFAULT")
    held = check(one, other, name, mode, {key: Article(key, "new") for key in (1, 2)})
    assert held[2] == Article(2, "new")
    if mode is WriteMode.WRITE_BEHIND:
        assert one.dead_letters.list() == []


def test_a_new_row_that_lacks_a_column_is_refused_by_the_columns_name(make: MakeStore, dsn: str) -> None:
    one, _ = two(make, dsn, NEEDING.replace(", CHECK (state <> 'x')", ""), Article)
    for write in (
        lambda: one.set(Article, 9, Article(9, "new")),
        lambda: one.set_many(Article, {9: Article(9, "new")}),
        lambda: one.set_many(Article, {key: Article(key, "new") for key in range(9, 9 + MANY)}),
    ):
        with pytest.raises(ConstraintError, match=r"'published'.*must be NULL-able, or have a DEFAULT") as raised:
            write()
        assert raised.value.sqlstate == "23502"
    with pytest.raises(TxFailedError, match="'published'"), one.tx() as tx:
        tx.set(Article, 1, Article(1, "lost")).set(Article, 9, Article(9, "new"))
    assert one.get(Article, 1) == Article(1, "old")
    assert one.get(Article, 9, default=None) is None


def test_a_new_row_that_lacks_a_column_becomes_a_dead_letter_that_says_so(make: MakeStore, dsn: str) -> None:
    run(dsn, NEEDING)
    one = make(write_behind_max_retry=1)
    one.register(schema(Article, write_mode=WriteMode.WRITE_BEHIND))
    one.migrate()
    one.set(Article, 1, Article(1, "new"))
    one.set(Article, 9, Article(9, "new"))
    one.flush_dirty(20)
    (letter,) = one.dead_letters.list()
    assert (letter.key, letter.sqlstate) == (9, "23502")
    assert "must be NULL-able, or have a DEFAULT" in letter.error
    assert rows(dsn, "SELECT title FROM article WHERE id = 1") == [("new",)]


def test_a_row_that_a_trigger_keeps_out_is_no_success(make: MakeStore, dsn: str) -> None:
    made = "CREATE TRIGGER keep_out BEFORE INSERT OR UPDATE ON article FOR EACH ROW WHEN (NEW.title = 'bad') EXECUTE"
    for mode in MODES:
        run(dsn, "DROP TABLE IF EXISTS article; DROP FUNCTION IF EXISTS keep_out")
        one, _ = two(make, dsn, "SELECT 1", Article, mode)
        run(dsn, "CREATE FUNCTION keep_out() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END'")
        run(dsn, f"{made} FUNCTION keep_out()")
        one.set(Article, 1, Article(1, "good"))
        if mode is WriteMode.WRITE_THROUGH:
            for key in (1, 2):
                with pytest.raises(ConstraintError, match="a trigger"):
                    one.set(Article, key, Article(key, "bad"))
            assert one.get(Article, 1) == Article(1, "good")
        else:
            one.set(Article, 2, Article(2, "bad"))
            one.flush_dirty(20)
            (letter,) = one.dead_letters.list()
            assert "trigger" in letter.error
        assert rows(dsn, "SELECT title FROM article") == [("good",)]


def test_a_trigger_that_updates_a_row_once_more_is_heard_of_where_the_table_is_watched(
    make: MakeStore, dsn: str
) -> None:
    one, other = make(), make()
    for store in (one, other):
        store.register(schema(Article, l3=PostgresPolicy(watch=True)))
    one.migrate()
    run(dsn, "CREATE FUNCTION more() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN"
        " UPDATE article SET read = read + 100 WHERE id = NEW.id; RETURN NULL; END'")  # fmt: skip
    run(dsn, "CREATE TRIGGER more AFTER INSERT ON article FOR EACH ROW EXECUTE FUNCTION more()")
    one.set(Article, 1, Article(1, "new", 5))
    assert agree(one, other, Article, 1) == Article(1, "new", 105)


@dataclass
class Thing:
    id: Annotated[uuid.UUID, strata.PrimaryKey]
    data: dict[str, Any]


def test_values_that_are_only_written_otherwise_are_not_taken_for_others(make: MakeStore, dsn: str) -> None:
    """JSONB has its own way to write what it holds, which is no reason to put it anew and have everybody drop it."""
    store, _ = two(make, dsn, "SELECT 1", Thing)
    run(dsn, "CREATE FUNCTION same() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END'")
    run(dsn, "CREATE TRIGGER same BEFORE UPDATE ON thing FOR EACH ROW EXECUTE FUNCTION same()")
    table, database = parts(store, "thing")
    key = uuid.uuid4()
    with database.transaction() as conn:
        table.upsert(conn, (key, '{"long":1,"b":[1,2.0]}'), 1, 1)
        written = table.upsert(conn, (key, '{"long":1,"b":[1,2.0]}'), 2, 1)
    assert (written.names, table._writing.layout.kept) == ((), ("data",))
