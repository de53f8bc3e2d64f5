"""`strata inspect-table`: what it prints for a table that is there already runs, and reads and writes its rows."""

from __future__ import annotations

import datetime as dt
import uuid
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any, NamedTuple

import pytest

import strata
from strata import Q
from tests.existing import Adopt, adopting, inspect_table, printed, run

ID = uuid.UUID(int=7)
NOON = dt.datetime(2024, 6, 1, 12, tzinfo=dt.UTC)


@pytest.fixture
def adopt(tmp_path: Path, dsn: str, redis_addr: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Adopt]:
    """Gives the module that was printed for a table, once that has what it lacked."""
    with adopting(tmp_path, dsn, redis_addr, monkeypatch) as adopt:
        yield adopt


def body(source: str) -> list[str]:
    """The lines of the record class."""
    return [line.strip() for line in source.partition("kw_only=True)\n")[2].partition("\n\n")[0].splitlines()[1:]]


# -- columns ------------------------------------------------------------------------------------------------------


class Case(NamedTuple):
    """A column, its field, the SQL of a value that is there, that value, and another one."""

    column: str
    field: str
    sql: str
    there: Any
    other: Any


CASES = {
    "text": Case("text NOT NULL", "x: str", "'a'", "a", "b"),
    "nullable": Case("text", "x: str | None = None", "NULL", None, "b"),
    "varchar": Case("varchar(9) NOT NULL", "x: str", "'a'", "a", "b"),
    "char": Case("char(2) NOT NULL", "x: str", "'ab'", "ab", "cd"),
    "domain": Case("email NOT NULL", "x: str", "'a@b'", "a@b", "c@d"),
    "bigint": Case("bigint NOT NULL", "x: int", "7", 7, -(2**63)),
    "integer": Case("integer", "x: int | None = None", "7", 7, None),
    "smallint": Case("smallint NOT NULL", "x: int", "7", 7, -7),
    "whole_numeric": Case("numeric(18,0) NOT NULL", "x: int", "7", 7, 10**17),
    "wide_numeric": Case("numeric(19,0) NOT NULL", "x: Decimal", "7", Decimal(7), Decimal(8)),
    "numeric": Case("numeric(10,2) NOT NULL", "x: Decimal", "1.5", Decimal("1.50"), Decimal("2.25")),
    "real": Case("real NOT NULL", "x: float", "1.5", 1.5, -0.25),
    "double": Case("double precision NOT NULL", "x: float", "1.5", 1.5, 0.1),
    "boolean": Case("boolean NOT NULL", "x: bool", "true", True, False),
    "date": Case("date NOT NULL", "x: dt.date", "'2024-06-01'", NOON.date(), dt.date(1, 1, 1)),
    "timestamptz": Case("timestamptz NOT NULL", "x: dt.datetime", "'2024-06-01 12:00+00'", NOON, NOON.replace(hour=1)),
    "timestamp": Case("timestamp NOT NULL", "x: dt.datetime", "'2024-06-01 12:00'", NOON, NOON.replace(hour=1)),
    "time": Case("time NOT NULL", "x: dt.time", "'12:00'", dt.time(12), dt.time(0, 0, 1)),
    "interval": Case("interval NOT NULL", "x: dt.timedelta", "'1 day'", dt.timedelta(1), dt.timedelta(0, -5)),
    "uuid": Case("uuid NOT NULL", "x: UUID", f"'{ID}'", ID, uuid.UUID(int=8)),
    "bytea": Case("bytea NOT NULL", "x: bytes", r"'\x01'", b"\1", b"\0\xff"),
    "object": Case("jsonb NOT NULL", "x: dict[str, Any]", """'{"a": [1]}'""", {"a": [1]}, {}),
    "array": Case("json NOT NULL", "x: list[Any]", """'["a", 1]'""", ["a", 1], []),
    "unique": Case("text NOT NULL UNIQUE", "x: Annotated[str, strata.Unique]", "'a'", "a", "b"),
}


