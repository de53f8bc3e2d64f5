"""The SQL that `migrate` offers for a column of another type: tried on rows, whose values come back as they were."""

from __future__ import annotations

import enum
import uuid
from collections.abc import Iterator
from dataclasses import make_dataclass
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from typing import Annotated, Any, Literal

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

import strata
from strata.l3.convert import offered
from strata.l3.pool import Database
from strata.l3.report import MigrationReport
from strata.model.fields import Kind
from tests.databases import NEWEST
from tests.integration.test_l3_migrations import migrate, query, run, tables
from tests.l3 import fresh

AT = datetime(2024, 6, 1, 12, 30, tzinfo=UTC)
ID = uuid.UUID("6f1c2d3e-0000-4000-8000-00000000abcd")


@pytest.fixture(scope="module", params=NEWEST)
def server(request: pytest.FixtureRequest) -> Iterator[Database]:
    """One database for all of these tests; each makes its tables anew."""
    with fresh(request.param) as database:
        run(database, "CREATE TYPE mood AS ENUM ('happy', 'sad')")
        yield database


@pytest.fixture
def database(server: Database) -> Database:
    run(server, "DROP TABLE IF EXISTS things, others CASCADE; DROP DOMAIN IF EXISTS work, email CASCADE")
    return server


def model(annotation: Any) -> Any:
    return make_dataclass("Thing", [("id", Annotated[str, strata.PrimaryKey]), ("x", annotation)])


def held(database: Database, annotation: Any) -> list[Any]:
    """What Strata reads in the column, by key."""
    table = tables(model(annotation))[0][0]
    with database.connection() as conn:
        return [table.plan.from_row(row.values, None).x for row in table.page(conn, None, 100)]


def elsewhere(database: Database, sql: str) -> None:
    """Run SQL as a person would: in a session with other settings than Strata's."""
    with database.connection() as conn:
        conninfo = make_conninfo(conn.info.dsn, password=conn.info.password)
    with psycopg.connect(conninfo, autocommit=True) as other:
        other.execute("SET TimeZone = 'America/New_York'; SET DateStyle = 'German'; SET IntervalStyle = 'sql_standard'")
        other.execute(sql.encode())


