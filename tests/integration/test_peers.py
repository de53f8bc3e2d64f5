"""Bugs that other caches had, each with the promise that it broke. Hazelcast's are named by their issue."""

from __future__ import annotations

import pickle
import signal
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import psycopg
import pytest
from celery import Celery

import strata
from strata import DataStore, EvictionPolicy, MemPolicy
from strata.testing import inspect
from tests import forked
from tests.behind import Errors, client, deferred, hand_off, idle, paced, persist, rows, run
from tests.fleet import ROOT, environment, workers
from tests.models import Note
from tests.stores import MakeStore, schema, sure
from tests.support import wait_until

HOUR = 3600.0


def behind(make: MakeStore, *, by_hand: bool = True, hooks: Any = None, l1: Any = None, **config: Any) -> DataStore:
    """A store with notes written behind; `by_hand`: nothing moves unless the test moves it."""
    slow = {"write_behind_flush_interval": HOUR, "write_behind_flush_threshold": 10**9}
    store = make(**(slow if by_hand else {"write_behind_flush_interval": 0.01}) | config)
    paced(store)
    options = {"hooks": hooks, "l1": l1}
    store.register(deferred(**{name: value for name, value in options.items() if value is not None}))
    store.migrate()
    if by_hand:
        idle(store)
    return store


# -- write-behind ---------------------------------------------------------------------------------------------------


def test_of_writes_that_race_into_the_queue_l3_gets_the_one_that_reads_get(make: MakeStore, dsn: str) -> None:
    """hazelcast#18670 and #15060: the sequence was stamped after the write was queued, so an older one could win."""
    store = behind(make, by_hand=False)
    for turn in range(20):

        def write(worker: int, turn: int = turn) -> None:
            for count in range(20):
                store.set(Note, turn, Note(turn, f"{worker}-{count}"))

        with ThreadPoolExecutor(6) as pool:
            list(pool.map(write, range(6)))
    shown = {turn: store.get(Note, turn).text for turn in range(20)}
    store.flush_dirty(30)
    assert dict(rows(dsn, "SELECT id, text FROM note")) == shown
    assert all(text.endswith("-19") for text in shown.values())


def test_a_key_that_is_written_all_the_time_reaches_l3_meanwhile(make: MakeStore, dsn: str) -> None:
    """hazelcast#4341: every write put the key's due time off, so that it was never stored."""
    store = behind(make, by_hand=False)
    done = threading.Event()
    count = 0

    def write() -> None:
        nonlocal count
        while not done.is_set():
            count += 1
            store.set(Note, 1, Note(1, f"{count}"))

    thread = threading.Thread(target=write)
    thread.start()
    seen: set[Any] = set()
    try:

        def three_of_them() -> bool:
            seen.update(rows(dsn, "SELECT text FROM note"))
            return len(seen) > 2

        wait_until(three_of_them, timeout=30)
    finally:
        done.set()
        thread.join()
    store.flush_dirty(20)
    assert rows(dsn, "SELECT text FROM note") == [(f"{count}",)]


@pytest.mark.parametrize("moved", ["nowhere", "to the ledger"])
def test_what_was_removed_is_not_read_back_from_the_store(make: MakeStore, dsn: str, moved: str) -> None:
    """hazelcast#5368: a removed entry that was still in the store was loaded again."""
    store, other = behind(make), behind(make)
    store.set(Note, 1, Note(1, "old"))
    store.flush_dirty(20)
    store.delete(Note, 1)
    if moved == "to the ledger":
        hand_off(store)
        client(store.config.redis_addr).delete("strata:note:1")  # L2 has lost it as well
        assert other.get(Note, 1, default=None) is None
    inspect(store).schemas["note"].l1.clear()
    assert rows(dsn, "SELECT text FROM note") == [("old",)]
    assert store.get(Note, 1, default=None) is None and store.get_many(Note, [1]) == {}
    assert not store.exists(Note, 1)


def test_a_write_that_fails_again_and_again_is_pending_once(make: MakeStore, dsn: str, redis_addr: str) -> None:
    """hazelcast#14019: what failed was queued once more beside itself."""
    errors = Errors()
    store = behind(make, hooks=errors.hooks(), write_behind_max_retry=4)
    run(dsn, "ALTER TABLE note ADD CHECK (text <> 'poison')")
    store.set(Note, 1, Note(1, "poison"))
    hand_off(store)
    [key] = client(redis_addr).keys("strata:{note:*}:dirty")
    counts = set()

    def tried() -> bool:
        counts.add(client(redis_addr).hlen(key))
        persist(store, "note")
        return bool(errors.calls)

    wait_until(tried)
    assert counts == {1}
    wait_until(lambda: errors.keys == [1])
    assert len(store.dead_letters.list()) == 1
    assert store.stats().dirty_count == 0


