"""Tables that other tools made: each column goes through every door as the model says, or is refused by its name."""

from __future__ import annotations

import re
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, make_dataclass
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from typing import Annotated, Any, Literal

import psycopg
import pytest

import strata
from strata import Config, DataStore, MemPolicy, PostgresPolicy, Q, RedisPolicy, Schema, WriteMode
from strata.errors import ConstraintError, FlushTimeoutError, InvalidModelError, MigrationError, NotFoundError
from tests import databases
from tests.stores import MakeStore, schema

AT = datetime(2024, 6, 1, 12, 30, tzinfo=UTC)
DAY = datetime(2024, 6, 1, tzinfo=UTC)
ID = uuid.UUID(int=5)


@dataclass(frozen=True)
class Case:
    """A column: what it is, the model's type, two values, the SQL of a third one, and how a query finds the first."""

    column: str
    annotation: Any
    first: Any
    second: Any
    sql: str
    third: Any
    finds: str = "x = $1"


CASES = {
    "varchar": Case("varchar(9)", str, "one", "", "'theirs'", "theirs"),
    "char": Case("char(9)", str, "one", "two", "'theirs'", "theirs"),
    "domain": Case("work", str, "a@b", "c@d", "'e@f'", "e@f"),
    "literal_in_varchar": Case("varchar(9)", Literal["happy", "sad"], "happy", "sad", "'sad'", "sad"),
    "enum": Case("mood", Literal["happy", "sad"], "happy", "sad", "'sad'", "sad"),
    "integer": Case("integer", int, 7, -7, "2147483647", 2147483647),
    "smallint": Case("smallint", int, 7, -7, "32767", 32767),
    "whole_numeric": Case("numeric(18,0)", int, 5, -(10**17), "0", 0),
    "level_in_text": Case("text", Literal[1, 2, 30], 2, 30, "'1'", 1, "x = '2'"),
    "integer_for_float": Case("integer", float, 2.0, -3.0, "7", 7.0),
    "integer_for_decimal": Case("integer", Decimal, Decimal(2), Decimal(-3), "7", Decimal(7)),
    "date_for_datetime": Case("date", datetime, DAY, DAY - timedelta(days=9), "'2024-06-01'", DAY),
    "real": Case("real", float, 1.5, -0.25, "3.5", 3.5),
    "numeric_for_float": Case("numeric", float, 1.5, 0.0, "3.5", 3.5),
    "numeric": Case("numeric(10,2)", Decimal, Decimal("1.24"), Decimal("0.00"), "3.5", Decimal("3.50")),
    "timestamp": Case("timestamp", datetime, AT, AT + timedelta(microseconds=1), "'2024-06-01 12:30'", AT),
    "timestamptz": Case("timestamptz(0)", datetime, AT, AT - timedelta(days=9), "'2024-06-01 12:30+00'", AT),
    "date": Case("date", date, date(2024, 6, 1), date(1, 1, 1), "'2024-06-02'", date(2024, 6, 2)),
    "time": Case("time(0)", time, time(12), time(0, 0, 1), "'10:00'", time(10)),
    "interval": Case("interval(0)", timedelta, timedelta(1), timedelta(0, -5), "'2 days'", timedelta(2)),
    "json": Case("json", dict[str, int], {"a": 1}, {}, """'{"b": 2}'""", {"b": 2}, "(x ->> 'a')::int = 1"),
    "jsonb": Case("jsonb", list[str], ["a"], [], """'["b"]'""", ["b"], "x ? 'a'"),
    "uuid": Case("uuid DEFAULT gen_random_uuid()", uuid.UUID, ID, uuid.UUID(int=0), f"'{ID}'", ID),
    "bytea": Case("bytea", bytes, b"\0\xff", b"", "'\\x01'", b"\1"),
    "boolean": Case("boolean", bool, True, False, "true", True),
}
MODES = [WriteMode.WRITE_THROUGH, WriteMode.WRITE_BEHIND]


