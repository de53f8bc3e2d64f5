"""Single rows in L3: what goes in comes out, versions only rise, and nothing unloaded is overwritten."""

from __future__ import annotations

import math
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from typing import Annotated, Any

import psycopg
import pytest

import strata
from strata import UNLOADED
from strata.errors import ConstraintError, DecodeError, EncodeError, InvalidModelError, MigrationError, QueryError
from strata.l3.pool import Database
from strata.l3.table import Table
from strata.l3.values import FIRST, Repair
from strata.model import compile_model
from strata.model.columns import UNHELD
from strata.query import Q, Query
from tests.databases import NEWEST, VERSIONS
from tests.l3 import NODE, NOW, Everything, Item, fresh, make_table, row, stamp


@pytest.fixture(params=NEWEST)
def database(request: pytest.FixtureRequest) -> Iterator[Database]:
    with fresh(request.param) as database:
        yield database


@pytest.fixture
def table(database: Database) -> Table:
    return make_table(database)


def put(database: Database, table: Table, values: Any, version: int, node: int = NODE) -> Any:
    with database.transaction() as conn:
        return table.upsert(conn, values, version, node)


def get(database: Database, table: Table, id: Any) -> Any:
    with database.connection() as conn:
        return table.get(conn, id)


EXTREMES = [
    Everything(uuid.UUID(int=0)),
    Everything(
        uuid.UUID(int=2**128 - 1), "ü€😀'\"\\%s$1\n", 2**63 - 1, math.inf, True,
        datetime(9999, 12, 31, 23, 59, 59, 999999, tzinfo=UTC), bytes(range(256)), {"a": [1, 2.5, None, "x"]},
        Decimal("123456789012345678901234567890.123456789"), date(1, 1, 1), time(23, 59, 59, 999999),
        timedelta(days=-3, microseconds=1), -1, "CAPS",
    ),
    Everything(uuid.uuid4(), number=-(2**63), real=-math.inf, amount=Decimal("-0.000001"), span=timedelta(0)),
]  # fmt: skip


@pytest.mark.parametrize("database", VERSIONS, indirect=True)
@pytest.mark.parametrize("deferred", [False, True])
def test_values_of_every_type_come_back_as_they_went_in(database: Database, deferred: bool) -> None:
    table = make_table(database, Everything, deferred=deferred)
    rows = [table.plan.to_row(table.plan.prepare(record, NOW), None) for record in EXTREMES]
    for values in rows:
        put(database, table, values, stamp(1))
    many = [(uuid.uuid4(), *values[1:]) for values in rows for _ in range(20)]
    with database.transaction() as conn:
        table.set_many(conn, many, [stamp(1)] * len(many), NODE)
    with database.transaction() as conn:
        table.set_many(conn, many, [stamp(2)] * len(many), NODE)
    with database.connection() as conn:
        found = table.get_many(conn, [values[0] for values in [*rows, *many]])
    for values in [*rows, *many]:
        assert table.plan.from_row(found[values[0]].values, None) == table.plan.from_row(values, None)


def test_nan_is_kept(database: Database) -> None:
    table = make_table(database, Everything)
    record = Everything(uuid.uuid4(), real=math.nan, amount=Decimal("1.10"))
    put(database, table, table.plan.to_row(record, None), stamp(1))
    found = get(database, table, record.id)
    assert math.isnan(found.values[3]) and str(found.values[8]) == "1.10"


def test_times_are_read_as_utc_whatever_the_servers_time_zone(database: Database, table: Table) -> None:
    with database.connection() as conn:
        conn.command(f"ALTER DATABASE {conn.info.dbname} SET timezone = 'Asia/Kolkata'")
    database.close()
    put(database, table, row("a"), stamp(1))
    found = get(database, table, "a").values[4]
    assert (found, found.tzinfo) == (NOW, UTC)


def test_an_absent_row_is_none(database: Database, table: Table) -> None:
    put(database, table, row("a"), stamp(1))
    with database.connection() as conn:
        assert table.get(conn, "b") is None
        assert table.get_many(conn, ["a", "b"]).keys() == {"a"}
        assert (table.exists(conn, "a"), table.exists(conn, "b")) == (True, False)


@pytest.mark.parametrize("key", [0, -1, 2**63 - 1, -(2**63)])
def test_integer_keys_of_any_size_are_found(database: Database, key: int) -> None:
    @dataclass
    class Numbered:
        id: Annotated[int, strata.PrimaryKey]
        text: str = ""

    table = make_table(database, Numbered, deferred=True)
    put(database, table, (key, "x"), stamp(1))
    assert get(database, table, key).values == (key, "x")
    with database.transaction() as conn:
        assert table.delete(conn, key, stamp(2), NODE) == stamp(2)
        assert table.upsert(conn, (key, "y"), stamp(1), NODE).version > stamp(2)