@pytest.mark.parametrize("name", CASES)
def test_a_column_becomes_a_field_that_reads_and_writes_its_rows(adopt: Adopt, dsn: str, name: str) -> None:
    column, field, sql, there, other = CASES[name]
    run(dsn, "CREATE DOMAIN email AS text CHECK (VALUE LIKE '%@%')", f"CREATE TABLE t (id int PRIMARY KEY, x {column})")
    run(dsn, f"INSERT INTO t VALUES (1, {sql})")
    module = adopt("t")
    assert body(printed("t")) == ["id: Annotated[int, strata.PrimaryKey]", field]
    assert module.t.get(1) == module.T(id=1, x=there)
    assert module.t.set(1, module.T(id=1, x=other)) == module.T(id=1, x=other)
    assert module.t.search(Q().where("id = 1")) == [module.t.get(1, force_l3=True)] == [module.T(id=1, x=other)]
    run(dsn, "DELETE FROM t")
    module.t.insert(module.T(id=2, x=there))
    assert module.t.get(2, force_l3=True).x == there


DEFAULTS = {
    "text": ("text NOT NULL DEFAULT 'it''s \"x\"'", 'x: str = "it\'s \\"x\\""', 'it\'s "x"'),
    "varchar": ("varchar(9) NOT NULL DEFAULT ''", 'x: str = ""', ""),
    "int": ("int NOT NULL DEFAULT -1", "x: int = -1", -1),
    "bigint": ("bigint DEFAULT 5", "x: int | None = 5", 5),
    "numeric": ("numeric(10,2) NOT NULL DEFAULT 0.50", 'x: Decimal = Decimal("0.50")', Decimal("0.50")),
    "double": ("float8 NOT NULL DEFAULT 1.5", "x: float = 1.5", 1.5),
    "boolean": ("boolean NOT NULL DEFAULT true", "x: bool = True", True),
    "null": ("text DEFAULT NULL", "x: str | None = None", None),
    "object": ("jsonb NOT NULL DEFAULT '{}'", "x: dict[str, Any] = dataclasses.field(default_factory=dict)", {}),
    "array": ("jsonb NOT NULL DEFAULT '[]'", "x: list[Any] = dataclasses.field(default_factory=list)", []),
    "enum": ("mood NOT NULL DEFAULT 'sad'", "x: Mood = Mood.SAD", "sad"),
}


@pytest.mark.parametrize("name", DEFAULTS)
def test_a_default_that_is_a_value_is_that_of_the_class_too(adopt: Adopt, dsn: str, name: str) -> None:
    column, field, value = DEFAULTS[name]
    run(dsn, "CREATE TYPE mood AS ENUM ('happy', 'sad')", f"CREATE TABLE t (id int PRIMARY KEY, x {column})")
    module = adopt("t")
    assert body(printed("t"))[1] == field
    run(dsn, "INSERT INTO t (id) VALUES (1)")
    assert module.t.insert(module.T(id=2)).x == module.t.get(1).x == value


@pytest.mark.parametrize(
    ("column", "field"),
    [
        ("timestamptz NOT NULL DEFAULT now()", 'x: Annotated[dt.datetime, strata.Default(sql="now()")]'),
        ("uuid DEFAULT gen_random_uuid()", 'x: Annotated[UUID | None, strata.Default(sql="gen_random_uuid()")] = None'),
        ("date NOT NULL DEFAULT '2024-06-01'", "x: Annotated[dt.date, strata.Default(sql=\"'2024-06-01'::date\")]"),
        ("bigint NOT NULL DEFAULT 5::bigint", 'x: Annotated[int, strata.Default(sql="(5)::bigint")]'),
        ("serial", "x: Annotated[int, strata.Default(sql=\"nextval('t_x_seq'::regclass)\")]"),
        ("int NOT NULL DEFAULT 1.5", 'x: Annotated[int, strata.Default(sql="1.5")]'),
        ("float8 NOT NULL DEFAULT 'NaN'", "x: Annotated[float, strata.Default(sql=\"'NaN'::double precision\")]"),
        ("jsonb NOT NULL DEFAULT '{\"a\": 1}'",
         r"""x: Annotated[dict[str, Any], strata.Default(sql="'{\"a\": 1}'::jsonb")]"""),
        ("text NOT NULL DEFAULT lower('A')", "x: Annotated[str, strata.Default(sql=\"lower('A'::text)\")]"),
    ],
)  # fmt: skip
def test_a_default_that_only_sql_can_say_is_said_in_sql(adopt: Adopt, dsn: str, column: str, field: str) -> None:
    run(dsn, f"CREATE TABLE t (id int PRIMARY KEY, x {column})")
    adopt("t")
    assert body(printed("t"))[1] == field


