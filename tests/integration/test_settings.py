"""Each setting changes what it says, and none is there for nothing."""

from __future__ import annotations

import dataclasses
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import strata
from strata import (
    Config,
    DataStore,
    Durability,
    EncryptionKeys,
    EvictionPolicy,
    Index,
    L1PoolConfig,
    L2PoolConfig,
    L2UnavailableError,
    L3PoolConfig,
    MemPolicy,
    MsgPack,
    NotFoundError,
    PostgresPolicy,
    Query,
    RedisPolicy,
    Retention,
    Schema,
    WriteMode,
)
from strata.embedded import EmbeddedValkey
from strata.l2.client import RedisServer
from strata.testing import inspect
from tests.behind import client
from tests.models import Note
from tests.stores import MakeStore, schema, sure, wires_of
from tests.support import wait_until

LONG = 3600.0  # seconds: what waits for them hangs, as far as a test is concerned
LARGE = bytes(64 << 20)  # more than the buffers between client and server take


def server_of(make: MakeStore, addr: str, **pool: Any) -> RedisServer:
    """The Redis of a store with these settings."""
    return inspect(make(redis_addr=addr, l2_pool=L2PoolConfig(**pool))).redis


def raised(call: Callable[[], object]) -> BaseException | None:
    """What the call raised; it fails the test where it does not end."""
    found: list[BaseException] = []

    def run() -> None:
        try:
            call()
        except BaseException as error:
            found.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(30)
    assert not thread.is_alive(), "it waits, and no setting ends that"
    return found[0] if found else None


# -- connections to Redis -------------------------------------------------------------------------------------------


def test_read_timeout_ends_the_wait_for_an_answer_and_write_timeout_the_sending(
    make: MakeStore, own_valkey: EmbeddedValkey
) -> None:
    reads = server_of(make, own_valkey.addr, read_timeout=0.1, write_timeout=LONG)
    writes = server_of(make, own_valkey.addr, read_timeout=LONG, write_timeout=0.1)
    for server in (reads, writes):
        server.execute("PING")
    own_valkey.freeze()
    try:
        for call in (lambda: reads.execute("PING"), lambda: writes.execute("SET", "large", LARGE)):
            error = raised(call)
            assert isinstance(error, L2UnavailableError) and isinstance(error.__cause__, TimeoutError)
    finally:
        own_valkey.thaw()


def test_an_answer_may_take_longer_than_write_timeout(make: MakeStore, redis_addr: str) -> None:
    server = server_of(make, redis_addr, read_timeout=LONG, write_timeout=0.02)
    assert server.execute("BLPOP", "nothing", "0.2") is None