# -- versions ---------------------------------------------------------------------------------------------------


def test_a_newer_stamp_is_the_version(database: Database, table: Table) -> None:
    assert put(database, table, row("a"), stamp(10)).version == stamp(10)
    assert put(database, table, row("a", 1), stamp(20)).version == stamp(20)
    assert get(database, table, "a").version == stamp(20)


def test_a_slow_clock_does_not_lose_a_synchronous_write(database: Database, table: Table) -> None:
    put(database, table, row("a", 1), stamp(1000, node=9))
    assert put(database, table, row("a", 2), stamp(10)).version == stamp(1001)
    found = get(database, table, "a")
    assert (found.version, found.values[2]) == (stamp(1001), 2)


def test_the_first_inserts_stamp_is_kept_and_reported(database: Database, table: Table) -> None:
    later = NOW.replace(year=2027)
    assert put(database, table, row("a", at=NOW), stamp(1)).names == ()
    written = put(database, table, row("a", at=later), stamp(2))
    assert (written.names, written.values) == (("first",), (NOW,))
    assert get(database, table, "a").values[4:] == (NOW, later)


def test_a_table_that_others_made_and_filled_starts_at_version_zero(database: Database, table: Table) -> None:
    with database.connection() as conn:
        conn.execute("INSERT INTO items (id, name, size) VALUES ('a', 'b', 1)")
    assert get(database, table, "a").version == 0
    assert put(database, table, row("a"), stamp(5)).version == stamp(5)


# -- deletes ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("deferred", [False, True])
def test_a_deletion_is_newer_than_the_row_it_deletes(database: Database, deferred: bool) -> None:
    table = make_table(database, deferred=deferred)
    put(database, table, row("a"), stamp(1000, node=9))
    with database.transaction() as conn:
        assert table.delete(conn, "a", stamp(10), NODE) == stamp(1001)
        assert table.delete(conn, "never", stamp(10), NODE) == stamp(10)
    assert get(database, table, "a") is None


def test_a_row_inserted_after_a_deletion_is_newer_than_its_tombstone(database: Database) -> None:
    table = make_table(database, deferred=True)
    with database.transaction() as conn:
        table.delete(conn, "a", stamp(1000, node=9), NODE)
    assert put(database, table, row("a"), stamp(10)).version == stamp(1001)


def test_a_row_inserted_by_a_slow_clock_is_above_the_horizon(database: Database) -> None:
    table = make_table(database, deferred=True)
    with database.transaction() as conn:
        table.delete(conn, "b", stamp(1000), NODE)
    with database.transaction() as conn:
        assert table.forget_tombstones(conn, datetime.now(UTC) + timedelta(seconds=1)) == 1
    with database.connection() as conn:
        assert table.horizon(conn) == stamp(1000)
    assert put(database, table, row("a"), stamp(10)).version == stamp(1001)


# -- UNLOADED ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("deferred", [False, True])
def test_unloaded_columns_keep_what_the_row_has(database: Database, deferred: bool) -> None:
    table = make_table(database, deferred=deferred)
    put(database, table, row("a", 1, note="kept"), stamp(1))
    values = ("a", "other name", UNLOADED, UNLOADED, UNLOADED, NOW)
    written = put(database, table, values, stamp(2))
    assert dict(zip(written.names, written.values, strict=True)) == {"size": 1, "note": "kept", "first": NOW}
    assert get(database, table, "a").values == ("a", "other name", 1, "kept", NOW, NOW)
    assert written.version == stamp(2)


def test_a_partial_write_obeys_the_version_rule(database: Database, table: Table) -> None:
    put(database, table, row("a"), stamp(1000))
    assert put(database, table, ("a", "n", 1, UNLOADED, NOW, NOW), stamp(2)).version == stamp(1001)


def test_a_partial_write_without_a_row_is_refused(database: Database, table: Table) -> None:
    with pytest.raises(EncodeError, match=r"'items'.*UNLOADED"):
        put(database, table, ("a", "n", UNLOADED, None, NOW, NOW), stamp(1))
    assert get(database, table, "a") is None


def test_nothing_but_the_key_may_be_loaded(database: Database, table: Table) -> None:
    put(database, table, row("a", 7), stamp(1))
    written = put(database, table, ("a", *[UNLOADED] * 5), stamp(2))
    assert get(database, table, "a") == (stamp(2), row("a", 7))
    assert len(written.names) == 5


