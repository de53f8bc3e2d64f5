"""Migrations: additions only, safe to run always and by everybody; what is not an addition is told, not done."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, make_dataclass
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from typing import Annotated, Any, Literal

import pytest

import strata
from strata import Default, Index, PostgresPolicy, Schema
from strata.errors import InvalidModelError, MigrationError
from strata.l3 import migrations
from strata.l3.migrations import Migrator
from strata.l3.pool import Database
from strata.l3.report import MigrationReport
from strata.l3.table import Table
from strata.l3.values import Status
from strata.model import compile_model
from strata.policies import L3PoolConfig
from strata.waits.clock import SystemClock
from tests.databases import VERSIONS
from tests.l3 import NODE, Item, change, deletion, fresh, row, stamp

Key = Annotated[str, strata.PrimaryKey]


@pytest.fixture(params=VERSIONS)
def database(request: pytest.FixtureRequest) -> Iterator[Database]:
    with fresh(request.param, max_conns=20) as database:
        yield database


def model(*fields: Any) -> Any:
    """A dataclass `Thing` with the key and these fields: (name, type) or (name, type, default)."""
    return make_dataclass("Thing", [("id", Key), *fields], kw_only=True)


def tables(kind: Any, *, deferred: bool = False, indexes: Any = (), **policy: Any) -> list[tuple[Table, Schema[Any]]]:
    by = policy.get("partition_by")
    table = Table(compile_model(kind), "things", schema_name="things", deferred=deferred, partition_by=by)
    return [(table, Schema(kind, name="things", l3=PostgresPolicy(**policy), indexes=indexes))]


def migrate(database: Database, kind: Any, **options: Any) -> MigrationReport:
    return Migrator(database, tables(kind, **options)).migrate()


def query(database: Database, sql: str) -> list[Any]:
    with database.connection() as conn:
        return conn.execute(sql).fetchall()


def run(database: Database, sql: str) -> None:
    with database.connection() as conn:
        conn.command(sql)


def described(database: Database) -> dict[str, tuple[str, bool, str | None]]:
    """The columns of `things`: type, NOT NULL, default."""
    return {
        name: (kind, nulls == "NO", default)
        for name, kind, nulls, default in query(
            database,
            "SELECT column_name, data_type, is_nullable, column_default FROM information_schema.columns"
            " WHERE table_name = 'things' ORDER BY ordinal_position",
        )
    }


def indexes(database: Database) -> list[str]:
    return [
        name for (name,) in query(database, "SELECT indexname FROM pg_indexes WHERE tablename = 'things' ORDER BY 1")
    ]


def constraints(database: Database) -> dict[str, str]:
    return dict(
        query(
            database,
            "SELECT conname, pg_get_constraintdef(oid) FROM pg_constraint"
            " WHERE conrelid = 'things'::regclass AND contype IN ('u', 'p')",
        )
    )


# -- making -----------------------------------------------------------------------------------------------------


def test_an_empty_database_gets_every_table_once(database: Database) -> None:
    first = migrate(database, Item)
    assert any('CREATE TABLE "things"' in statement for statement in first.applied) and first.manual == ()
    assert migrate(database, Item) == MigrationReport()
    names = {name for (name,) in query(database, "SELECT tablename FROM pg_tables WHERE schemaname = 'public'")}
    own = ("migrations", "tombstones", "repairs", "horizons", "partials")
    assert names == {"things", *(f"_strata_{name}" for name in own)}


def test_every_type_has_its_column(database: Database) -> None:
    kinds: dict[str, tuple[Any, str]] = {
        "text": (str, "text"),
        "number": (int, "bigint"),
        "real": (float, "double precision"),
        "flag": (bool, "boolean"),
        "at": (datetime, "timestamp with time zone"),
        "data": (bytes, "bytea"),
        "nested": (dict[str, int], "jsonb"),
        "many": (list[int], "jsonb"),
        "ident": (uuid.UUID, "uuid"),
        "amount": (Decimal, "numeric"),
        "day": (date, "date"),
        "hour": (time, "time without time zone"),
        "span": (timedelta, "interval"),
        "kind": (Literal["a", "b"], "text"),
    }
    migrate(database, model(*((name, kind | None) for name, (kind, _) in kinds.items())))
    found = described(database)
    assert found.pop("id") == ("text", True, None)
    assert found.pop("_strata_version") == ("bigint", True, "0")
    assert found == {name: (sql, False, None) for name, (_, sql) in kinds.items()}


def test_nothing_is_done_or_locked_where_nothing_changed(database: Database) -> None:
    migrate(database, Item)
    records = query(database, "SELECT * FROM _strata_migrations")
    with database.transaction() as conn:
        conn.command("LOCK TABLE things IN ROW EXCLUSIVE MODE; LOCK TABLE _strata_migrations IN ROW EXCLUSIVE MODE")
        assert migrate(database, Item) == MigrationReport()
    assert query(database, "SELECT * FROM _strata_migrations") == records


def test_defaults_are_quoted_and_work(database: Database) -> None:
    kind = model(
        ("name", Annotated[str, Default("it's \\ $1 %s")]),
        ("size", Annotated[int, Default(-7)]),
        ("real", Annotated[float, Default(1.5)]),
        ("flag", Annotated[bool, Default(True)]),
        ("at", Annotated[datetime, Default(sql="now()")]),
        ("span", Annotated[timedelta, Default(timedelta(days=-1, microseconds=5))]),
        ("amount", Annotated[Decimal, Default(Decimal("1.10"))]),
        ("day", Annotated[date, Default(date(2020, 2, 29))]),
    )
    assert migrate(database, kind).manual == ()
    run(database, "INSERT INTO things (id) VALUES ('a')")
    ((found),) = query(database, "SELECT name, size, real, flag, span, amount, day, at > '2020-01-01' FROM things")
    assert found == (
        "it's \\ $1 %s", -7, 1.5, True, timedelta(days=-1, microseconds=5), Decimal("1.10"), date(2020, 2, 29), True,
    )  # fmt: skip
    assert migrate(database, kind) == MigrationReport()


def test_unique_constraints_are_deferrable_for_write_behind_only(database: Database) -> None:
    kind = model(("name", Annotated[str, strata.Unique]), ("a", int), ("b", int))
    pairs = [Index(["a", "b"], unique=True)]
    migrate(database, kind, indexes=pairs)
    assert constraints(database)["things_name_key"] == "UNIQUE (name)"
    assert migrate(database, kind, indexes=pairs) == MigrationReport()
    told = migrate(database, kind, deferred=True, indexes=pairs)
    assert told.applied == () and [change.text.split()[0] for change in told.manual] == [
        "things_name_key",
        "things_a_b_key",
    ]
    for item in told.manual:
        run(database, item.sql)
    assert constraints(database)["things_name_key"] == "UNIQUE (name) DEFERRABLE"
    assert migrate(database, kind, deferred=True, indexes=pairs) == MigrationReport()


def test_indexes_have_names_of_their_own_however_long(database: Database) -> None:
    long = [f"a_column_with_a_really_very_long_name_{number}" for number in range(3)]
    kind = model(("name", Annotated[str, strata.Indexed]), *((name, int) for name in long))
    asked = [
        Index([long[0], long[1]]),
        Index([long[0], long[2]]),
        Index(["name"]),
        Index(["name", long[0]], name="mine"),
    ]
    migrate(database, kind, indexes=asked)
    found = indexes(database)
    assert {"things_name_idx", "mine", "things_pkey"} < set(found) and len(found) == 5
    assert all(len(name) <= 63 for name in found)
    assert migrate(database, kind, indexes=asked) == MigrationReport()


def test_an_index_over_an_unknown_column_is_refused(database: Database) -> None:
    with pytest.raises(InvalidModelError, match="nope"):
        migrate(database, Item, indexes=[Index(["nope"])])


def test_names_that_are_words_of_sql_are_quoted(database: Database) -> None:
    kind = model(("select", int), ("Order", str), ("user", Annotated[str, strata.Unique]))
    assert migrate(database, kind).manual == ()
    assert migrate(database, kind) == MigrationReport()


# -- extending --------------------------------------------------------------------------------------------------


def test_new_columns_are_added_to_a_table_with_rows(database: Database) -> None:
    migrate(database, model())
    run(database, "INSERT INTO things (id) VALUES ('a'), ('b')")

    @dataclass
    class Nested:
        x: int = 3

    kind = model(
        ("note", str | None),
        ("size", Annotated[int, Default(7)]),
        ("level", int, 4),
        ("real", float),
        ("name", str),
        ("tags", list[str], field(default_factory=lambda: ["new"])),
        ("nested", Nested, field(default_factory=Nested)),
        ("ident", uuid.UUID),
        ("kind", Literal["x", "y"]),
        ("made", Annotated[datetime, strata.AutoNowAdd]),
    )
    report = migrate(database, kind)
    told = [change.text.split()[0] for change in report.manual if "insert rows" in change.text]
    assert told == ["things.real", "things.name", "things.ident", "things.kind"] and len(told) == len(report.manual)
    columns = "note, size, level, real, name, tags, nested, ident, kind, made > '2020-01-01'"
    expected: Any = (None, 7, 4, 0.0, "", ["new"], {"x": 3}, uuid.UUID(int=0), "x", True)
    assert query(database, f"SELECT {columns} FROM things") == [expected] * 2
    found = described(database)
    assert found["level"] == ("bigint", True, "4") and found["real"] == ("double precision", True, None)
    assert found["tags"] == ("jsonb", True, """'["new"]'::jsonb""") and found["made"][2] == "now()"
    assert migrate(database, kind) == MigrationReport()
    table = tables(kind)[0][0]
    with database.connection() as conn:
        loaded = table.get(conn, "a")
    assert loaded is not None and table.plan.from_row(loaded.values, None).nested == Nested(3)


@dataclass
class Whole:
    x: int = 3
    inner: list[int] = field(default_factory=list)


@pytest.mark.parametrize(
    ("annotation", "value"),
    [
        (list[str], []), (tuple[int, ...], ()), (tuple, ()), (set[int], set()), (frozenset[str], frozenset()),
        (dict[str, int], {}), (dict, {}), (list[Whole], []), (Whole, Whole()), (Whole | None, None),
    ],
    ids=str,
)  # fmt: skip
def test_what_old_rows_get_in_a_json_column_can_be_read(database: Database, annotation: Any, value: Any) -> None:
    migrate(database, model())
    run(database, "INSERT INTO things (id) VALUES ('a')")
    kind = model(("data", annotation))
    assert migrate(database, kind).blocking == ()
    assert migrate(database, kind) == MigrationReport()
    table = tables(kind)[0][0]
    with database.connection() as conn:
        loaded = table.get(conn, "a")
    assert loaded is not None
    assert table.plan.from_row(loaded.values, None).data == value


def test_a_column_for_which_no_value_can_be_made_up_is_told(database: Database) -> None:
    migrate(database, model())
    run(database, "INSERT INTO things (id) VALUES ('a')")

    @dataclass
    class Nested:
        x: int

    kind = model(("nested", Nested), ("pair", tuple[int, int]), ("secret", Annotated[str, strata.Encrypted]))
    report = migrate(database, kind)
    assert report.applied == ()
    assert [item.text.split()[0] for item in report.manual] == ["things.nested", "things.pair", "things.secret"]
    assert "str | None" in report.manual[2].text
    for item in report.manual:
        run(database, item.sql)
    run(database, """UPDATE things SET nested = '{"x": 1}', pair = '[1, 2]', secret = 's1:k1:'""")
    for item in migrate(database, kind).manual:
        assert "SET NOT NULL" in item.sql
        run(database, item.sql)
    assert migrate(database, kind) == MigrationReport()


def test_new_indexes_are_made_without_blocking_writers(database: Database) -> None:
    migrate(database, model(("name", str)))
    run(database, "INSERT INTO things (id, name) SELECT g, g FROM generate_series(1, 1000) g")
    kind = model(("name", Annotated[str, strata.Unique]), ("size", Annotated[int, strata.Indexed], 3))
    report = migrate(database, kind, deferred=True)
    assert sum("CONCURRENTLY" in statement for statement in report.applied) == 2
    assert constraints(database)["things_name_key"] == "UNIQUE (name) DEFERRABLE"
    assert indexes(database) == ["things_name_key", "things_pkey", "things_size_idx"]
    assert migrate(database, kind, deferred=True) == MigrationReport()


def test_rows_that_are_equal_where_the_model_wants_them_unique_are_told(database: Database) -> None:
    migrate(database, model(("name", str)))
    run(database, "INSERT INTO things (id, name) VALUES ('a', 'hush'), ('b', 'hush')")
    kind = model(("name", Annotated[str, strata.Unique]), ("size", int | None))
    report = migrate(database, kind)
    assert len(report.applied) == 1 and "equal in name" in report.manual[0].text
    assert "hush" not in repr(report)
    assert indexes(database) == ["things_pkey"]
    run(database, "UPDATE things SET name = id")
    run(database, report.manual[0].sql)
    assert migrate(database, kind) == MigrationReport()


def test_an_index_left_unfinished_is_made_anew(database: Database) -> None:
    migrate(database, model(("name", str)))
    run(database, "INSERT INTO things (id, name) VALUES ('a', 'x'), ('b', 'x')")
    with pytest.raises(strata.StrataError), database.connection() as conn:
        conn.command('CREATE UNIQUE INDEX CONCURRENTLY "things_name_key" ON things (name)')
    run(database, "UPDATE things SET name = id")
    report = migrate(database, model(("name", Annotated[str, strata.Unique])))
    assert report.manual == () and report.applied[0].startswith("DROP INDEX CONCURRENTLY")
    assert constraints(database)["things_name_key"] == "UNIQUE (name)"


def test_another_index_of_the_same_name_is_not_touched(database: Database) -> None:
    migrate(database, model(("name", str), ("size", int)))
    run(database, "INSERT INTO things VALUES ('a', 'x', 1); CREATE INDEX things_name_idx ON things (size)")
    with pytest.raises(MigrationError, match="42P07"):
        migrate(database, model(("name", Annotated[str, strata.Indexed]), ("size", int)))
    assert indexes(database) == ["things_name_idx", "things_pkey"]


def test_a_table_in_use_is_waited_for_in_turns(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    migrate(database, model())
    monkeypatch.setattr(migrations, "TABLE_PATIENCE", "20ms")
    monkeypatch.setattr(migrations, "TABLE_TRIES", 3)
    with database.transaction() as conn:
        conn.command("LOCK TABLE things IN ACCESS SHARE MODE")
        with pytest.raises(MigrationError, match="55P03"):
            migrate(database, model(("size", int)))
    assert len(migrate(database, model(("size", int))).applied) == 1


# -- what is not an addition ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("before", "after", "said", "sql"),
    [
        (("x", int), ("x", str), "BIGINT, the model wants TEXT", 'ALTER COLUMN "x" TYPE TEXT'),
        (("x", int), ("x", int | None), "NOT NULL", "DROP NOT NULL"),
        (("x", int | None), ("x", int), "may be NULL", "SET NOT NULL"),
        (("x", int, 3), ("x", int, 4), "another DEFAULT", "SET DEFAULT 4"),
        (("x", Annotated[int, Default(3)]), ("x", Annotated[int, Default(4)]), "another DEFAULT", "SET DEFAULT 4"),
        (("x", Annotated[int, Default(3)]), ("x", int), "the model has none", "DROP DEFAULT"),
        (("x", int | None), ("y", int | None), "x is not in the model", 'DROP COLUMN "x"'),
    ],
)
def test_a_change_is_told_with_the_sql_to_write(
    database: Database, before: Any, after: Any, said: str, sql: str
) -> None:
    migrate(database, model(before))
    columns = described(database)
    report = migrate(database, model(after))
    (told,) = report.manual
    assert said in told.text and sql in told.sql
    assert {name: facts for name, facts in described(database).items() if name in columns} == columns
    run(database, told.sql)
    assert migrate(database, model(after)) == MigrationReport()


def test_a_column_that_is_gone_from_the_model_and_must_be_filled_is_told(database: Database) -> None:
    migrate(database, model(("x", int)))
    (told,) = migrate(database, model()).manual
    assert "no row can be inserted" in told.text
    run(database, told.sql)
    with database.connection() as conn:
        tables(model())[0][0].upsert(conn, ("a",), stamp(1), NODE)


def test_a_table_of_other_software_is_taken_as_it_is(database: Database) -> None:
    run(
        database,
        "CREATE TABLE things (id varchar(20) PRIMARY KEY, name text NOT NULL, size int, more int DEFAULT 3,"
        " serial bigserial); CREATE UNIQUE INDEX theirs ON things (name); INSERT INTO things VALUES ('a', 'b', 1)",
    )
    kind = model(("name", Annotated[str, strata.Unique]), ("size", int | None))
    report = migrate(database, kind)
    assert [statement.split(" ADD ")[1] for statement in report.applied if "things" in statement] == [
        "COLUMN _strata_version BIGINT NOT NULL DEFAULT 0"
    ]
    assert [item.text for item in report.manual] == [
        "things.id is CHARACTER VARYING(20), the model wants TEXT",
        "things.size is INTEGER, the model wants BIGINT",
        "things.more is not in the model; its values stay. Drop it when no release that has it runs any more",
        "things.serial is not in the model; its values stay. Drop it when no release that has it runs any more",
    ]
    table = tables(kind)[0][0]
    with database.connection() as conn:
        assert table.get(conn, "a") == (0, ("a", "b", 1))
        table.upsert(conn, ("a", "c", 2), stamp(1), NODE)
        assert table.get(conn, "a") == (stamp(1), ("a", "c", 2))


def test_a_table_without_a_key_gets_its_constraint(database: Database) -> None:
    run(database, "CREATE TABLE things (id text NOT NULL); INSERT INTO things VALUES ('a')")
    migrate(database, model())
    assert constraints(database) == {"things_id_key": "UNIQUE (id)"}
    with database.connection() as conn:
        tables(model())[0][0].upsert(conn, ("a",), stamp(1), NODE)


def test_columns_that_give_themselves_their_values_are_taken_as_they_are(database: Database) -> None:
    run(
        database,
        "CREATE TABLE things (id text PRIMARY KEY, a bigint GENERATED ALWAYS AS IDENTITY,"
        " b bigint NOT NULL GENERATED ALWAYS AS (1) STORED)",
    )
    assert migrate(database, model(("a", int), ("b", int))).manual == ()


def test_what_is_no_table_is_refused(database: Database) -> None:
    run(database, "CREATE VIEW things AS SELECT 'a'::text AS id")
    with pytest.raises(InvalidModelError, match="no table"):
        migrate(database, model())


def test_partial_and_expression_indexes_do_not_count(database: Database) -> None:
    run(
        database,
        "CREATE TABLE things (id text PRIMARY KEY, a text NOT NULL, b text NOT NULL);"
        "CREATE INDEX one ON things (a) WHERE a > 'x'; CREATE INDEX two ON things (lower(a), b);"
        "CREATE INDEX three ON things USING hash (a); CREATE INDEX four ON things (b) INCLUDE (a)",
    )
    indexed = Annotated[str, strata.Indexed]
    applied = migrate(database, model(("a", indexed), ("b", indexed))).applied
    assert [statement for statement in applied if 'CREATE INDEX "' in statement] == [
        'CREATE INDEX "things_a_idx" ON "things" ("a")'
    ]


def test_two_schemas_may_share_a_table_only_if_their_columns_are_the_same(database: Database) -> None:
    both = tables(model(("a", int))) + tables(model(("a", int)))
    assert Migrator(database, both).migrate().manual == ()
    with pytest.raises(InvalidModelError, match="make one schema of them, or give one another PostgresPolicy"):
        Migrator(database, [*both, *tables(model(("b", int)))]).migrate()


# -- partitions -------------------------------------------------------------------------------------------------


def test_a_table_partitioned_by_its_key_keeps_every_promise(database: Database) -> None:
    kind = model(("name", Annotated[str, strata.Indexed]), ("first", Annotated[datetime | None, strata.AutoNowAdd]))
    options: Any = {"deferred": True, "partition_by": "id"}
    migrate(database, kind, **options)
    assert migrate(database, kind, **options) == MigrationReport()
    table = tables(kind, **options)[0][0]
    now = datetime.now(UTC)
    rows = [(f"k{number}", f"n{number}", now) for number in range(500)]
    for version in (1, 2):
        with database.transaction() as conn:
            assert {item.version for item in table.set_many(conn, rows, [stamp(version)] * 500, NODE)} == {
                stamp(version)
            }
    with database.transaction() as conn:
        table.upsert(conn, rows[3], stamp(3), NODE)
        assert table.delete(conn, "k4", stamp(3), NODE) == stamp(3)
        pending = strata.l3.values.Change("k5", "k5", stamp(4), values=rows[5])
        assert [item.status for item in table.apply(conn, [pending, deletion("k6", stamp(4))])] == [Status.APPLIED] * 2
        assert table.count(conn, strata.Query()) == 498
    spread = query(database, "SELECT count(DISTINCT tableoid) FROM things")
    assert spread == [(16,)]


def test_other_partitions_are_refused_with_the_reason(database: Database) -> None:
    with pytest.raises(InvalidModelError, match="no column of it; partition_by is the key"):
        migrate(database, model(("at", datetime)), partition_by="when")
    with pytest.raises(InvalidModelError, match="is BIGINT; partition_by is the key"):
        migrate(database, model(("size", int)), partition_by="size")
    with pytest.raises(InvalidModelError, match="unique in all of it"):
        migrate(database, model(("name", Annotated[str, strata.Unique])), partition_by="id")


def test_an_unpartitioned_table_stays_so_and_the_sql_that_changes_it_is_told(database: Database) -> None:
    kind = model(("size", Annotated[int, strata.Indexed]))
    migrate(database, kind)
    run(database, "INSERT INTO things SELECT n::text, n FROM generate_series(1, 100) AS n")
    (told,) = migrate(database, kind, partition_by="id").manual
    assert "not partitioned by 'id'" in told.text
    run(database, told.sql)
    assert migrate(database, kind, partition_by="id").manual == ()
    assert migrate(database, kind, partition_by="id") == MigrationReport()
    assert query(database, "SELECT count(*), count(DISTINCT tableoid) > 5 FROM things") == [(100, True)]


# -- many processes ---------------------------------------------------------------------------------------------


def test_many_may_start_at_once(database: Database) -> None:
    run(database, "CREATE TABLE things (id text PRIMARY KEY); INSERT INTO things VALUES ('a'), ('b')")
    kind = model(("name", Annotated[str | None, strata.Unique]), ("size", Annotated[int, strata.Indexed], 3))
    with ThreadPoolExecutor(16) as pool:
        reports = [done.result() for done in [pool.submit(migrate, database, kind) for _ in range(16)]]
    assert sum(bool(report.applied) for report in reports) == 1
    assert len(query(database, "SELECT * FROM _strata_migrations")) == 1
    assert migrate(database, kind) == MigrationReport()


def test_a_migration_that_fails_leaves_nothing_and_frees_the_lock(database: Database) -> None:
    run(database, "CREATE TABLE taken (a int); CREATE INDEX things_name_key ON taken (a)")
    for _ in range(2):
        with pytest.raises(MigrationError, match=r"migrate\(\).*42P07"):
            migrate(database, model(("name", Annotated[str, strata.Unique])))
    assert query(database, "SELECT to_regclass('things')::text") == [(None,)]
    run(database, "DROP TABLE taken")
    assert migrate(database, model(("name", Annotated[str, strata.Unique]))).applied
    with database.connection() as conn:
        assert conn.execute("SHOW lock_timeout").fetchone() == ("5s",)


def test_a_database_that_is_away_is_an_outage() -> None:
    away = Database("host=127.0.0.1 port=1", L3PoolConfig(), clock=SystemClock())
    migrator = Migrator(away, tables(Item))
    for call in (migrator.migrate, migrator.migration_status):
        with pytest.raises(strata.L3UnavailableError):
            call()


def test_items_are_what_the_other_tests_say(database: Database) -> None:
    migrate(database, Item, deferred=True)
    table = tables(Item, deferred=True)[0][0]
    with database.transaction() as conn:
        assert table.apply(conn, [change("a", 1)])[0].status is Status.APPLIED
        assert table.get(conn, "a") == (1, row("a"))