def test_a_table_that_strata_may_alter_gets_what_it_lacks_and_keeps_its_defaults(
    tmp_path: Path, dsn: str, redis_addr: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    columns = ", ".join(f"{name}_ {column}" for name, (column, _, _) in DEFAULTS.items())
    run(dsn, "CREATE TYPE mood AS ENUM ('happy', 'sad')")
    run(dsn, f"CREATE TABLE t (id bigint PRIMARY KEY, {columns}, at timestamptz NOT NULL DEFAULT now())")
    with adopting(tmp_path, dsn, redis_addr, monkeypatch, managed=True) as adopt:
        module = adopt("t")
        assert [change.text for change in module.store.migrate().manual if "DEFAULT" in change.text] == []
        assert module.t.insert(module.T(id=1, at=NOON)).int_ == -1


# -- keys ---------------------------------------------------------------------------------------------------------

GENERATED_INT = "id: Annotated[int | None, strata.PrimaryKey, strata.Generated] = None"
KEYS = {
    "serial": ("id serial PRIMARY KEY", [GENERATED_INT]),
    "bigserial": ("id bigserial PRIMARY KEY", [GENERATED_INT]),
    "by_default": ("id int GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY", [GENERATED_INT]),
    "always": ("id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY", [GENERATED_INT]),
    "uuid": (
        "id uuid PRIMARY KEY DEFAULT gen_random_uuid()",
        ["id: Annotated[UUID | None, strata.PrimaryKey, strata.Generated] = None"],
    ),
}


@pytest.mark.parametrize("name", KEYS)
def test_a_key_that_the_database_assigns_is_generated(adopt: Adopt, dsn: str, name: str) -> None:
    column, fields = KEYS[name]
    run(dsn, f"CREATE TABLE t (x text NOT NULL, {column})", "INSERT INTO t (x) VALUES ('there')")
    module = adopt("t")
    assert body(printed("t")) == [*fields, "x: str"]
    [there] = module.t.search(Q())
    made = module.t.insert(module.T(x="made"))
    assert made.id not in (None, there.id)
    assert module.t.get(there.id).x == "there" and module.t.get(made.id, force_l3=True).x == "made"


def test_a_key_of_several_columns_has_the_order_of_the_primary_key(adopt: Adopt, dsn: str) -> None:
    run(dsn, "CREATE TABLE seats (holder text, number int, hall varchar(9), PRIMARY KEY (hall, number))")
    run(dsn, "INSERT INTO seats VALUES ('ann', 7, 'Main')", "CREATE INDEX ON seats (number)")
    module = adopt("seats")
    assert body(printed("seats")) == [
        "hall: Annotated[str, strata.PrimaryKey]",
        "number: Annotated[int, strata.PrimaryKey]",
        "holder: str | None = None",
    ]
    assert 'indexes=[strata.Index(["number"])],' in printed("seats")
    assert module.seats.get(("Main", 7)).holder == "ann"
    module.seats.update(("Main", 7), holder="ben")
    assert run(dsn, "SELECT holder FROM seats") == [("ben",)]


def test_records_bring_all_parts_of_a_key_of_several_columns_also_what_the_database_would_assign(
    adopt: Adopt, dsn: str
) -> None:
    run(dsn, "CREATE TABLE t (tenant uuid DEFAULT gen_random_uuid(), id serial, PRIMARY KEY (tenant, id))")
    assert body(printed("t")) == [
        "tenant: Annotated[UUID, strata.PrimaryKey]",
        "id: Annotated[int, strata.PrimaryKey]",
    ]
    module = adopt("t")
    assert module.t.insert(module.T(tenant=ID, id=7)) == module.t.get((ID, 7), force_l3=True)


def test_a_unique_constraint_is_taken_for_the_key_of_a_table_without_one(adopt: Adopt, dsn: str) -> None:
    run(dsn, "CREATE TABLE t (loose int UNIQUE, code text NOT NULL UNIQUE)", "INSERT INTO t VALUES (1, 'a')")
    module = adopt("t")
    assert "# It has no PRIMARY KEY: what t_code_key keeps unique is taken for its key.\n" in printed("t")
    assert module.t.get("a") == module.T(code="a", loose=1)


# -- what has no field --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("column", "why"),
    [
        ("x money", "it is MONEY, for which Strata has no type"),
        ("x inet", "it is INET, for which Strata has no type"),
        ("x text[]", "it is TEXT[], and Strata keeps lists as JSONB"),
        ("x timetz", "it is TIME WITH TIME ZONE, for which Strata has no type"),
        ("x int4range", "it is INT4RANGE, for which Strata has no type"),
        ('"class" text', "no field can have its name"),
        ('"a b" text', "no field can have its name"),
        ('"__x" text', "no field can have its name"),
        ('"größe" text', "no field can have its name"),
    ],
)
def test_a_column_that_no_field_can_stand_for_is_left_out_and_stays_as_it_is(
    adopt: Adopt, dsn: str, column: str, why: str
) -> None:
    run(dsn, f"CREATE TABLE t (id int PRIMARY KEY, {column}, y int)", "INSERT INTO t (id, y) VALUES (1, 1)")
    module = adopt("t")
    name = column.rpartition(" ")[0].strip('"')
    assert body(printed("t"))[1:] == [f"# {name!r} is left out: {why}.", "y: int | None = None"]
    module.t.insert(module.T(id=2, y=2))
    assert module.t.set(1, module.T(id=1, y=3)) == module.T(id=1, y=3)


