"""Strata behind a real PgBouncer: never a record of another table, nothing of ours in a session of others, and what
cannot work is refused at the first use."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

import psycopg
import pytest
from click.testing import CliRunner
from psycopg.conninfo import make_conninfo

import strata
from strata import DataStore, InvalidConfigError, L3PoolConfig, PostgresPolicy, Q, WriteMode
from strata.cli import main
from strata.cli.doctor.finding import FindingState
from strata.cli.doctor.postgres import postgres
from strata.cli.doctor.redis import redis
from strata.l3 import connection
from strata.testing import inspect
from tests.behind import hand_off, idle, paced
from tests.models import Account, Note
from tests.stores import MakeStore, schema
from tests.support import wait_until
from tests.surroundings.pgbouncer import pgbouncer, preparing

WORK = 1.0  # seconds
KEYS = [f"k{number}" for number in range(30)]
KEY = b"0123456789abcdef0123456789abcdef"
UNPREPARED = L3PoolConfig(prepared=False, max_conns=4)
PREPARED = L3PoolConfig(max_conns=4)


@dataclass
class Page:
    """A row of one table."""

    id: Annotated[str, strata.PrimaryKey]
    title: str
    at: Annotated[datetime | None, strata.AutoNowAdd] = None


@dataclass
class Secret:
    """A row of another, whose columns are of the same types."""

    id: Annotated[str, strata.PrimaryKey]
    word: str
    at: Annotated[datetime | None, strata.AutoNowAdd] = None


@dataclass
class Visit:
    """Written behind."""

    id: Annotated[str, strata.PrimaryKey]
    count: int = 0
    place: str = ""


def registered(store: DataStore) -> DataStore:
    store.register(schema(Page, name="pages", l1=None))
    store.register(schema(Secret, name="secrets", l1=None))
    store.register(schema(Visit, name="visits", write_mode=WriteMode.WRITE_BEHIND))
    return store


@contextmanager
def way(dsn: str, kind: str) -> Iterator[tuple[str, L3PoolConfig]]:
    """A DSN through a PgBouncer of this kind, and the settings for it."""
    with ExitStack() as stack:
        if kind == "transaction, unprepared":
            yield stack.enter_context(pgbouncer(dsn, "transaction")), UNPREPARED
        elif kind == "session":
            yield stack.enter_context(pgbouncer(dsn, "session", size=40)), PREPARED
        else:
            bouncer = pgbouncer(dsn, "transaction", release=preparing(), max_prepared_statements="20")
            yield stack.enter_context(bouncer), PREPARED


KINDS = ("transaction, unprepared", "session", "transaction, prepared")


@pytest.mark.parametrize("kind", KINDS)
def test_stores_that_share_sessions_never_meet_each_others_statements(dsn: str, make: MakeStore, kind: str) -> None:
    with way(dsn, kind) as (pooled, pool):
        first = registered(make())
        first.migrate()
        first.set_many("pages", {key: Page(key, f"page {key}") for key in KEYS})
        first.set_many("secrets", {key: Secret(key, f"secret {key}") for key in KEYS})
        stores = [registered(make(postgres_dsn=pooled, l3_pool=pool)) for _ in range(3)]
        failed: list[BaseException] = []
        end = time.monotonic() + WORK
        threads = [threading.Thread(target=_work, args=(s, n, end, failed)) for s in stores for n in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert failed == []
        for store in stores:
            store.flush_dirty(20)
            store.close()
    with psycopg.connect(dsn) as conn:
        wrong = "SELECT (SELECT count(*) FROM pages WHERE title NOT LIKE 'page ' || id || '%'),"
        wrong += " (SELECT count(*) FROM secrets WHERE word NOT LIKE 'secret ' || id || '%'),"
        wrong += " (SELECT count(*) FROM visits WHERE place <> 'here')"
        assert conn.execute(wrong).fetchone() == (0, 0, 0)


def _work(store: DataStore, seed: int, end: float, failed: list[BaseException]) -> None:
    chance = random.Random(seed)
    try:
        while time.monotonic() < end:
            _step(store, chance)
    except BaseException as error:
        failed.append(error)


def _step(store: DataStore, chance: random.Random) -> None:
    key, other = chance.sample(KEYS, 2)
    mark = f" {chance.random()}"
    match chance.randrange(8):
        case 0:
            assert store.get("pages", key, force_l3=True).title.startswith(f"page {key}")
        case 1:
            assert store.get("secrets", key, force_l3=True).word.startswith(f"secret {key}")
        case 2:
            store.set("pages", key, Page(key, f"page {key}{mark}"))
            store.set("secrets", other, Secret(other, f"secret {other}{mark}"))
        case 3:
            some = chance.sample(KEYS, 20)
            store.set_many("pages", {one: Page(one, f"page {one}{mark}") for one in some})
        case 4:
            found = store.search("secrets", Q().where("id = ANY($1)", KEYS).limit(100))
            assert [one.word.startswith(f"secret {one.id}") for one in found] == [True] * len(KEYS)
        case 5:
            assert store.count("pages", Q().where("id <> $1", key)) == len(KEYS) - 1
        case 6:
            store.set("visits", key, Visit(key, 1, "here"))
            assert store.get("visits", key).place == "here"
        case _:
            with store.tx(timeout=10) as tx:
                tx.set("pages", key, Page(key, f"page {key}{mark}"))
                tx.set("secrets", key, Secret(key, f"secret {key}{mark}"))


@pytest.mark.parametrize("kind", KINDS)
def test_every_operation_works_through_a_pooler(dsn: str, make: MakeStore, tmp_path: Path, kind: str) -> None:
    (tmp_path / "001_more.sql").write_text("CREATE TABLE more (a int);")
    with way(dsn, kind) as (pooled, pool):
        store = registered(make(postgres_dsn=pooled, l3_pool=pool, encryption_key=KEY))
        store.register(schema(Account, name="accounts"))
        assert store.migrate().manual == ()
        assert store.migrate().applied == ()
        assert store.migrate_from(tmp_path) == ["001_more.sql"]
        assert "001_more.sql" in [record.file_name for record in store.migration_status()]
        for many in (2, 40):
            pages = {f"{many}.{n}": Page(f"{many}.{n}", "one") for n in range(many)}
            assert len(store.set_many("pages", pages)) == many
            assert len(store.set_many("pages", pages)) == many
        page = store.set("pages", "x", Page("x", "two"))
        assert store.get("pages", "x", force_l3=True) == page
        assert (page.at or datetime.min).tzinfo == (store.get("pages", "x", force_l3=True).at or datetime.min).tzinfo
        assert set(store.get_many("pages", ["x", "2.0", "none"])) == {"x", "2.0"}
        assert store.exists("pages", "x") and not store.exists("pages", "none")
        for _ in range(10):
            assert [one.id for one in store.search("pages", Q().where("title = $1", "two"))] == ["x"]
        assert [one.id for one in store.search_cached("pages", Q().where("title = $1", "two"))] == ["x"]
        assert len(list(store.search_iter("pages", Q().where("title = $1", "one"), chunk=10))) == 42
        assert store.count("pages") == 43
        with store.tx(timeout=10) as tx:
            tx.set("pages", "y", Page("y", "three")).delete("pages", "x")
        store.delete_many("pages", ["y", "2.0"])
        store.delete("pages", "2.1")
        assert store.count("pages") == 40
        for n in range(100):
            store.set("visits", str(n), Visit(str(n), n, "here"))
        store.delete("visits", "5")
        store.flush_dirty(20)
        assert store.count("visits") == 99
        store.set("accounts", "a", Account("a", "Ada", token="sesame"))
        store.invalidate("accounts", "a")
        assert store.get("accounts", "a").token == "sesame"
        store.rotate_keys("accounts")
        assert store.warm_cache("pages") == 40
        assert store.audit("pages", pause=0).stale == ()
        store.close()
        with psycopg.connect(dsn) as conn:
            assert conn.execute("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'").fetchone() == (0,)


def test_nothing_of_ours_is_left_in_a_session_that_others_use(dsn: str, make: MakeStore) -> None:
    with pgbouncer(dsn, "transaction", size=1) as pooled:
        before = _session(pooled)
        # Migrations need two sessions at once.
        store = registered(make(postgres_dsn=pooled, postgres_direct_dsn=dsn, l3_pool=UNPREPARED))
        store.migrate()
        for n in range(20):
            store.set("visits", str(n), Visit(str(n)))
            store.search("pages", Q().where("id = $1", str(n)))
        store.set_many("pages", {key: Page(key, "one") for key in KEYS})
        store.flush_dirty(20)
        store.close()
        assert _session(pooled) == before


def _session(dsn: str) -> list[Any]:
    """The session that a client is given: its settings, prepared statements, locks, listening and temporary tables."""
    asked = (
        "SELECT name, setting FROM pg_settings WHERE name <> 'application_name' ORDER BY 1",
        "SELECT name FROM pg_prepared_statements",
        "SELECT pg_listening_channels()",
        "SELECT relname FROM pg_class WHERE relpersistence = 't'",
        "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'",
    )
    with psycopg.connect(dsn, autocommit=True, prepare_threshold=None) as conn:
        return [conn.execute(sql.encode()).fetchall() for sql in asked]


def test_preparing_is_refused_at_first_use_where_sessions_are_shared(dsn: str, make: MakeStore) -> None:
    with pgbouncer(dsn, "transaction") as pooled:
        store = registered(make(postgres_dsn=pooled))
        for use in (
            lambda: store.get("pages", "x"),
            lambda: store.set("pages", "x", Page("x", "one")),
            lambda: store.search("pages"),
            lambda: store.migrate(),
        ):
            with pytest.raises(InvalidConfigError, match=r"L3PoolConfig\.prepared=False"):
                use()
        assert _session(pooled)[1] == []


def test_a_deferred_write_waits_where_the_pooler_is_refused(dsn: str, make: MakeStore) -> None:
    writer = make()
    paced(writer)
    registered(writer).migrate()
    idle(writer)
    writer.set("visits", "x", Visit("x", 7))
    hand_off(writer)
    with pgbouncer(dsn, "transaction") as pooled:
        refused = registered(make(postgres_dsn=pooled))
        with pytest.raises(InvalidConfigError, match=r"L3PoolConfig\.prepared=False"):
            _drained(refused)
        assert writer.dead_letters.list() == []
        right = registered(make(postgres_dsn=pooled, l3_pool=UNPREPARED))
        wait_until(lambda: _drained(right))
        assert right.get("visits", "x", force_l3=True).count == 7


def _drained(store: DataStore) -> bool:
    behind = inspect(store).writebehind
    return sum(behind.persist("visits", shard) for shard in range(16)) > 0


def test_a_session_that_changes_later_is_an_error_and_never_a_record(
    dsn: str, make: MakeStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where other clients kept the pooler from showing, when it was looked at, that it shares sessions."""
    registered(make()).migrate()
    monkeypatch.setattr("strata.l3.poolers.shares_sessions", lambda conn, other: False)
    with pgbouncer(dsn, "transaction", size=2) as pooled:
        store = registered(make(postgres_dsn=pooled))
        with pytest.raises(InvalidConfigError, match=r"L3PoolConfig\.prepared=False"):
            for _ in range(20):
                _read_from_both_sessions(store, pooled)