def model(annotation: Any, key: Any = str) -> Any:
    return make_dataclass("Row", [("id", Annotated[key, strata.PrimaryKey]), ("x", annotation)])


class Others:
    """A database with a table for each case, and a store over all of them."""

    def __init__(self, dsn: str, redis_addr: str, mode: WriteMode) -> None:
        self.dsn = dsn
        name = psycopg.conninfo.conninfo_to_dict(dsn)["dbname"]
        self.store = DataStore(Config(postgres_dsn=dsn, redis_addr=redis_addr, namespace=str(name)))
        self.deferred = mode is WriteMode.WRITE_BEHIND
        self.models: dict[str, Any] = {}
        with psycopg.connect(dsn, autocommit=True) as conn:
            conn.execute("CREATE DOMAIN email AS text CHECK (VALUE LIKE '%@%'); CREATE DOMAIN work AS email")
            conn.execute("CREATE TYPE mood AS ENUM ('happy', 'sad')")
            for name, case in CASES.items():
                row = f"id varchar(36) PRIMARY KEY, x {case.column} NOT NULL, theirs text NOT NULL DEFAULT 'kept'"
                conn.execute(f"CREATE TABLE {name} ({row})".encode())
                self.models[name] = kind = model(case.annotation)
                l3 = PostgresPolicy(managed=False)
                self.store.register(Schema(kind, name=name, l1=MemPolicy(), l2=RedisPolicy(), l3=l3, write_mode=mode))
            for change in self.store.migrate().manual:
                conn.execute(change.sql.encode())
        assert self.store.migrate().manual == ()

    def insert(self, name: str, key: str) -> None:
        with psycopg.connect(self.dsn, autocommit=True) as conn:
            conn.execute(f"INSERT INTO {name} VALUES (%s, {CASES[name].sql}, 'others')".encode(), [key])

    def theirs(self, name: str, key: str) -> str:
        with psycopg.connect(self.dsn) as conn:
            row = conn.execute(f"SELECT theirs FROM {name} WHERE id = %s".encode(), [key]).fetchone()
        assert row is not None
        return str(row[0])

    def holds(self, name: str, key: str, value: Any) -> None:
        """Every tier has this value of the record."""
        if self.deferred:
            self.store.flush_dirty(10)
        for options in ({}, {"force_l2": True}, {"force_l3": True}):
            assert self.store.get(name, key, **options) == self.models[name](key, value)


@pytest.fixture(scope="module", params=MODES, ids=["through", "behind"])
def others(request: pytest.FixtureRequest, redis_server: str) -> Iterator[Others]:
    with databases.fresh() as dsn:
        found = Others(dsn, redis_server, request.param)
        yield found
        found.store.close()


def read(others: Others, name: str, case: Case, key: str) -> None:
    others.insert(name, key)
    assert others.store.exists(name, key)
    others.holds(name, key, case.third)
    assert others.store.get_many(name, [key])[key].x == case.third


def put(others: Others, name: str, case: Case, key: str) -> None:
    for value in (case.first, case.second):
        record = others.models[name](key, value)
        assert others.store.set(name, key, record) == record
        others.holds(name, key, value)
    assert others.theirs(name, key) == "kept"


def change(others: Others, name: str, case: Case, key: str) -> None:
    others.insert(name, key)
    others.store.set(name, key, others.models[name](key, case.first))
    others.holds(name, key, case.first)
    assert others.theirs(name, key) == "others"


def many(others: Others, name: str, case: Case, key: str) -> None:
    for value in (case.first, case.second):  # COPY of new rows, then over those that are there; and few of them
        for number in (40, 3):
            records = {f"{key}{place}": others.models[name](f"{key}{place}", value) for place in range(number)}
            assert others.store.set_many(name, records) == records
        others.holds(name, f"{key}0", value)
        others.holds(name, f"{key}39", value)