def test_a_column_that_is_left_out_and_must_have_a_value_is_said_to_forbid_new_rows(adopt: Adopt, dsn: str) -> None:
    run(dsn, "CREATE TABLE t (id int PRIMARY KEY, cents money NOT NULL, y int)", "INSERT INTO t VALUES (1, 9, 1)")
    module = adopt("t")
    said = "# It is NOT NULL without a DEFAULT: Strata can insert no rows, only change and delete them."
    assert body(printed("t"))[2] == said
    assert module.t.set(1, module.T(id=1, y=2)).y == 2
    with pytest.raises(strata.ConstraintError, match="'cents'"):
        module.t.set(2, module.T(id=2))
    module.t.delete(1)
    assert run(dsn, "SELECT * FROM t") == []


def test_json_of_several_kinds_is_left_out(adopt: Adopt, dsn: str) -> None:
    run(dsn, "CREATE TABLE t (id int PRIMARY KEY, x jsonb)", "INSERT INTO t VALUES (1, '{}'), (2, '[]'), (3, NULL)")
    adopt("t")
    assert body(printed("t"))[1] == "# 'x' is left out: its values are neither all objects nor all arrays."


def test_a_computed_column_is_read_and_needs_no_value(adopt: Adopt, dsn: str) -> None:
    run(dsn, "CREATE TABLE t (id int PRIMARY KEY, x text NOT NULL, n int GENERATED ALWAYS AS (length(x)) STORED)")
    module = adopt("t")
    assert body(printed("t"))[2] == "n: int | None = strata.UNLOADED  # computed by the database"
    assert module.t.set(1, module.T(id=1, x="four")) == module.T(id=1, x="four", n=4)


# -- names --------------------------------------------------------------------------------------------------------


