"""Pages of random tables: laid end to end they are the table as PostgreSQL sorts it, whatever is equal, NULL or NaN."""

from __future__ import annotations

import enum
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, fields
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from typing import Annotated, Any

import psycopg
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

import strata
from strata import Collection, Config, DataStore, PostgresPolicy, Q, Query, QueryError, Schema
from strata.l3.keyset import Sorted, columns_of, stretches
from strata.l3.layout import Layout
from strata.paging import Bookmark
from strata.query import Order
from strata.testing import inspect
from tests import databases


class Rank(enum.IntEnum):
    LOW = 1
    HIGH = 10


@dataclass
class Entry:
    id: Annotated[str, strata.PrimaryKey]
    number: int = 0
    ratio: float = 0.0
    flag: bool = False
    text: str | None = None
    real: float | None = None
    amount: Decimal | None = None
    at: datetime | None = None
    day: date | None = None
    hour: time | None = None
    span: timedelta | None = None
    uid: uuid.UUID | None = None
    raw: bytes | None = None
    rank: Rank | None = None
    tags: list[int] | None = None


REALS = [0.0, -0.0, 0.1 + 0.2, 5e-324, 1.7976931348623157e308, float("nan"), float("inf"), float("-inf")]
NOW = datetime(2026, 1, 31, 23, 59, 59, 999_999, UTC)
# Few of each, so that most rows are equal to others, and those that a text might not bring back as they are.
FEW: dict[str, list[Any]] = {
    "number": [0, -1, 2**63 - 1],
    "ratio": REALS,
    "flag": [True, False],
    "text": [None, "", "a", "A b", "é\u0301", "日本\U0001f600", "'; --", "$1", "\\x00\\", "NULL", "x" * 300],
    "real": [None, *REALS],
    "amount": [None, Decimal("1.10"), Decimal("1.1"), Decimal("-1e-30"), Decimal(10**40), Decimal("NaN")],
    "at": [None, NOW, NOW - timedelta(microseconds=1), datetime(1, 1, 1, tzinfo=UTC)],
    "day": [None, date(2026, 3, 1), date(1, 1, 1), date(9999, 12, 31)],
    "hour": [None, time(0, 0), time(23, 59, 59, 999_999)],
    "span": [None, timedelta(0), timedelta(days=-1, microseconds=1), timedelta(days=400), timedelta(hours=-36)],
    "uid": [None, uuid.UUID(int=1), uuid.UUID(int=2**128 - 1)],
    "raw": [None, b"", b"\x00\xff", b"a"],
    "rank": [None, *Rank],
    "tags": [None, [], [9], [10], [1, 2]],
}
assert list(FEW) == [item.name for item in fields(Entry)][1:]

rows = st.fixed_dictionaries({name: st.sampled_from(values) for name, values in FEW.items()})
tables = st.dictionaries(st.text("abé0", min_size=1, max_size=3), rows, max_size=25)
orders = st.lists(
    st.builds(Order, st.sampled_from(["id", *FEW]), st.booleans(), st.sampled_from([None, True, False])),
    max_size=4,
    unique_by=lambda order: order.column,
)


@pytest.fixture(scope="module")
def entries() -> Iterator[Collection[Entry, str]]:
    with databases.fresh() as dsn, DataStore(Config(postgres_dsn=dsn)) as store:
        made = store.register(Schema(Entry, name="entries", l3=PostgresPolicy()))
        store.migrate()
        yield made


@pytest.fixture(scope="module")
def conn(entries: Collection[Entry, str]) -> Iterator[psycopg.Connection[Any]]:
    with psycopg.connect(entries._store.config.postgres_dsn, autocommit=True) as made:
        yield made


def fill(conn: psycopg.Connection[Any], entries: Collection[Entry, str], table: dict[str, dict[str, Any]]) -> None:
    conn.execute("TRUNCATE entries")
    entries.set_many({id: Entry(id, **values) for id, values in table.items()})


def query_of(order: list[Order], size: int) -> Q:
    query = Q().limit(size)
    for column, desc, nulls_first in order:
        query = query.order_by(column)
        query = query.desc() if desc else query
        if nulls_first is not None:
            query = query.nulls_first() if nulls_first else query.nulls_last()
    return query


def spelled(order: list[Order]) -> str:
    """ORDER BY, with all that the query leaves to its defaults."""
    if all(item.column != "id" for item in order):
        order = [*order, Order("id", bool(order) and order[-1].desc)]
    terms = [
        f"{item.column} {'DESC' if item.desc else 'ASC'} NULLS {'FIRST' if item.led_by_null else 'LAST'}"
        for item in order
    ]
    return ", ".join(terms)


def paged(entries: Collection[Entry, str], query: Q) -> Iterator[strata.Page[Entry]]:
    page = entries.search_page(query)
    yield page
    while page.next is not None:
        page = entries.search_page(query, after=page.next)
        yield page