@pytest.fixture
def full() -> Iterator[str]:
    """Where nobody accepts connections, and no more can wait for that."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        waiting = [socket.socket() for _ in range(4)]
        for one in waiting:
            one.setblocking(False)
            one.connect_ex(listener.getsockname())
        yield f"127.0.0.1:{listener.getsockname()[1]}"
        for one in waiting:
            one.close()


def test_dial_timeout_ends_the_making_of_a_connection(make: MakeStore, full: str) -> None:
    server = server_of(make, full, dial_timeout=0.1, read_timeout=LONG, write_timeout=LONG)
    assert isinstance(raised(lambda: server.execute("PING")), L2UnavailableError)


def test_pool_size_is_the_number_of_calls_that_are_under_way(make: MakeStore, redis_addr: str) -> None:
    server = server_of(make, redis_addr, pool_size=2, read_timeout=LONG)
    admin, got = client(redis_addr), []
    calls = [threading.Thread(target=lambda: got.append(server.execute("BLPOP", "list", "0"))) for _ in range(5)]
    for call in calls:
        call.start()
    wait_until(lambda: admin.info("clients")["blocked_clients"] == 2)
    for number in range(5):
        wait_until(lambda: len(got) == number)  # noqa: B023 it is asked at once
        assert admin.info("clients")["blocked_clients"] <= 2
        admin.rpush("list", number)
    for call in calls:
        call.join()
    assert len(wires_of(server)._idle) == 2


def test_read_timeout_is_also_how_long_a_call_waits_for_a_connection(make: MakeStore, redis_addr: str) -> None:
    server = server_of(make, redis_addr, pool_size=1, read_timeout=0.1)
    server.execute("PING")
    user = threading.Lock()  # anything that lives
    assert wires_of(server)._seats.sit(user)
    error = raised(lambda: server.execute("PING"))
    assert isinstance(error, L2UnavailableError) and "pool_size" in str(error.__cause__)


# -- what policies do not say ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("eviction", list(EvictionPolicy))
def test_what_a_memory_policy_does_not_say_the_pool_says(eviction: EvictionPolicy) -> None:
    with DataStore(Config(l1_pool=L1PoolConfig(max_entries=1, eviction=eviction))) as store:
        notes = store.register(Schema(Note, l1=MemPolicy()))
        for id in range(256):
            notes.set(id, Note(id))
        for _ in range(3):
            notes.get(0)
        notes.set(256, Note(256))
        assert store.stats().l1_entries == 256
        there = notes.get(0, default=None) is not None
        assert there is (eviction is not EvictionPolicy.FIFO)


def test_what_policies_do_not_say_of_time_the_config_says(make: MakeStore, redis_addr: str) -> None:
    store = make(default_l1_ttl=0.05, default_l2_ttl=70)
    silent = store.register(schema(Note, name="silent", l1=MemPolicy(), l2=RedisPolicy()))
    store.register(schema(Note, name="own", l2=RedisPolicy(ttl=3600)))
    store.migrate()
    sure(store)
    for name in ("silent", "own"):
        store.set(name, 1, Note(1))
    assert 0 < client(redis_addr).pttl("strata:silent:1") <= 70_000 < client(redis_addr).pttl("strata:own:1")
    wait_until(lambda: silent.get(1) and store.stats().by_schema["silent"]["l2_hits"] > 0)
    assert store.get("own", 1) and store.stats().by_schema["own"]["l2_hits"] == 0


def test_a_schema_that_does_not_say_how_is_written_as_the_config_says(make: MakeStore) -> None:
    store = make(default_write_mode=WriteMode.WRITE_BEHIND, write_behind_flush_interval=LONG)
    store.register(schema(Note, name="silent"))
    store.register(schema(Note, name="own", write_mode=WriteMode.WRITE_THROUGH))
    store.migrate()
    for name, deferred in (("own", 0), ("silent", 1)):
        store.set(name, 1, Note(1))
        assert store.stats().dirty_count == deferred


# -- none for nothing -----------------------------------------------------------------------------------------------

HOMES = {__name__, "strata.config", "strata.policies", "strata.schema", "strata.query", "dataclasses"}
OWN = {"__init__", "__post_init__", "__repr__", "__eq__", "__hash__", "replace", "_replace"}
WITHOUT_EFFECT = {"Query.force_l2"}  # results are not kept in L1; the name is the contract's
KINDS: tuple[type, ...] = (
    Config, L1PoolConfig, L2PoolConfig, L3PoolConfig, Retention, MemPolicy, RedisPolicy, PostgresPolicy, Index,
    Schema, Query,
)  # fmt: skip  # each hook has its own test


class Readers:
    """Settings that note who reads them; what checks, shows and copies them does not count."""

    def __init__(self) -> None:
        self.read: set[str] = set()

    def __call__(self, kind: Any, *args: Any, **options: Any) -> Any:
        """An instance of `kind`."""
        names, read = {item.name for item in dataclasses.fields(kind)}, self.read

        class Watched(kind):  # type: ignore[misc]
            def __getattribute__(self, name: str) -> Any:
                if name in names and _from_outside():
                    read.add(f"{kind.__name__}.{name}")
                return super().__getattribute__(name)

        return Watched(*args, **options)


def _from_outside() -> bool:
    """Whether somebody who lives elsewhere wants to know."""
    frame: Any = sys._getframe(2)
    while frame.f_globals["__name__"] in HOMES:
        if frame.f_code.co_name in OWN:
            return False
        frame = frame.f_back
    return bool(frame.f_globals["__name__"].startswith("strata."))


def watched_schema(of: Readers, name: str, **options: Any) -> Any:
    """A schema in all tiers, of which everything is noted."""
    return of(
        Schema,
        Note,
        name=name,
        l1=of(MemPolicy),
        l2=of(RedisPolicy, lease_wait=0.1),
        l3=of(PostgresPolicy, watch=True),
        indexes=[of(Index, ["text"])],
        **options,
    )


def used(store: DataStore, of: Readers) -> None:
    """One call of each kind."""
    deferred = watched_schema(of, "deferred", write_mode=WriteMode.WRITE_BEHIND)
    for item in (watched_schema(of, "through"), deferred):
        store.register(item)
    store.migrate()
    for name in ("through", "deferred"):
        store.set(name, 1, Note(1))
        store.get(name, 1)
        with pytest.raises(NotFoundError):
            store.get(name, 2)
        query = of(Query, where="id > $1", args=(0,), order_by=("text", "id"), desc=(True, False), fields=("id",))
        store.search_cached(name, query)
        store.search(name, of(Query, order_by="text", limit=1))
    store.flush_dirty(20)
    store.fleet.keep_house()
    store.health()


def test_every_setting_is_read_by_what_it_is_to_change(
    make: MakeStore, dsn: str, redis_addr: str, tmp_path: Path
) -> None:
    of = Readers()
    pools = {"l1_pool": of(L1PoolConfig), "l2_pool": of(L2PoolConfig), "l3_pool": of(L3PoolConfig)}
    options = pools | {
        "postgres_dsn": dsn, "redis_addr": redis_addr, "retention": of(Retention), "codec": MsgPack(),
        "encryption_key": EncryptionKeys("k", {"k": b"k" * 32}), "write_behind_durability": Durability.JOURNAL,
        "journal_dir": tmp_path / "journal",
    }  # fmt: skip
    with DataStore(of(Config, **options)) as store:
        used(store, of)
    every = {f"{kind.__name__}.{item.name}" for kind in KINDS for item in dataclasses.fields(kind)}
    assert every - of.read - {name for name in every if name.endswith("._")} == WITHOUT_EFFECT
    assert strata.Q().force_l2().build().force_l2