# By the model's type and the column's: SQL of a value, and the value that it is.
PAIRS: list[tuple[Any, str, dict[str, Any]]] = [
    (str, "varchar(9)", {"'Ab c'": "Ab c", "''": ""}),
    (str, "char(9)", {"'abc'": "abc"}),
    (str, "smallint", {"-7": "-7"}),
    (str, "integer", {"7": "7"}),
    (str, "bigint", {"9007199254740993": "9007199254740993"}),
    (str, "numeric", {"1.50": "1.50"}),
    (str, "uuid", {f"'{ID}'": str(ID)}),
    (str, "boolean", {"true": "true", "false": "false"}),
    (str, "json", {"""'{"a": 1}'""": '{"a": 1}'}),
    (str, "jsonb", {"""'{"a": 1}'""": '{"a": 1}'}),
    (int, "smallint", {"-32768": -32768}),
    (int, "integer", {"2147483647": 2147483647}),
    (int, "boolean", {"true": 1, "false": 0}),
    (int, "numeric(30,0)", {"9007199254740993": 9007199254740993}),
    (int, "text", {"'-9007199254740993'": -9007199254740993}),
    (int, "varchar(9)", {"'7'": 7}),
    (int, "char(9)", {"'7'": 7}),
    (float, "real", {"1.5": 1.5, "'-Infinity'": float("-inf")}),
    (float, "smallint", {"7": 7.0}),
    (float, "integer", {"7": 7.0}),
    (float, "bigint", {"9007199254740992": 9007199254740992.0}),
    (float, "numeric", {"0.1": 0.1}),
    (float, "money", {"1.5": 1.5, "'-$1,234.56'": -1234.56}),
    (float, "text", {"'1.5e3'": 1500.0}),
    (float, "varchar(9)", {"'1.5'": 1.5}),
    (float, "char(9)", {"'1.5'": 1.5}),
    (Decimal, "smallint", {"7": Decimal(7)}),
    (Decimal, "integer", {"7": Decimal(7)}),
    (Decimal, "bigint", {"9007199254740993": Decimal(9007199254740993)}),
    (Decimal, "numeric(10,2)", {"1.50": Decimal("1.50")}),
    (Decimal, "money", {"1.5": Decimal("1.50")}),
    (Decimal, "real", {"0.1": Decimal("0.1")}),
    (Decimal, "double precision", {"0.30000000000000004": Decimal("0.30000000000000004")}),
    (Decimal, "text", {"'12345678901234567890.5'": Decimal("12345678901234567890.5")}),
    (Decimal, "varchar(9)", {"'1.5'": Decimal("1.5")}),
    (Decimal, "char(9)", {"'1.5'": Decimal("1.5")}),
    (bool, "smallint", {"1": True, "0": False}),
    (bool, "integer", {"1": True, "0": False}),
    (bool, "bigint", {"1": True, "0": False}),
    (bool, "numeric", {"1": True, "0": False}),
    (bool, "text", {"'t'": True, "'no'": False}),
    (bool, "varchar(9)", {"'true'": True}),
    (bool, "char(1)", {"'Y'": True, "'0'": False}),
    (datetime, "timestamp", {"'2024-06-01 12:30'": AT}),
    (datetime, "timestamptz(0)", {"'2024-06-01 12:30+00'": AT}),
    (datetime, "date", {"'2024-06-01'": datetime(2024, 6, 1, tzinfo=UTC)}),
    (time, "time(0)", {"'10:00:01'": time(10, 0, 1)}),
    (timedelta, "interval(0)", {"'-1 days +5 seconds'": timedelta(days=-1, seconds=5)}),
    (timedelta, "time", {"'10:00:01'": timedelta(hours=10, seconds=1)}),
    (bytes, "uuid", {f"'{ID}'": ID.bytes}),
    (uuid.UUID, "text", {f"'{ID}'": ID, f"'{ID.hex}'": ID}),
    (uuid.UUID, "varchar(36)", {f"'{ID}'": ID}),
    (uuid.UUID, "char(32)", {f"'{ID.hex}'": ID}),
    (uuid.UUID, "bytea", {f"'\\x{ID.hex}'": ID}),
    (dict[str, int], "json", {"""'{"a": 1}'""": {"a": 1}}),
    (dict[str, int], "text", {"""'{"a": 1}'""": {"a": 1}}),
    (dict[str, int], "varchar(99)", {"""'{"a": 1}'""": {"a": 1}}),
    (dict[str, int], "char(99)", {"""'{"a": 1}'""": {"a": 1}}),
    (list[str], "text[]", {"'{}'": [], "'{x,\"b c\"}'": ["x", "b c"]}),
    (list[str], "varchar(9)[]", {"'{a}'": ["a"]}),
    (list[str], "char(1)[]", {"'{a}'": ["a"]}),
    (set[int], "smallint[]", {"'{1,2}'": {1, 2}}),
    (list[int], "integer[]", {"'{1,2}'": [1, 2]}),
    (list[int], "bigint[]", {"'{9007199254740993}'": [9007199254740993]}),
    (list[bool], "boolean[]", {"'{t,f}'": [True, False]}),
    (list[uuid.UUID], "uuid[]", {f"'{{{ID}}}'": [ID]}),
    (list[float], "numeric[]", {"'{1.5}'": [1.5]}),
    (list[float], "real[]", {"'{1.5}'": [1.5]}),
    (list[float], "double precision[]", {"'{0.1}'": [0.1]}),
    (Literal["happy", "sad"], "mood", {"'sad'": "sad"}),
]  # fmt: skip