def transact(others: Others, name: str, case: Case, key: str) -> None:
    others.insert(name, key)
    with others.store.tx() as tx:
        tx.set(name, key, others.models[name](key, case.second))
        tx.set(name, f"{key}2", others.models[name](f"{key}2", case.first))
    others.holds(name, key, case.second)
    others.holds(name, f"{key}2", case.first)


def batch(others: Others, name: str, case: Case, key: str) -> None:
    others.insert(name, key)
    for place in ["", *range(30)]:
        others.store.set(name, f"{key}{place}", others.models[name](f"{key}{place}", case.first))
    if others.deferred:
        others.store.flush_dirty(10)
    others.holds(name, key, case.first)
    others.holds(name, f"{key}29", case.first)
    assert others.theirs(name, key) == "others"


def find(others: Others, name: str, case: Case, key: str) -> None:
    others.store.set(name, key, others.models[name](key, case.first))
    others.holds(name, key, case.first)
    query = Q().where(f"id = '{key}' AND {case.finds}", *([case.first] if "$1" in case.finds else []))
    record = others.models[name](key, case.first)
    assert others.store.search(name, query) == others.store.search_cached(name, query) == [record]
    assert others.store.count(name, query) == 1
    assert list(others.store.search_iter(name, query)) == [record]


def partly(others: Others, name: str, case: Case, key: str) -> None:
    others.insert(name, key)
    (record,) = others.store.search(name, Q().where("id = $1", key).fields("id"))
    assert record.x is strata.UNLOADED
    others.store.set(name, key, record)
    others.holds(name, key, case.third)


def remove(others: Others, name: str, case: Case, key: str) -> None:
    others.insert(name, key)
    others.store.delete(name, key)
    if others.deferred:
        others.store.flush_dirty(10)
    with pytest.raises(NotFoundError):
        others.store.get(name, key, force_l3=True)


def warm(others: Others, name: str, case: Case, key: str) -> None:
    others.insert(name, key)
    assert others.store.warm_cache(name) > 0
    others.holds(name, key, case.third)


OPERATIONS: list[Callable[[Others, str, Case, str], None]] = [
    read, put, change, many, transact, batch, find, partly, remove, warm,
]  # fmt: skip


@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda operation: operation.__name__)
@pytest.mark.parametrize("name", CASES)
def test_a_column_of_another_tool_goes_through_every_door(
    others: Others, name: str, operation: Callable[[Others, str, Case, str], None]
) -> None:
    operation(others, name, CASES[name], operation.__name__)


# -- keys ---------------------------------------------------------------------------------------------------------

KEYS: dict[str, tuple[str, Any, Any, str]] = {
    "serial": ("serial PRIMARY KEY", int, 7, "DEFAULT"),
    "identity": ("bigint GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY", int, 7, "DEFAULT"),
    "always": ("bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY", int, 7, "DEFAULT"),
    "smallint": ("smallint PRIMARY KEY", int, 7, "1"),
    "varchar": ("varchar(36) PRIMARY KEY", str, "Key", "'key'"),
    "uuid": ("uuid PRIMARY KEY DEFAULT gen_random_uuid()", uuid.UUID, ID, "DEFAULT"),
    "unique": ("text NOT NULL UNIQUE", str, "key", "'other'"),
}


@pytest.mark.parametrize("mode", MODES, ids=["through", "behind"])
@pytest.mark.parametrize("name", KEYS)
def test_a_key_of_another_tool_finds_its_row(dsn: str, make: MakeStore, name: str, mode: WriteMode) -> None:
    column, kind, key, theirs = KEYS[name]
    run(dsn, f"""CREATE TABLE "Order" (id {column}, "select" text NOT NULL)""")
    run(dsn, f"""INSERT INTO "Order" VALUES ({theirs}, 'x')""")
    row = make_dataclass("Row", [("id", Annotated[kind, strata.PrimaryKey]), ("select", str)])
    store = make()
    store.register(schema(row, name="orders", l3=PostgresPolicy(table_name="Order"), write_mode=mode))
    assert store.migrate().blocking == ()
    ((other,),) = run(dsn, """SELECT id FROM "Order" """)
    for id in (key, other):
        store.set("orders", id, row(id, "mine"))
    store.flush_dirty(10)
    assert store.get("orders", key, force_l3=True) == row(key, "mine")
    assert store.set_many("orders", {key: row(key, "more"), other: row(other, "more")})
    assert {record.select for record in store.search("orders")} == {"more"} and store.count("orders") == 2
    assert store.warm_cache("orders") == 2
    store.delete("orders", other)
    store.flush_dirty(10)
    assert run(dsn, """SELECT id, "select" FROM "Order" """) == [(key, "more")]


