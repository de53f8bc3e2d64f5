"""Migration files: applied once, in order, each as a whole, and not at all where something is wrong with them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from strata import PostgresPolicy, Schema
from strata.errors import MigrationError
from strata.l3 import migrations
from strata.l3.migrations import Migrator
from strata.l3.pool import Database
from tests.databases import NEWEST, VERSIONS
from tests.l3 import Item, fresh, unmade
from tests.support import wait_until


@pytest.fixture(params=NEWEST)
def database(request: pytest.FixtureRequest) -> Iterator[Database]:
    with fresh(request.param, max_conns=20) as database:
        yield database


def query(database: Database, sql: str) -> list[Any]:
    with database.connection() as conn:
        return conn.execute(sql).fetchall()


def run(database: Database, sql: str) -> None:
    with database.connection() as conn:
        conn.command(sql)


@pytest.fixture
def write(tmp_path: Path) -> Callable[[str, str], Path]:
    def write(name: str, text: str) -> Path:
        path = tmp_path / name
        path.write_text(text)
        return path

    return write


@pytest.fixture
def migrator(database: Database) -> Migrator:
    return Migrator(database, [])


@pytest.mark.parametrize("database", VERSIONS, indirect=True)
def test_files_are_applied_once_in_the_order_of_their_numbers(
    database: Database, migrator: Migrator, write: Any, tmp_path: Path
) -> None:
    write("010_third.sql", "INSERT INTO t VALUES (3);")
    write("002_second.sql", "INSERT INTO t VALUES (2); -- the end; really\n")
    write("001_first.sql", "CREATE TABLE t (a int);\nCREATE FUNCTION f() RETURNS int LANGUAGE sql AS $$ SELECT 1; $$;")
    write("1000_last.sql", "/* ; */ INSERT INTO t SELECT 4 WHERE '%' = '%';")
    write("README.md", "not one of them")
    names = ["001_first.sql", "002_second.sql", "010_third.sql", "1000_last.sql"]
    assert migrator.migrate_from(tmp_path) == names
    assert migrator.migrate_from(tmp_path) == []
    assert query(database, "SELECT a FROM t") == [(2,), (3,), (4,)]
    status = migrator.migration_status()
    assert [record.file_name for record in status] == names
    assert all(len(record.checksum) == 64 and record.applied_at.tzinfo is not None for record in status)
    write("003_late.sql", "INSERT INTO t VALUES (9)")
    assert migrator.migrate_from(tmp_path) == ["003_late.sql"]


def test_schemas_and_files_share_one_record(database: Database, write: Any, tmp_path: Path) -> None:
    write("001_first.sql", "CREATE TABLE t (a int)")
    both = Migrator(database, [(unmade(Item), Schema(Item, name="items", l3=PostgresPolicy()))])
    assert both.migration_status() == []
    both.migrate()
    both.migrate_from(tmp_path)
    first, second = both.migration_status()
    assert first.file_name.startswith("migrate() ") and second.file_name == "001_first.sql"


def test_a_failing_statement_leaves_nothing_of_its_file(
    database: Database, migrator: Migrator, write: Any, tmp_path: Path
) -> None:
    write("001_good.sql", "CREATE TABLE t (a int)")
    bad = write("002_bad.sql", "INSERT INTO t VALUES (1); SELECT nope FROM t;")
    write("003_never.sql", "INSERT INTO t VALUES (3)")
    for _ in range(2):
        with pytest.raises(MigrationError, match=r'002_bad\.sql.*42703.*column "nope" does not exist.*nothing of it'):
            migrator.migrate_from(tmp_path)
    assert query(database, "SELECT * FROM t") == []
    assert [record.file_name for record in migrator.migration_status()] == ["001_good.sql"]
    bad.write_text("INSERT INTO t VALUES (2)")
    assert migrator.migrate_from(tmp_path) == ["002_bad.sql", "003_never.sql"]


def test_what_a_file_does_with_rows_does_not_show_them(
    database: Database, migrator: Migrator, write: Any, tmp_path: Path
) -> None:
    run(database, "CREATE TABLE t (a text); INSERT INTO t VALUES ('hush'), ('hush')")
    file = write("001_a.sql", "SELECT a::int FROM t")
    for text, state in (("SELECT a::int FROM t", "22P02"), ("CREATE UNIQUE INDEX ON t (a)", "23505")):
        file.write_text(text)
        with pytest.raises(MigrationError, match=state) as caught:
            migrator.migrate_from(tmp_path)
        assert "hush" not in f"{caught.value}{caught.value.__cause__}{caught.value.__context__}"


def test_a_file_that_changed_after_it_was_applied_is_refused(migrator: Migrator, write: Any, tmp_path: Path) -> None:
    file = write("001_a.sql", "CREATE TABLE t (a int)")
    migrator.migrate_from(tmp_path)
    write("002_b.sql", "CREATE TABLE u (a int)")
    file.write_text("CREATE TABLE t (a bigint)")
    with pytest.raises(MigrationError, match=r"001_a\.sql was changed"):
        migrator.migrate_from(tmp_path)
    assert len(migrator.migration_status()) == 1


@pytest.mark.parametrize(
    "name", ["1_a.sql", "01_a.sql", "a_001.sql", "001.sql", "001-a.sql", "001_.sql", "001_a b.sql"]
)
def test_a_bad_name_is_refused_before_anything_runs(migrator: Migrator, write: Any, tmp_path: Path, name: str) -> None:
    write("000_good.sql", "CREATE TABLE t (a int)")
    write(name, "SELECT 1")
    with pytest.raises(MigrationError, match="001_create_users"):
        migrator.migrate_from(tmp_path)
    assert migrator.migration_status() == []


def test_a_number_used_twice_is_refused(migrator: Migrator, write: Any, tmp_path: Path) -> None:
    write("001_a.sql", "SELECT 1")
    write("0001_b.sql", "SELECT 1")
    with pytest.raises(MigrationError, match="same number"):
        migrator.migrate_from(tmp_path)


ENDINGS = [
    "BEGIN; SELECT 1; COMMIT;",
    "select 1; commit",
    "START  TRANSACTION;",
    "ROLLBACK",
    "ABORT",
    "END /* of it */ ;",
    "rollback and chain",
    "/* /* ; */ */ -- ;\n\tCOMMIT",
    "SELECT $·$ ' $·$; COMMIT; SELECT 1/0; --'",
    "SELECT E'a'\n'\\''; COMMIT; SELECT 1/0; --'",
    "SELECT U&'\\'; COMMIT; SELECT 1/0; --'",
    "SELECT 1 AS a$b; COMMIT; SELECT $$1$$",
    "CREATE FUNCTION f() RETURNS int BEGIN ATOMIC SELECT 1; END; COMMIT;",
]


@pytest.mark.parametrize("text", ENDINGS)
def test_a_file_that_ends_our_transaction_is_refused_before_anything_runs(
    database: Database, migrator: Migrator, write: Any, tmp_path: Path, text: str
) -> None:
    write("001_a.sql", "CREATE TABLE before_it ();")
    write("002_a.sql", f"CREATE TABLE own (); {text}")
    with pytest.raises(MigrationError, match=r"002_a\.sql.*no-transaction"):
        migrator.migrate_from(tmp_path)
    assert query(database, "SELECT to_regclass('before_it')::text") == [(None,)]


HIDDEN = [
    # What is several statements to the server and one to us, or the other way round, for whatever reason.
    "CREATE FUNCTION f(a text DEFAULT 'BEGIN ATOMIC') RETURNS int LANGUAGE sql AS 'SELECT 1'; COMMIT;",
    "SET standard_conforming_strings = off; SELECT '\\''; COMMIT; --'",
    "DO $$ BEGIN COMMIT; END $$;",
    "CREATE PROCEDURE p() LANGUAGE plpgsql AS $$ BEGIN COMMIT; END $$; CALL p();",
    "DO $$ BEGIN EXECUTE 'COMMIT'; END $$;",
    "PREPARE p AS SELECT 1; EXECUTE p; COMMIT PREPARED 'x'",
    "COPY own FROM STDIN;",
    "COPY own TO STDOUT;",
]


@pytest.mark.parametrize("text", HIDDEN)
def test_whatever_hides_the_end_of_a_transaction_nothing_of_the_file_is_applied(
    database: Database, migrator: Migrator, write: Any, tmp_path: Path, text: str
) -> None:
    file = write("001_a.sql", f"CREATE TABLE own (); {text}")
    with pytest.raises(MigrationError, match=r"001_a\.sql"):
        migrator.migrate_from(tmp_path)
    assert query(database, "SELECT to_regclass('own')::text") == [(None,)]
    assert migrator.migration_status() == []
    file.write_text("CREATE TABLE own ();")
    assert migrator.migrate_from(tmp_path) == ["001_a.sql"]


def test_what_only_looks_like_the_end_of_a_transaction_is_run(
    database: Database, migrator: Migrator, write: Any, tmp_path: Path
) -> None:
    write(
        "001_a.sql",
        "SAVEPOINT s; SELECT 1; ROLLBACK TO s; ROLLBACK WORK TO SAVEPOINT s; RELEASE s;"
        "SELECT 'COMMIT; ', $a$; COMMIT;$a$ AS \"; COMMIT;\"; -- ; COMMIT;\n"
        "CREATE FUNCTION f(n int) RETURNS int BEGIN ATOMIC\n"
        "  SELECT CASE WHEN n > 0 THEN 1 ELSE 2 END; /* ; */ SELECT 3 AS commit;\nEND;"
        "CREATE OR REPLACE PROCEDURE p() BEGIN ATOMIC END; SELECT f(1);",
    )
    assert migrator.migrate_from(tmp_path) == ["001_a.sql"]
    assert query(database, "SELECT f(1)") == [(3,)]


def test_what_a_file_sets_is_no_other_files_and_not_ours(
    database: Database, migrator: Migrator, write: Any, tmp_path: Path
) -> None:
    write("001_a.sql", "SELECT set_config('search_path', '', false); SET ROLE pg_monitor; SET statement_timeout = 1;")
    write(
        "002_a.sql", "-- strata: no-transaction\nSET search_path = pg_catalog; SET standard_conforming_strings = off;"
    )
    write("003_a.sql", "CREATE TABLE made (); SELECT pg_sleep(0.01);")
    assert migrator.migrate_from(tmp_path) == ["001_a.sql", "002_a.sql", "003_a.sql"]
    assert query(database, "SELECT to_regclass('made')::text") == [("made",)]
    assert [record.file_name for record in migrator.migration_status()] == ["001_a.sql", "002_a.sql", "003_a.sql"]


def test_a_file_that_runs_outside_ours_ends_the_transactions_that_it_begins(
    database: Database, migrator: Migrator, write: Any, tmp_path: Path
) -> None:
    file = write("001_a.sql", "-- strata: no-transaction\nBEGIN; CREATE TABLE own ();")
    with pytest.raises(MigrationError, match=r"001_a\.sql.*COMMIT"):
        migrator.migrate_from(tmp_path)
    assert migrator.migration_status() == []
    file.write_text("-- strata: no-transaction\nBEGIN; CREATE TABLE own (); COMMIT;")
    assert migrator.migrate_from(tmp_path) == ["001_a.sql"]


def test_a_file_may_run_outside_a_transaction(
    database: Database, migrator: Migrator, write: Any, tmp_path: Path
) -> None:
    file = write(
        "001_a.sql",
        "-- strata: no-transaction\nCREATE TABLE t (a int);\n"
        "/* ; */ CREATE INDEX CONCURRENTLY i ON t (a); SELECT nope;",
    )
    with pytest.raises(MigrationError, match=r"001_a\.sql.*42703.*came before"):
        migrator.migrate_from(tmp_path)
    assert query(database, "SELECT to_regclass('i')::text") == [("i",)]
    file.write_text("-- strata: no-transaction\nCREATE INDEX CONCURRENTLY j ON t (a);")
    assert migrator.migrate_from(tmp_path) == ["001_a.sql"]


def test_an_index_that_is_made_beside_writers_waits_for_their_transactions(
    database: Database, migrator: Migrator, write: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(migrations, "TABLE_PATIENCE", "50ms")
    run(database, "CREATE TABLE t (a int)")
    write("001_a.sql", "-- strata: no-transaction\nCREATE INDEX CONCURRENTLY i ON t (a);")
    waiting = "SELECT count(*) FROM pg_locks WHERE locktype = 'virtualxid' AND NOT granted"
    with ThreadPoolExecutor(1) as pool:
        with database.transaction() as writer:
            writer.command("INSERT INTO t VALUES (1)")
            job = pool.submit(migrator.migrate_from, tmp_path)
            wait_until(lambda: job.done() or query(database, waiting) == [(1,)])
            with pytest.raises(TimeoutError):
                job.result(0.3)  # longer than it would wait for a table
        assert job.result() == ["001_a.sql"]
    assert query(database, "SELECT indisvalid FROM pg_index WHERE indexrelid = 'i'::regclass") == [(True,)]


def test_a_table_in_use_is_waited_for_in_turns(
    database: Database, migrator: Migrator, write: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(migrations, "TABLE_PATIENCE", "50ms")
    monkeypatch.setattr(migrations, "TABLE_TRIES", 1000)
    run(database, "CREATE TABLE t (a int)")
    write("001_a.sql", "INSERT INTO t VALUES (2); ALTER TABLE t ADD COLUMN b int")
    with ThreadPoolExecutor(1) as pool:
        with database.transaction() as reader:
            reader.command("SELECT * FROM t")
            job = pool.submit(migrator.migrate_from, tmp_path)
            with pytest.raises(TimeoutError):
                job.result(0.3)
        assert job.result() == ["001_a.sql"]
    assert query(database, "SELECT * FROM t") == [(2, None)]


def test_what_cannot_be_read_is_refused(migrator: Migrator, tmp_path: Path) -> None:
    with pytest.raises(MigrationError, match="not a directory"):
        migrator.migrate_from(tmp_path / "nope")
    (tmp_path / "001_a.sql").write_bytes(b"SELECT '\xff'")
    with pytest.raises(MigrationError, match="UTF-8"):
        migrator.migrate_from(tmp_path)
    (tmp_path / "001_a.sql").write_text("SELECT 'open")
    with pytest.raises(MigrationError, match=r"001_a\.sql has a quote"):
        migrator.migrate_from(tmp_path)


def test_many_may_apply_files_at_once(database: Database, write: Any, tmp_path: Path) -> None:
    write("001_a.sql", "CREATE TABLE t (a int); SELECT pg_sleep(0.05)")
    write("002_b.sql", "-- strata: no-transaction\nCREATE INDEX CONCURRENTLY i ON t (a)")
    with ThreadPoolExecutor(8) as pool:
        jobs = [pool.submit(Migrator(database, []).migrate_from, tmp_path) for _ in range(8)]
        applied = [name for job in jobs for name in job.result()]
    assert sorted(applied) == ["001_a.sql", "002_b.sql"]