def _read_from_both_sessions(store: DataStore, pooled: str) -> None:
    assert store.get("pages", "x", default=None, force_l3=True) is None
    with psycopg.connect(pooled) as other:
        other.execute("SELECT 1")  # has the session in which the statement was prepared
        assert store.get("pages", "x", default=None, force_l3=True) is None


def test_a_pooler_that_lets_no_transaction_stay_open_is_refused(dsn: str, make: MakeStore) -> None:
    with pgbouncer(dsn, "statement") as pooled, pytest.raises(InvalidConfigError, match="statement mode"):
        registered(make(postgres_dsn=pooled, l3_pool=UNPREPARED)).get("pages", "x")


def test_a_start_up_parameter_that_the_pooler_refuses_is_no_outage(dsn: str, make: MakeStore) -> None:
    with pgbouncer(dsn, "session") as pooled:
        store = registered(make(postgres_dsn=make_conninfo(pooled, options="-c geqo=off")))
        for _ in range(4):  # as often as opens a breaker, and more
            with pytest.raises(InvalidConfigError, match=r"start-up parameters .*ALTER ROLE"):
                store.get("pages", "x")


def test_a_watched_table_is_refused_through_shared_sessions_but_for_a_direct_address(dsn: str, make: MakeStore) -> None:
    watched = schema(Note, name="notes", l3=PostgresPolicy(watch=True))
    with pgbouncer(dsn, "transaction") as pooled:
        deaf = make(postgres_dsn=pooled, l3_pool=UNPREPARED)
        deaf.register(watched)
        with pytest.raises(InvalidConfigError, match="postgres_direct_dsn"):
            deaf.get("notes", 1)
        store = make(postgres_dsn=pooled, postgres_direct_dsn=dsn, l3_pool=UNPREPARED)
        store.register(watched)
        store.migrate()
        _hears(store, dsn)
    with pgbouncer(dsn, "session", size=20) as pooled:
        store = make(postgres_dsn=pooled)
        store.register(watched)
        _hears(store, dsn)


