"""What Redis really answers, provoked: an outage is told as one, a refusal concerns its key or command alone."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import redis

from strata import (
    Collection,
    DataStore,
    L2PoolConfig,
    L2RefusedError,
    L2UnavailableError,
    RedisPolicy,
    Schema,
    WriteMode,
)
from strata.embedded import EmbeddedCluster, EmbeddedValkey
from strata.testing import inspect
from tests.models import Note
from tests.stores import MakeStore, schema, stores, sure
from tests.support import wait_until

SHORT = L2PoolConfig(dial_timeout=0.5, read_timeout=0.5, write_timeout=0.5)
LIST, HASH, SORTED, STREAM = "list", "hash", "zset", "stream"


@pytest.fixture(scope="module")
def cluster() -> Iterator[EmbeddedCluster]:
    with EmbeddedCluster() as servers:
        yield servers


def spoil(client: Any, key: str, kind: str = LIST) -> None:
    """Put something else where Strata keeps text."""
    client.delete(key)
    puts: dict[str, Callable[[], object]] = {
        LIST: lambda: client.rpush(key, "x"),
        HASH: lambda: client.hset(key, "a", "b"),
        SORTED: lambda: client.zadd(key, {"a": 1}),
        STREAM: lambda: client.xadd(key, {"a": "b"}),
    }
    puts[kind]()


def client_of(addr: str) -> Any:
    return redis.Redis.from_url(f"redis://{addr}")


def node_of(cluster: EmbeddedCluster) -> str:
    return cluster.url.removeprefix("redis+cluster://").partition(",")[0]


def closed(store: DataStore) -> bool:
    return inspect(store).redis.breaker.closed


def deleted_and_set_anew(notes: Collection[Note]) -> None:
    notes.delete(1)
    notes.set(1, Note(1, "old"))


USES: dict[str, Callable[[Collection[Note]], object]] = {
    "get": lambda notes: notes.get(1).text,
    "get_many": lambda notes: notes.get_many([1, 2])[1].text,
    "search": lambda notes: notes.search()[0].text,
    "warm_cache": lambda notes: notes.warm_cache(),
    "set": lambda notes: notes.set(1, Note(1, "old")),
    "set_many": lambda notes: notes.set_many({1: Note(1, "old")}),
    "delete": deleted_and_set_anew,
    "invalidate": lambda notes: notes.invalidate(1),
    "exists": lambda notes: notes.exists(1),
}


@pytest.mark.parametrize("kind", [LIST, HASH, SORTED, STREAM])
def test_a_key_of_another_type_is_a_miss_of_that_key_alone_and_is_repaired(
    make: MakeStore, redis_addr: str, kind: str
) -> None:
    store, admin = make(), client_of(redis_addr)
    notes = store.register(schema(Note, name="notes", l1=None))
    store.migrate()
    sure(store)
    notes.set_many({1: Note(1, "old"), 2: Note(2, "good")})
    for use in USES.values():
        spoil(admin, "strata:notes:1", kind)
        use(notes)
        skips, hits = store.stats().l2_skips, store.stats().l2_hits
        assert notes.get(2).text == "good" and closed(store)
        assert (store.stats().l2_skips, store.stats().l2_hits) == (skips, hits + 1)
        assert notes.get(1).text == "old" and notes.get(1).text == "old"
        notes.set(1, Note(1, "old"))
        wait_until(lambda: admin.type("strata:notes:1") == b"string" and notes.get(1).text == "old")


@pytest.mark.parametrize("mode", [WriteMode.WRITE_THROUGH, WriteMode.WRITE_BEHIND])
def test_a_kept_result_or_a_pending_value_of_another_type_is_replaced(
    make: MakeStore, redis_addr: str, mode: WriteMode
) -> None:
    store, admin = make(), client_of(redis_addr)
    notes = store.register(schema(Note, name="notes", write_mode=mode))
    store.migrate()
    sure(store)
    notes.set(1, Note(1, "old"))
    store.flush_dirty()
    assert notes.search_cached()[0].text == "old"
    for key in admin.keys("strata:*notes*"):
        if admin.type(key) == b"string":
            spoil(admin, key.decode())
    spoil(admin, "strata:notes:1")
    assert notes.search_cached()[0].text == "old" and notes.get(1, force_l2=True).text == "old"
    notes.set(1, Note(1, "new"))
    store.flush_dirty()
    assert notes.get(1).text == "new" and closed(store)
    assert notes.search_cached() and notes.search_cached()


def test_where_l2_is_the_lowest_tier_a_write_takes_the_place_of_another_type(make: MakeStore, redis_addr: str) -> None:
    store, admin = make(), client_of(redis_addr)
    notes = store.register(Schema(Note, name="notes", l1=None, l2=RedisPolicy(ttl=60)))
    for _ in range(3):
        spoil(admin, "strata:notes:1")
        assert notes.get(1, default=None) is None and not notes.exists(1)
        notes.set(1, Note(1, "own"))
        assert notes.get(1).text == "own" and closed(store)


@pytest.mark.in_turn
def test_in_a_cluster_a_key_of_another_type_is_a_miss_of_that_key_alone(dsn: str, cluster: EmbeddedCluster) -> None:
    with stores(dsn, cluster.url) as make:
        store = make()
        notes = store.register(schema(Note, name="notes", l1=None))
        store.migrate()
        notes.set_many({id: Note(id, "old") for id in range(5)})
        admin = redis.RedisCluster.from_url(f"redis://{node_of(cluster)}")
        for key in ("strata:notes:1", "strata:notes:3"):
            admin.delete(key)
            admin.rpush(key, "x")
        assert notes.get(1).text == "old"
        assert len(notes.get_many(range(5))) == 5
        notes.set(3, Note(3, "new"))
        assert notes.get(3).text == "new" and notes.get_many([3, 1])[3].text == "new"
        assert store.stats().l2_skips == 0 and closed(store)
        admin.close()


def test_a_key_of_the_instances_of_another_type_keeps_nobody_from_being_sure(make: MakeStore, redis_addr: str) -> None:
    store, admin = make(), client_of(redis_addr)
    notes = store.register(schema(Note, name="notes"))
    store.migrate()
    sure(store)
    for key in admin.keys("strata:{*"):
        if b"due" in key or b"looked" in key or b"repairs" in key:
            spoil(admin, key.decode())
    notes.set(1, Note(1, "old"))
    assert notes.get(1).text == "old"
    sure(store)


def test_one_node_of_a_cluster_asked_alone_is_a_mistake_of_the_set_up(dsn: str, cluster: EmbeddedCluster) -> None:
    with stores(dsn, f"redis://{node_of(cluster)}") as make:
        store = make(l2_pool=SHORT)
        notes = store.register(Schema(Note, name="alone", l2=RedisPolicy(ttl=60)))
        told = {True: 0, False: 0}
        for id in range(20):
            try:
                notes.get(id, default=None)
                told[True] += 1
            except L2RefusedError as error:
                assert "MOVED" in str(error) and "redis+cluster://" in str(error)
                told[False] += 1
        assert all(told.values()) and closed(store)


def busy(server: EmbeddedValkey) -> Callable[[], object]:
    admin = client_of(server.addr)
    admin.config_set("lua-time-limit", 10)

    def loop() -> None:
        with pytest.raises(redis.ResponseError):
            admin.eval("while true do end", 0)

    looping = threading.Thread(target=loop)
    looping.start()

    def end() -> None:
        client_of(server.addr).script_kill()
        looping.join()

    def answered_busy() -> bool:
        try:
            client_of(server.addr).get("x")
        except redis.ResponseError as error:
            return "BUSY" in str(error)
        return False

    wait_until(answered_busy)
    return end


def without_master(server: EmbeddedValkey) -> Callable[[], object]:
    admin = client_of(server.addr)
    admin.config_set("replica-serve-stale-data", "no")
    admin.execute_command("REPLICAOF", "127.0.0.1", "1")
    return lambda: client_of(server.addr).execute_command("REPLICAOF", "NO", "ONE")


OUT = {"BUSY": busy, "MASTERDOWN": without_master}


@pytest.mark.parametrize("state", OUT)
def test_a_server_that_serves_nobody_is_an_outage_with_its_cause_and_heals(
    dsn: str, own_valkey: EmbeddedValkey, state: str
) -> None:
    with stores(dsn, own_valkey.addr) as make:
        store = make(l2_pool=SHORT)
        notes = store.register(schema(Note, name="notes"))
        alone = store.register(Schema(Note, name="alone", l2=RedisPolicy(ttl=60)))
        store.migrate()
        notes.set(1, Note(1, "old"))
        end = OUT[state](own_valkey)
        for _ in range(4):
            with pytest.raises(L2UnavailableError, match=state):
                alone.get(1)
        assert not closed(store)
        notes.set(1, Note(1, "new"))
        assert notes.get(1).text == "new"
        end()
        wait_until(lambda: closed(store), what="a probe")
        alone.set(1, Note(1, "well"))
        assert alone.get(1).text == "well"


def test_a_full_memory_takes_no_write_and_still_serves_reads(dsn: str, own_valkey: EmbeddedValkey) -> None:
    with stores(dsn, own_valkey.addr) as make:
        store, admin = make(l2_pool=SHORT), client_of(own_valkey.addr)
        alone = store.register(Schema(Note, name="alone", l2=RedisPolicy(ttl=60)))
        alone.set(1, Note(1, "old"))
        admin.config_set("maxmemory-policy", "noeviction")
        admin.config_set("maxmemory", 1)
        for _ in range(4):
            with pytest.raises(L2UnavailableError, match="OOM"):
                alone.set(2, Note(2))
            assert alone.get(1).text == "old" and closed(store)
        admin.config_set("maxmemory", 0)
        alone.set(2, Note(2))