def run(dsn: str, *statements: str) -> list[Any]:
    """Run SQL as another tool would; the rows of the last statement."""
    with psycopg.connect(dsn, autocommit=True) as conn:
        for statement in statements:
            cursor = conn.execute(statement.encode())
        return cursor.fetchall() if cursor.description else []


# -- what is refused ----------------------------------------------------------------------------------------------

REFUSED: dict[str, tuple[str, Any, Any, str]] = {
    "array": ("text[] NOT NULL", list[str], ["a"], "TEXT[]"),
    "money": ("money NOT NULL", Decimal, Decimal(1), "MONEY"),
    "text_for_uuid": ("varchar(36) NOT NULL", uuid.UUID, ID, "CHARACTER VARYING(36)"),
    "uuid_for_text": ("uuid NOT NULL", str, str(ID), "UUID"),
    "integer_for_text": ("integer NOT NULL", str, "1", "INTEGER"),
    "bigint_for_float": ("bigint NOT NULL", float, 1.5, "BIGINT"),
    "bigint_for_datetime": ("bigint NOT NULL", datetime, AT, "BIGINT"),
    "numeric_for_int": ("numeric(9,2) NOT NULL", int, 1, "NUMERIC(9,2)"),
    "smallint_for_bool": ("smallint NOT NULL", bool, True, "SMALLINT"),
    "timestamp_for_date": ("timestamp NOT NULL", date, date(2024, 1, 1), "TIMESTAMP WITHOUT TIME ZONE"),
    "text_for_json": ("text NOT NULL", dict[str, int], {"a": 1}, "TEXT"),
}


def doors(store: DataStore, key: Any, record: Any) -> list[Callable[[], Any]]:
    return [
        lambda: store.get("t", key),
        lambda: store.get("t", key, force_l3=True),
        lambda: store.get_many("t", [key]),
        lambda: store.exists("t", key),
        lambda: store.set("t", key, record),
        lambda: store.set_many("t", {key: record}),
        lambda: store.tx().set("t", key, record).commit(),
        lambda: store.search("t"),
        lambda: list(store.search_iter("t")),
        lambda: store.count("t"),
        lambda: store.delete("t", key),
        lambda: store.warm_cache("t"),
    ]


@pytest.mark.parametrize("name", REFUSED)
def test_a_column_that_cannot_hold_the_model_is_refused_at_every_door_by_its_name(
    dsn: str, make: MakeStore, name: str
) -> None:
    column, annotation, value, said = REFUSED[name]
    run(dsn, f"CREATE TABLE t (id text PRIMARY KEY, x {column})")
    kind = model(annotation)
    store = make()
    store.register(schema(kind, name="t"))
    told = [change.text for change in store.migrate().blocking]
    assert any(text.startswith("t.x is") and said in text for text in told)
    for door in doors(store, "k", kind("k", value)):
        with pytest.raises(MigrationError, match=f"column 'x' of table 't' is .*{re.escape(said)}.*strata migrate"):
            door()
    assert run(dsn, "SELECT * FROM t") == []


