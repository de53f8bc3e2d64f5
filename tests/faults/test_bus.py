"""The bus when only it is hit: subscribers cut off, connections that nobody answers on, receivers that are busy."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
import redis

from strata import DataStore, L2PoolConfig, UnavailableError
from strata.embedded import EmbeddedPostgres, EmbeddedValkey
from strata.testing import Count, Proxy, observe
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
@pytest.mark.parametrize("fault", ["half_open", "cut", "stall", "kill"])
def test_nothing_older_than_the_bound_is_shown_while_one_store_is_cut_off(
    make: MakeStore, link: Proxy, own_valkey: EmbeddedValkey, fault: str
) -> None:
    pair = [make(), make(redis_addr=link.addr)]
    for store in pair:
        store.register(schema(Count, name="counts"))
        store.migrate()
        sure(store)

    def disturb() -> None:
        for _ in range(3):
            time.sleep(0.5)
            if fault == "kill":
                with redis.Redis(port=own_valkey.port) as client:
                    client.client_kill_filter(_type="pubsub")
            else:
                getattr(link, fault)()
            time.sleep(1.5)
            link.resume()

    report = observe(pair, 8.0, disturb)
    assert report.violations == []
    assert report.operations > 100


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
