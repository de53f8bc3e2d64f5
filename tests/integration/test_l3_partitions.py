"""Tables that are partitioned by the months of a timestamp: one row a key, the last write, wherever it lives."""

from __future__ import annotations

import random
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any

import pytest
from msgspec.structs import replace

import strata
from strata import UNLOADED, Index, PostgresPolicy, Q, Schema
from strata.errors import InvalidModelError
from strata.l3 import bulk, months
from strata.l3.migrations import Migrator
from strata.l3.partition import Month, months_from
from strata.l3.pool import Database
from strata.l3.report import MigrationReport
from strata.l3.table import Table
from strata.l3.values import Change, Status
from strata.l3.writes import Written
from strata.model import compile_model
from tests.databases import NEWEST, VERSIONS
from tests.l3 import NODE, deletion, fresh, stamp

JAN, FEB, MAR = (datetime(2026, month, 10, tzinfo=UTC) for month in (1, 2, 3))
LONG_AGO = datetime(1999, 12, 31, tzinfo=UTC)


@dataclass
class Event:
    """Partitioned by `at`, which may be NULL and may change."""

    id: Annotated[str, strata.PrimaryKey]
    at: Annotated[datetime | None, strata.Indexed]
    size: int = 0
    note: str | None = None
    first: Annotated[datetime | None, strata.AutoNowAdd] = None


@dataclass
class Visit:
    """Partitioned by `at`, which is NOT NULL."""

    id: Annotated[int, strata.PrimaryKey]
    at: datetime
    page: str = ""


@pytest.fixture(params=NEWEST)
def database(request: pytest.FixtureRequest) -> Iterator[Database]:
    with fresh(request.param, max_conns=20) as database:
        yield database


@pytest.fixture(params=[False, True], ids=["through", "behind"])
def table(request: pytest.FixtureRequest, database: Database) -> Table:
    table, schema = events(deferred=request.param)
    Migrator(database, [(table, schema)], now=JAN).migrate()
    return table


def events(
    model: type = Event, *, deferred: bool = False, by: str | None = "at", **options: Any
) -> tuple[Table, Schema[Any]]:
    table = Table(compile_model(model), "events", schema_name="events", deferred=deferred, partition_by=by)
    return table, Schema(model, name="events", l3=PostgresPolicy(partition_by=by), **options)


def migrate(database: Database, *tables: Any, now: datetime = JAN) -> MigrationReport:
    return Migrator(database, tables or [events()], now=now).migrate()


def query(database: Database, sql: str) -> list[Any]:
    with database.connection() as conn:
        return conn.execute(sql).fetchall()


def run(database: Database, sql: str) -> None:
    with database.connection() as conn:
        conn.command(sql)


def places(database: Database) -> dict[Any, str]:
    """The partition of each row, without the table's name; a key that is there twice fails."""
    rows = query(database, "SELECT id, tableoid::regclass::text FROM events ORDER BY id")
    assert len({key for key, _ in rows}) == len(rows), "a key has two rows"
    return {key: place.removeprefix("events_") for key, place in rows}


def partitions(database: Database) -> list[str]:
    sql = "SELECT inhrelid::regclass::text FROM pg_inherits WHERE inhparent = 'events'::regclass ORDER BY 1"
    return [name.removeprefix("events_") for (name,) in query(database, sql)]


def row(key: str, at: datetime | None, size: int = 0, first: Any = JAN) -> tuple[Any, ...]:
    return key, at, size, None, first


def upsert(database: Database, table: Table, values: Any, version: int) -> Written:
    with database.transaction() as conn:
        return table.upsert(conn, values, stamp(version), NODE)


def set_many(database: Database, table: Table, rows: Any, version: int) -> list[Written]:
    with database.transaction() as conn:
        return table.set_many(conn, rows, [stamp(version)] * len(rows), NODE)


def apply(database: Database, table: Table, *changes: Change) -> list[tuple[Any, Status]]:
    with database.transaction() as conn:
        return [(item.key, item.status) for item in table.apply(conn, changes)]


def change(key: str, version: int, at: datetime | None, size: int = 0) -> Change:
    return Change(key, key, stamp(version), values=row(key, at, size))


# -- making -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("database", VERSIONS, indirect=True)
def test_a_new_table_has_this_month_those_ahead_and_a_default(database: Database) -> None:
    assert migrate(database).applied
    assert partitions(database) == ["default", "y2026m01", "y2026m02", "y2026m03", "y2026m04"]
    assert migrate(database) == MigrationReport()


