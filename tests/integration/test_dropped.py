"""Stores that are dropped without `close`: nothing stays of them, and what they wrote behind is not lost."""

from __future__ import annotations

import gc
import threading
import weakref
from typing import Any

import psycopg
import pytest
import redis

from strata import Config, DataStore, MemPolicy, PostgresPolicy, SchemaHooks, WriteMode
from tests.models import Note
from tests.stores import MakeStore, schema, sure
from tests.support import wait_until

# A store that is dropped leaves its sockets to the garbage collector, which says so.
pytestmark = pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")


def left(dsn: str, redis_addr: str) -> list[str]:
    """Threads of stores, and sessions of theirs on the servers."""
    gc.collect()
    with psycopg.connect(dsn) as conn:
        sessions = conn.execute(
            "SELECT application_name FROM pg_stat_activity "
            "WHERE datname = current_database() AND application_name LIKE 'strata%'"
        ).fetchall()
    host, port = redis_addr.rsplit(":", 1)
    with redis.Redis(host=host, port=int(port)) as client:
        others = client.client_list()[1:]
    names = [thread.name for thread in threading.enumerate() if thread.name.startswith("strata-")]
    return names + [name for (name,) in sessions] + ["redis" for _ in others]


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
def test_nothing_stays_of_a_store_that_was_dropped(make: MakeStore, dsn: str, redis_addr: str, kind: str) -> None:
    with make() as first:
        first.register(schema(Note, name="notes", **KINDS[kind]))
        first.migrate()
    wait_until(lambda: left(dsn, redis_addr) == [])
    refs: list[weakref.ref[DataStore]] = []
    for _ in range(3):
        use(dsn, redis_addr, refs, **KINDS[kind])
    wait_until(lambda: left(dsn, redis_addr) == [], 30, f"nothing left, but {left(dsn, redis_addr)}")
    assert [store() for store in refs] == [None] * 3
    with psycopg.connect(dsn) as conn:
        assert conn.execute("SELECT text FROM notes").fetchall() == [("new",)]


def test_what_a_dropped_store_wrote_behind_is_persisted_though_the_servers_come_later(
    make: MakeStore, dsn: str, redis_addr: str
) -> None:
    with make() as first:
        first.register(schema(Note, name="notes"))
        first.migrate()

    def write() -> None:
        store = DataStore(Config(postgres_dsn=dsn, redis_addr=redis_addr, write_behind_flush_interval=0.01))
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
    wait_until(lambda: left(dsn, redis_addr) == [], 30)