@given(table=tables, order=orders, size=st.integers(1, 30))
@settings(max_examples=120)
def test_the_pages_laid_end_to_end_are_the_sorted_table(
    entries: Collection[Entry, str],
    conn: psycopg.Connection[Any],
    table: dict[str, dict[str, Any]],
    order: list[Order],
    size: int,
) -> None:
    fill(conn, entries, table)
    query = query_of(order, size)
    pages = list(paged(entries, query))
    found = [entry.id for page in pages for entry in page.records]
    assert found == [id for (id,) in conn.execute(f"SELECT id FROM entries ORDER BY {spelled(order)}".encode())]
    assert all(len(page.records) == size for page in pages[:-1])
    assert len(pages) == max(1, -(-len(table) // size))  # and none is empty, but that of an empty table
    assert found == [entry.id for entry in entries.search_iter(query.limit(1000))]


@given(
    table=tables, order=orders, size=st.integers(1, 6),
    changes=st.lists(st.tuples(st.booleans(), st.text("abé0", min_size=1, max_size=3), rows), max_size=8),
)  # fmt: skip
@settings(max_examples=80)
def test_what_is_inserted_or_deleted_between_pages_takes_nothing_away_from_the_others(
    entries: Collection[Entry, str],
    conn: psycopg.Connection[Any],
    table: dict[str, dict[str, Any]],
    order: list[Order],
    size: int,
    changes: list[tuple[bool, str, dict[str, Any]]],
) -> None:
    fill(conn, entries, table)
    pending = [change for change in changes if change[0] or change[1] not in table]  # a row that is there may only go
    touched = {id for _, id, _ in pending}
    found: list[str] = []
    for page in paged(entries, query_of(order, size)):
        found += [entry.id for entry in page.records]
        if pending:
            gone, id, values = pending.pop()
            entries.delete(id) if gone else entries.set(id, Entry(id, **values))
    kept = [id for id in found if id not in touched]
    assert sorted(kept) == sorted(set(table) - touched)
    if not touched:
        assert len(found) == len(set(found))
    assert kept == [
        id for (id,) in conn.execute(f"SELECT id FROM entries ORDER BY {spelled(order)}".encode()) if id not in touched
    ]


indexed = st.lists(
    st.tuples(st.sampled_from(["id", "number", "text", "real"]), st.sampled_from(["", " DESC"]), st.booleans()),
    min_size=1,
    max_size=4,
    unique_by=lambda column: column[0],
)
few_columns = st.sampled_from(["id", "number", "text", "real"])
few_orders = st.lists(
    st.builds(Order, few_columns, st.booleans(), st.sampled_from([None, True, False])),
    min_size=1,
    max_size=3,
    unique_by=lambda order: order.column,
)


@given(index=indexed, order=few_orders, flat=st.booleans())
@settings(max_examples=150)
def test_an_index_that_is_said_to_have_an_order_gives_the_rows_without_a_sort(
    entries: Collection[Entry, str],
    conn: psycopg.Connection[Any],
    index: list[tuple[str, str, bool]],
    order: list[Order],
    flat: bool,
) -> None:
    if flat:  # one that fits, as often as not
        index = [(item.column, " DESC" if item.desc else "", item.led_by_null) for item in order]
        index += [] if any(column == "id" for column, *_ in index) else [("id", index[-1][1], index[-1][1] == " DESC")]
    query = query_of(order, 10).build()
    bound = inspect(entries._store).schemas["entries"]
    wanted = bound.rows.table.order(query)
    wanted = wanted[: [item.column for item in wanted].index("id") + 1]
    by = ", ".join(
        column.term for column in columns_of(Layout(bound.plan, "entries", "entries", deferred=False), wanted)
    )
    terms = [f"{name}{way} NULLS {'FIRST' if first else 'LAST'}" for name, way, first in index]
    conn.execute(f"CREATE INDEX made ON entries ({', '.join(terms)})".encode())
    try:
        with conn.transaction(), bound.rows.primary.session() as other:
            for kind in ("seqscan", "sort", "incremental_sort"):
                conn.execute(f"SET LOCAL enable_{kind} = off".encode())
            plan = "".join(line for (line,) in conn.execute(f"EXPLAIN SELECT * FROM entries ORDER BY {by}".encode()))
            missing = bound.rows.table.missing_index(other, query)
    finally:
        conn.execute("DROP INDEX made")
    assert (missing is None) == ("Sort" not in plan), (plan, index)


columns = st.builds(Sorted, st.sampled_from(["a", "b", "c"]), st.booleans(), st.booleans(), st.booleans())


@given(st.lists(columns, min_size=1, max_size=4), st.data())
def test_a_condition_has_a_placeholder_for_each_value_and_no_other(some: list[Sorted], data: st.DataObject) -> None:
    some = [column._replace(sql=f"c{place}") for place, column in enumerate(some)]
    some.append(Sorted("id", some[-1].desc, some[-1].desc, nullable=False))
    values = [data.draw(st.sampled_from(["1", None])) if column.nullable else "1" for column in some]
    for condition, args in stretches(some, values, 3):
        for number in range(3, 3 + len(args)):
            assert f"${number}" in condition
        assert f"${3 + len(args)}" not in condition and "$2" not in condition


texts = st.lists(st.one_of(st.none(), st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"))))
BY = [Order("a"), Order("id")]


@given(texts)
def test_a_token_gives_back_what_it_was_made_of(values: list[str | None]) -> None:
    bookmark = Bookmark("notes", Query(), [Order(f"c{place}") for place in range(len(values))])
    assert bookmark.values(bookmark.text(values)) == values


@given(st.text(max_size=80), st.integers(0, 200), st.integers(0, 200))
@example("", 0, 0)
@example("A", 3, 3)
def test_a_token_that_was_changed_anywhere_is_refused(other: str, start: int, end: int) -> None:
    bookmark = Bookmark("notes", Query(), BY)
    token = bookmark.text(["some", None])
    changed = token[:start] + other + token[end:]
    assume(changed != token)
    for text in (changed, other):
        with pytest.raises(QueryError, match="after is no text"):
            bookmark.values(text)
