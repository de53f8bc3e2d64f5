"""`Database`: connections that are there when needed, never waited for in vain, never silently asked twice to write."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from strata.embedded import EmbeddedPostgres
from strata.errors import InvalidConfigError, L3UnavailableError, StrataError, TxFailedError, TxTimeoutError
from strata.l3 import connection
from strata.l3.connection import Connection
from strata.l3.connections import Counts
from strata.l3.pool import Database
from strata.l3.statement import Statement, ask
from strata.policies import L3PoolConfig
from strata.waits.clock import ManualClock, SystemClock
from tests.databases import VERSIONS
from tests.l3 import fresh
from tests.support import wait_until

NOWHERE = "postgres://me:hush-hush@127.0.0.1:1/nothing"


@pytest.fixture(params=VERSIONS)
def database(request: pytest.FixtureRequest) -> Iterator[Database]:
    with fresh(request.param) as database:
        yield database


def one(conn: Connection) -> int:
    """A read."""
    row = conn.execute("SELECT 1").fetchone()
    return int(row[0]) if row else 0


def pid_of(conn: Connection) -> int:
    return conn.info.backend_pid


def terminate(database: Database, pid: int) -> None:
    """End a session, and wait until it has ended."""
    with database.connection() as conn:
        conn.execute("SELECT pg_terminate_backend($1, 5000)", (pid,))


# -- settings ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "dsn",
    [
        " ", "nonsense", "postgres://u:hush-hush@host:port/x", "host=a password=hush-hush nope",
        "postgres://u:hush hush@h/x", "host=a port=99999 password=hush-hush", "postgres://u@h/x?foo=hush",
    ],
)  # fmt: skip
def test_a_dsn_that_cannot_be_read_is_refused_at_once_and_not_shown(dsn: str) -> None:
    with pytest.raises(InvalidConfigError, match="postgres_dsn") as caught:
        Database(dsn, L3PoolConfig(), clock=SystemClock())
    assert "hush" not in f"{caught.value}{caught.value.__cause__}{caught.value.__context__}"


def test_nothing_is_connected_before_the_first_call(database: Database) -> None:
    assert Database(NOWHERE, L3PoolConfig(), clock=SystemClock()).counts() == Counts(0, 0)
    threads = threading.active_count()
    with database.connection():
        assert database.counts() == Counts(1, 0)
    assert database.counts() == Counts(1, 1)
    assert threading.active_count() == threads


def test_a_session_is_set_up_whatever_the_server_defaults_are(database: Database) -> None:
    with database.connection() as conn:
        name = conn.info.dbname
        for setting in ("timezone = 'Asia/Kolkata'", "default_transaction_isolation = serializable"):
            conn.command(f"ALTER DATABASE {name} SET {setting}")
    database.close()
    names = ("timezone", "default_transaction_isolation", "statement_timeout", "lock_timeout", "application_name")
    with database.connection() as conn:
        shown = [(conn.execute(f"SHOW {setting}").fetchone() or ("",))[0] for setting in names]
    assert shown == ["UTC", "read committed", "15s", "5s", "strata"]


def test_what_the_dsn_says_is_left_as_it_is() -> None:
    with fresh() as database, database.connection() as conn:
        dsn = make_conninfo(conn.info.dsn, password=conn.info.password, application_name="mine")
        other = Database(dsn, L3PoolConfig(), clock=SystemClock())
        with other.connection() as mine:
            assert mine.execute("SHOW application_name").fetchone() == ("mine",)
        other.close()


# -- reuse ------------------------------------------------------------------------------------------------------


def test_a_connection_is_used_again_the_last_one_first(database: Database) -> None:
    with database.connection() as first, database.connection() as second:
        assert first is not second
    with database.connection() as again:
        assert again is first


def test_as_many_as_allowed_are_open_and_who_waits_gets_the_next() -> None:
    with fresh(max_conns=2, acquire_timeout=10) as database:
        seen = []

        def use() -> None:
            with database.connection() as conn:
                seen.append(conn)
                conn.execute("SELECT pg_sleep(0.01)")

        with ThreadPoolExecutor(8) as pool:
            for done in [pool.submit(use) for _ in range(40)]:
                done.result()
        assert len(seen) == 40 and len(set(seen)) == 2
        assert database.counts() == Counts(2, 2)


def test_with_all_in_use_the_error_says_so_and_the_server_is_not_blamed() -> None:
    with fresh(max_conns=1, acquire_timeout=0.05) as database:
        with database.connection():
            for _ in range(4):
                with pytest.raises(L3UnavailableError, match="max_conns") as caught, database.connection():
                    pass
                assert not caught.value.outcome_unknown
        with database.connection() as conn:
            assert one(conn) == 1


def test_connections_are_kept_for_a_lifetime_and_an_idle_time() -> None:
    with fresh() as model, model.connection() as conn:
        dsn = make_conninfo(conn.info.dsn, password=conn.info.password)
        clock = ManualClock()
        database = Database(dsn, L3PoolConfig(max_conn_lifetime=100, max_conn_idle_time=10, min_conns=1), clock=clock)
        with database.connection() as first, database.connection():
            pass
        assert database.counts() == Counts(2, 2)
        clock.advance(11)
        with database.connection() as again:
            assert again is first
        assert database.counts() == Counts(1, 1)
        clock.advance(101)
        with database.connection() as fresh_one:
            assert fresh_one is not first and first.closed
        database.close()


def test_the_least_number_is_opened_with_the_first() -> None:
    with fresh(min_conns=3) as database:
        with database.connection():
            assert database.counts() == Counts(3, 2)
        assert database.counts() == Counts(3, 3)


def test_a_closed_database_keeps_nothing_and_connects_again_when_asked(database: Database) -> None:
    with database.connection() as used, database.connection() as idle:
        pass
    with database.connection() as used:
        database.close()
        assert one(used) == 1
    assert (used.closed, idle.closed, database.counts()) == (True, True, Counts(0, 0))
    with database.connection() as conn:
        assert one(conn) == 1


def test_a_connection_left_in_a_transaction_is_not_given_to_others(database: Database) -> None:
    with database.connection() as conn:
        conn.command("BEGIN")
    with database.connection() as other:
        assert other is not conn and not other.in_transaction


# -- a server that is away --------------------------------------------------------------------------------------


def test_a_server_that_refuses_is_told_of_at_once_then_not_asked_until_a_probe() -> None:
    clock = ManualClock()
    database = Database(NOWHERE, L3PoolConfig(), clock=clock)
    began = time.monotonic()
    for _ in range(2):
        with pytest.raises(L3UnavailableError, match="cannot be reached") as caught, database.connection():
            pass
        assert not caught.value.outcome_unknown
        assert isinstance(caught.value.__cause__, psycopg.OperationalError)
        assert "hush" not in f"{caught.value}{caught.value.__cause__}"
    for _ in range(100):
        with pytest.raises(L3UnavailableError, match=r"not asked.* cannot be reached: "), database.connection():
            pass
    clock.advance(1)
    with pytest.raises(L3UnavailableError, match="cannot be reached"), database.transaction():
        pass
    assert time.monotonic() - began < 2
    assert database.counts() == Counts(0, 0)


def test_a_restarted_server_is_found_by_reads_and_writes_alike(own_postgres: EmbeddedPostgres) -> None:
    database = Database(own_postgres.dsn, L3PoolConfig(), clock=SystemClock())
    with database.connection() as conn, database.connection(), database.connection():
        conn.command("CREATE TABLE t (a int)")
    assert database.counts().idle == 3
    own_postgres.restart()
    with database.connection() as conn:
        conn.command("INSERT INTO t VALUES (1)")
    with database.transaction() as conn:
        conn.command("INSERT INTO t VALUES (2)")
    assert database.read(lambda conn: conn.execute("SELECT count(*) FROM t").fetchone()) == (2,)
    own_postgres.kill()
    for _ in range(3):
        with pytest.raises(L3UnavailableError):
            database.read(one)
    own_postgres.restart()
    wait_until(lambda: answers(database))
    database.close()


def answers(database: Database) -> bool:
    try:
        return database.read(one) == 1
    except L3UnavailableError:
        return False


def test_a_frozen_server_costs_one_time_out_and_heals(own_postgres: EmbeddedPostgres) -> None:
    database = Database(own_postgres.dsn, L3PoolConfig(statement_timeout=0.3, connect_timeout=2), clock=SystemClock())
    with database.connection() as conn:
        one(conn)
    own_postgres.freeze()
    try:
        began = time.monotonic()
        with pytest.raises(L3UnavailableError) as caught:
            database.read(one)
        assert caught.value.outcome_unknown  # nobody knows what a server does that says nothing
        assert time.monotonic() - began < 4
        with pytest.raises(L3UnavailableError), database.connection():
            pass
        began = time.monotonic()
        with pytest.raises(L3UnavailableError, match=r"not asked.* a moment ago: PostgreSQL"), database.connection():
            pass
        assert time.monotonic() - began < 0.5
    finally:
        own_postgres.thaw()
    wait_until(lambda: answers(database))
    database.close()


# -- a connection that is lost ----------------------------------------------------------------------------------


def test_idle_connections_that_died_are_not_handed_out(database: Database) -> None:
    with database.connection() as first, database.connection():
        pid = pid_of(first)
    with database.connection() as kept, database.connection() as victim:
        terminate(database, pid_of(victim if pid_of(victim) == pid else kept))
    for _ in range(3):
        with database.connection() as conn:
            assert one(conn) == 1


def test_a_read_whose_connection_is_lost_is_asked_again_once(database: Database) -> None:
    asked = []

    def ask(conn: Connection, fails: int) -> int:
        asked.append(conn)
        if len(asked) <= fails:
            terminate(database, pid_of(conn))
        return one(conn)

    assert database.read(ask, 1) == 1
    assert len(set(asked)) == 2
    asked.clear()
    with pytest.raises(L3UnavailableError):
        database.read(ask, 2)
    assert len(asked) == 2


def test_a_read_that_is_refused_is_not_asked_again(database: Database) -> None:
    asked = []

    def ask(conn: Connection) -> None:
        asked.append(1)
        conn.execute("SELECT 1 / 0")

    with pytest.raises(StrataError):
        database.read(ask)
    assert len(asked) == 1


def test_a_statement_whose_connection_is_lost_may_have_happened(database: Database) -> None:
    with pytest.raises(L3UnavailableError) as caught, database.connection() as conn:
        conn.execute("SELECT pg_terminate_backend(pg_backend_pid())")
    assert caught.value.outcome_unknown


def test_a_transaction_lost_before_its_commit_did_not_happen(database: Database) -> None:
    with pytest.raises(L3UnavailableError) as caught, database.transaction() as conn:
        conn.execute("SELECT pg_terminate_backend(pg_backend_pid())")
    assert not caught.value.outcome_unknown


def test_a_transaction_lost_in_its_commit_may_have_happened(database: Database) -> None:
    with database.connection() as conn:
        conn.command(
            "CREATE TABLE t (a int);"
            "CREATE FUNCTION leave() RETURNS trigger LANGUAGE plpgsql AS"
            " 'BEGIN PERFORM pg_terminate_backend(pg_backend_pid()); PERFORM pg_sleep(5); RETURN NULL; END';"
            "CREATE CONSTRAINT TRIGGER leave AFTER INSERT ON t DEFERRABLE INITIALLY DEFERRED"
            " FOR EACH ROW EXECUTE FUNCTION leave()"
        )
    with pytest.raises(L3UnavailableError) as caught, database.transaction() as conn:
        conn.command("INSERT INTO t VALUES (1)")
    assert caught.value.outcome_unknown


def test_what_a_standby_refuses_makes_all_connections_new(database: Database) -> None:
    with database.connection() as old:
        name = old.info.dbname
        old.command(f"ALTER DATABASE {name} SET default_transaction_read_only = on; SET transaction_read_only = on")
        old.command("SET default_transaction_read_only = on")
    with pytest.raises(L3UnavailableError, match="25006") as caught, database.connection() as conn:
        assert conn is old
        conn.command("CREATE TABLE t (a int)")
    assert not caught.value.outcome_unknown
    assert old.closed


# -- transactions -----------------------------------------------------------------------------------------------


@pytest.fixture
def rows(database: Database) -> Any:
    with database.connection() as conn:
        conn.command("CREATE TABLE t (a int PRIMARY KEY)")
    return lambda: database.read(lambda conn: sorted(row[0] for row in conn.execute("SELECT a FROM t")))


def test_leaving_the_block_commits_and_an_exception_rolls_back(database: Database, rows: Any) -> None:
    with database.transaction() as conn:
        conn.command("INSERT INTO t VALUES (1)")
    with pytest.raises(RuntimeError), database.transaction() as conn:
        conn.command("INSERT INTO t VALUES (2)")
        raise RuntimeError
    with pytest.raises(StrataError), database.transaction() as conn:
        conn.command("INSERT INTO t VALUES (3)")
        conn.command("INSERT INTO t VALUES (1)")
    assert rows() == [1]
    assert database.counts() == Counts(1, 1)


def test_a_failure_that_was_swallowed_does_not_pass_for_a_commit(database: Database, rows: Any) -> None:
    with pytest.raises(TxFailedError), database.transaction() as conn:
        conn.command("INSERT INTO t VALUES (1)")
        with pytest.raises(psycopg.Error):
            conn.command("SELECT 1 / 0")
    assert rows() == []


def test_a_deadline_ends_a_statement_that_takes_too_long(database: Database, rows: Any) -> None:
    began = time.monotonic()
    with pytest.raises(TxTimeoutError), database.transaction(0.2) as conn:
        conn.command("INSERT INTO t VALUES (1)")
        conn.command("SELECT pg_sleep(10)")
    assert time.monotonic() - began < 3
    assert rows() == []


def test_a_deadline_counts_for_all_statements_together(database: Database, rows: Any) -> None:
    with pytest.raises(TxTimeoutError), database.transaction(0.3) as conn:
        for number in range(50):
            conn.command(f"INSERT INTO t VALUES ({number})")
            conn.command("SELECT pg_sleep(0.02)")
    assert rows() == []


def test_a_deadline_counts_while_the_client_does_something_else(database: Database, rows: Any) -> None:
    with pytest.raises(TxTimeoutError), database.transaction(0.05) as conn:
        conn.command("INSERT INTO t VALUES (1)")
        time.sleep(0.4)
    assert rows() == []


def test_a_deadline_counts_while_it_waits_for_others(database: Database, rows: Any) -> None:
    with database.transaction() as blocker:
        blocker.command("LOCK TABLE t")
        with pytest.raises(TxTimeoutError), database.transaction(0.2) as conn:
            conn.command("INSERT INTO t VALUES (1)")


def test_a_deadline_in_time_leaves_no_trace(database: Database, rows: Any) -> None:
    with database.transaction(5) as conn:
        conn.command("INSERT INTO t VALUES (1)")
    with database.connection() as again:
        assert again is conn and again.deadline is None
        assert again.execute("SHOW statement_timeout").fetchone() == ("15s",)
    assert rows() == [1]


# -- fork -------------------------------------------------------------------------------------------------------


def in_child(body: Any) -> int:
    """The exit status of a forked child that runs `body`."""
    pid = os.fork()
    if pid == 0:
        try:
            os._exit(0 if body() else 2)
        except BaseException:
            os._exit(3)
    deadline = time.monotonic() + 20
    while True:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        if time.monotonic() > deadline:
            os.kill(pid, signal.SIGKILL)
        time.sleep(0.01)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_child_has_connections_of_its_own_and_leaves_the_parents_alone(database: Database) -> None:
    with database.connection() as conn, database.connection():
        parents = pid_of(conn)

    def child() -> bool:
        database.after_fork()
        with database.connection() as own:
            different = pid_of(own) != parents
        database.close()
        return different and database.counts() == Counts(0, 0)

    assert in_child(child) == 0
    for _ in range(2):
        with database.connection() as conn:
            assert pid_of(conn) == parents and one(conn) == 1


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_fork_inside_a_block_gives_nothing_back_in_the_child(database: Database) -> None:
    def child() -> bool:
        borrowed = database.connection()
        borrowed.__enter__()

        def grandchild() -> bool:
            database.after_fork()
            borrowed.__exit__(None, None, None)
            with database.connection() as own:
                return one(own) == 1 and database.counts() == Counts(1, 0)

        database.after_fork()
        with database.connection() as conn:
            status = in_child(grandchild)
            return status == 0 and one(conn) == 1

    assert in_child(child) == 0


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_no_two_connections_name_a_statement_alike_also_after_a_fork(database: Database) -> None:
    asked = Statement("SELECT 1")

    def names() -> set[str]:
        with database.connection() as conn, database.connection() as other:
            found = []
            for each in (conn, other):
                asked.rows(each)
                [row] = each.execute("SELECT name FROM pg_prepared_statements").fetchall()
                found.append(row[0])
        assert len(set(found)) == 2
        return set(found)

    reading, writing = os.pipe()
    ours = names()

    def child() -> bool:
        database.after_fork()
        return os.write(writing, " ".join(names()).encode()) > 0

    assert in_child(child) == 0
    assert ours.isdisjoint(os.read(reading, 1000).decode().split())


def test_a_name_that_a_session_has_already_is_an_error(database: Database) -> None:
    with database.connection() as conn:
        conn.prepare("taken", "SELECT 1")
        with pytest.raises(psycopg.errors.DuplicatePreparedStatement):
            conn.prepare("taken", "SELECT 2")


def test_a_user_s_query_is_prepared_when_it_is_asked_often_and_survives_a_changed_table(database: Database) -> None:
    with database.connection() as conn:
        conn.command("CREATE TABLE t (a int)")
        conn.command("INSERT INTO t VALUES (1)")
        for times in range(10):
            assert ask(conn, "SELECT * FROM t WHERE a = $1", [1]) == [(1,)]
            assert len(conn.prepared) == (times >= 5)
        conn.command("ALTER TABLE t ADD b int")
        assert ask(conn, "SELECT * FROM t WHERE a = $1", [1]) == [(1, None)]


def test_a_connection_that_holds_many_statements_is_not_kept(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "PREPARED", 3)
    statements = [Statement(f"SELECT {number}") for number in range(3)]
    pids = []
    for statement in [*statements, statements[0]]:
        with database.connection() as conn:
            statement.rows(conn)
            pids.append(pid_of(conn))
    assert pids[0] == pids[1] == pids[2] != pids[3]
    assert database.counts() == Counts(1, 1)