def _hears(store: DataStore, dsn: str) -> None:
    store.set("notes", 1, Note(1, "ours"))
    listener = inspect(store).listener
    wait_until(lambda: listener.connected)
    with psycopg.connect(dsn) as conn:
        conn.execute("UPDATE notes SET text = 'theirs' WHERE id = 1")
    wait_until(lambda: store.get("notes", 1).text == "theirs")


def test_more_statements_than_a_connection_keeps(dsn: str, make: MakeStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "PREPARED", 6)
    with pgbouncer(dsn, "session", size=10) as pooled:
        for address in (dsn, pooled):
            store = registered(make(postgres_dsn=address, l3_pool=L3PoolConfig(max_conns=1)))
            store.migrate()
            for _ in range(3):
                store.set("pages", "x", Page("x", "one"))
                assert store.get("pages", "x", force_l3=True).title == "one"
                assert store.exists("pages", "x")
                store.delete("pages", "x")
                store.set("visits", "x", Visit("x"))
                store.flush_dirty(20)
            store.close()


def test_the_doctor_tells_what_a_pooler_cannot_do_and_blames_nobody_else(dsn: str, make: MakeStore) -> None:
    registered(make()).migrate()
    with pgbouncer(dsn, "transaction") as pooled:
        watching = make(postgres_dsn=pooled, l3_pool=UNPREPARED)
        watching.register(schema(Page, name="pages", l3=PostgresPolicy(watch=True)))
        for store, advice in (
            (registered(make(postgres_dsn=pooled)), "set L3PoolConfig.prepared=False"),
            (watching, "set postgres_direct_dsn to the address of PostgreSQL itself"),
        ):
            [failing] = [line for line in (*postgres(store), *redis(store)) if line.state is FindingState.FAIL]
            assert failing.what == "PostgreSQL" and failing.advice.startswith(advice)