def test_the_months_of_a_later_day_are_made_ahead_once(database: Database) -> None:
    migrate(database)
    later = Migrator(database, [events()], now=MAR)
    assert [" ".join(statement.split()[:3]) for statement in later.make_partitions().applied[::2]] == [
        'CREATE TABLE "events_y2026m05"',
        'CREATE TABLE "events_y2026m06"',
    ]
    assert later.make_partitions() == MigrationReport()
    assert later.migrate() == MigrationReport()
    assert partitions(database)[-2:] == ["y2026m05", "y2026m06"]
    assert query(database, "SELECT count(*) FROM _strata_migrations") == [(2,)]


def test_partitions_that_are_made_later_have_the_indexes_of_the_others(database: Database) -> None:
    migrate(database)
    migrate(database, now=MAR)
    sql = "SELECT tablename, count(*)::int FROM pg_indexes WHERE tablename LIKE 'events_%' GROUP BY 1"
    assert {count for _, count in query(database, sql)} == {2}


def test_partitions_made_by_hand_are_respected(database: Database) -> None:
    migrate(database)
    run(
        database,
        "CREATE TABLE spring PARTITION OF events FOR VALUES FROM ('2026-05-15') TO ('2026-06-15');"
        "CREATE TABLE past PARTITION OF events FOR VALUES FROM (MINVALUE) TO ('2000-01-01')",
    )
    migrate(database, now=datetime(2026, 4, 1, tzinfo=UTC))
    assert partitions(database)[-3:] == ["y2026m07", "past", "spring"]


def test_rows_of_the_month_move_out_of_the_default_partition(database: Database, table: Table) -> None:
    may = datetime(2026, 5, 3, tzinfo=UTC)
    rows = [row("a", may), row("b", may + timedelta(days=40)), row("c", None), row("d", LONG_AGO)]
    set_many(database, table, rows, 1)
    assert set(places(database).values()) == {"default"}
    Migrator(database, [events(deferred=table.deferred)], now=FEB).make_partitions()
    assert places(database) == {"a": "y2026m05", "b": "default", "c": "default", "d": "default"}
    with database.connection() as conn:
        assert [table.get(conn, key) for key in "ab"] == [(stamp(1), rows[0]), (stamp(1), rows[1])]
    assert upsert(database, table, row("a", may, 5), 2).version == stamp(2)


