"""Transactions in every mixture of schemas, and the end of a store."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from typing import Any

import psycopg
import pytest

import strata
from strata import ClosedError, DataStore, MemPolicy, PostgresPolicy, Q, RedisPolicy, Schema, WriteMode
from strata.testing import inspect
from tests.behind import comes_after, hand_off, idle, paced, persist, rows, run
from tests.models import Note, Player, Point
from tests.stores import MakeStore, schema, sure
from tests.support import wait_until

SLOW = {"write_behind_flush_interval": 3600.0, "write_behind_flush_threshold": 10**9}


def mixed(make: MakeStore) -> DataStore:
    """One schema of every kind; what is deferred moves only by hand."""
    store = make(**SLOW)
    paced(store)
    store.register(schema(Player, name="players"))
    store.register(schema(Note, name="notes", write_mode=WriteMode.WRITE_BEHIND))
    store.register(Schema(Point, name="shared", l1=MemPolicy(), l2=RedisPolicy()))
    store.register(Schema(Point, name="local", l1=MemPolicy()))
    store.register(Schema(Point, name="stored", l3=PostgresPolicy()))
    store.migrate()
    idle(store)
    return store


@pytest.fixture
def store(make: MakeStore) -> DataStore:
    return mixed(make)


# -- transactions ----------------------------------------------------------------------------------------------------


def everywhere(tx: strata.Tx, text: str) -> strata.Tx:
    x = len(text)
    return (
        tx.set(Player, "a", Player("a", text))
        .set("notes", 1, Note(1, text))
        .set("shared", "p", Point("p", x))
        .set("local", "p", Point("p", x))
        .set("stored", "p", Point("p", x))
    )


def test_a_transaction_spans_schemas_of_every_kind_and_mode(store: DataStore, make: MakeStore) -> None:
    everywhere(store.tx(), "text").commit()
    for one in (store, mixed(make)):
        assert one.get("players", "a").username == "text"
        assert one.get("notes", 1).text == "text"
        assert one.get("shared", "p").x == one.get("stored", "p").x == 4
    assert store.get("local", "p").x == 4
    assert store.get("notes", 1, force_l3=True).text == "text"
    tx = store.tx()
    for name, id in (("players", "a"), ("notes", 1), ("shared", "p"), ("local", "p"), ("stored", "p")):
        tx.delete(name, id)
    tx.commit()
    for name, id in (("players", "a"), ("notes", 1), ("shared", "p"), ("local", "p"), ("stored", "p")):
        assert not store.exists(name, id)


def test_nothing_is_seen_anywhere_before_the_commit(store: DataStore) -> None:
    tx = everywhere(store.tx(), "text")
    for name, id in (("players", "a"), ("notes", 1), ("shared", "p"), ("local", "p"), ("stored", "p")):
        assert not store.exists(name, id)
    tx.rollback()
    with pytest.raises(ClosedError):
        tx.commit()


def test_what_fails_in_l3_leaves_every_tier_as_it_was(store: DataStore, dsn: str) -> None:
    everywhere(store.tx(), "before").commit()
    run(dsn, "ALTER TABLE stored ADD CHECK (x < 10)")
    with pytest.raises(strata.TxFailedError) as caught:
        everywhere(store.tx(), "long enough to fail").commit()
    assert caught.value.sqlstate == "23514" and isinstance(caught.value.__cause__, strata.ConstraintError)
    assert store.get("players", "a").username == store.get("notes", 1).text == "before"
    assert store.get("players", "a", force_l2=True).username == "before"
    for name in ("shared", "local", "stored"):
        assert store.get(name, "p").x == len("before")


def test_a_transaction_and_pending_writes_keep_their_order(store: DataStore, make: MakeStore) -> None:
    other = mixed(make)
    # pending here, then a transaction: the transaction is newer
    store.set("notes", 1, Note(1, "pending"))
    hand_off(store)
    store.tx().set("notes", 1, Note(1, "transaction")).commit()
    persist(other, "notes")
    assert store.get("notes", 1, force_l3=True).text == "transaction"
    # pending elsewhere, handed off, then a transaction here
    comes_after(other, store)
    other.set("notes", 2, Note(2, "pending elsewhere"))
    hand_off(other)
    store.tx().set("notes", 2, Note(2, "transaction")).commit()
    persist(other, "notes")
    wait_until(lambda: {one.get("notes", 2).text for one in (store, other)} == {"transaction"})
    # a transaction, then pending
    store.tx().set("notes", 3, Note(3, "transaction")).commit()
    store.set("notes", 3, Note(3, "later"))
    hand_off(store)
    persist(other, "notes")
    assert store.get("notes", 3, force_l3=True).text == "later"
    # a deletion in a transaction over a pending write: what was deleted stays deleted
    store.set("notes", 4, Note(4, "pending"))
    hand_off(store)
    store.tx().delete("notes", 4).commit()
    persist(other, "notes")
    assert store.get("notes", 4, default=None) is None and not rows(store.config.postgres_dsn, "TABLE notes")[3:]


@pytest.mark.parametrize("timeout", [0, 0.2])
def test_a_deadline_is_the_servers_and_rolls_everything_back(store: DataStore, dsn: str, timeout: float) -> None:
    everywhere(store.tx(), "before").commit()
    with psycopg.connect(dsn) as blocker:
        blocker.execute("SELECT * FROM stored FOR UPDATE")
        with pytest.raises(strata.TxTimeoutError):
            everywhere(store.tx(timeout=timeout), "after").commit()
        active = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
        wait_until(lambda: rows(dsn, active) == [(0,)])
    assert store.get("players", "a").username == store.get("notes", 1).text == "before"
    everywhere(store.tx(timeout=30), "after").commit()
    assert store.get("players", "a").username == "after"


def test_the_records_of_a_transaction_are_copies(store: DataStore) -> None:
    note = Note(1, "given", ["a"])
    tx = store.tx().set("notes", 1, note)
    note.text, note.tags[0] = "changed", "changed"
    tx.commit()
    assert store.get("notes", 1) == Note(1, "given", ["a"])


# -- close -----------------------------------------------------------------------------------------------------------

CALLS: dict[str, Callable[[DataStore], Any]] = {
    "register": lambda store: store.register(schema(Point, name="more")),
    "get": lambda store: store.get("notes", 1),
    "get with a default": lambda store: store.get("notes", 1, default=None),
    "get by class": lambda store: store.get(Player, "a", default=None),
    "get_many": lambda store: store.get_many("notes", [1]),
    "get_batch": lambda store: store.get_batch([("notes", 1), (Player, "a")]),
    "get_batch of nothing": lambda store: store.get_batch([]),
    "prefetch": lambda store: store.prefetch([Note(1)], "id", "notes"),
    "prefetch for nobody": lambda store: store.prefetch([], "id", "notes"),
    "set": lambda store: store.set("notes", 1, Note(1)),
    "set_many": lambda store: store.set_many("notes", {1: Note(1)}),
    "touch": lambda store: store.touch("notes", 1, 60),
    "delete": lambda store: store.delete("notes", 1),
    "delete_many": lambda store: store.delete_many("notes", [1]),
    "search": lambda store: store.search("notes"),
    "search_page": lambda store: store.search_page("notes"),
    "search_cached": lambda store: store.search_cached("notes"),
    "search_iter": lambda store: store.search_iter("notes"),
    "exists": lambda store: store.exists("notes", 1),
    "insert": lambda store: store.insert("notes", Note(2)),
    "insert_many": lambda store: store.insert_many("notes", [Note(2)]),
    "get_or_set": lambda store: store.get_or_set("notes", 1, lambda: Note(1)),
    "cached": lambda store: store.cached(ttl=60),
    "update": lambda store: store.update("notes", 1, text="new"),
    "update with expect": lambda store: store.update("notes", 1, expect={"text": "old"}, text="new"),
    "modify": lambda store: store.modify("notes", 1, lambda note: note),
    "increment": lambda store: store.increment("notes", 1, text=1),
    "update_where": lambda store: store.update_where("notes", Q(), text="new"),
    "delete_where": lambda store: store.delete_where("notes", Q()),
    "count": lambda store: store.count("notes"),
    "tx": lambda store: store.tx(),
    "invalidate": lambda store: store.invalidate("notes", 1),
    "invalidate_many": lambda store: store.invalidate_many("notes", [1]),
    "invalidate_all": lambda store: store.invalidate_all("notes"),
    "invalidate_tag": lambda store: store.invalidate_tag("text:old"),
    "warm_cache": lambda store: store.warm_cache("notes"),
    "flush_dirty": lambda store: store.flush_dirty(),
    "migrate": lambda store: store.migrate(),
    "migrate_from": lambda store: store.migrate_from("."),
    "migration_status": lambda store: store.migration_status(),
    "rotate_keys": lambda store: store.rotate_keys("notes"),
    "audit": lambda store: store.audit(),
    "health": lambda store: store.health(),
    "dead_letters": lambda store: store.dead_letters,
    "warm_cache in the background": lambda store: store.warm_cache("notes", background=True),
    "migrate in the background": lambda store: store.migrate(background=True),
}
STILL = {"aio", "close", "stats", "fleet", "config", "_get_slowly"}


def test_every_call_is_in_the_list() -> None:
    public = {name for name in dir(DataStore) if not name.startswith("_")}
    assert public - STILL <= {name.split()[0] for name in CALLS}


@pytest.mark.parametrize("call", CALLS)
def test_a_closed_store_takes_no_more_calls(make: MakeStore, call: str) -> None:
    store = make()
    store.register(schema(Note, name="notes"))
    store.register(Schema(Player, name="players", l1=MemPolicy()))
    store.close()
    with pytest.raises(ClosedError, match="closed"):
        CALLS[call](store)
    assert store.stats().gets == 0 and "closed" in repr(store)


def test_what_was_begun_before_the_end_does_not_go_on_after_it(store: DataStore) -> None:
    store.set("players", "a", Player("a", "ann"))
    tx = store.tx().set("players", "b", Player("b", "bob"))
    found = store.search_iter("players")
    store.close()
    with pytest.raises(ClosedError):
        tx.commit()
    with pytest.raises(ClosedError):
        next(found)


def test_close_is_idempotent_also_for_many_at_once(make: MakeStore, dsn: str) -> None:
    store = mixed(make)
    store.set("notes", 1, Note(1, "pending"))
    with ThreadPoolExecutor(8) as pool:
        for ended in [pool.submit(store.close) for _ in range(8)]:
            ended.result()
    assert rows(dsn, "SELECT text FROM notes") == [("pending",)]
    store.close()


def test_whoever_closes_while_another_thread_is_at_it_waits_for_that_one(make: MakeStore, dsn: str) -> None:
    store = mixed(make)
    store.set("notes", 1, Note(1, "pending"))
    left: list[int] = []

    def close() -> None:
        store.close()
        left.append(len(inspect(store).buffer))

    with psycopg.connect(dsn) as conn, ThreadPoolExecutor(2) as pool:
        conn.execute("LOCK TABLE notes IN ACCESS EXCLUSIVE MODE")
        both = [pool.submit(close) for _ in range(2)]
        wait(both, timeout=0.5, return_when=FIRST_COMPLETED)  # one that does not wait would be through by now
        conn.rollback()
        for ended in both:
            ended.result()
    assert left == [0, 0]
    assert rows(dsn, "SELECT text FROM notes") == [("pending",)]


def test_whoever_is_at_work_when_the_store_closes_gets_a_result_or_closed_error(make: MakeStore, dsn: str) -> None:
    store = make(write_behind_flush_interval=0.01)
    store.register(schema(Note, name="notes", write_mode=WriteMode.WRITE_BEHIND))
    store.register(schema(Player, name="players"))
    store.migrate()
    written: list[int] = []
    odd: list[BaseException] = []
    started = threading.Barrier(4)

    def work(first: int) -> None:
        started.wait()
        for n in range(first, first + 100_000):
            try:
                store.set("notes", n, Note(n))
                written.append(n)
                store.get("notes", n)
                store.set("players", "a", Player("a", "ann"))
                store.search("players", Q().limit(1))
            except ClosedError:
                return
            except BaseException as error:
                odd.append(error)
                return

    with ThreadPoolExecutor(3) as pool:
        for place in range(3):
            pool.submit(work, place * 1_000_000)
        started.wait()
        wait_until(lambda: len(written) > 30)
        store.close()
    assert [error for error in odd if not isinstance(error, strata.StrataError)] == []
    assert odd == []
    found = {id for (id,) in rows(dsn, "SELECT id FROM notes")}
    assert set(written) <= found, f"{len(set(written) - found)} acknowledged writes are not there"


def test_close_flushes_what_is_pending_and_stops_every_thread(make: MakeStore, dsn: str) -> None:
    before = set(threading.enumerate())
    store = make(**SLOW)
    store.register(schema(Note, name="notes", write_mode=WriteMode.WRITE_BEHIND))
    store.migrate()
    for n in range(500):
        store.set("notes", n, Note(n))
    store.close()
    assert rows(dsn, "SELECT count(*) FROM notes") == [(500,)]
    assert store.stats().dirty_count == 0

    def left() -> list[threading.Thread]:
        return [thread for thread in threading.enumerate() if thread not in before and "strata" in thread.name]

    wait_until(lambda: not left())
    with psycopg.connect(dsn, autocommit=True) as conn:  # a transaction sees what it saw first
        mine = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
        wait_until(lambda: conn.execute(mine).fetchone() == (0,))


def test_close_waits_for_no_heartbeat(make: MakeStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("strata.coherence.bus.HEARTBEAT", 3600.0)
    before = set(threading.enumerate())
    store = make()
    store.register(schema(Note, name="notes"))
    store.migrate()
    sure(store)
    store.close()
    assert {thread for thread in threading.enumerate() if thread.name == "strata-bus"} <= before


def test_a_store_that_was_never_used_starts_nothing_and_closes() -> None:
    before = threading.active_count()
    nowhere = strata.Config(postgres_dsn="postgres://nobody@127.0.0.1:1/x", redis_addr="127.0.0.1:1")
    with DataStore(nowhere) as store:
        store.register(schema(Note, name="notes"))
        store.register(schema(Player, name="players", write_mode=WriteMode.WRITE_BEHIND))
        assert threading.active_count() == before


def test_leaving_the_with_block_closes_also_after_an_error(make: MakeStore, dsn: str) -> None:
    store = make(**SLOW)
    store.register(schema(Note, name="notes", write_mode=WriteMode.WRITE_BEHIND))
    store.migrate()
    with pytest.raises(RuntimeError), store:
        store.set("notes", 1, Note(1, "kept"))
        raise RuntimeError
    assert rows(dsn, "SELECT text FROM notes") == [("kept",)]