@pytest.mark.parametrize(("annotation", "column", "values"), PAIRS, ids=lambda item: str(item).replace(" ", ""))
def test_the_sql_offered_keeps_the_values_whatever_the_sessions_settings(
    database: Database, annotation: Any, column: str, values: dict[str, Any]
) -> None:
    run(database, f"CREATE TABLE things (id text PRIMARY KEY, x {column})")
    run(database, "CREATE INDEX theirs ON things (id) WHERE x IS NOT NULL")
    for number, sql in enumerate(values):
        run(database, f"INSERT INTO things VALUES ('{number:03}', {sql})")
    told = [change for change in migrate(database, model(annotation)).manual if "the model wants" in change.text]
    change = next(change for change in told if "may be NULL" not in change.text)
    elsewhere(database, change.sql)
    assert held(database, annotation) == list(values.values())
    left = migrate(database, model(annotation)).manual
    assert ["may be NULL" in item.text for item in left] == [True]


def test_every_pair_that_is_offered_is_tried() -> None:
    def name(column: str) -> str:
        with_length = {"varchar": "character varying", "char": "character", "timestamptz": "timestamp with time zone"}
        bare = column.partition("(")[0] + ("[]" if column.endswith("[]") and "(" in column else "")
        head, array = bare.removesuffix("[]"), "[]" if bare.endswith("[]") else ""
        plain = {"timestamp": "timestamp without time zone", "time": "time without time zone"}
        return (with_length | plain).get(head, head) + array

    tried = {(compiled(annotation), name(column)) for annotation, column, _ in PAIRS}
    same = {(kind, found) for kind, found in offered() if found == kind.value.lower()}
    odd = {"citext", "bpchar"}  # of an extension, and of a column that SQL cannot make
    assert {(kind, found) for kind, found in offered() - tried - same if found.removesuffix("[]") not in odd} == set()


def compiled(annotation: Any) -> Kind:
    kind = tables(model(annotation))[0][0].plan.columns[1].kind
    assert kind is not None
    return kind


@pytest.mark.parametrize(
    ("annotation", "column", "said"),
    [
        (datetime, "bigint", "seconds since 1970 would be USING to_timestamp"),
        (timedelta, "integer", "make_interval"),
        (bytes, "text", "what the text stands for"),
        (str, "bytea", "convert_from"),
        (int, "numeric(10,2)", "the type Decimal"),
        (int, "double precision", "the type float"),
        (date, "timestamp", "the type datetime"),
        (datetime, "text", "no conversion keeps all values"),
        (date, "text", "no conversion keeps all values"),
        (bool, "uuid", "no conversion keeps all values"),
        (time, "timetz", "no conversion keeps all values"),
        (int, "mood", "is the enum MOOD"),
        (dict[str, int], "text[]", "no conversion keeps all values"),
        (dict[str, int], "bigint", "no conversion keeps all values"),
        (str, "money", "no conversion keeps all values"),
    ],
    ids=str,
)
def test_where_no_sql_keeps_the_values_there_are_words_alone(
    database: Database, annotation: Any, column: str, said: str
) -> None:
    run(database, f"CREATE TABLE things (id text PRIMARY KEY, x {column} NOT NULL)")
    (told,) = migrate(database, model(annotation)).blocking
    assert said in told.text and told.sql == ""


class Mood(enum.Enum):
    """Whose values an ORM has kept by their names."""

    SAD = "sad :("
    GLAD = "glad :)"


def test_an_enum_of_other_values_than_the_model_has_is_found(database: Database) -> None:
    run(
        database,
        "CREATE TYPE named AS ENUM ('SAD', 'GLAD'); CREATE TABLE things (id text PRIMARY KEY, x named NOT NULL)",
    )
    (told,) = migrate(database, model(Mood)).blocking
    assert (
        "is the enum NAMED, which has 'SAD', 'GLAD', and none of what the model has: 'sad :(', 'glad :)'" in told.text
    )