# -- what the database refuses ----------------------------------------------------------------------------------


def test_a_constraint_is_named_and_no_row_is_shown(database: Database, table: Table) -> None:
    put(database, table, row("a", name="hush-hush"), stamp(1))
    with pytest.raises(ConstraintError) as caught:
        put(database, table, row("b", name="hush-hush"), stamp(1))
    assert (caught.value.sqlstate, caught.value.constraint) == ("23505", "items_name_key")
    with pytest.raises(ConstraintError) as caught_null:
        put(database, table, ("c", None, 1, "hush-hush", NOW, NOW), stamp(1))
    assert caught_null.value.sqlstate == "23502"
    for error in (caught.value, caught_null.value):
        shown: BaseException | None = error
        while shown is not None:
            assert "hush-hush" not in f"{shown!r}{shown}"
            assert not isinstance(shown, psycopg.Error) or shown.diag.message_detail is None
            shown = shown.__cause__ or shown.__context__


def test_a_value_that_its_column_cannot_hold_is_an_encode_error(database: Database) -> None:
    with database.connection() as conn:
        conn.command("CREATE TABLE items (id varchar(3) PRIMARY KEY, name text, size int2, note text)")
    table = make_table(database)
    put(database, table, row("a", 5), stamp(1))
    for values in (row("a", 70_000), row("long key")):
        with pytest.raises(EncodeError) as caught:
            put(database, table, values, stamp(2))
        assert "70" not in str(caught.value) and "long" not in str(caught.value)


def test_a_missing_table_or_column_says_to_migrate(database: Database) -> None:
    table = Table(compile_model(Item), "items", schema_name="items", deferred=False)
    with pytest.raises(MigrationError, match=r"migrate\(\)"):
        get(database, table, "a")
    with database.connection() as conn:
        conn.command("CREATE TABLE items (id text PRIMARY KEY)")
    with pytest.raises(MigrationError, match=r"migrate\(\)"):
        put(database, table, row("a"), stamp(1))


def test_names_of_strata_and_of_postgresql_are_refused() -> None:
    @dataclass
    class Odd:
        id: Annotated[str, strata.PrimaryKey]
        ctid: str = ""

    with pytest.raises(InvalidModelError, match=r"Odd\.ctid"):
        Table(compile_model(Odd), "odd", schema_name="odd", deferred=False)
    with pytest.raises(InvalidModelError, match="_strata_"):
        Table(compile_model(Item), "_strata_migrations", schema_name="x", deferred=False)


def test_a_table_of_other_types_is_read_as_the_model_says(database: Database) -> None:
    with database.connection() as conn:
        conn.command(
            "CREATE TABLE items (id varchar(30) PRIMARY KEY, name char(20), size int4, note text,"
            " first timestamp, last timestamptz, more text DEFAULT 'x')"
        )
    table = make_table(database)
    rows = [row(f"k{number}", number) for number in range(100)]
    for _ in range(2):
        with database.transaction() as conn:
            table.set_many(conn, rows, [stamp(1)] * 100, NODE)
    assert get(database, table, "k7").values == row("k7", 7)


# -- queries ----------------------------------------------------------------------------------------------------


@pytest.fixture
def filled(database: Database, table: Table) -> Table:
    with database.transaction() as conn:
        rows = [row(f"k{number:03}", number % 10, note=f"100% of {number}") for number in range(200)]
        table.set_many(conn, rows, [stamp(1)] * 200, NODE)
    return table


def test_a_search_filters_sorts_limits_and_skips(database: Database, filled: Table) -> None:
    query = Q().where("size = $1 AND id > $2", 3, "k050").order_by("id").desc().limit(3).offset(1).build()
    with database.connection() as conn:
        names, rows = filled.search(conn, query)
    assert names is None
    assert [found.values[0] for found in rows] == ["k183", "k173", "k163"]
    assert rows[0] == (stamp(1), row("k183", 3, note="100% of 183"))


def test_a_projection_names_its_columns(database: Database, filled: Table) -> None:
    with database.connection() as conn:
        names, rows = filled.search(conn, Q().where("id = $1", "k001").fields("size", "id", "size").build())
    assert (names, rows) == (("size", "id"), [(stamp(1), (1, "k001"))])


def test_a_search_without_a_limit_finds_a_hundred_and_a_count_counts_all(database: Database, filled: Table) -> None:
    with database.connection() as conn:
        assert len(filled.search(conn, Query())[1]) == 100
        assert filled.count(conn, Query(limit=3, offset=190, order_by="id")) == 200
        assert filled.count(conn, Q().where("size < $1", 5).build()) == 100


