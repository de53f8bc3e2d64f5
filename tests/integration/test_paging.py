"""Pages of a query: together they hold every row once, in one order, whatever is equal or NULL."""

from __future__ import annotations

import enum
import itertools
import random
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any

import pytest

import strata
from strata import Collection, Index, PostgresPolicy, Q, Schema
from strata.l3.layout import Layout
from strata.l3.reads import Reads
from strata.testing import inspect
from tests.behind import rows, run
from tests.models import Note
from tests.stores import MakeStore, schema


class Rank(enum.IntEnum):
    LOW = 1
    MID = 2
    HIGH = 10


class Colour(enum.Enum):
    RED = "red"
    BLUE = "blue"


@dataclass
class Entry:
    id: Annotated[str, strata.PrimaryKey]
    score: int = 0
    name: str | None = None
    rank: Rank | None = None
    colour: Colour = Colour.RED
    ratio: float = 0.0
    tags: Annotated[list[int] | None, strata.OmitCache] = None
    token: Annotated[str | None, strata.Encrypted] = None
    placed: datetime = datetime(2026, 1, 1, tzinfo=UTC)


@dataclass
class Job:
    id: Annotated[str, strata.PrimaryKey]
    rank: Rank = Rank.LOW


SORTED = ("score", "name", "rank", "colour", "ratio", "placed", "id")


def some(chance: random.Random, count: int) -> list[Entry]:
    """Entries of few values, so that most are equal to others in any column."""
    return [
        Entry(
            f"e{number:04}",
            chance.randrange(3),
            chance.choice([None, "a", "b", ""]),
            chance.choice([None, *Rank]),
            chance.choice(list(Colour)),
            chance.choice([0.0, float("nan"), float("inf"), 1.5]),
            chance.choice([None, [1], []]),
            None,
            datetime(2026, 1, 1, tzinfo=UTC) + timedelta(days=20 * chance.randrange(4)),
        )
        for number in chance.sample(range(10_000), count)
    ]


def entries_of(make: MakeStore, count: int = 300, **policy: Any) -> Collection[Entry]:
    store = make(encryption_key=b"k" * 32)
    entries = store.register(
        Schema(Entry, name="entries", l3=PostgresPolicy(**policy), indexes=[Index(["score", "id"])])
    )
    store.migrate()
    entries.set_many({entry.id: entry for entry in some(random.Random(count), count)})
    return entries


def greatest_when_null(value: Any) -> Any:
    if isinstance(value, enum.Enum):
        value = value.value
    if isinstance(value, float):
        value = (value != value, 0.0 if value != value else value)  # PostgreSQL's NaN is above all other floats
    return (value is None, 0 if value is None else value)


def in_order(found: list[Entry], order: list[tuple[str, bool]]) -> list[str]:
    """The ids as they should come: sorted by the last column first."""
    if not any(column == "id" for column, _ in order):
        order = [*order, ("id", bool(order) and order[-1][1])]
    for column, desc in reversed(order):
        found = sorted(found, key=lambda entry: greatest_when_null(getattr(entry, column)), reverse=desc)
    return [entry.id for entry in found]


@pytest.mark.parametrize("partition_by", [None, "id", "placed"])
def test_pages_of_any_order_neither_repeat_nor_lose_a_row(make: MakeStore, partition_by: str | None) -> None:
    entries = entries_of(make, partition_by=partition_by)
    whole = entries.search(Q().limit(1000))
    chance = random.Random(partition_by)
    for _ in range(12):
        order = [(column, chance.random() < 0.5) for column in chance.sample(SORTED, chance.randrange(4))]
        query = Q()
        for column, desc in order:
            query = query.order_by(column).desc() if desc else query.order_by(column)
        if chance.random() < 0.5:
            query = query.fields("id")
        size = chance.randrange(1, 90)
        paged = [
            entry.id
            for offset in range(0, 300 + size, size)
            for entry in entries.search(query.limit(size).offset(offset))
        ]
        assert paged == in_order(whole, order)
        assert [entry.id for entry in entries.search_iter(query.limit(300), chunk=50)] == paged


def test_rows_that_are_equal_come_in_the_order_of_the_key_and_of_the_last_column(make: MakeStore) -> None:
    entries = entries_of(make, 0)
    entries.set_many({key: Entry(key, score) for key, score in [("c", 1), ("a", 1), ("b", 2)]})

    def ids(query: Q) -> list[str]:
        return [entry.id for entry in entries.search_cached(query)]

    assert ids(Q()) == ids(Q().limit(3)) == ["a", "b", "c"]
    assert ids(Q().order_by("score")) == ["a", "c", "b"]
    assert ids(Q().order_by("score").desc()) == ["b", "c", "a"]
    assert ids(Q().order_by("score").desc().order_by("id")) == ["b", "a", "c"]
    assert ids(Q().order_by("name").order_by("score").desc()) == ["b", "c", "a"]
    assert ids(Q().order_by("id").desc()) == ["c", "b", "a"]


def test_null_is_the_greatest_value(make: MakeStore) -> None:
    entries = entries_of(make, 0)
    entries.set_many({key: Entry(key, name=name) for key, name in [("a", None), ("b", "x"), ("c", "y")]})
    assert [entry.id for entry in entries.search(Q().order_by("name"))] == ["b", "c", "a"]
    assert [entry.id for entry in entries.search(Q().order_by("name").desc())] == ["a", "c", "b"]


def test_an_order_looks_at_the_column_itself_whatever_is_selected(make: MakeStore) -> None:
    entries = entries_of(make, 0)
    entries.set_many({key: Entry(key, tags=tags) for key, tags in [("a", [10]), ("b", [9]), ("c", [])]})
    query = Q().order_by("tags")
    for variant in (query, query.fields("id"), query.fields("id", "tags")):
        assert [entry.id for entry in entries.search(variant)] == ["c", "b", "a"]