@pytest.mark.parametrize(
    ("column", "kind", "key", "said"),
    [
        ("bigint GENERATED ALWAYS AS (7) STORED PRIMARY KEY", int, 7, "GENERATED ALWAYS"),
        ("mood PRIMARY KEY", str, "sad", "the enum MOOD"),
        ("integer PRIMARY KEY", str, "12", "INTEGER"),
        ("text PRIMARY KEY", int, 12, "TEXT"),
        ("uuid PRIMARY KEY", str, str(ID), "UUID"),
        ("char(9) PRIMARY KEY", str, "k", "as its key"),
        ("text COLLATE folding PRIMARY KEY", str, "k", "takes different texts for equal"),
    ],
    ids=["generated", "enum", "integer", "text", "uuid", "char", "folding"],
)
def test_a_key_that_cannot_be_looked_up_as_the_model_says_is_refused(
    dsn: str, make: MakeStore, column: str, kind: Any, key: Any, said: str
) -> None:
    if "folding" in column:
        try:
            run(dsn, "CREATE COLLATION folding (provider = icu, locale = 'und-u-ks-level2', deterministic = false)")
        except psycopg.errors.FeatureNotSupported:
            pytest.skip("this PostgreSQL was built without ICU")
    run(dsn, "CREATE TYPE mood AS ENUM ('happy', 'sad')", f"CREATE TABLE t (id {column}, x text)")
    row = model(str | None, kind)
    store = make()
    store.register(schema(row, name="t"))
    assert any(said in change.text or "the model wants" in change.text for change in store.migrate().blocking)
    for door in doors(store, key, row(key, "x")):
        with pytest.raises(MigrationError, match=f"column 'id' of table 't' .*{said}"):
            door()


RULED = "CREATE TABLE t (id TEXT PRIMARY KEY, x TEXT NOT NULL, _strata_version BIGINT NOT NULL DEFAULT 0)"


@pytest.mark.parametrize(
    ("made", "said"),
    [
        ("CREATE VIEW t AS SELECT 'a'::text AS id, 'b'::text AS x", "is no table, but a view; "),
        (
            "CREATE MATERIALIZED VIEW t AS SELECT 'a'::text AS id, 'b'::text AS x",
            "is no table, but a materialized view; ",
        ),
        (
            "CREATE FOREIGN DATA WRAPPER w; CREATE SERVER s FOREIGN DATA WRAPPER w; CREATE FOREIGN TABLE t () SERVER s",
            "is no table, but a foreign table; ",
        ),
        (f"{RULED}; CREATE RULE r AS ON INSERT TO t DO INSTEAD NOTHING", "has rules "),
        (f"{RULED}; CREATE RULE r AS ON UPDATE TO t DO ALSO NOTIFY t", "has rules "),
        (f"{RULED}; CREATE RULE r AS ON DELETE TO t DO INSTEAD NOTHING", "has rules "),
    ],
)
@pytest.mark.parametrize("managed", [True, False])
def test_what_is_no_table_is_refused_as_what_it_is(
    dsn: str, make: MakeStore, made: str, said: str, managed: bool
) -> None:
    run(dsn, made)
    kind = model(str)
    store = make()
    store.register(schema(kind, name="t", l3=PostgresPolicy(managed=managed)))
    with pytest.raises(InvalidModelError, match=f"'t' is there already and {said}"):
        store.migrate()
    for door in doors(store, "a", kind("a", "b")):
        with pytest.raises(MigrationError, match=f"'t' {said}"):
            door()


def test_deferred_writes_wait_until_the_table_can_hold_them(dsn: str, make: MakeStore) -> None:
    run(dsn, "CREATE TABLE t (id text PRIMARY KEY, x text[] NOT NULL)")
    kind = model(list[str])
    store = make(write_behind_max_retry=1)
    store.register(schema(kind, name="t", write_mode=WriteMode.WRITE_BEHIND))
    (told,) = store.migrate().blocking
    store.set("t", "a", kind("a", ["sad"]))
    with pytest.raises(FlushTimeoutError):
        store.flush_dirty(1)
    assert store.dead_letters.list() == []
    run(dsn, told.sql)
    store.flush_dirty(20)
    assert run(dsn, "SELECT id, x FROM t") == [("a", ["sad"])]


