"""What PostgreSQL really answers: a sample of each class, provoked, has its own error, and opens no breaker."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Annotated, Any

import psycopg
import pytest

import strata
from strata import (
    Collection,
    Config,
    ConstraintError,
    DataStore,
    EncodeError,
    L3PoolConfig,
    L3RefusedError,
    L3TimeoutError,
    MigrationError,
    PostgresPolicy,
    PrimaryKey,
    Q,
    QueryError,
    Schema,
    StrataError,
    TxFailedError,
)
from strata.l3.pool import Database
from strata.l3.statement import ask
from strata.testing import inspect
from strata.waits.clock import SystemClock
from tests import databases


@dataclass
class Row:
    id: Annotated[str, PrimaryKey]
    name: str = ""
    size: int = 0


@dataclass
class Shop:
    store: DataStore
    rows: Collection[Row]
    run: Callable[[str], Any]
    admin: psycopg.Connection[Any]

    def good(self) -> None:
        """Everybody else is served, at the first try."""
        self.rows.set("good", Row("good", "n", 1))
        assert self.rows.get("good").size == 1 and self.rows.count(Q().where("id = 'good'")) == 1


@pytest.fixture(scope="module")
def shop() -> Iterator[Shop]:
    short = L3PoolConfig(statement_timeout=1.0, lock_timeout=0.3, max_conns=4)
    with (
        databases.fresh() as dsn,
        psycopg.connect(dsn, autocommit=True) as admin,
        DataStore(Config(postgres_dsn=dsn, l3_pool=short)) as store,
    ):
        rows = store.register(Schema(Row, name="rows", l3=PostgresPolicy()))
        store.migrate()
        yield Shop(store, rows, lambda sql: admin.execute(sql.encode()), admin)


TRIGGER = """
CREATE OR REPLACE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN IF NEW.name = 'bad' THEN {what}; END IF; RETURN NEW; END $$;
CREATE OR REPLACE TRIGGER refuse BEFORE INSERT OR UPDATE ON rows FOR EACH ROW EXECUTE FUNCTION refuse()
"""
RAISED = TRIGGER.format(what="RAISE SQLSTATE '{}'")

# SQL that brings a state about, what the call of a bad record raises, what it says; then the SQL that ends it.
REFUSED: dict[str, tuple[str, type[StrataError], str, str]] = {
    "22001, a text too long for the column of others": (
        "ALTER TABLE rows ALTER COLUMN name TYPE varchar(2)", EncodeError, "column 'name'",
        "ALTER TABLE rows ALTER COLUMN name TYPE text"),
    "22003, a number out of the column's range": (
        "UPDATE rows SET size = 0; ALTER TABLE rows ALTER COLUMN size TYPE smallint", EncodeError, "column 'size'",
        "ALTER TABLE rows ALTER COLUMN size TYPE bigint"),
    "23502": ("ALTER TABLE rows ADD COLUMN more text", ConstraintError, "23502", "ALTER TABLE rows DROP COLUMN more"),
    "23505": ("CREATE UNIQUE INDEX one ON rows (name); INSERT INTO rows (id, name, size) VALUES ('other', 'bad', 1)",
              ConstraintError, "23505", "DROP INDEX one; DELETE FROM rows"),
    "23514": ("ALTER TABLE rows ADD CONSTRAINT c CHECK (name <> 'bad')", ConstraintError, "23514",
              "ALTER TABLE rows DROP CONSTRAINT c"),
    **{
        state: (RAISED.format(state), kind, state, "DROP FUNCTION refuse CASCADE")
        for state, kind in {
            "09000": ConstraintError, "0A000": L3RefusedError, "21000": L3RefusedError, "22012": EncodeError,
            "23001": ConstraintError, "27000": ConstraintError, "39000": L3RefusedError, "44000": ConstraintError,
            "54000": L3RefusedError, "55000": L3RefusedError, "58030": L3RefusedError, "P0001": ConstraintError,
            "XX000": L3RefusedError, "XX001": L3RefusedError, "ZZ123": L3RefusedError, "42804": MigrationError,
            "42883": MigrationError, "42501": L3RefusedError, "40P01": L3RefusedError, "40001": L3RefusedError,
        }.items()
    },
    "a function that recurses without end": (
        """CREATE FUNCTION deep(n int) RETURNS int LANGUAGE sql AS 'SELECT 1';
        CREATE OR REPLACE FUNCTION deep(n int) RETURNS int LANGUAGE plpgsql AS 'BEGIN RETURN deep(n + 1); END';"""
        + TRIGGER.format(what="PERFORM deep(1)"), L3RefusedError, "54001",
        "DROP FUNCTION refuse CASCADE; DROP FUNCTION deep CASCADE"),
    "a statement that takes too long": (
        TRIGGER.format(what="PERFORM pg_sleep(30)"), L3TimeoutError, "57014", "DROP FUNCTION refuse CASCADE"),
}  # fmt: skip


@pytest.mark.parametrize("what", REFUSED)
def test_a_record_that_is_refused_has_its_error_and_nobody_else_notices(shop: Shop, what: str) -> None:
    before, kind, said, after = REFUSED[what]
    if "23502" in what:
        shop.run("DELETE FROM rows")
        before += " NOT NULL"
    shop.run(before)
    inspect(shop.store).schemas["rows"].rows.table.changed()
    try:
        for _ in range(3):
            with pytest.raises(kind) as caught:
                shop.rows.set("a", Row("a", "bad", 1 << 40))
            assert type(caught.value) is kind and said in str(caught.value), caught.value
            assert getattr(caught.value, "sqlstate", said) == said
        with pytest.raises(StrataError) as moved, shop.store.tx() as tx:
            tx.set("rows", "a", Row("a", "bad", 1 << 40))
        assert not isinstance(moved.value, strata.UnavailableError)
        if kind in (ConstraintError, EncodeError):
            assert type(moved.value) is TxFailedError
        if "23502" not in what:
            shop.good()
    finally:
        shop.run(after)
        inspect(shop.store).schemas["rows"].rows.table.changed()
    shop.good()


QUERIES: dict[str, tuple[Q, type[StrataError]]] = {
    "a division by zero": (Q().where("1 / (size - size) = 1"), QueryError),
    "an unknown column": (Q().where("nothing = 1"), QueryError),
    "an unknown function": (Q().where("nothing(size)"), QueryError),
    "another type": (Q().where("size"), QueryError),
    "a bad pattern": (Q().where("name ~ $1", "("), QueryError),
    "a subquery of many rows": (Q().where("size = (SELECT generate_series(1, 2))"), QueryError),
    "a cast": (Q().where("name::int = 1"), QueryError),
    "a function that raises": (Q().where("pick()"), QueryError),
    "more than the stack holds": (Q().where("NOT " * 60_000 + "true"), QueryError),
    "too many arguments": (Q().where(f"size IN ({', '.join(f'${n}' for n in range(1, 65_537))})", *range(65_536)),
                           QueryError),
    "a list of mixed types": (Q().where("name = ANY($1)", [1, "a"]), QueryError),
    "more memory than there can be": (Q().where("repeat(name, 2000000000) = ''"), QueryError),
    "a long sleep": (Q().where("pg_sleep(30) IS NOT NULL"), L3TimeoutError),
}  # fmt: skip


@pytest.mark.parametrize("what", QUERIES)
def test_a_query_that_is_refused_has_its_error_and_nobody_else_notices(shop: Shop, what: str) -> None:
    query, kind = QUERIES[what]
    shop.good()
    shop.run("CREATE OR REPLACE FUNCTION pick() RETURNS boolean LANGUAGE plpgsql AS "
             "$$ BEGIN RAISE EXCEPTION 'hush'; END $$")  # fmt: skip
    calls: list[Callable[[], object]] = [
        lambda: shop.rows.search(query),
        lambda: shop.rows.count(query),
        lambda: list(shop.rows.search_iter(query)),
    ]
    for call in calls:
        with pytest.raises(StrataError) as caught:
            call()
        assert type(caught.value) is kind, caught.value
        assert "hush" not in str(caught.value)
        shop.good()


def test_what_libpq_will_not_send_is_no_outage() -> None:
    with databases.fresh() as dsn:
        database = Database(dsn, L3PoolConfig(), clock=SystemClock())
        for _ in range(3):
            with pytest.raises(EncodeError), database.connection() as conn:
                ask(conn, "SELECT 1", [1] * 70_000)
        assert database.breaker.closed and database.counts().idle == 1
        with database.connection() as conn:
            assert ask(conn, "SELECT 1", ()) == [(1,)]
        database.close()


def test_a_role_without_rights_is_told_which_and_reads_go_on_where_they_may(shop: Shop) -> None:
    shop.good()
    with databases.fresh() as dsn, psycopg.connect(dsn, autocommit=True) as admin:
        with DataStore(Config(postgres_dsn=dsn)) as store:
            store.register(Schema(Row, name="rows", l3=PostgresPolicy()))
            store.migrate()
        role = f"reader_{databases.name_of(dsn)}" if hasattr(databases, "name_of") else "reader_of_rows"
        admin.execute(f"DROP ROLE IF EXISTS {role}".encode())
        admin.execute(f"CREATE ROLE {role} LOGIN PASSWORD 'pw'; GRANT SELECT ON ALL TABLES IN SCHEMA public TO {role}"
                      .encode())  # fmt: skip
        try:
            theirs = psycopg.conninfo.make_conninfo(dsn, user=role, password="pw")
            with DataStore(Config(postgres_dsn=theirs)) as store:
                rows = store.register(Schema(Row, name="rows", l3=PostgresPolicy()))
                for _ in range(3):
                    with pytest.raises(L3RefusedError, match="grant") as caught:
                        rows.set("a", Row("a"))
                    assert caught.value.sqlstate == "42501"
                    assert rows.get("a", default=None) is None and rows.count() == 0
        finally:
            admin.execute(f"DROP OWNED BY {role}; DROP ROLE {role}".encode())


def test_a_lock_that_others_hold_is_a_time_out_and_no_outage(shop: Shop) -> None:
    shop.good()
    with shop.admin.transaction():
        shop.run("SELECT FROM rows WHERE id = 'good' FOR UPDATE")
        for _ in range(3):
            with pytest.raises(L3TimeoutError) as caught:
                shop.rows.set("good", Row("good"))
            assert isinstance(caught.value, TimeoutError) and caught.value.sqlstate == "55P03"
        assert shop.rows.get("good").id == "good"
    shop.good()