def test_a_pending_write_that_l1_evicts_is_stored_once(make: MakeStore, dsn: str) -> None:
    """hazelcast#4448: the eviction of an entry that was not stored yet stored it, and the queue did so again."""
    small = MemPolicy(ttl=60, max_entries=1, eviction=EvictionPolicy.FIFO)
    store = behind(make, l1=small)
    run(
        dsn,
        "CREATE TABLE stored (id bigint); CREATE FUNCTION note_stored() RETURNS trigger LANGUAGE plpgsql AS "
        "$$ BEGIN INSERT INTO stored VALUES (NEW.id); RETURN NEW; END $$; "
        "CREATE TRIGGER stored AFTER INSERT OR UPDATE ON note FOR EACH ROW EXECUTE FUNCTION note_stored()",
    )
    for id in range(1000):
        store.set(Note, id, Note(id, "a"))
    assert store.stats().l1_entries < 1000
    assert rows(dsn, "SELECT count(*) FROM stored") == [(0,)]
    assert all(store.get(Note, id).text == "a" for id in range(1000))
    store.flush_dirty(30)
    assert rows(dsn, "SELECT count(*), count(DISTINCT id) FROM stored") == [(1000, 1000)]


WRITER = """
import os
from strata.testing import inspect
from tests.fleet_app import store, Note
for id in range(300):
    store.set(Note, id, Note(id, "a"))
store.delete(Note, 7)
inspect(store).handoff.run()
os.kill(os.getpid(), 9)
"""


def test_what_a_node_had_handed_off_does_not_die_with_it(make: MakeStore, dsn: str, redis_addr: str) -> None:
    """hazelcast#5757: the death of a node lost its queue."""
    store = behind(make)
    script = [sys.executable, "-c", WRITER]
    ended = forked.run(script, env=environment(dsn, redis_addr), cwd=ROOT, timeout=60)
    assert ended.returncode == -signal.SIGKILL
    wait_until(lambda: (persist(store, "note"), rows(dsn, "SELECT count(*) FROM note") == [(299,)])[1])


def test_sets_and_deletes_that_alternate_are_one_batch(make: MakeStore, dsn: str) -> None:
    """hazelcast#24763: each change from sets to deletes, and back, began another batch."""
    store = behind(make)
    store.set_many(Note, {id: Note(id, "old") for id in range(1, 800, 2)})
    run(
        dsn,
        "CREATE TABLE statements (xid xid8, op text); CREATE FUNCTION note_statement() RETURNS trigger "
        "LANGUAGE plpgsql AS $$ BEGIN INSERT INTO statements VALUES (pg_current_xact_id(), TG_OP); RETURN NULL; END $$;"
        "CREATE TRIGGER statements AFTER INSERT OR DELETE ON note FOR EACH STATEMENT EXECUTE FUNCTION note_statement()",
    )
    for id in range(0, 800, 2):
        store.set(Note, id, Note(id, "new"))
        store.delete(Note, id + 1)
    hand_off(store)
    assert persist(store, "note") == 800
    assert rows(dsn, "SELECT count(*) FROM note") == [(400,)]
    [(transactions, statements)] = rows(dsn, "SELECT count(DISTINCT xid), count(*) FROM statements")
    assert transactions == 16 and statements <= 32, "one a shard, with one statement for sets and one for deletes"


# -- caches ---------------------------------------------------------------------------------------------------------


def test_a_read_publishes_nothing(make: MakeStore, redis_addr: str) -> None:
    """Caches published on fills as well: 10,000 messages a second at 50,000 reads a second."""
    store, other = make(), make()
    for each in (store, other):
        each.register(schema(Note, name="notes"))
        sure(each)
    store.migrate()
    store.set_many("notes", {id: Note(id, "a") for id in range(50)})
    with client(redis_addr).pubsub() as listener:
        listener.psubscribe("*")
        assert listener.get_message(timeout=5)["type"] == "psubscribe"
        client(redis_addr).delete(*[f"strata:notes:{id}" for id in range(25)])
        for each in (store, other):
            each.invalidate("notes", 49)
            for id in range(60):
                each.get("notes", id, default=None)
            each.get_many("notes", list(range(70)))
            each.search("notes", strata.Q().limit(50))
            each.warm_cache("notes")
        store.set("notes", 99, Note(99, "the end"))
        published: list[str] = []
        while not published or '"99"' not in published[-1]:
            message = listener.get_message(timeout=10, ignore_subscribe_messages=True)
            assert message is not None
            if message["channel"] == b"strata:invalidate":  # the others are heartbeats
                published.append(message["data"].decode())
    ours = [text for text in published if '"49"' not in text and '"99"' not in text]
    assert ours == []