@pytest.mark.parametrize(
    ("where", "args", "count"),
    [
        ("note LIKE '100\\%%'", (), 200),
        ("note = $1", ("100% of 7",), 1),
        ("id = ANY($1)", (["k001", "k002", "nope"],), 2),
        ("id = ANY($1)", ([],), 0),
        ("size = $1 -- the end", (3,), 20),
        ("first = $1", (NOW,), 200),
        ("first > $1", ("2020-01-01",), 200),
        ("size > $1", (2**40,), 0),
        ("size > $1", (2**70,), 0),
        ("size = $1", (3.0,), 20),
        ("note IS NOT DISTINCT FROM $1", (None,), 0),
        ("$1 OR size = $2", (False, 1), 20),
        ("size = $1 OR true", (1,), 200),
    ],
)
def test_arguments_are_bound_whatever_they_are(
    database: Database, filled: Table, where: str, args: Any, count: int
) -> None:
    with database.connection() as conn:
        for _ in range(7):  # beyond the number from which on psycopg prepares
            assert filled.count(conn, Q().where(where, *args).build()) == count


@pytest.mark.parametrize(
    ("where", "args"),
    [
        ("nope = 1", ()),
        ("size = = 2", ()),
        ("size / 0 = 1", ()),
        ("size = $1", ("abc",)),
        ("size = $1", (object(),)),
        ("size", ()),
    ],
)
def test_a_condition_that_cannot_be_run_is_a_query_error(
    database: Database, filled: Table, where: str, args: Any
) -> None:
    query = Q().where(where, *args).build()
    with database.connection() as conn:
        for call in (filled.search, filled.count):
            with pytest.raises(QueryError) as caught:
                call(conn, query)
            assert "abc" not in str(caught.value)
        assert filled.count(conn, Query()) == 200  # the connection is none the worse


def test_a_where_cannot_reach_beyond_its_parentheses(database: Database, filled: Table) -> None:
    with database.connection() as conn:
        assert len(filled.search(conn, Q().where("true -- ) LIMIT 1").limit(50).build())[1]) == 50


def test_a_stream_gives_every_row_in_order_without_a_limit(database: Database, filled: Table) -> None:
    with database.transaction() as conn:
        streamed = [found.values[0] for _, found in filled.stream(conn, Query(order_by="id"), 7)]
        limited = list(filled.stream(conn, Q().fields("id").limit(5).offset(3).order_by("id").build()))
    assert streamed == [f"k{number:03}" for number in range(200)]
    assert [found.values for _, found in limited] == [(f"k{number:03}",) for number in range(3, 8)]


def test_pages_follow_each_other_in_the_order_of_the_keys(database: Database, filled: Table) -> None:
    seen: list[str] = []
    with database.connection() as conn:
        while page := filled.page(conn, seen[-1] if seen else None, 33):
            seen += [found.values[0] for found in page]
        assert filled.key_bounds(conn) == ("k000", "k199")
        assert make_table(database, Everything).key_bounds(conn) is None
    assert seen == [f"k{number:03}" for number in range(200)]


def test_a_value_that_python_does_not_have_harms_no_other(database: Database, table: Table) -> None:
    plan, place = table.plan, table.plan.column_names.index("first")
    with database.connection() as conn:
        conn.command("INSERT INTO items (id, name, size, first) VALUES ('a', 'b', 1, 'infinity'), ('c', 'd', 2, NULL)")
        found = [table.get(conn, "a"), table.get_many(conn, ["a", "c"])["a"], table.page(conn, None, 5)[0]]
        found += table.search(conn, Query(where="id = 'a'"))[1]
        good = table.get_many(conn, ["a", "c"])["c"]
    with database.transaction() as conn:
        streamed = [row for _, row in table.stream(conn, Query(order_by="id"))]
    for held in [*found, streamed[0]]:
        assert held is not None and held.values[place] is UNHELD and held.values[2] == 1
        with pytest.raises(DecodeError, match="9999") as caught:
            plan.from_row(held.values, None)
        assert caught.value.column == "first"
    assert plan.from_row(good.values, None) == plan.from_row(streamed[1].values, None)


def test_columns_are_checked_again_where_they_become_sql(database: Database, filled: Table) -> None:
    with database.transaction() as conn:
        for query in (Query(order_by='id"; SELECT 1 --'), Query(fields=('id" FROM pg_user --',))):
            with pytest.raises(QueryError):
                filled.search(conn, query)
            with pytest.raises(QueryError):
                list(filled.stream(conn, query))


