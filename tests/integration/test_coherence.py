"""Several stores, in one and in several processes, agree."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from typing import Any

import pytest
import redis

import strata
from strata import DataStore, PostgresPolicy, RedisPolicy, WriteMode
from strata.testing import inspect
from tests.behind import client
from tests.forked import Forked
from tests.models import Note
from tests.stores import MakeStore, schema, sure
from tests.support import wait_until

PEER = """
import sys, time
from strata import Config, DataStore, WriteMode
from tests.models import Note
from tests.stores import schema
ds = DataStore(Config(postgres_dsn=sys.argv[1], redis_addr=sys.argv[2], write_behind_flush_interval=0.02))
notes = ds.register(schema(Note, name="notes", write_mode=WriteMode[sys.argv[3]]))
for line in sys.stdin:
    op, text = line.split()
    if op == "set":
        notes.set(1, Note(1, text))
        print("ok", flush=True)
    elif op == "get":
        print(notes.get(1).text, flush=True)
    elif op == "await":
        deadline = time.monotonic() + 5
        start = time.monotonic()
        while notes.get(1).text != text and time.monotonic() < deadline:
            pass
        print(notes.get(1).text, flush=True)
ds.close()
"""


class Peer:
    """Another process with a store on the same servers."""

    def __init__(self, dsn: str, redis_addr: str, mode: WriteMode) -> None:
        self._process = Forked(
            [sys.executable, "-c", PEER, dsn, redis_addr, mode.name],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def ask(self, op: str, text: str = "-") -> str:
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(f"{op} {text}\n")
        self._process.stdin.flush()
        return str(self._process.stdout.readline().strip())

    def end(self) -> None:
        self._process.communicate(timeout=20)


def test_l2_is_asked_again_only_once_every_write_that_could_not_tell_of_itself_has_ended(make: MakeStore) -> None:
    store = make()
    store.register(schema(Note, name="notes"))
    store.migrate()
    sure(store)
    parts = inspect(store)
    repairs, bound = parts.repairs, parts.schemas["notes"]
    with repairs.unannounced(bound, ["1"]):
        with repairs.unannounced(bound, ["1"]):  # which begins later, and ends before
            pass
        assert repairs._attempt() and repairs.skips(bound, ["1"])
    assert repairs._attempt() and not repairs.skips(bound, ["1"])


@pytest.mark.parametrize("mode", list(WriteMode), ids=lambda mode: mode.value)
def test_a_write_in_one_process_is_read_in_another(make: MakeStore, dsn: str, redis_addr: str, mode: WriteMode) -> None:
    store = make(write_behind_flush_interval=0.02)
    notes = store.register(schema(Note, name="notes", write_mode=mode))
    store.migrate()
    notes.set(1, Note(1, "zero"))
    store.flush_dirty()
    peer = Peer(dsn, redis_addr, mode)
    try:
        assert peer.ask("get") == "zero"
        sure(store)
        for n in range(20):
            notes.set(1, Note(1, f"mine{n}"))
            assert peer.ask("await", f"mine{n}") == f"mine{n}"
            assert peer.ask("set", f"theirs{n}") == "ok"
            wait_until(lambda n=n: notes.get(1).text == f"theirs{n}")  # type: ignore[misc]
    finally:
        peer.end()


def test_writers_never_leave_two_stores_disagreeing(make: MakeStore) -> None:
    left, right = make(), make()
    for store in (left, right):
        store.register(schema(Note, name="notes"))
    left.migrate()

    def hammer(store: DataStore, name: str) -> None:
        for n in range(150):
            store.set("notes", n % 3, Note(n % 3, f"{name}{n}"))
            store.get("notes", (n + 1) % 3, default=None)

    threads = [threading.Thread(target=hammer, args=(s, f"{i}-")) for i, s in enumerate((left, right) * 2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for id in range(3):
        truth = left.get("notes", id, force_l3=True)
        wait_until(lambda id=id, truth=truth: left.get("notes", id) == truth)  # type: ignore[misc]
        wait_until(lambda id=id, truth=truth: right.get("notes", id) == truth)  # type: ignore[misc]
        assert left.get("notes", id, force_l2=True) == truth


def test_messages_are_json_on_the_channel_with_ids_as_text(make: MakeStore, redis_addr: str) -> None:
    host, port = redis_addr.rsplit(":", 1)
    listener: Any = redis.Redis(host=host, port=int(port)).pubsub(ignore_subscribe_messages=True)  # type: ignore[no-untyped-call]
    listener.subscribe("strata:invalidate")
    store = make()
    notes = store.register(schema(Note, name="notes"))
    store.migrate()
    notes.set(7, Note(7))
    notes.delete(7)
    notes.invalidate(7)
    seen: list[dict[str, Any]] = []

    def read() -> bool:
        message = listener.get_message(timeout=0.1)
        if message:
            seen.append(json.loads(message["data"]))
        return {"set", "delete", "invalidate"} <= {item["op"] for item in seen}

    wait_until(read)
    assert all(item["schema"] == "notes" and item["id"] == "7" for item in seen)


@pytest.mark.parametrize("l2", [True, False], ids=["with L2", "without L2"])
@pytest.mark.parametrize("way", ["set_many", "tx", "delete_many", "invalidate_many"])
def test_a_bulk_write_is_one_message_of_each_step_for_some_hundred_keys(make: MakeStore, l2: bool, way: str) -> None:
    def opened() -> Any:
        store = make()
        policy = RedisPolicy(ttl=60) if l2 else None
        return store.register(schema(Note, name="notes", l2=policy, l3=PostgresPolicy()))

    one, two = opened(), opened()
    one._store.migrate()
    ids = range(600)
    one.set_many({id: Note(id, "old") for id in ids})
    for notes in (one, two):
        sure(notes._store)
        notes.get_many(ids)
    told = two._store.stats().bus_messages
    if way == "set_many":
        one.set_many({id: Note(id, "new") for id in ids})
    elif way == "tx":
        with one._store.tx() as tx:
            for id in ids:
                tx.set("notes", id, Note(id, "new"))
    elif way == "delete_many":
        one.delete_many(ids)
    else:
        one.invalidate_many(ids)
    wait_until(lambda: two._store.stats().l1_entries == 0)
    assert two._store.stats().bus_messages - told <= 2 * 3 + 2  # the intent and the outcome, 250 keys a message
    expected = {"set_many": "new", "tx": "new", "invalidate_many": "old"}.get(way)
    assert {note.text for note in two.get_many(ids).values()} == ({expected} if expected else set())


def test_a_foreign_message_without_a_version_drops_the_entry(make: MakeStore, redis_addr: str) -> None:
    store = make()
    notes = store.register(schema(Note, name="notes"))
    store.migrate()
    sure(store)
    notes.set(1, Note(1))
    assert store.stats().l1_entries == 1
    host, port = redis_addr.rsplit(":", 1)
    client = redis.Redis(host=host, port=int(port))
    client.publish("strata:invalidate", b"not json")
    client.publish("strata:invalidate", b'{"schema": "notes", "id": "x", "op": "set"}')
    client.publish("strata:invalidate", b'{"schema": "notes", "id": "1", "op": "set"}')
    wait_until(lambda: store.stats().l1_entries == 0)
    assert store.stats().bus_unreadable == 2
    assert notes.get(1) == Note(1)


def test_a_message_about_many_keys_drops_the_entry_of_each(make: MakeStore, redis_addr: str) -> None:
    store = make()
    notes = store.register(schema(Note, name="notes"))
    store.migrate()
    sure(store)
    notes.set_many({id: Note(id) for id in range(4)})
    newer, older = f"{inspect(store).stamp():019d}", f"{1:019d}"
    many = ["1", newer, "x", newer, "2", older, "3", ""]
    message = {"schema": "notes", "op": "set", "src": "another", "many": many}
    client(redis_addr).publish("strata:invalidate", json.dumps(message))
    wait_until(lambda: store.stats().bus_unreadable == 1 and store.stats().l1_entries == 2)
    assert sorted(inspect(store).schemas["notes"].l1.entries) == [0, 2]


def test_a_subscriber_that_was_cut_off_clears_its_l1(make: MakeStore, redis_addr: str) -> None:
    store = make()
    notes = store.register(schema(Note, name="notes"))
    store.migrate()
    sure(store)
    notes.set(1, Note(1, "old"))
    resets = store.stats().bus_resets
    host, port = redis_addr.rsplit(":", 1)
    redis.Redis(host=host, port=int(port)).client_kill_filter(_type="pubsub")
    wait_until(lambda: store.stats().bus_resets > resets)
    assert store.stats().l1_entries == 0
    sure(store)
    assert notes.get(1).text == "old"


def test_other_databases_of_one_redis_do_not_hear_each_other(make: MakeStore) -> None:
    zero, one = make(), make(redis_db=1)
    for store in (zero, one):
        store.register(schema(Note, name="notes"))
    zero.migrate()
    sure(one)
    sure(zero)
    zero.set("notes", 1, Note(1, "x"))
    one.get("notes", 1)
    before = one.stats().l1_entries
    zero.set("notes", 1, Note(1, "y"))
    heard = one.stats().bus_messages
    wait_until(lambda: one.stats().bus_messages >= heard)
    assert one.stats().l1_entries == before == 1


def test_a_write_to_l2_alone_whose_answer_is_lost_is_seen_by_its_writer_too(
    make: MakeStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = make()
    notes = store.register(schema(Note, name="l2_alone", l3=None))
    sure(store)
    notes.set(1, Note(1, "old"))
    l2 = inspect(store).schemas["l2_alone"].l2
    assert l2 is not None
    run, sent = l2.own, []

    def lose(*args: Any) -> Any:
        sent.append(args)
        raise strata.L2UnavailableError("no answer in time")

    monkeypatch.setattr(l2, "own", lose)
    with pytest.raises(strata.L2UnavailableError):
        notes.set(1, Note(1, "new"))
    assert notes.get(1).text == "old"
    assert run(*sent[0]) == {}  # Redis runs the script after all
    wait_until(lambda: notes.get(1).text == "new")
