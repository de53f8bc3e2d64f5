"""Many who miss the same record at once make one query: in a process always, across processes with `lease_wait`."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

import strata
from strata import DataStore, MemPolicy, PostgresPolicy, RedisPolicy
from strata.testing import inspect
from tests.behind import client
from tests.forked import Forked
from tests.held import Held, execute, locked
from tests.models import Note
from tests.stores import MakeStore, schema, sure
from tests.support import wait_until

THREADS = 1000
KEY = "strata:notes:1"
WAITS: dict[str, Any] = {"l1": MemPolicy(ttl=60), "l2": RedisPolicy(ttl=600, lease_wait=30)}

READER = """
import sys
from strata import Config, DataStore, MemPolicy, RedisPolicy
from tests.models import Note
from tests.stores import schema, sure
ds = DataStore(Config(postgres_dsn=sys.argv[1], redis_addr=sys.argv[2]))
waiting = RedisPolicy(ttl=600, lease_wait=float(sys.argv[3]))
notes = ds.register(schema(Note, name="notes", l1=MemPolicy(ttl=60), l2=waiting))
sure(ds)
print("ready", flush=True)
sys.stdin.readline()
print(notes.get(1).text, flush=True)
ds.close()
"""


@pytest.fixture
def before(make: MakeStore, dsn: str) -> int:
    """A table with one record that no cache knows; how often it was read until then."""
    store = make()
    store.register(schema(Note, name="notes"))
    store.migrate()
    store.close()
    execute(dsn, "INSERT INTO notes (id, text, tags, meta) VALUES (1, 'there', '[]', '{}')")
    return scans(dsn)


@pytest.fixture
def store(make: MakeStore, before: int) -> DataStore:
    return opened(make)


def opened(make: MakeStore, **options: Any) -> DataStore:
    store = make()
    store.register(schema(Note, name="notes", **options))
    sure(store)
    return store


def scans(dsn: str) -> int:
    """How often the table was read, its making included; returns when all sessions that may have read it have ended."""
    with psycopg.connect(dsn, autocommit=True) as conn:

        def alone() -> bool:
            row = conn.execute(
                "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend' "
                "AND datname = current_database() AND pid <> pg_backend_pid()"
            ).fetchone()
            return row == (0,)

        wait_until(alone)
        row = conn.execute(
            "SELECT seq_scan + coalesce(idx_scan, 0) FROM pg_stat_user_tables WHERE relname = 'notes'"
        ).fetchone()
    assert row is not None
    return int(row[0])


class Crowd:
    """Many threads that get record 1, as soon as all of them are there."""

    def __init__(self, store: DataStore, size: int = THREADS) -> None:
        self.seen: list[Note] = []
        self.raised: list[BaseException] = []
        self._store = store
        self._barrier = threading.Barrier(size)
        self._threads = [threading.Thread(target=self._read) for _ in range(size)]
        for thread in self._threads:
            thread.start()

    def _read(self) -> None:
        self._barrier.wait()
        try:
            self.seen.append(self._store.get("notes", 1))
        except BaseException as error:
            self.raised.append(error)

    @property
    def gone(self) -> bool:
        return not any(thread.is_alive() for thread in self._threads)

    def join(self) -> None:
        for thread in self._threads:
            thread.join(60)
        assert self.gone


def test_a_thousand_concurrent_misses_make_one_query(store: DataStore, before: int, dsn: str) -> None:
    with locked(dsn) as table:
        crowd = Crowd(store)
        wait_until(lambda: table.waiting() == 1)
    crowd.join()
    assert len(crowd.seen) == THREADS and not crowd.raised
    assert {note.text for note in crowd.seen} == {"there"}
    assert len({id(note) for note in crowd.seen}) == THREADS  # each has a record of its own
    assert store.stats().l3_hits == 1
    store.close()
    assert scans(dsn) - before == 1


@pytest.mark.parametrize("options", [{}, {"l3": PostgresPolicy(hard_timeout=60)}], ids=["plain", "timed"])
def test_an_error_reaches_all_who_wait(store: DataStore, make: MakeStore, dsn: str, options: dict[str, Any]) -> None:
    reader = opened(make, **options)
    with locked(dsn) as table:
        crowd = Crowd(reader, 100)

        def all_gone() -> bool:
            table.terminate()  # whoever comes after the end of the first load begins another, which ends like it
            return crowd.gone

        wait_until(all_gone, 60)
    crowd.join()
    assert len(crowd.raised) == 100 and not crowd.seen
    assert all(isinstance(error, strata.L3UnavailableError) and error.__cause__ for error in crowd.raised)
    assert len({str(error) for error in crowd.raised}) <= 2
    assert len({id(error) for error in crowd.raised}) == 100  # each with a traceback of its own
    wait_until(lambda: _answers(reader))


def _answers(store: DataStore) -> bool:
    try:
        return store.get("notes", 1) is not None
    except strata.UnavailableError:
        return False


def test_a_load_goes_on_for_the_others_when_its_caller_is_interrupted(store: DataStore) -> None:
    table: Any = inspect(store).schemas["notes"].rows.table
    held = Held(store)
    real, interrupted = table.get, threading.Event()

    def interrupt(conn: Any, id: Any) -> Any:
        row = real(conn, id)
        if not interrupted.is_set():
            interrupted.set()
            raise KeyboardInterrupt
        return row

    table.get = interrupt
    held.pause()
    crowd = Crowd(store, 20)
    assert held.arrived.wait(15)
    claims = inspect(store).schemas["notes"].l1.claims
    flight = claims._flights[1]()
    assert flight is not None
    wait_until(lambda: flight.shared)
    held.go()
    crowd.join()
    assert [type(error) for error in crowd.raised] == [KeyboardInterrupt]
    assert len(crowd.seen) == 19


def test_a_write_ends_a_shared_load_for_those_who_come_after_it(store: DataStore) -> None:
    held = Held(store)
    held.pause()
    early: list[str] = []
    thread = threading.Thread(target=lambda: early.append(store.get("notes", 1).text))
    thread.start()
    assert held.arrived.wait(15)
    store.set("notes", 1, Note(1, "new"))
    assert store.get("notes", 1).text == "new"
    held.go()
    thread.join()
    assert early == ["there"] and store.get("notes", 1).text == "new"


# -- across processes -----------------------------------------------------------------------------------------------


class Reader:
    """Another process that gets record 1 when told to."""

    def __init__(self, dsn: str, redis_addr: str, lease_wait: float) -> None:
        self.process = Forked(
            [sys.executable, "-c", READER, dsn, redis_addr, str(lease_wait)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def line(self) -> str:
        assert self.process.stdout is not None
        return str(self.process.stdout.readline().strip())

    def go(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write("go\n")
        self.process.stdin.flush()

    def end(self) -> None:
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.kill()
        self.process.wait(20)
        self.process.stdin.close()
        self.process.stdout.close()


@pytest.fixture
def readers(dsn: str, redis_addr: str) -> Iterator[Any]:
    started: list[Reader] = []

    def start(count: int, lease_wait: float) -> list[Reader]:
        started.extend(Reader(dsn, redis_addr, lease_wait) for _ in range(count))
        for reader in started:
            assert reader.line() == "ready"
        return started

    yield start
    for reader in started:
        reader.end()


def test_many_processes_that_miss_at_once_make_one_query(store: DataStore, before: int, dsn: str, readers: Any) -> None:
    crowd = readers(4, 30)
    with locked(dsn) as table:
        for reader in crowd:
            reader.go()
        wait_until(lambda: table.waiting() == 1)
    for reader in crowd:
        assert reader.line() == "there"
        assert reader.process.wait(20) == 0
    store.close()
    assert scans(dsn) - before == 1


def test_those_who_wait_for_a_process_that_dies_go_on_without_it(
    store: DataStore, make: MakeStore, dsn: str, redis_addr: str, readers: Any
) -> None:
    (loader,) = readers(1, 30)
    l2 = client(redis_addr)
    waiter = opened(make, l2=RedisPolicy(ttl=600, lease_wait=0.5))
    with locked(dsn) as table:
        loader.go()
        wait_until(lambda: table.waiting() == 1)
        assert l2.get(KEY).startswith(b"L1:")
        loader.process.kill()
        loader.process.wait(20)
        table.terminate()
    assert waiter.get("notes", 1).text == "there"
    assert waiter.stats().lease_waits == 1 and waiter.stats().l3_hits == 1
    wait_until(lambda: waiter.get("notes", 1, force_l2=True) and l2.get(KEY).startswith(b"V1:"))


def test_whoever_waits_gets_what_the_other_process_loaded(store: DataStore, make: MakeStore) -> None:
    loader, waiter = opened(make, **WAITS), opened(make, **WAITS)
    held, unneeded = Held(loader), Held(waiter)
    held.pause()
    seen: list[str] = []
    threads = [
        threading.Thread(target=lambda reader=reader: seen.append(reader.get("notes", 1).text))
        for reader in (loader, waiter)
    ]
    threads[0].start()
    assert held.arrived.wait(15)
    threads[1].start()
    wait_until(lambda: waiter.stats().lease_waits == 1)
    held.go()
    for thread in threads:
        thread.join()
    assert seen == ["there", "there"]
    assert (held.count, unneeded.count) == (1, 0)


@pytest.mark.parametrize("action", ["set", "invalidate", "delete"])
def test_a_write_ends_the_wait_and_what_was_waited_for(
    store: DataStore, make: MakeStore, dsn: str, action: str
) -> None:
    loader, waiter = opened(make, **WAITS), opened(make, **WAITS)
    held = Held(loader)
    held.pause()
    seen: list[str | None] = []

    def wait() -> None:
        found = waiter.get("notes", 1, default=None)
        seen.append(None if found is None else found.text)

    first = threading.Thread(target=lambda: loader.get("notes", 1))
    second = threading.Thread(target=wait)
    first.start()
    assert held.arrived.wait(15)
    second.start()
    wait_until(lambda: waiter.stats().lease_waits == 1)
    if action == "set":
        store.set("notes", 1, Note(1, "new"))
    elif action == "delete":
        store.delete("notes", 1)
    else:
        execute(dsn, "UPDATE notes SET text = 'new' WHERE id = 1")
        store.invalidate("notes", 1)
    second.join()  # although the loader is still held up
    held.go()
    first.join()
    expected = None if action == "delete" else "new"
    # It began before the write, and may have read the row before the commit.
    assert seen in ([expected], ["there"] if action != "invalidate" else [expected])
    for reader in (loader, waiter, store):
        found = reader.get("notes", 1, default=None)
        assert (found and found.text) == expected


def test_without_the_option_nobody_waits_for_another_process(store: DataStore, make: MakeStore) -> None:
    loader, other = opened(make), opened(make)
    held = Held(loader)
    held.pause()
    thread = threading.Thread(target=lambda: loader.get("notes", 1))
    thread.start()
    assert held.arrived.wait(15)
    assert other.get("notes", 1).text == "there"
    assert other.stats().lease_waits == 0 and other.stats().l3_hits == 1
    held.go()
    thread.join()
