"""What a Redis holds belongs to one database: a store of another one is refused before anything is read or written."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from pathlib import Path

import psycopg
import pytest
from click.testing import CliRunner
from psycopg import sql

import strata
from strata import DataStore, InvalidConfigError, L2UnavailableError, RedisPolicy, Schema, WriteMode
from strata.cli.main import main
from strata.embedded import EmbeddedCluster, EmbeddedPostgres, EmbeddedStandby, EmbeddedValkey
from strata.l3.connection import connect
from strata.l3.fingerprint import fingerprint
from strata.l3.pool import Database
from strata.policies import L3PoolConfig
from strata.testing import Proxy, inspect
from strata.waits.clock import SystemClock
from tests import databases
from tests.behind import client
from tests.databases import QUICK
from tests.fleet import Worker, environment
from tests.models import Note
from tests.stores import MakeStore, schema, stores
from tests.support import wait_until
from tests.surroundings.pgbouncer import pgbouncer

OWNER = "strata:{database}:owner"


def password(dsn: str) -> str:
    """Its password."""
    return str(psycopg.conninfo.conninfo_to_dict(dsn).get("password", "none that could be shown"))


@pytest.fixture
def other() -> Iterator[str]:
    """A second database of the same server."""
    with databases.fresh() as dsn:
        yield dsn


def notes(make: MakeStore, mode: WriteMode = WriteMode.WRITE_THROUGH, **options: object) -> DataStore:
    store = make(write_behind_flush_interval=0.05, **options)
    store.register(schema(Note, name="notes", write_mode=mode))
    store.migrate()
    return store


def named(dsn: str) -> str:
    """A database's name as errors say it."""
    return repr(psycopg.conninfo.conninfo_to_dict(dsn)["dbname"])


def kept(redis_addr: str) -> set[bytes]:
    """The keys of records and of what is written behind, but for what soon goes by itself."""
    return {key for key in client(redis_addr).keys("*") if b"notes:" in key and not key.endswith(b":bell")}


def refused(call: Callable[[], object]) -> bool:
    try:
        call()
        return False
    except strata.UnavailableError:
        return False
    except InvalidConfigError:
        return True


@pytest.mark.parametrize("mode", WriteMode)
def test_a_store_of_another_database_is_refused_at_its_first_use(
    make: MakeStore, dsn: str, other: str, redis_addr: str, mode: WriteMode
) -> None:
    first = notes(make, mode)
    first.set("notes", 1, Note(1, "of the first"))
    first.flush_dirty()
    before = kept(redis_addr)
    calls: list[Callable[[DataStore], object]] = [
        lambda store: store.set("notes", 1, Note(1, "of the second")),
        lambda store: store.get("notes", 1),
        lambda store: store.get_many("notes", [1]),
        lambda store: store.set_many("notes", {2: Note(2)}),
        lambda store: store.delete("notes", 1),
        lambda store: store.invalidate("notes", 1),
    ]
    for call in calls:
        second = notes(make, mode, postgres_dsn=other)
        with pytest.raises(InvalidConfigError) as caught:
            call(second)
        said = str(caught.value)
        assert named(dsn) in said and named(other) in said
        assert password(other) not in said and "namespace" in said
        assert second.count("notes") == 0
    assert kept(redis_addr) == before
    assert first.get("notes", 1, force_l2=True) == Note(1, "of the first")


def test_what_was_deferred_reaches_its_own_database_where_the_redis_is_taken_away(
    make: MakeStore, dsn: str, other: str, redis_addr: str
) -> None:
    first = make(write_behind_flush_interval=3600, write_behind_flush_threshold=10**9)
    first.register(schema(Note, name="notes", write_mode=WriteMode.WRITE_BEHIND))
    first.migrate()
    for id in range(20):
        first.set("notes", id, Note(id, "of the first"))
    second = notes(make, WriteMode.WRITE_BEHIND, postgres_dsn=other)
    inspect(second).ownership.adopt(inspect(second).redis, ["strata:notes:"])
    wait_until(lambda: refused(lambda: first.get("notes", 99, default=None)), what="the refusal")
    first.close()
    with closing(psycopg.connect(dsn)) as conn:
        assert conn.execute("SELECT count(*), min(text) FROM notes").fetchone() == (20, "of the first")
    second.flush_dirty()
    assert second.count("notes") == 0