def test_an_enum_type_becomes_an_enum_whatever_its_labels_are(adopt: Adopt, dsn: str) -> None:
    labels = ["happy", "Happy", "in progress", "1st", "", "größe", "日本", 'a"b\\', "None"]
    values = ", ".join("'" + label + "'" for label in labels)
    run(dsn, f'CREATE TYPE "t" AS ENUM ({values})', 'CREATE TABLE "Str" (id int PRIMARY KEY, x "t" NOT NULL, y "t")')
    run(dsn, *(f"INSERT INTO \"Str\" VALUES ({place}, '{label}')" for place, label in enumerate(labels)))
    module = adopt("Str")
    assert [(item.name, item.value) for item in module.T] == [
        ("HAPPY", "happy"), ("HAPPY_2", "Happy"), ("IN_PROGRESS", "in progress"), ("VALUE_1ST", "1st"), ("VALUE", ""),
        ("GR_E", "größe"), ("VALUE_2", "日本"), ("A_B", 'a"b\\'), ("NONE", "None"),
    ]  # fmt: skip
    assert [module.Str_2.get(place).x.value for place in range(len(labels))] == labels
    assert module.Str_2.set(1, module.Str(id=1, x=module.T.VALUE, y=module.T.NONE)).y is module.T.NONE


def test_columns_that_are_named_as_types_hide_none_of_them(adopt: Adopt, dsn: str) -> None:
    run(dsn, "CREATE TABLE t (id int PRIMARY KEY, str text, int int, dt date, date date, uuid uuid, field text)")
    run(dsn, "INSERT INTO t (id, str, int, dt) VALUES (1, 'a', 2, '2024-06-01')")
    module = adopt("t")
    assert module.t.get(1) == module.T(id=1, str="a", int=2, dt=NOON.date())
    run(dsn, "ALTER TABLE t DROP str, DROP int, DROP dt")
    assert "__future__" not in printed("t")


def test_no_name_of_the_database_gets_out_of_its_comment(adopt: Adopt, dsn: str) -> None:
    evil = '"x\nraise SystemExit(9)\n"'
    run(dsn, f"CREATE SCHEMA {evil}", f"CREATE TABLE {evil}.{evil} (id int PRIMARY KEY)")
    run(dsn, f"CREATE TYPE {evil} AS ENUM ('a\nb')")
    run(dsn, f"CREATE TABLE t (id int NOT NULL REFERENCES {evil}.{evil}, {evil} int, x {evil}, y {evil}[], z text)")
    run(dsn, f"ALTER TABLE t ADD CONSTRAINT {evil} UNIQUE (id), ALTER COLUMN z SET DEFAULT E'\\n'")
    module = adopt("t")
    assert [item.value for item in module.XRaiseSystemExit] == ["a\nb"]


# -- tables -------------------------------------------------------------------------------------------------------

DJANGO = """
CREATE TABLE "auth_user" ("id" integer NOT NULL PRIMARY KEY GENERATED BY DEFAULT AS IDENTITY, "username" varchar(150));
CREATE TABLE "blog_article" ("id" bigint NOT NULL PRIMARY KEY GENERATED BY DEFAULT AS IDENTITY,
    "title" varchar(200) NOT NULL, "slug" varchar(50) NOT NULL UNIQUE, "views" integer NOT NULL CHECK ("views" >= 0),
    "price" numeric(10, 2) NOT NULL, "published" boolean NOT NULL, "pub_date" timestamp with time zone NULL,
    "meta" jsonb NOT NULL, "address" inet NULL, "author_id" integer NOT NULL);
ALTER TABLE "blog_article" ADD CONSTRAINT "blog_article_author_id_905add38_fk" FOREIGN KEY ("author_id")
    REFERENCES "auth_user" ("id") DEFERRABLE INITIALLY DEFERRED;
ALTER TABLE "blog_article" ADD CONSTRAINT "one_title" UNIQUE ("author_id", "title");
CREATE INDEX "blog_article_slug_like" ON "blog_article" ("slug" varchar_pattern_ops);
CREATE INDEX "blog_article_author_id_905add38" ON "blog_article" ("author_id");
INSERT INTO auth_user (username) VALUES ('ann');
INSERT INTO blog_article (title, slug, views, price, published, meta, author_id) VALUES ('T', 's', 1, 2, true, '{}', 1);
"""