def test_a_table_changed_while_it_is_in_use_is_no_outage(dsn: str, make: MakeStore) -> None:
    kind = model(str)
    store = make()
    store.register(schema(kind, name="t"))
    store.migrate()
    store.set("t", "a", kind("a", "1"))
    run(dsn, "ALTER TABLE t ALTER COLUMN x TYPE bigint USING x::bigint")
    with pytest.raises(MigrationError, match="does not fit"):
        store.set("t", "b", kind("b", "2"))
    run(dsn, "ALTER TABLE t ALTER COLUMN x TYPE text USING x::text")
    store.set("t", "b", kind("b", "2"))


def test_a_column_that_others_must_fill_is_named_where_a_row_is_inserted(dsn: str, make: MakeStore) -> None:
    run(dsn, "CREATE TABLE t (id text PRIMARY KEY, x text NOT NULL, theirs boolean NOT NULL)")
    kind = model(str)
    store = make()
    store.register(schema(kind, name="t"))
    (told,) = store.migrate().blocking
    assert "t.theirs is not in the model" in told.text
    with pytest.raises(ConstraintError, match=r"'theirs' .*NULL-able, or have a DEFAULT"):
        store.set("t", "a", kind("a", "b"))
    run(dsn, told.sql)
    store.set("t", "a", kind("a", "b"))


# -- managed by others --------------------------------------------------------------------------------------------


@dataclass
class Article:
    """What an application knows of another tool's articles."""

    id: Annotated[int, strata.PrimaryKey]
    title: Annotated[str, strata.Indexed]
    stars: int = 0


DJANGO = """CREATE TABLE articles (
    id bigint GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY, title varchar(50) NOT NULL, stars integer NOT NULL,
    published boolean NOT NULL, note text)"""


def shape(dsn: str) -> list[Any]:
    return run(
        dsn,
        "SELECT attname::text, atttypid, attnotnull, atthasdef FROM pg_attribute WHERE attrelid = 'articles'::regclass"
        " UNION ALL SELECT c.relname, 0, false, false FROM pg_index i JOIN pg_class c ON c.oid = indexrelid"
        " WHERE indrelid = 'articles'::regclass UNION ALL"
        " SELECT tgname, 0, false, false FROM pg_trigger WHERE tgrelid = 'articles'::regclass ORDER BY 1",
    )


@pytest.mark.parametrize("watch", [False, True])
def test_a_table_that_others_manage_is_never_altered_and_what_it_lacks_is_said_once(
    dsn: str, make: MakeStore, watch: bool
) -> None:
    run(dsn, DJANGO, "INSERT INTO articles (title, stars, published) VALUES ('one', 1, true)")
    before = shape(dsn)
    for name in ("articles", "same_again"):
        store = make()
        store.register(schema(Article, name=name, l3=PostgresPolicy("articles", managed=False, watch=watch)))
        store.migrate()
    report = store.migrate()
    assert report.applied == () and shape(dsn) == before
    told, *rest = report.blocking
    assert report.manual == report.blocking and "articles is managed by other means" in told.text
    assert told.sql.count("_strata_version") == 1 and told.sql.count("CREATE INDEX") == 1
    assert len(rest) == watch and all("does not tell of changes made outside" in change.text for change in rest)
    for change in report.manual:
        run(dsn, change.sql)
    assert store.migrate().manual == ()
    assert store.set("same_again", 1, Article(1, "one", 2)) == store.get("same_again", 1) == Article(1, "one", 2)
    assert run(dsn, "SELECT stars, published FROM articles") == [(2, True)]


@dataclass
class Stamped:
    id: Annotated[int, strata.PrimaryKey]
    made: Annotated[datetime | None, strata.AutoNowAdd] = None
    changed: Annotated[datetime | None, strata.AutoNow] = None