def test_a_column_that_is_encrypted_cannot_be_sorted_by(make: MakeStore) -> None:
    entries = entries_of(make, 0)
    for query in (Q().order_by("token"), Q().order_by("score").order_by("token")):
        for call in (entries.search, entries.search_cached, entries.search_iter, entries.count):
            with pytest.raises(strata.QueryError, match="Encrypted"):
                call(query)


def test_an_index_on_the_columns_and_the_key_gives_the_rows_as_they_come(make: MakeStore, dsn: str) -> None:
    entries = entries_of(make)
    told = rows(dsn, "SELECT indexdef FROM pg_indexes WHERE tablename = 'entries' AND indexdef LIKE '%score%'")
    assert len(told) == 1 and "(score, id)" in told[0][0]
    bound = inspect(entries._store).schemas["entries"]
    reads = Reads(Layout(bound.plan, "entries", "entries", deferred=False))
    with bound.rows.primary.transaction() as conn:
        conn.command("SET LOCAL enable_seqscan = off")
        for query in (Q().order_by("score"), Q().order_by("score").desc(), Q().order_by("id")):
            explain = f"EXPLAIN SELECT * FROM entries{reads._order(query.build())} LIMIT 10"
            plan = "\n".join(line for (line,) in conn.execute(explain.encode()).fetchall())
            assert "Index Scan" in plan and "Sort" not in plan


def test_count_ignores_order_limit_and_offset_and_checks_them(make: MakeStore) -> None:
    entries = entries_of(make, 20)
    assert entries.count(Q().order_by("score").desc().order_by("id").limit(2).offset(9)) == 20
    with pytest.raises(strata.QueryError):
        entries.count(Q().order_by("nope"))


def test_an_enum_is_compared_and_sorted_by_its_value_of_whatever_type(make: MakeStore, dsn: str) -> None:
    entries = entries_of(make, 0)
    ranks = {"a": Rank.HIGH, "b": Rank.MID, "c": Rank.LOW, "d": None}
    entries.set_many({key: Entry(key, rank=rank) for key, rank in ranks.items()})
    entries.set("e", Entry("e", rank=Rank.LOW, colour=Colour.BLUE))

    def ids(where: str, *args: Any) -> list[str]:
        query = Q().where(where, *args).order_by("id")
        assert entries.count(query) == len(entries.search(query))
        assert entries.search_cached(query) == entries.search(query) == list(entries.search_iter(query))
        return [entry.id for entry in entries.search(query)]

    assert ids("rank = $1", Rank.HIGH) == ["a"]
    assert ids("rank >= $1", Rank.MID) == ids("rank >= $1", 2) == ids("rank >= $1", "2") == ["a", "b"]
    assert ids("rank = ANY($1)", [Rank.HIGH, Rank.LOW]) == ids("rank = ANY($1)", {Rank.HIGH, 1}) == ["a", "c", "e"]
    assert ids("rank = ANY($1)", [Rank.HIGH, None]) == ["a"]
    assert ids("rank = ANY($1)", []) == []
    assert ids("colour = $1", Colour.BLUE) == ids("colour = ANY($1)", [Colour.BLUE]) == ["e"]
    assert [entry.id for entry in entries.search(Q().order_by("rank").desc())] == ["d", "a", "b", "e", "c"]
    assert rows(dsn, "SELECT rank, colour FROM entries ORDER BY id LIMIT 1") == [(10, "red")]


@pytest.mark.parametrize("column", ["TEXT", "SMALLINT", "INTEGER", "NUMERIC(9)"])
def test_an_enum_of_ints_is_kept_in_a_column_that_others_made(make: MakeStore, dsn: str, column: str) -> None:
    run(
        dsn,
        f"CREATE TABLE jobs (id TEXT PRIMARY KEY, rank {column} NOT NULL, _strata_version BIGINT NOT NULL DEFAULT 0)",
    )
    store = make()
    jobs = store.register(Schema(Job, name="jobs", l3=PostgresPolicy()))
    (manual,) = store.migrate().manual
    assert "jobs.rank" in manual.text and "BIGINT" in manual.text
    jobs.set("a", Job("a", Rank.LOW))
    jobs.set("a", Job("a", Rank.HIGH))
    jobs.set_many({"b": Job("b", Rank.MID)})
    assert jobs.get_many(["a", "b"]) == {"a": Job("a", Rank.HIGH), "b": Job("b", Rank.MID)}
    run(dsn, manual.sql)
    assert jobs.search(Q().where("rank >= $1", Rank.MID).order_by("rank")) == [Job("b", Rank.MID), Job("a", Rank.HIGH)]


def test_threads_may_share_one_search_iter(make: MakeStore) -> None:
    store = make()
    notes = store.register(schema(Note, name="notes"))
    store.migrate()
    notes.set_many({id: Note(id) for id in range(500)})
    found = store.search_iter(Note, chunk=1)
    with ThreadPoolExecutor(4) as pool:
        shares = list(pool.map(lambda _: [note.id for note in found], range(4)))
    assert sorted(itertools.chain(*shares)) == list(range(500))


def test_a_search_iter_ends_with_its_store(make: MakeStore) -> None:
    store = make()
    notes = store.register(schema(Note, name="notes"))
    store.migrate()
    notes.set_many({id: Note(id) for id in range(5)})
    found = store.search_iter(Note, chunk=1)
    next(found)
    store.close()
    for _ in range(2):
        with pytest.raises(strata.ClosedError):
            next(found)