def test_a_table_of_django_is_inspected_adopted_and_used(adopt: Adopt, dsn: str) -> None:
    run(dsn, DJANGO)
    module = adopt("blog_article")
    assert body(printed("blog_article")) == [
        GENERATED_INT,
        "title: str",
        "slug: Annotated[str, strata.Unique]",
        "views: int",
        "price: Decimal",
        "published: bool",
        "pub_date: dt.datetime | None = None",
        "meta: dict[str, Any]",
        "# 'address' is left out: it is INET, for which Strata has no type.",
        "author_id: Annotated[int, strata.Indexed]  # refers to auth_user.id",
    ]
    assert 'indexes=[strata.Index(["author_id", "title"], unique=True)],' in printed("blog_article")
    article = module.blog_article.get(1)
    assert (article.title, article.price, article.meta) == ("T", Decimal("2.00"), {})
    article.views += 1
    module.blog_article.set(1, article)
    assert run(dsn, "SELECT views FROM blog_article") == [(2,)]


SQLALCHEMY = """
CREATE TYPE orderstate AS ENUM ('OPEN', 'PAID');
CREATE TABLE customers (id SERIAL NOT NULL, email VARCHAR NOT NULL, PRIMARY KEY (id), UNIQUE (email));
CREATE TABLE orders (id UUID NOT NULL, customer_id INTEGER NOT NULL, state orderstate NOT NULL, total NUMERIC(12, 4),
    note VARCHAR, data JSON, created_at TIMESTAMP WITHOUT TIME ZONE DEFAULT now() NOT NULL, parts VARCHAR[],
    PRIMARY KEY (id), FOREIGN KEY(customer_id) REFERENCES customers (id) ON DELETE CASCADE);
CREATE INDEX ix_orders_created_at ON orders (created_at);
INSERT INTO customers (email) VALUES ('a@b');
"""


def test_a_table_of_sqlalchemy_is_inspected_adopted_and_used(adopt: Adopt, dsn: str) -> None:
    run(
        dsn, SQLALCHEMY, f"INSERT INTO orders VALUES ('{ID}', 1, 'OPEN', 1.5, NULL, '[1]', '2024-06-01 12:00', '{{a}}')"
    )
    module = adopt("orders")
    assert body(printed("orders")) == [
        "id: Annotated[UUID, strata.PrimaryKey]",
        "customer_id: int  # refers to customers.id",
        "state: Orderstate",
        "total: Decimal | None = None",
        "note: str | None = None",
        "data: list[Any] | None = None",
        'created_at: Annotated[dt.datetime, strata.Indexed, strata.Default(sql="now()")]',
        "# 'parts' is left out: it is CHARACTER VARYING[], and Strata keeps lists as JSONB.",
    ]
    order = module.orders.get(ID)
    assert (order.state, order.data, order.created_at) == (module.Orderstate.OPEN, [1], NOON)
    order.state = module.Orderstate.PAID
    module.orders.set(ID, order)
    assert run(dsn, "SELECT state, parts FROM orders") == [("PAID", ["a"])]
    customers = adopt("customers")
    assert customers.customers.insert(customers.Customers(email="c@d")).id == 2


def test_a_partitioned_table_is_one_table(adopt: Adopt, dsn: str) -> None:
    run(dsn, "CREATE TABLE t (tenant int, id int, x text, PRIMARY KEY (tenant, id)) PARTITION BY HASH (tenant)")
    run(dsn, "CREATE TABLE t_0 PARTITION OF t FOR VALUES WITH (MODULUS 1, REMAINDER 0)", "INSERT INTO t VALUES (1, 2)")
    module = adopt("t")
    assert "# It is partitioned: its partitions are made, and dropped, by others.\n" in printed("t")
    module.t.set((1, 2), module.T(tenant=1, id=2, x="new"))
    assert run(dsn, "SELECT x FROM t_0") == [("new",)]