def test_the_doctor_wants_nothing_where_a_pooler_gives_each_client_a_session(dsn: str, make: MakeStore) -> None:
    registered(make()).migrate()
    with pgbouncer(dsn, "session", size=40) as pooled:
        lines = {line.what: line.state for line in postgres(registered(make(postgres_dsn=pooled)))}
    assert lines["pooler"] is FindingState.OK and set(lines.values()) == {FindingState.OK}


def test_the_doctor_tells_of_the_pooler(
    dsn: str, redis_addr: str, make: MakeStore, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    registered(make()).migrate()
    monkeypatch.syspath_prepend(tmp_path)
    made = "from strata import *\nfrom tests.surroundings.test_poolers import registered\nstore = registered(DataStore("
    with pgbouncer(dsn, "transaction") as pooled:
        for name, prepared in (("sharing", True), ("apart", False)):
            pool = f"l3_pool=L3PoolConfig(prepared={prepared})"
            settings = f"Config(postgres_dsn={pooled!r}, redis_addr={redis_addr!r}, {pool})"
            (tmp_path / f"{name}_app.py").write_text(f"{made}{settings}))\n")
        assert "L3PoolConfig.prepared=False" in _doctor("sharing_app:store")
        said = _doctor("apart_app:store")
        assert "leads through a connection pooler" in said and "set postgres_direct_dsn" in said


def _doctor(app: str) -> str:
    return CliRunner().invoke(main, ["doctor", "--json", "--app", app]).output