def test_more_rows_than_are_moved_at_once_are_left_and_told(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(months, "MOVED", 2)
    migrate(database)
    run(database, "INSERT INTO events SELECT n::text, '2026-05-03', n FROM generate_series(1, 3) AS n")
    report = Migrator(database, [events()], now=FEB).make_partitions()
    (told,) = report.manual
    assert report.applied == ()
    assert "y2026m05" in told.text
    run(database, told.sql)
    assert set(places(database).values()) == {"y2026m05"}
    assert migrate(database, now=FEB) == MigrationReport()


def test_rows_with_triggers_are_left_and_told(database: Database) -> None:
    migrate(database)
    run(
        database,
        "CREATE FUNCTION no() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RAISE ''never''; END';"
        "CREATE TRIGGER no BEFORE DELETE ON events FOR EACH ROW EXECUTE FUNCTION no();"
        "INSERT INTO events (id, at, size) VALUES ('a', '2026-05-03', 1)",
    )
    (told,) = migrate(database, now=FEB).manual
    assert "triggers" in told.text
    run(database, "DELETE FROM events_default WHERE false; ALTER TABLE events DISABLE TRIGGER no")
    assert migrate(database, now=FEB).manual == ()


def test_a_table_in_use_is_left_for_the_next_time(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(months, "TRIES", 1)
    monkeypatch.setattr(months, "PATIENCE", "50ms")
    migrate(database)
    with database.transaction() as reader:
        reader.command("SELECT * FROM events")
        (told,) = migrate(database, now=FEB).manual
        assert "in use" in told.text
    assert migrate(database, now=FEB).manual == ()
    assert "y2026m05" in partitions(database)


def test_many_may_make_partitions_at_once_while_others_write(database: Database) -> None:
    table, schema = events()
    migrate(database, (table, schema))
    run(database, "INSERT INTO events SELECT 'old' || n, '2026-05-03', n FROM generate_series(1, 500) AS n")
    stopped = threading.Event()

    def write(name: str) -> int:
        version = 2
        while not stopped.is_set():
            may = datetime(2026, 5, 1 + version % 28, tzinfo=UTC)
            upsert(database, table, row(f"{name}{version % 7}", may, version), version)
            upsert(database, table, row("shared", may, version), version)
            version += 1
        return version

    with ThreadPoolExecutor(12) as pool:
        writers = [pool.submit(write, name) for name in "abcd"]
        try:
            makers = [pool.submit(Migrator(database, [(table, schema)], now=FEB).make_partitions) for _ in range(8)]
            reports = [maker.result() for maker in makers]
        finally:
            stopped.set()
        assert all(writer.result() > 2 for writer in writers)
    if not any(report.applied for report in reports):  # the writers left no gap; now they do
        assert migrate(database, (table, schema), now=FEB).applied
    found = places(database)
    assert len(found) >= 501
    assert set(found.values()) == {"y2026m05"}


def test_eight_migrations_at_once_make_one_table(database: Database) -> None:
    with ThreadPoolExecutor(8) as pool:
        reports = list(pool.map(lambda _: migrate(database), range(8)))
    assert sum(bool(report.applied) for report in reports) == 1
    assert migrate(database) == MigrationReport()


# -- refused and told ---------------------------------------------------------------------------------------------


def test_unique_columns_are_refused_with_the_reason(database: Database) -> None:
    @dataclass
    class Named:
        id: Annotated[str, strata.PrimaryKey]
        at: datetime
        name: Annotated[str, strata.Unique]

    with pytest.raises(InvalidModelError, match="PostgreSQL checks each partition by itself"):
        migrate(database, events(Named))
    with pytest.raises(InvalidModelError, match="page cannot be unique"):
        migrate(database, events(Visit, indexes=[Index(["page"], unique=True)]))


def test_an_index_with_the_timestamp_may_be_unique(database: Database) -> None:
    both = events(Visit, indexes=[Index(["page", "at"], unique=True)])
    assert migrate(database, both).applied
    assert migrate(database, both) == MigrationReport()
    upsert(database, both[0], (1, JAN, "home"), 1)
    with pytest.raises(strata.ConstraintError):
        upsert(database, both[0], (2, JAN, "home"), 1)


@pytest.mark.parametrize("model", [Event, Visit])
def test_an_existing_table_is_told_with_the_sql_that_partitions_it(database: Database, model: type) -> None:
    plain, wanted = events(model, by=None), events(model)
    migrate(database, plain)
    rows = "'2025-12-01'::timestamptz + n * interval '10 days' FROM generate_series(1, 6) AS n"
    if model is Event:
        run(database, f"INSERT INTO events (size, id, at) SELECT 0, n::text, {rows}")
        run(database, "INSERT INTO events (id, size) VALUES ('x', 0)")
    else:
        run(database, f"INSERT INTO events (page, id, at) SELECT '', n, {rows}")
    (told,) = migrate(database, wanted).manual
    assert "not partitioned by 'at'" in told.text
    values = ("1", MAR, 1, None, JAN) if model is Event else (1, MAR, "")
    assert upsert(database, wanted[0], values, 5).version == stamp(5)  # works meanwhile, too
    run(database, told.sql)
    assert migrate(database, wanted).manual == ()
    assert migrate(database, wanted) == MigrationReport()
    found = {str(key): place for key, place in places(database).items()}
    assert found.pop("x", "default") == "default"
    assert found == {"1": "y2026m03"} | dict.fromkeys("23", "y2025m12") | dict.fromkeys("456", "y2026m01")


def test_a_schema_that_forgets_its_partitions_is_told(database: Database) -> None:
    migrate(database)
    (told,) = migrate(database, events(by=None)).manual
    assert "partition_by" in told.text


def test_a_partitioned_table_grown_by_steps_is_that_of_a_fresh_database() -> None:
    @dataclass
    class Small:
        id: Annotated[str, strata.PrimaryKey]
        at: datetime | None

    def shape(database: Database) -> Any:
        columns = "SELECT table_name, column_name, data_type, is_nullable FROM information_schema.columns"
        kept = " WHERE table_schema = 'public' ORDER BY 1, 2"
        bounds = "SELECT relname::text, pg_get_expr(relpartbound, oid) FROM pg_class WHERE relispartition ORDER BY 1"
        indexes = "SELECT tablename::text, indexdef FROM pg_indexes WHERE schemaname = 'public' ORDER BY 1, 2"
        return [query(database, columns + kept), query(database, bounds), query(database, indexes)]

    with fresh() as grown, fresh() as new:
        migrate(grown, events(Small))
        migrate(grown)
        migrate(grown, now=MAR)
        migrate(new, now=JAN)
        migrate(new, now=MAR)
        assert shape(grown) == shape(new)


# -- writing ------------------------------------------------------------------------------------------------------


def test_a_row_lives_in_the_month_of_its_timestamp_and_moves_with_it(database: Database, table: Table) -> None:
    for version, (at, place) in enumerate(
        [(JAN, "y2026m01"), (FEB, "y2026m02"), (None, "default"), (LONG_AGO, "default"), (MAR, "y2026m03")], 1
    ):
        written = upsert(database, table, row("a", at, version), version)
        assert written.version == stamp(version)
        assert places(database) == {"a": place}
        with database.connection() as conn:
            assert table.get(conn, "a") == (stamp(version), row("a", at, version))


def test_what_the_first_insert_stamped_is_kept_across_partitions(database: Database, table: Table) -> None:
    upsert(database, table, row("a", JAN), 1)
    written = upsert(database, table, row("a", FEB, first=MAR), 2)
    assert (written.names, written.values) == (("first",), (JAN,))
    set_many(database, table, [row(f"k{n}", JAN) for n in range(50)], 1)
    answers = set_many(database, table, [row(f"k{n}", FEB, first=MAR) for n in range(60)], 2)
    assert [item.values for item in answers] == [(JAN,)] * 50 + [()] * 10


def test_a_synchronous_write_outdoes_the_row_wherever_it_is(database: Database, table: Table) -> None:
    upsert(database, table, row("a", JAN), 9)
    assert upsert(database, table, row("a", FEB, 7), 2).version == stamp(10)
    assert set_many(database, table, [row("a", MAR, 8)], 3)[0].version == stamp(11)
    assert places(database) == {"a": "y2026m03"}


def test_columns_that_were_not_loaded_stay_when_a_row_moves(database: Database, table: Table) -> None:
    upsert(database, table, row("a", JAN, 4), 1)
    upsert(database, table, ("a", FEB, UNLOADED, "note", UNLOADED), 2)
    with database.connection() as conn:
        assert table.get(conn, "a") == (stamp(2), ("a", FEB, 4, "note", JAN))
    with pytest.raises(strata.EncodeError, match="no row"):
        upsert(database, table, ("b", FEB, UNLOADED, "note", UNLOADED), 3)


@pytest.mark.parametrize("count", [3, 400])
def test_many_rows_are_written_wherever_they_are(
    database: Database, table: Table, count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bulk, "PART", 150)
    moments = [JAN, FEB, MAR, None, LONG_AGO]
    spread = [row(f"k{n:03}", moments[n % 5], n) for n in range(count)]
    moved = [row(f"k{n:03}", moments[(n + 1) % 5], n + 1) for n in range(count)]
    half = [row(f"k{n:03}", moments[(n + 2) % 5], n + 2) for n in range(count // 2, count + count // 2)]
    for version, rows in enumerate([spread, moved, half], 1):
        assert [item.version for item in set_many(database, table, rows, version)] == [stamp(version)] * count
        with database.connection() as conn:
            assert {found.values for found in table.get_many(conn, [r[0] for r in rows]).values()} == set(rows)
    assert len(places(database)) == count + count // 2
    partial = [(f"k{n:03}", FEB, UNLOADED, "x", UNLOADED) for n in range(count)]
    set_many(database, table, partial, 9)
    assert [places(database)[r[0]] for r in partial] == ["y2026m02"] * count


def test_deletions_find_the_row(database: Database, table: Table) -> None:
    for version, at in ((1, JAN), (3, None)):
        upsert(database, table, row("a", at), version)
        with database.transaction() as conn:
            assert table.delete(conn, "a", stamp(version + 1), NODE) == stamp(version + 1)
        assert places(database) == {}
    with database.transaction() as conn:
        table.delete(conn, "a", stamp(6), NODE)


def test_writers_of_one_key_make_one_row(database: Database, table: Table) -> None:
    moments = [JAN, FEB, MAR, None]
    start = threading.Barrier(8)

    def write(number: int) -> None:
        start.wait()
        for round_ in range(12):
            at = moments[(number + round_) % 4]
            if round_ % 4 == 3:
                set_many(database, table, [row(f"k{n}", at, number) for n in range(20)], number * 100 + round_ + 1)
            elif round_ % 6 == 4:
                with database.transaction() as conn:
                    table.delete(conn, f"k{number % 3}", stamp(number * 100 + round_ + 1), NODE)
            else:
                upsert(database, table, row(f"k{round_ % 3}", at, number), number * 100 + round_ + 1)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(write, range(8)))
    found = places(database)  # fails where a key is there twice
    assert set(found) <= {f"k{n}" for n in range(20)}
    assert len(found) >= 17


def test_queries_see_all_partitions(database: Database, table: Table) -> None:
    set_many(database, table, [row(f"k{n}", at, n) for n, at in enumerate([JAN, FEB, MAR, None, LONG_AGO])], 1)
    with database.connection() as conn:
        assert table.count(conn, strata.Query()) == 5
        _, found = table.search(conn, Q().where("at >= $1", FEB).order_by("at").desc().build())
        assert [item.values[0] for item in found] == ["k2", "k1"]
        assert [item.values[0] for item in table.page(conn, "k1", 2)] == ["k2", "k3"]
        assert table.key_bounds(conn) == ("k0", "k4")
        assert table.exists(conn, "k3")
        assert {key: row.version for key, row in table.get_many(conn, ["k4", "x"]).items()} == {"k4": stamp(1)}


# -- write-behind -------------------------------------------------------------------------------------------------


@pytest.fixture
def behind(database: Database) -> Table:
    table, schema = events(deferred=True)
    Migrator(database, [(table, schema)], now=JAN).migrate()
    return table


def test_the_last_write_wins_whatever_order_and_partition(database: Database, behind: Table) -> None:
    newest = [change("a", 5, FEB, 5), change("b", 5, None, 5), deletion("c", stamp(5))]
    assert apply(database, behind, *newest) == [(key, Status.APPLIED) for key in "abc"]
    assert apply(database, behind, *newest) == [(key, Status.APPLIED) for key in "abc"]
    older = [change("a", 4, JAN), change("b", 4, JAN), change("c", 4, JAN), change("d", 4, JAN)]
    assert apply(database, behind, *older) == [
        ("a", Status.SUPERSEDED),
        ("b", Status.SUPERSEDED),
        ("c", Status.SUPERSEDED),
        ("d", Status.APPLIED),
    ]
    assert places(database) == {"a": "y2026m02", "b": "default", "d": "y2026m01"}
    assert apply(database, behind, change("c", 6, MAR), deletion("a", stamp(6))) == [
        ("c", Status.APPLIED),
        ("a", Status.APPLIED),
    ]
    assert places(database) == {"b": "default", "c": "y2026m03", "d": "y2026m01"}


def test_a_large_batch_of_all_sorts_is_applied(database: Database, behind: Table) -> None:
    moments = [JAN, FEB, MAR, None]
    set_many(database, behind, [row(f"k{n:03}", moments[n % 4], n) for n in range(300)], 2)
    batch: list[Change] = []
    for n in range(400):
        key, at = f"k{n:03}", moments[(n + 1) % 4]
        kind = n % 5
        if kind == 0:
            batch.append(deletion(key, stamp(3)))
        elif kind == 1:
            batch.append(Change(key, key, stamp(3), names=("id", "at", "note"), values=(key, at, "partial")))
        else:
            batch.append(change(key, 1 if kind == 2 else 3, at, n))
    answers = dict(apply(database, behind, *batch))
    for n in range(400):
        there, status = n < 300, answers[f"k{n:03}"]
        if n % 5 == 1 and not there:
            assert status is Status.MISSING_ROW
        elif n % 5 == 2 and there:
            assert status is Status.SUPERSEDED
        else:
            assert status is Status.APPLIED
    found = places(database)
    expected = {JAN: "y2026m01", FEB: "y2026m02", MAR: "y2026m03", None: "default"}
    for n in range(400):
        if n % 5 == 0 or (n % 5 == 1 and n >= 300):
            assert f"k{n:03}" not in found
        else:
            at = moments[n % 4] if n % 5 == 2 and n < 300 else moments[(n + 1) % 4]
            assert found[f"k{n:03}"] == expected[at]


def test_what_lies_below_the_horizon_is_not_inserted_but_updates(database: Database, behind: Table) -> None:
    apply(database, behind, deletion("gone", stamp(5)), change("there", 2, JAN))
    with database.transaction() as conn:
        assert behind.forget_tombstones(conn, datetime.now(UTC) + timedelta(days=1)) == 1
    assert apply(database, behind, change("gone", 4, FEB), change("there", 4, FEB)) == [
        ("gone", Status.BELOW_HORIZON),
        ("there", Status.APPLIED),
    ]
    assert places(database) == {"there": "y2026m02"}


def test_a_refused_record_is_named(database: Database, behind: Table) -> None:
    good = [change(f"k{n}", 1, JAN) for n in range(5)]
    bad = replace(good[2], values=("k2", JAN, None, None, JAN))
    with pytest.raises(strata.l3.diagnosis.BatchError) as caught:
        apply(database, behind, *good[:2], bad, *good[3:])
    assert caught.value.diagnosis.sqlstate == "23502"


@pytest.mark.parametrize("database", VERSIONS, indirect=True)
@pytest.mark.parametrize("deferred", [False, True], ids=["through", "behind"])
@pytest.mark.parametrize("seed", range(3))
def test_every_answer_and_row_is_that_of_a_plain_table(database: Database, seed: int, deferred: bool) -> None:
    chance = random.Random(seed)
    monthly, schema = events(deferred=deferred)
    plain = Table(compile_model(Event), "plain", schema_name="plain", deferred=deferred)
    both = [(monthly, schema), (plain, Schema(Event, name="plain", l3=PostgresPolicy()))]
    migrate(database, *both)
    for step in range(60):
        write = _random_write(chance, step, deferred)
        answers = []
        for table in (monthly, plain):
            try:
                with database.transaction() as conn:
                    answers.append(write(table, conn))
            except strata.EncodeError as error:
                answers.append(str(error).replace("plain", "events"))
        assert answers[0] == answers[1], f"step {step}"
    with database.connection() as conn:
        rows = plain.page(conn, None, 1000)
        assert rows and monthly.page(conn, None, 1000) == rows
    places(database)


def _random_write(chance: random.Random, step: int, deferred: bool) -> Any:
    """One write of any kind, as a function of table and connection."""
    keys = chance.sample([f"k{n:02}" for n in range(40)], chance.choice([1, 5, 30]))

    def values(key: str, unloaded: bool) -> tuple[Any, ...]:
        whole = row(key, chance.choice([JAN, FEB, MAR, None, LONG_AGO]), step, chance.choice([JAN, MAR, None]))
        return (*whole[:2], UNLOADED, whole[3], UNLOADED) if unloaded else whole

    def version() -> int:
        return stamp(chance.randint(1, 60))

    kind = chance.choice(["upsert", "set_many", "delete", *(["apply"] * 4 if deferred else [])])
    if kind == "upsert":
        one, at = values(keys[0], chance.random() < 0.3), version()
        return lambda table, conn: table.upsert(conn, one, at, NODE)
    if kind == "delete":
        at = version()
        return lambda table, conn: table.delete(conn, keys[0], at, NODE)
    if kind == "set_many":
        partly = chance.choice([0.0, 0.0, 0.5, 1.0])
        rows = [values(key, chance.random() < partly) for key in keys]
        stamps = [version() for _ in keys]
        return lambda table, conn: table.set_many(conn, rows, stamps, NODE)
    changes = []
    for key in keys:
        sort = chance.random()
        if sort < 0.2:
            changes.append(deletion(key, version()))
        elif sort < 0.4:
            carried = (key, chance.choice([FEB, None]), step)
            changes.append(Change(key, key, version(), names=("id", "at", "size"), values=carried))
        else:
            changes.append(Change(key, key, version(), values=values(key, False)))
    return lambda table, conn: table.apply(conn, changes)


def test_months_follow_each_other_across_the_year() -> None:
    assert months_from(datetime(2026, 11, 30, tzinfo=UTC)) == [
        Month(2026, 11), Month(2026, 12), Month(2027, 1), Month(2027, 2)
    ]  # fmt: skip
    assert Month(2026, 12).next().start == datetime(2027, 1, 1, tzinfo=UTC)