@pytest.mark.parametrize(
    ("annotation", "column", "default", "afterwards"),
    [
        (list[str], "text[]", "'{a}'", "to_jsonb('{a}'::text[])"),
        (list[str], "text[]", "ARRAY[]::text[]", "to_jsonb(ARRAY[]::text[])"),
        (bool, "smallint", "0", "(0 <> 0)"),
        (datetime, "timestamp", "now()", "now()"),
        (datetime, "timestamp", "(now() AT TIME ZONE 'utc')", "now()"),
        (str, "mood", "'sad'", "('sad'::mood)::text"),
        (int, "integer", "3", "3"),
        (uuid.UUID, "varchar(36)", f"'{ID}'", None),
        (uuid.UUID, "text", "gen_random_uuid()::text", ""),
    ],
    ids=str,
)
def test_a_default_goes_along(
    database: Database, annotation: Any, column: str, default: str, afterwards: str | None
) -> None:
    run(database, f"CREATE TABLE things (id text PRIMARY KEY, x {column} NOT NULL DEFAULT {default})")
    change = migrate(database, model(annotation)).manual[0]
    elsewhere(database, change.sql)
    ((found,),) = query(
        database,
        "SELECT pg_get_expr(adbin, adrelid) FROM pg_attribute a LEFT JOIN pg_attrdef d ON adrelid = attrelid AND"
        " adnum = attnum WHERE attrelid = 'things'::regclass AND attname = 'x'",
    )
    if afterwards == "":
        assert found is None and "is dropped" in change.text
    else:
        assert found is not None and (afterwards is None or found == afterwards)
    assert migrate(database, model(annotation)).blocking == ()


def test_what_stands_in_the_way_of_the_change_is_dropped_by_it_and_named(database: Database) -> None:
    run(
        database,
        "CREATE TABLE things (id text PRIMARY KEY, x smallint NOT NULL DEFAULT 0 CHECK (x IN (0, 1)));"
        "CREATE INDEX partial ON things (id) WHERE x = 1; CREATE INDEX plain ON things (x);"
        "INSERT INTO things VALUES ('a', 1), ('b', 0)",
    )
    (told,) = migrate(database, model(bool)).blocking
    assert "things_x_check CHECK" in told.text and "INDEX partial ON" in told.text and "plain" not in told.text
    elsewhere(database, told.sql)
    assert held(database, bool) == [True, False]


def test_a_foreign_key_between_columns_that_change_is_dropped_and_named(database: Database) -> None:
    run(
        database,
        "CREATE TABLE others (id varchar(36) PRIMARY KEY);"
        "CREATE TABLE things (id text PRIMARY KEY, x varchar(36) NOT NULL REFERENCES others);"
        f"INSERT INTO others VALUES ('{ID}'); INSERT INTO things VALUES ('a', '{ID}')",
    )
    (told,) = migrate(database, model(uuid.UUID)).blocking
    assert "FOREIGN KEY" in told.text
    elsewhere(database, told.sql)
    assert held(database, uuid.UUID) == [ID]


def test_a_view_over_the_column_is_left_to_a_person(database: Database) -> None:
    run(
        database,
        "CREATE TABLE things (id text PRIMARY KEY, x smallint NOT NULL); CREATE VIEW v AS SELECT x FROM things",
    )
    (told,) = migrate(database, model(bool)).blocking
    assert told.sql == "" and "view v must be dropped" in told.text and 'x" <> 0' in told.text


def test_a_virtual_column_is_taken_as_it_is(database: Database) -> None:
    with database.connection() as conn:
        if conn.info.server_version < 180_000:
            pytest.skip("virtual columns came with PostgreSQL 18")
    run(database, "CREATE TABLE things (id text PRIMARY KEY, x bigint GENERATED ALWAYS AS (length(id)) VIRTUAL)")
    assert migrate(database, model(int | None)).manual == ()


def test_a_domain_over_a_type_that_will_do_is_no_difference(database: Database) -> None:
    run(
        database,
        "CREATE DOMAIN email AS text CHECK (VALUE LIKE '%@%'); CREATE DOMAIN work AS email;"
        "CREATE TABLE things (id text PRIMARY KEY, x work NOT NULL)",
    )
    assert migrate(database, model(str)).manual == ()
    assert migrate(database, model(str)) == MigrationReport()