def watching(make: MakeStore, mode: WriteMode) -> DataStore:
    store = make()
    policy = PostgresPolicy(managed=False, watch=True)
    store.register(schema(Article, name="articles", l3=policy, write_mode=mode))
    return store


def test_triggers_of_another_write_mode_are_told_of_since_they_would_undo_what_is_deferred(
    dsn: str, make: MakeStore
) -> None:
    run(dsn, DJANGO, "INSERT INTO articles (title, stars, published) VALUES ('one', 1, true)")
    for change in watching(make, WriteMode.WRITE_THROUGH).migrate().manual:
        run(dsn, change.sql)
    behind = watching(make, WriteMode.WRITE_BEHIND)
    [told] = behind.migrate().blocking
    assert "triggers for other schemas over it" in told.text
    run(dsn, told.sql)
    assert behind.migrate().manual == ()
    behind.increment("articles", 1, stars=5)
    run(dsn, "UPDATE articles SET title = 'by sql'")
    behind.flush_dirty()
    assert run(dsn, "SELECT title, stars FROM articles") == [("by sql", 6)]


def test_what_tells_of_changes_can_be_run_before_strata_has_made_its_own_tables(dsn: str, make: MakeStore) -> None:
    """As by a migration of Alembic's, which was written with another database."""
    run(dsn, DJANGO, "INSERT INTO articles (title, stars, published) VALUES ('one', 1, true)")
    store = watching(make, WriteMode.WRITE_BEHIND)
    changes = store.migrate().manual
    own = run(dsn, "SELECT relname::text FROM pg_class WHERE relname ~ '^_strata_[a-z]+$' AND relkind = 'r'")
    run(dsn, f"DROP TABLE {', '.join(name for (name,) in own)}")
    # As an earlier release made it.
    run(dsn, "CREATE TABLE _strata_partials (schema text, id text, version bigint, base bigint, columns jsonb,"
             " at timestamptz DEFAULT now(), PRIMARY KEY (schema, id))")  # fmt: skip
    for change in changes:
        run(dsn, change.sql)
    run(dsn, "UPDATE articles SET stars = 2", "DELETE FROM articles")
    assert store.migrate().manual == ()


@pytest.mark.parametrize("nullable", [True, False])
def test_a_field_that_is_stamped_fits_a_column_that_must_have_a_value(
    dsn: str, make: MakeStore, nullable: bool
) -> None:
    """`datetime | None` says that the caller gives none, and Strata does."""
    demand = "" if nullable else "NOT NULL"
    run(dsn, f"CREATE TABLE stamped (id int PRIMARY KEY, made timestamptz {demand}, changed timestamptz {demand})")
    store = make()
    store.register(schema(Stamped, name="stamped", l3=PostgresPolicy(managed=False)))
    for change in store.migrate().manual:
        run(dsn, change.sql)
    assert store.migrate().blocking == ()
    assert store.set("stamped", 1, Stamped(1)).made is not None
    assert store.insert("stamped", Stamped(2)).changed is not None


def test_a_table_that_others_manage_and_that_is_not_there_is_told_whole(dsn: str, make: MakeStore) -> None:
    store = make()
    store.register(schema(Article, name="articles", l3=PostgresPolicy(managed=False)))
    (told,) = store.migrate().blocking
    assert run(dsn, "SELECT to_regclass('articles')::text") == [(None,)]
    run(dsn, told.sql)
    assert store.migrate().manual == ()
    store.set("articles", 1, Article(1, "one"))


def test_one_schema_that_says_so_is_enough(dsn: str, make: MakeStore) -> None:
    run(dsn, DJANGO)
    before = shape(dsn)
    store = make()
    store.register(schema(Article, name="first", l3=PostgresPolicy("articles")))
    store.register(schema(Article, name="second", l3=PostgresPolicy("articles", managed=False)))
    assert "_strata_version" in store.migrate().blocking[0].sql and shape(dsn) == before