# -- Strata's own tables ----------------------------------------------------------------------------------------


def test_repairs_travel_in_the_writes_transaction_and_are_taken_once_done(database: Database, table: Table) -> None:
    with pytest.raises(RuntimeError), database.transaction() as conn:
        table.record_repairs(conn, {"lost": 1})
        raise RuntimeError
    other = Table(compile_model(Item), "items", schema_name="other", deferred=False)
    with database.transaction() as conn:
        for key, version in (("a", 1), ("a", 2), ("a", 1), ("b", 3), ("b", 5)):
            table.record_repairs(conn, {key: version})
        other.record_repairs(conn, {"c": 9})
    with database.connection() as conn:
        taken = table.take_repairs(conn, 10)
        assert sorted(taken) == [("a", 1), ("a", 2), ("b", 5)]  # the older one came after the newer
        table.record_repairs(conn, {"b": 6})
        table.repairs_done(conn, taken)
        assert table.take_repairs(conn, 10) == [("b", 6)]
        assert other.take_repairs(conn, 10) == [("c", 9)]


def test_a_key_has_one_repair_however_often_it_is_written_and_no_writer_waits_for_another(
    database: Database, table: Table
) -> None:
    for version in range(1, 50):
        with database.transaction() as conn:
            table.record_repairs(conn, {"a": version})
    with database.connection() as conn, database.connection() as writer, database.connection() as late:
        assert table.take_repairs(conn, 10) == [("a", 49)]
        writer.execute("BEGIN")
        table.record_repairs(writer, {"a": 50})
        late.execute("SET lock_timeout = 1")
        table.record_repairs(late, {"a": 51})
        # A row that a transaction which is under way replaces is seen to all the same, and holds up nobody.
        assert table.take_repairs(conn, 10) == [("a", 49), ("a", 51)]
        table.repairs_done(conn, [Repair("a", 49), Repair("a", 51)])
        assert table.take_repairs(conn, 10) == [("a", 49)]
        writer.execute("COMMIT")
        assert table.take_repairs(conn, 10) == [("a", 50)]
        late.execute("RESET lock_timeout")


def test_repairs_are_taken_page_by_page(database: Database, table: Table) -> None:
    with database.transaction() as conn:
        for key in "cabed":
            table.record_repairs(conn, {key: 7})
        pages, last = [], FIRST
        while page := table.take_repairs(conn, 2, last):
            pages.append([row.key_text for row in page])
            last = page[-1]
    assert pages == [["a", "b"], ["c", "d"], ["e"]]


def test_one_process_at_a_time_takes_the_repairs_of_a_schema(database: Database, table: Table) -> None:
    other = Table(compile_model(Item), "items", schema_name="other", deferred=False)
    with database.transaction() as first, database.connection() as second:
        table.take_repairs(first, 10)
        other.take_repairs(second, 10)
        second.execute("SET lock_timeout = 1")
        with pytest.raises(psycopg.errors.LockNotAvailable):
            table.take_repairs(second, 10)
        second.execute("RESET lock_timeout")


def test_a_statement_is_prepared_once_for_all_values(database: Database) -> None:
    table = make_table(database, Everything)
    with database.transaction() as conn:
        for number in (1, 2**20, 2**40, -1):
            for record in EXTREMES:
                values = (record.id, record.text, number, 1.0, *table.plan.to_row(record, None)[4:])
                table.upsert(conn, values, stamp(1), NODE)
        prepared = conn.execute("SELECT count(*) FROM pg_prepared_statements WHERE statement LIKE 'INSERT%'").fetchone()
    assert prepared == (1,)


def test_statements_survive_a_server_that_forgot_them(database: Database, table: Table) -> None:
    put(database, table, row("a"), stamp(1))
    with database.connection() as conn:
        assert table.get(conn, "a") is not None
        conn.command("DEALLOCATE ALL")
        assert table.get(conn, "a") is not None
        conn.command("ALTER TABLE items ALTER COLUMN size TYPE int4, ADD COLUMN more text")
        assert table.get(conn, "a") is not None


def test_psycopgs_own_errors_leave_with_their_causes_scrubbed(database: Database) -> None:
    with pytest.raises(strata.StrataError) as caught, database.connection() as conn:
        conn.execute("SELECT 'hush-hush'::int")
    assert isinstance(caught.value.__cause__, psycopg.Error)
    assert "hush-hush" not in f"{caught.value} {caught.value.__cause__}"