def test_a_namespace_keeps_them_apart(make: MakeStore, other: str) -> None:
    shop = notes(make, WriteMode.WRITE_BEHIND, namespace="shop")
    blog = notes(make, WriteMode.WRITE_BEHIND, namespace="blog", postgres_dsn=other)
    for n in range(20):
        shop.set("notes", n, Note(n, "shop"))
        blog.set("notes", n + 10, Note(n + 10, "blog"))
    blog.flush_dirty()
    shop.flush_dirty()
    assert {note.text for note in shop.search("notes")} == {"shop"}
    assert {note.text for note in blog.search("notes")} == {"blog"}
    assert shop.count("notes") == blog.count("notes") == 20
    assert blog.get("notes", 1, default=None) is None


def test_the_ledger_of_another_database_is_refused_though_the_cache_is_its_own(
    make: MakeStore, other: str, redis_addr: str
) -> None:
    with EmbeddedValkey(password="") as cache, EmbeddedValkey(password="") as ledger:
        first = notes(make, WriteMode.WRITE_BEHIND, ledger_addr=ledger.addr)
        first.set("notes", 1, Note(1))
        second = notes(make, WriteMode.WRITE_BEHIND, redis_addr=cache.addr, ledger_addr=ledger.addr, postgres_dsn=other)
        with pytest.raises(InvalidConfigError):
            second.set("notes", 1, Note(1))


def test_two_schemas_of_one_database_are_two(make: MakeStore, dsn: str) -> None:
    with psycopg.connect(dsn, autocommit=True) as conn:
        conn.execute("CREATE SCHEMA tenant")
    notes(make).set("notes", 1, Note(1))
    with pytest.raises(InvalidConfigError, match="tenant"):
        notes(make, postgres_dsn=f"{dsn} options='-c search_path=tenant'").get("notes", 1)


def test_stores_without_a_database_share_a_redis(make: MakeStore) -> None:
    notes(make).set("notes", 1, Note(1))
    lonely = make(postgres_dsn="")
    lonely.register(Schema(Note, name="shared", l2=RedisPolicy()))
    lonely.set("shared", 1, Note(1, "here"))
    other = make(postgres_dsn="")
    other.register(Schema(Note, name="shared", l2=RedisPolicy()))
    assert other.get("shared", 1) == Note(1, "here")


def test_a_redis_that_was_flushed_is_owned_anew_and_never_by_two(make: MakeStore, other: str, redis_addr: str) -> None:
    first, second = notes(make), notes(make, postgres_dsn=other)
    first.set("notes", 1, Note(1))
    assert refused(lambda: second.get("notes", 1))
    client(redis_addr).flushall()
    wait_until(lambda: client(redis_addr).exists(OWNER), what="the mark of whoever runs")
    assert refused(lambda: second.get("notes", 1))
    first.set("notes", 2, Note(2))
    client(redis_addr).delete(OWNER)
    with DataStore(second.config) as third:  # another application takes what is nobody's
        third.register(schema(Note, name="notes"))
        third.get("notes", 5, default=None)
    wait_until(lambda: refused(lambda: first.set("notes", 3, Note(3))), what="the loser's refusal")


def test_a_redis_that_was_replaced_is_asked_before_anything_is_written(make: MakeStore, other: str) -> None:
    with EmbeddedValkey(password="") as valkey:
        first = notes(make, redis_addr=valkey.addr)
        first.set("notes", 1, Note(1))
        valkey.kill()
        valkey.restart()
        admin = client(valkey.addr)
        admin.hset(OWNER, "owner", '{"system":"1","database":"its","schema":"own"}')
        for kind in ("normal", "pubsub"):  # a thread of the store may have been faster, and have claimed it
            admin.client_kill_filter(_type=kind, skipme=True)
        with pytest.raises(InvalidConfigError, match="'its'"):
            while True:  # until the breaker lets one through
                first.set("notes", 1, Note(1, "not to be there"))
        assert admin.keys("strata:notes:*") == []