def test_what_strata_adds_to_a_table_is_not_printed(adopt: Adopt, dsn: str) -> None:
    run(dsn, "CREATE TABLE t (id serial PRIMARY KEY, x int)")
    before = printed("t")
    adopt("t")
    assert printed("t") == before


def test_a_table_elsewhere_is_inspected_and_said_to_be_elsewhere(adopt: Adopt, dsn: str) -> None:
    run(dsn, "CREATE SCHEMA shop", "CREATE TABLE shop.t (id int PRIMARY KEY)", "CREATE TABLE u (id int PRIMARY KEY)")
    assert "# options=-csearch_path%3Dshop in the DSN.\n" in printed("shop.t")
    assert "search_path" not in printed("public.u")
    assert printed("public.u") == printed("u")


# -- the command --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("made", "error", "said"),
    [
        ("SELECT 1", "MigrationError", "there is no table 't' in the database"),
        ("CREATE VIEW t AS SELECT 1 AS id", "MigrationError", "'t' is no table, but a view"),
        ("CREATE SEQUENCE t", "MigrationError", "'t' is no table, but a sequence"),
        ("CREATE TABLE t (id int)", "NoPrimaryKeyError", "table 't' has no PRIMARY KEY"),
        ("CREATE TABLE t (id int UNIQUE)", "NoPrimaryKeyError", "columns that are NOT NULL"),
        ("CREATE TABLE t (id date PRIMARY KEY)", "InvalidModelError", "column 'id' of the key of table 't' is DATE"),
        ('CREATE TABLE t ("a b" int PRIMARY KEY)', "InvalidModelError", "column 'a b' of the key"),
        (
            "CREATE TYPE mood AS ENUM ('sad'); CREATE TABLE t (id mood PRIMARY KEY)",
            "InvalidModelError",
            "column 'id' of the key of table 't' is the enum MOOD",
        ),
    ],
)
@pytest.mark.usefixtures("adopt")
def test_what_can_be_no_schema_is_an_error_that_says_why(dsn: str, made: str, error: str, said: str) -> None:
    run(dsn, made)
    result = inspect_table("t")
    assert result.exit_code == 1
    assert result.stdout == ""
    assert result.stderr.startswith(f"{error}: ") and said in result.stderr


@pytest.mark.parametrize("table", ["a-b", "_strata_tombstones"])
@pytest.mark.usefixtures("adopt")
def test_a_name_that_no_schema_can_have_is_an_error(dsn: str, table: str) -> None:
    run(dsn, f'CREATE TABLE "{table}" (id int PRIMARY KEY)')
    result = inspect_table(table)
    assert (result.exit_code, result.stderr.partition(":")[0]) == (1, "InvalidModelError")


def test_the_database_is_named_by_a_dsn_or_an_app(tmp_path: Path, dsn: str, monkeypatch: pytest.MonkeyPatch) -> None:
    run(dsn, "CREATE TABLE t (id int PRIMARY KEY)")
    monkeypatch.delenv("STRATA_POSTGRES_DSN", raising=False)
    (tmp_path / "inspecting_app.py").write_text(
        f"from strata import *\nstore = DataStore(Config(postgres_dsn={dsn!r}))\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    shown = inspect_table("t", "--dsn", dsn)
    assert shown.exit_code == 0
    assert inspect_table("t", "--app", "inspecting_app:store").output == shown.output
    assert inspect_table("t", "--dsn", dsn, "--app", "inspecting_app:store").exit_code == 2
    unnamed = inspect_table("t")
    assert unnamed.exit_code == 1 and "STRATA_POSTGRES_DSN" in unnamed.output


@pytest.mark.usefixtures("adopt")
def test_nothing_is_changed_in_the_database(dsn: str) -> None:
    run(dsn, "CREATE TABLE t (id serial PRIMARY KEY)")
    inspect_table("t")
    assert run(dsn, "SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace ORDER BY 1") == [
        ("t",), ("t_id_seq",), ("t_pkey",),
    ]  # fmt: skip
    assert run(dsn, "SELECT is_called FROM t_id_seq") == [(False,)]
