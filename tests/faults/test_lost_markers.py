"""Markers through faults of Redis, of the bus, of processes: nothing that was invalidated outlives the bound."""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any

import msgspec
import pytest
import redis

import strata
from strata import DataStore, L2PoolConfig, Schema
from strata.embedded import EmbeddedSentinel, EmbeddedValkey
from strata.testing import Proxy, inspect
from tests.faults.test_topology_faults import behind
from tests.held import execute
from tests.stores import ALL, MakeStore, stores, sure
from tests.support import wait_until

pytestmark = pytest.mark.faults

SHORT: dict[str, Any] = {"l2_pool": L2PoolConfig(dial_timeout=0.5, read_timeout=0.5, write_timeout=0.5)}
MARKERS = ("strata:{markers}:tags", "strata:{markers}:schemas")
IDS = (1, 2, 3)


@dataclass
class Item:
    id: Annotated[int, strata.PrimaryKey]
    kind: str = "book"
    text: str = "old"


@pytest.fixture
def make(dsn: str, own_valkey: EmbeddedValkey) -> Iterator[MakeStore]:
    with stores(dsn, own_valkey.addr) as factory:
        yield lambda **options: factory(**(SHORT | options))


@pytest.fixture
def link(own_valkey: EmbeddedValkey) -> Iterator[Proxy]:
    with Proxy(own_valkey.addr) as proxy:
        yield proxy


def ready(store: DataStore) -> DataStore:
    for name in ("tagged", "plain"):
        tags = {"tags": lambda item: [f"kind:{item.kind}"]} if name == "tagged" else {}
        store.register(Schema(Item, name=name, **(ALL | tags)))
    store.migrate()
    sure(store)
    return store


def filled(*made: DataStore) -> None:
    for store in made:
        ready(store)
    for name in ("tagged", "plain"):
        made[0].set_many(name, {id: Item(id) for id in IDS})
    for store in made:
        assert texts(store) == {"old"}


def texts(store: DataStore) -> set[str]:
    return {store.get(name, id).text for name in ("tagged", "plain") for id in IDS}


def change(dsn: str, text: str = "new") -> None:
    for name in ("tagged", "plain"):
        execute(dsn, f"UPDATE {name} SET text = '{text}'")


def invalidate(store: DataStore) -> None:
    store.invalidate_tag("kind:book")
    store.invalidate_all("plain")


def test_after_redis_was_flushed_nothing_from_before_is_shown(
    make: MakeStore, own_valkey: EmbeddedValkey, dsn: str
) -> None:
    one, other = make(), make()
    filled(one, other)
    change(dsn)
    invalidate(one)
    with redis.Redis(port=own_valkey.port) as client:
        client.flushall()
    assert texts(one) == {"new"}
    wait_until(lambda: texts(other) == {"new"})
    assert texts(ready(make())) == {"new"}
    change(dsn, "newer")
    invalidate(other)
    wait_until(lambda: texts(one) == texts(other) == {"newer"})


def test_markers_that_redis_has_evicted_are_told_again_by_whoever_knows_them(
    make: MakeStore, own_valkey: EmbeddedValkey, dsn: str
) -> None:
    one, other = make(), make()
    filled(one, other)
    change(dsn)
    invalidate(one)
    wait_until(lambda: "kind:book" in inspect(other).markers.tags and inspect(other).markers.schemas)
    one.close()
    with redis.Redis(port=own_valkey.port) as client:
        client.delete(*MARKERS)
        wait_until(lambda: client.zscore(MARKERS[0], "kind:book") and client.zscore(MARKERS[1], "plain"))
    assert texts(ready(make())) == {"new"}


def test_where_nobody_knows_them_any_more_what_has_tags_is_read_anew(
    make: MakeStore, own_valkey: EmbeddedValkey, dsn: str
) -> None:
    one = make()
    filled(one)
    change(dsn)
    one.invalidate_tag("kind:book")
    one.close()
    with redis.Redis(port=own_valkey.port) as client:
        client.delete(*MARKERS)
    later = ready(make())
    assert {later.get("tagged", id).text for id in IDS} == {"new"}


@pytest.mark.parametrize("fault", ["half_open", "cut", "refuse"])
def test_who_is_cut_off_while_it_happens_sees_it_within_the_bound_and_afterwards(
    make: MakeStore, link: Proxy, dsn: str, fault: str
) -> None:
    one, other = make(), make(redis_addr=link.addr)
    filled(one, other)
    resets = other.stats().bus_resets
    getattr(link, fault)()
    if fault == "refuse":
        link.cut()
    change(dsn)
    invalidate(one)
    wait_until(lambda: texts(other) == {"new"}, timeout=5)
    link.resume()
    wait_until(lambda: other.stats().bus_resets > resets)
    sure(other)
    assert texts(other) == {"new"}
    change(dsn, "newer")
    invalidate(other)
    assert texts(other) == {"newer"}
    wait_until(lambda: texts(one) == {"newer"})