def test_without_postgres_a_new_process_reads_what_is_known_to_be_its_own(
    make: MakeStore, own_postgres: EmbeddedPostgres
) -> None:
    first = notes(make, postgres_dsn=own_postgres.dsn)
    first.set("notes", 1, Note(1, "cached"))
    own_postgres.kill()
    second = make(postgres_dsn=own_postgres.dsn)
    second.register(schema(Note, name="notes"))
    assert second.get("notes", 1) == Note(1, "cached")


def test_where_nothing_is_known_redis_waits_for_postgres(
    make: MakeStore, dsn: str, other: str, redis_addr: str
) -> None:
    notes(make).set("notes", 1, Note(1, "of the first"))
    notes(make, postgres_dsn=other)
    place = psycopg.conninfo.conninfo_to_dict(other)
    with Proxy(f"{place['host']}:{place['port']}") as link:
        through = psycopg.conninfo.make_conninfo(other, host="127.0.0.1", port=link.addr.rpartition(":")[2])
        link.refuse()
        second = make(postgres_dsn=through)
        second.register(schema(Note, name="notes"))
        with pytest.raises(strata.UnavailableError):
            second.get("notes", 1)
        with pytest.raises(L2UnavailableError, match="PostgreSQL has not told"):
            inspect(second).redis.execute("PING")
        link.resume()
        wait_until(lambda: refused(lambda: second.get("notes", 1, default=None)), what="the refusal, once it is known")


def test_a_standby_is_the_same_database_as_its_primary(own_postgres: EmbeddedPostgres) -> None:
    with EmbeddedStandby(own_postgres) as standby:
        dsns = (own_postgres.dsn, standby.dsn)
        primary, copy = (Database(dsn, L3PoolConfig(), clock=SystemClock()) for dsn in dsns)
        with closing(primary), closing(copy):
            assert primary.read(fingerprint) == copy.read(fingerprint)


def test_a_role_that_may_not_ask_for_the_system_identifier_has_an_id_of_its_own(
    make: MakeStore, own_postgres: EmbeddedPostgres
) -> None:
    with psycopg.connect(own_postgres.dsn, autocommit=True) as conn:
        conn.execute(sql.SQL("CREATE ROLE plain {}").format(databases.login(own_postgres.dsn)))
        conn.execute("CREATE DATABASE plain OWNER plain")
        conn.execute("CREATE DATABASE plainer OWNER plain")
    mine, theirs = (
        psycopg.conninfo.make_conninfo(own_postgres.dsn, user="plain", dbname=name) for name in ("plain", "plainer")
    )
    for name in ("plain", "plainer"):  # of each database, as all rights on functions are
        with psycopg.connect(own_postgres.dsn, dbname=name, autocommit=True) as conn:
            conn.execute("REVOKE EXECUTE ON FUNCTION pg_control_system() FROM public")
    store = notes(make, postgres_dsn=mine)
    store.set("notes", 1, Note(1))
    again = notes(make, postgres_dsn=mine)
    assert again.get("notes", 1, force_l2=True) == Note(1)
    with pytest.raises(InvalidConfigError, match="made-"):
        notes(make, postgres_dsn=theirs).get("notes", 1)


@pytest.mark.parametrize("through", ["itself", "a pooler"])
def test_connections_that_make_the_id_at_the_same_time_find_one(own_postgres: EmbeddedPostgres, through: str) -> None:
    with ExitStack() as stack:
        owner = stack.enter_context(psycopg.connect(own_postgres.dsn, autocommit=True))
        owner.execute("REVOKE EXECUTE ON FUNCTION pg_control_system() FROM public")
        owner.execute(sql.SQL("CREATE ROLE plain {}").format(databases.login(own_postgres.dsn)))
        owner.execute("GRANT ALL ON SCHEMA public TO plain")
        owner.execute("ALTER ROLE plain SET default_transaction_isolation = 'serializable'")
        owner.execute("ALTER ROLE plain SET default_transaction_read_only = on")
        dsn = psycopg.conninfo.make_conninfo(own_postgres.dsn, user="plain")
        if through == "a pooler":
            dsn = stack.enter_context(pgbouncer(dsn, "transaction", size=8))
        config = L3PoolConfig(prepared=through == "itself")
        with ThreadPoolExecutor(8) as pool:
            for _ in range(5):
                conns = [stack.enter_context(closing(connect(dsn, config, SystemClock()))) for _ in range(8)]
                assert len(set(pool.map(fingerprint, conns))) == 1
                owner.execute("DROP TABLE _strata_database")