def test_a_hit_does_not_wait_for_a_load_of_its_key(make: MakeStore, dsn: str) -> None:
    """A lock was taken before the look-up, so that hits queued behind a load."""
    store = behind(make)
    with psycopg.connect(dsn) as conn:
        conn.execute("LOCK TABLE note IN ACCESS EXCLUSIVE MODE")
        loading = threading.Thread(target=lambda: store.get(Note, 1, default=None))
        loading.start()
        wait_until(lambda: waiting(dsn) == 1)
        store.set(Note, 1, Note(1, "new"))
        assert store.get(Note, 1).text == "new"
        assert loading.is_alive()
    loading.join()
    assert store.get(Note, 1).text == "new"


def test_readers_that_come_while_others_wait_share_one_load(make: MakeStore, dsn: str) -> None:
    """A mutex was dropped by the first who was done while others queued for it, so that several loaded at once."""
    store = make()
    notes = store.register(schema(Note, name="note"))
    store.migrate()
    sure(store)
    notes.set(1, Note(1, "a"))
    for _ in range(3):
        notes.invalidate(1)
        gets, loads = store.stats().gets, store.stats().l3_hits
        most = 0
        with ThreadPoolExecutor(24) as pool:
            with psycopg.connect(dsn) as conn:
                conn.execute("LOCK TABLE note IN ACCESS EXCLUSIVE MODE")
                found = [pool.submit(notes.get, 1) for _ in range(24)]
                wait_until(lambda before=gets: store.stats().gets >= before + 24)  # type: ignore[misc]
                wait_until(lambda: waiting(dsn) > 0)
                most = waiting(dsn)
            assert {each.result().text for each in found} == {"a"}
        assert most == 1
        assert store.stats().l3_hits - loads <= 2, "one, or one more by who came when it had landed"


@dataclass
class Falsy:
    """As much like nothing as a record can be."""

    id: Annotated[int, strata.PrimaryKey]
    text: str | None = None
    items: Annotated[list[int] | None, strata.Default(None)] = None

    def __bool__(self) -> bool:
        return False

    def __eq__(self, other: object) -> bool:
        return other is None or other is strata.UNLOADED or type(other).__name__ == "Absent" or other == self.id

    __hash__ = None  # type: ignore[assignment]


@pytest.mark.parametrize("codec", [strata.JSON(), strata.MsgPack()], ids=["json", "msgpack"])
def test_a_record_that_looks_like_nothing_is_found(make: MakeStore, codec: Any) -> None:
    """A sentinel was stored in band, so that a real value read as missing."""
    store, other = make(codec=codec), make(codec=codec)
    for each in (store, other):
        each.register(schema(Falsy, name="things"))
    store.migrate()
    missing = object()
    for id in (0, 1):
        store.set("things", id, Falsy(id))
        for each in (store, other):
            for how in ({}, {"force_l2": True}, {"force_l3": True}):
                assert type(each.get("things", id, default=missing, **how)) is Falsy
            assert type(each.get_many("things", [id])[id]) is Falsy
            assert each.exists("things", id)
    assert store.get("things", 5, default=None) is None
    assert other.count("things") == 2


class Bomb:
    """Runs code where it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self._mark = mark

    def __reduce__(self) -> Any:
        return Path.touch, (self._mark,)


def test_nothing_that_came_from_redis_is_unpickled(make: MakeStore, dsn: str, redis_addr: str, tmp_path: Path) -> None:
    """Pickle was the default codec: who could write to the cache could run code in every process."""
    mark = tmp_path / "it ran"
    store = behind(make, by_hand=False)
    store.set_many(Note, {1: Note(1, "a")})
    bomb = pickle.dumps(Bomb(mark))
    redis = client(redis_addr)
    header = redis.get("strata:note:1")[:24]
    for raw in (bomb, header + bomb):
        redis.set("strata:note:1", raw)
        inspect(store).schemas["note"].l1.clear()
        assert store.get(Note, 1).text == "a"
    with workers(environment(dsn, redis_addr), tmp_path) as worker:
        app = Celery(broker=f"redis://{redis_addr}/0")
        app.conf.update(
            task_serializer="pickle",
            accept_content=["pickle"],
            broker_transport_options={"global_keyprefix": "strata:{celery}:"},
        )
        app.send_task("strata.persist", args=[Bomb(mark), 0], queue="strata.persist")
        wait_until(lambda: "ContentDisallowed" in worker.log.read_text(), timeout=30, what="a refusal")
        store.set(Note, 2, Note(2, "b"))
        wait_until(lambda: rows(dsn, "SELECT text FROM note WHERE id = 2") == [("b",)], timeout=30)
    assert not mark.exists()


def waiting(dsn: str) -> int:
    """How many statements of this database wait for a lock."""
    statement = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
    return int(rows(dsn, statement)[0][0])