def test_what_fails_is_said_and_can_be_done_again(make: MakeStore, link: Proxy, dsn: str) -> None:
    one, other = make(redis_addr=link.addr), make()
    filled(one, other)
    change(dsn)
    link.refuse()
    link.cut()
    with pytest.raises(strata.L2UnavailableError):
        one.invalidate_tag("kind:book")
    with pytest.raises(strata.L2UnavailableError):
        one.invalidate_all("plain")
    assert texts(one) == {"new"}
    link.resume()
    sure(one)
    invalidate(one)
    wait_until(lambda: texts(other) == {"new"})


def test_a_process_of_its_own_is_heard_and_its_child_too(make: MakeStore, dsn: str) -> None:
    one, other = make(), make()
    filled(one, other)

    def child() -> None:
        change(dsn)
        invalidate(one)
        assert texts(one) == {"new"}

    process = multiprocessing.get_context("fork").Process(target=child)
    process.start()
    process.join(30)
    assert process.exitcode == 0
    wait_until(lambda: texts(one) == texts(other) == {"new"})


def test_the_child_of_a_fork_honours_what_its_parent_had_heard_of(make: MakeStore, dsn: str) -> None:
    one = make()
    filled(one)
    change(dsn)
    invalidate(one)

    def child() -> None:
        assert texts(one) == {"new"}

    process = multiprocessing.get_context("fork").Process(target=child)
    process.start()
    process.join(30)
    assert process.exitcode == 0


@pytest.mark.parametrize("key", MARKERS)
def test_a_key_of_another_type_in_their_place_is_removed(
    make: MakeStore, own_valkey: EmbeddedValkey, dsn: str, key: str
) -> None:
    one, other = make(), make()
    filled(one, other)
    with redis.Redis(port=own_valkey.port) as client:
        client.set(key, "a stranger's")
        change(dsn)
        invalidate(one)
        wait_until(lambda: texts(one) == texts(other) == {"new"})
        wait_until(lambda: client.type(key) == b"zset")


FORGED = {
    "a tag of the far future": {"op": "tag", "schema": "", "id": "kind:book", "v": "9" * 19},
    "a tag without a number": {"op": "tag", "schema": "", "id": "kind:book"},
    "a schema of the far future": {"op": "clear", "schema": "plain", "id": "", "v": "9" * 19},
    "a tag that is long": {"op": "tag", "schema": "", "id": "x" * 1_000_000, "v": "0" * 18 + "1"},
}


@pytest.mark.parametrize("forged", FORGED)
def test_a_forged_message_costs_copies_in_memory_and_no_marker(
    make: MakeStore, own_valkey: EmbeddedValkey, dsn: str, forged: str
) -> None:
    one, other = make(), make()
    filled(one, other)
    messages = inspect(other).inbox.messages
    with redis.Redis(port=own_valkey.port) as client:
        client.publish("strata:invalidate", msgspec.json.encode(FORGED[forged]))
    wait_until(lambda: inspect(other).inbox.messages > messages)
    assert texts(other) == {"old"}
    change(dsn)
    invalidate(one)
    wait_until(lambda: texts(one) == texts(other) == {"new"})
    assert texts(ready(make())) == {"new"}


def test_a_release_without_tags_does_not_disturb_one_with_them(make: MakeStore, dsn: str) -> None:
    old = make()
    for name in ("tagged", "plain"):
        old.register(Schema(Item, name=name, **ALL))
    old.migrate()
    sure(old)
    old.set_many("tagged", {id: Item(id) for id in IDS})
    new = ready(make())
    execute(dsn, "UPDATE tagged SET text = 'new'")
    # What has no number may be older than any marker.
    assert {new.get("tagged", id).text for id in IDS} == {"new"}
    assert new.stats().corrupt == 0
    old.set("tagged", 1, Item(1, text="newer"))
    wait_until(lambda: new.get("tagged", 1).text == "newer")


@pytest.mark.slow
@pytest.mark.timeout(200)
def test_markers_that_sentinels_new_master_had_not_copied_hold_all_the_same(dsn: str) -> None:
    with EmbeddedSentinel(password="secret") as sentinel, stores(dsn, "") as make:
        one, other = (make(redis_addr=sentinel.url, **SHORT) for _ in range(2))
        filled(one, other)
        master = sentinel.master()
        replica = next(server for server in sentinel.servers if server is not master)
        with behind(master, replica):
            change(dsn)
            invalidate(one)
            master.kill()
        sentinel.wait_failed_over(master)
        wait_until(lambda: texts(one) == texts(other) == {"new"}, timeout=30)
        later = ready(make(redis_addr=sentinel.url, **SHORT))
        wait_until(lambda: texts(later) == {"new"})
        change(dsn, "newer")
        invalidate(later)
        wait_until(lambda: texts(one) == texts(other) == texts(later) == {"newer"}, timeout=30)