def test_the_child_of_a_fork_is_the_same_application(make: MakeStore) -> None:
    store = notes(make)
    store.set("notes", 1, Note(1))
    pid = os.fork()
    if pid == 0:
        store.set("notes", 2, Note(2))
        os._exit(0 if store.get("notes", 2, force_l2=True) == Note(2) else 1)
    assert os.waitpid(pid, 0)[1] == 0


@pytest.mark.in_turn
def test_a_cluster_has_one_owner() -> None:
    with EmbeddedCluster(replicas=0) as cluster, EmbeddedPostgres(settings=QUICK) as server, ExitStack() as stack:
        first, second = server.create_database("first"), server.create_database("second")
        make = stack.enter_context(stores(first, cluster.url))
        notes(make).set("notes", 1, Note(1))
        with pytest.raises(InvalidConfigError, match="'first'"):
            notes(make, postgres_dsn=second).get("notes", 1)
        with pytest.raises(InvalidConfigError, match="'first'"):
            notes(make, postgres_dsn=second).set("notes", 1, Note(1, "x"))


def test_a_worker_of_another_database_does_not_start(
    make: MakeStore, other: str, redis_addr: str, tmp_path: Path
) -> None:
    notes(make, WriteMode.WRITE_BEHIND).set("notes", 1, Note(1))
    worker = Worker(environment(other, redis_addr), tmp_path / "worker.log")
    try:
        wait_until(lambda: worker.process.poll() is not None, timeout=60, what="the worker's end")
        assert "holds what belongs to the database" in worker.log.read_text()
        assert password(other) not in worker.log.read_text()
    finally:
        worker.stop()


APP = """
from tests.models import Note
from strata import *

store = DataStore(Config.from_env(write_behind_flush_interval=0.05))
store.register(Schema(Note, name="notes", write_mode=WriteMode.WRITE_BEHIND, l2=RedisPolicy(), l3=PostgresPolicy()))
store.register(Schema(Note, name="kept", l2=RedisPolicy()))
"""


def test_data_that_was_moved_takes_its_redis_along_when_it_is_told_so(
    make: MakeStore, dsn: str, other: str, redis_addr: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = make(write_behind_flush_interval=0.05)
    first.register(schema(Note, name="notes", write_mode=WriteMode.WRITE_BEHIND))
    first.register(Schema(Note, name="kept", l2=RedisPolicy()))
    first.migrate()
    first.set_many("notes", {1: Note(1, "cached")})
    first.set("kept", 1, Note(1, "nowhere else"))
    first.close()
    (tmp_path / "moved_shop.py").write_text(APP)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    for name, value in {"APP": "moved_shop:store", "POSTGRES_DSN": other, "REDIS_ADDR": redis_addr}.items():
        monkeypatch.setenv(f"STRATA_{name}", value)

    def run(*words: str) -> tuple[int, str]:
        sys.modules.pop("moved_shop", None)
        result = CliRunner().invoke(main, list(words), input="n\n")
        return result.exit_code, result.output

    run("migrate")
    code, said = run("doctor", "--json")
    assert code == 1 and "strata adopt" in said and named(other) in said and password(other) not in said
    failing = {line["what"]: line for line in json.loads(said) if line["state"] == "fail" and line["what"] != "workers"}
    assert failing.keys() == {"owner of Redis", "pending writes"}  # which are another application's
    assert failing["pending writes"]["found"].startswith("this Redis, without a namespace, holds what belongs to")
    code, said = run("adopt")
    assert code == 1 and "belongs to the database" in said  # it asked, and was told no
    assert run("adopt", "--yes")[0] == 0
    assert "nothing to do" in run("adopt")[1]
    second = notes(make, WriteMode.WRITE_BEHIND, postgres_dsn=other)
    assert second.get("notes", 1, default=None) is None  # the cache of the old database is gone
    lonely = make(postgres_dsn="")
    lonely.register(Schema(Note, name="kept", l2=RedisPolicy()))
    assert lonely.get("kept", 1) == Note(1, "nowhere else")
