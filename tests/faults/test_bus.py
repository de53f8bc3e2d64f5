"""The bus when only it is hit: subscribers cut off, connections that nobody answers on, receivers that are busy."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
import redis

from strata import DataStore, L2PoolConfig, PostgresPolicy, UnavailableError, WriteMode
from strata.embedded import EmbeddedPostgres, EmbeddedValkey
from strata.testing import Count, Proxy, inspect, observe
from tests.models import Note
from tests.stores import MakeStore, schema, stores, sure
from tests.support import wait_until

pytestmark = pytest.mark.faults

SHORT: dict[str, Any] = {"l2_pool": L2PoolConfig(dial_timeout=0.5, read_timeout=0.5, write_timeout=0.5)}


@pytest.fixture
def make(dsn: str, own_valkey: EmbeddedValkey) -> Iterator[MakeStore]:
    with stores(dsn, own_valkey.addr) as factory:
        yield lambda **options: factory(**(SHORT | options))


@pytest.fixture
def link(own_valkey: EmbeddedValkey) -> Iterator[Proxy]:
    with Proxy(own_valkey.addr) as proxy:
        yield proxy


def noted(store: DataStore) -> DataStore:
    store.register(schema(Note, name="notes"))
    store.migrate()
    sure(store)
    return store


def subscribers(client: redis.Redis) -> set[str]:
    return {entry["id"] for entry in client.client_list(_type="pubsub")}


def test_a_subscriber_that_alone_is_killed_misses_nothing_for_good(make: MakeStore, own_valkey: EmbeddedValkey) -> None:
    with redis.Redis(port=own_valkey.port) as client:
        writer = noted(make())
        others = subscribers(client)
        reader = noted(make())
        (its,) = subscribers(client) - others
        writer.set("notes", 1, Note(1, "old"))
        assert reader.get("notes", 1).text == "old"
        resets = writer.stats().bus_resets, reader.stats().bus_resets
        client.client_kill_filter(_id=its)
        writer.set("notes", 1, Note(1, "new"))
        wait_until(lambda: reader.get("notes", 1).text == "new")
        wait_until(lambda: reader.stats().bus_resets == resets[1] + 1)
        assert writer.stats().bus_resets == resets[0]
        sure(reader)
        hits = reader.stats().l1_hits
        wait_until(lambda: reader.get("notes", 1).text == "new" and reader.stats().l1_hits > hits)


def test_without_postgres_redis_is_read_on_after_a_subscription_was_lost(
    own_postgres: EmbeddedPostgres, own_valkey: EmbeddedValkey
) -> None:
    with stores(own_postgres.dsn, own_valkey.addr) as factory:
        store = noted(factory(**SHORT))
        store.set("notes", 1, Note(1, "kept"))
        own_postgres.kill()
        resets = store.stats().bus_resets
        with redis.Redis(port=own_valkey.port) as client:
            client.client_kill_filter(_type="pubsub")
        wait_until(lambda: store.stats().bus_resets > resets)
        wait_until(lambda: read(store) == "kept")


def read(store: DataStore) -> str:
    try:
        return str(store.get("notes", 1, force_l2=True).text)
    except UnavailableError:
        return ""


def test_a_half_open_subscription_is_given_up_and_what_it_missed_is_seen(make: MakeStore, link: Proxy) -> None:
    writer, reader = noted(make()), noted(make(redis_addr=link.addr))
    writer.set("notes", 1, Note(1, "old"))
    assert reader.get("notes", 1).text == "old"
    resets = reader.stats().bus_resets
    assert link.half_open() >= 1
    writer.set("notes", 1, Note(1, "new"))
    wait_until(lambda: reader.get("notes", 1).text == "new")
    wait_until(lambda: reader.stats().bus_resets > resets, what="another subscription")
    sure(reader)
    assert reader.get("notes", 1).text == "new"


@pytest.mark.slow
@pytest.mark.parametrize(
    "fault",
    ["half_open", pytest.param("cut", marks=pytest.mark.long), "stall", pytest.param("kill", marks=pytest.mark.long)],
)
def test_nothing_older_than_the_bound_is_shown_while_one_store_is_cut_off(
    make: MakeStore, link: Proxy, own_valkey: EmbeddedValkey, fault: str
) -> None:
    pair = [make(), make(redis_addr=link.addr)]
    for store in pair:
        store.register(schema(Count, name="counts"))
        store.migrate()
        sure(store)

    def disturb() -> None:
        time.sleep(0.5)
        if fault == "kill":
            with redis.Redis(port=own_valkey.port) as client:
                client.client_kill_filter(_type="pubsub")
        else:
            getattr(link, fault)()
        time.sleep(1.5)
        link.resume()

    report = observe(pair, 3.0, disturb)
    assert report.violations == []
    assert report.operations > 100


def message(**parts: Any) -> bytes:
    return json.dumps({"schema": "notes", "id": "2", "op": "set"} | parts).encode()


BAD = {
    "no JSON": b"\xff\x00garbage",
    "nested deeply": b'{"schema":"notes","id":"2","op":"set","x":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    "a version in other digits": message(v="\u00b2"),
    "a version of 5,000 digits": message(v="9" * 5000),
    "a version of the far future": message(v="9" * 19),
    "another type of id": message(id=[5]),
    "an id that is no key": message(id="two"),
    "a huge database": message(db=10**30),
    "a lone surrogate": b'{"schema":"notes","id":"\\ud800","op":"set"}',
    "a schema of nobody's": message(schema="nobody's"),
    "an op of tomorrow": message(op="tomorrow"),
    "long": message(id="2" * 1_000_000),
}


def test_no_message_costs_more_than_what_it_is_about(make: MakeStore, own_valkey: EmbeddedValkey) -> None:
    store = noted(make())
    store.set("notes", 1, Note(1, "kept"))
    resets = store.stats().bus_resets
    with redis.Redis(port=own_valkey.port) as client:
        for bad in BAD.values():
            client.publish("strata:invalidate", bad)
            for own in client.pubsub_channels("strata:invalidate:*"):
                client.publish(own, bad)
    heard = inspect(store).inbox
    wait_until(lambda: heard.messages >= len(BAD))
    sure(store)
    hits = store.stats().l1_hits
    assert store.get("notes", 1).text == "kept"
    assert store.stats().l1_hits == hits + 1
    assert store.stats().bus_resets == resets
    assert inspect(store).bus.daemon.failures == 0
    assert heard.unreadable >= 5


def test_threads_that_the_system_refuses_are_had_later(make: MakeStore, monkeypatch: pytest.MonkeyPatch) -> None:
    refused: list[str] = []
    real = threading.Thread.start

    def start(thread: threading.Thread) -> None:
        if refused.count(thread.name) < 2:
            refused.append(thread.name)
            raise RuntimeError("can't start new thread")
        real(thread)

    store = make(write_behind_flush_interval=0.01)
    store.register(schema(Note, name="notes", l3=PostgresPolicy(watch=True)))
    store.register(schema(Note, name="behind", write_mode=WriteMode.WRITE_BEHIND))
    store.migrate()
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", start)
        for turn in range(4):
            store.set("notes", 1, Note(1, f"turn {turn}"))
            store.set("behind", 1, Note(1, f"turn {turn}"))
            assert store.get("notes", 1).text == store.get("behind", 1).text == f"turn {turn}"
    assert {"strata-bus", "strata-listener", "strata-flusher"} <= set(refused)
    sure(store)
    wait_until(lambda: inspect(store).listener.connected)
    wait_until(lambda: store.stats().dirty_count == 0)
    assert store.get("behind", 1, force_l3=True).text == "turn 3"


def test_a_busy_thread_does_not_keep_a_store_from_being_sure(make: MakeStore) -> None:
    writer, reader = noted(make()), noted(make())
    stop = threading.Event()

    def burn() -> None:
        while not stop.is_set():
            sum(range(1000))

    thread = threading.Thread(target=burn, daemon=True)
    thread.start()
    try:
        for turn in range(20):
            writer.set("notes", 1, Note(1, f"turn {turn}"))
            wait_until(lambda turn=turn: reader.get("notes", 1).text == f"turn {turn}")  # type: ignore[misc]
        sure(reader)
        assert reader.stats().bus_resets == 1
    finally:
        stop.set()
        thread.join()
