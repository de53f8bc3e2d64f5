"""Stores that are dropped without `close`: nothing stays of them, and what they wrote behind is not lost."""

from __future__ import annotations

import gc
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import psycopg
import pytest
import redis

from strata import Config, DataStore, MemPolicy, PostgresPolicy, SchemaHooks, WriteMode
from strata.embedded import EmbeddedValkey
from tests.models import Note
from tests.stores import MakeStore, schema, sure
from tests.support import wait_until

# A store that is dropped leaves its sockets to the garbage collector, which says so.
pytestmark = pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")


Left = Callable[[], list[str]]


@pytest.fixture
def left(dsn: str, own_valkey: EmbeddedValkey) -> Iterator[Left]:
    """What is there now of the stores of this test: threads, and sessions on the servers."""
    others = set(threading.enumerate())
    gc.collect()
    gc.freeze()  # what was there before need not be looked through each time

    def found() -> list[str]:
        gc.collect()
        with psycopg.connect(dsn) as conn:
            sessions = conn.execute(
                "SELECT application_name FROM pg_stat_activity "
                "WHERE datname = current_database() AND application_name LIKE 'strata%'"
            ).fetchall()
        with redis.Redis(port=own_valkey.port) as client:
            connections = client.client_list()[1:]
        threads = [thread.name for thread in threading.enumerate() if thread not in others]
        names = [name for name in threads if name.startswith("strata-")]
        return names + [name for (name,) in sessions] + ["redis" for _ in connections]

    yield found
    gc.unfreeze()


def nothing(left: Left) -> None:
    """Wait until nothing is left."""
    found = left()
    deadline = time.monotonic() + 30
    while found:
        assert time.monotonic() < deadline, f"still there: {found}"
        time.sleep(0.05)
        found = left()


def use(dsn: str, redis_addr: str, refs: list[weakref.ref[DataStore]], **policies: Any) -> None:
    """A store that goes out of scope in the midst of its life."""
    store = DataStore(Config(postgres_dsn=dsn, redis_addr=redis_addr))
    refs.append(weakref.ref(store))

    def after_set(record: Note) -> None:  # as applications write hooks: they know the store
        store.stats()

    hooks = SchemaHooks(after_set=after_set)
    notes = store.register(schema(Note, name="notes", hooks=hooks, **policies))
    notes.set(1, Note(1, "old"))
    notes.set(1, Note(1, "new"))
    notes.get(1)
    sure(store)


KINDS: dict[str, dict[str, Any]] = {
    "through": {},
    "behind": {"write_mode": WriteMode.WRITE_BEHIND},
    "watched": {"l3": PostgresPolicy(watch=True)},
    "in the background": {"l1": MemPolicy(negative_ttl=60), "l3": PostgresPolicy(hard_timeout=0.5)},
}


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_stays_of_a_store_that_was_dropped(
    make: MakeStore, dsn: str, own_valkey: EmbeddedValkey, left: Left, kind: str
) -> None:
    with make(redis_addr=own_valkey.addr) as first:
        first.register(schema(Note, name="notes", **KINDS[kind]))
        first.migrate()
    nothing(left)
    refs: list[weakref.ref[DataStore]] = []
    for _ in range(3):
        use(dsn, own_valkey.addr, refs, **KINDS[kind])
    nothing(left)
    assert [store() for store in refs] == [None] * 3
    with psycopg.connect(dsn) as conn:
        assert conn.execute("SELECT text FROM notes").fetchall() == [("new",)]


def test_what_a_dropped_store_wrote_behind_is_persisted_though_the_servers_come_later(
    make: MakeStore, dsn: str, own_valkey: EmbeddedValkey, left: Left
) -> None:
    with make(redis_addr=own_valkey.addr) as first:
        first.register(schema(Note, name="notes"))
        first.migrate()

    def write() -> None:
        store = DataStore(Config(postgres_dsn=dsn, redis_addr=own_valkey.addr, write_behind_flush_interval=0.01))
        notes = store.register(schema(Note, name="notes", write_mode=WriteMode.WRITE_BEHIND))
        for number in range(20):
            notes.set(number, Note(number, "behind"))

    with psycopg.connect(dsn) as conn:
        conn.execute("LOCK TABLE notes IN ACCESS EXCLUSIVE MODE")
        write()
        for _ in range(5):
            gc.collect()
    with psycopg.connect(dsn, autocommit=True) as conn:
        wait_until(lambda: gc.collect() >= 0 and conn.execute("SELECT count(*) FROM notes").fetchone() == (20,))
    nothing(left)
