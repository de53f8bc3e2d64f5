"""A store made before `fork` works in the child: own connections, own threads, nothing twice."""

from __future__ import annotations

import contextlib
import gc
import math
import multiprocessing
import os
import threading
import traceback
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import psycopg
import pytest
import redis

from strata import DataStore, L3UnavailableError, MemPolicy, PostgresPolicy, WriteMode
from strata.engine import modify
from strata.testing import inspect
from strata.writebehind.ledger.shard import Shard
from tests.held import locked
from tests.models import Note
from tests.stores import MakeStore, schema, sure
from tests.support import wait_until

pytestmark = pytest.mark.faults


def in_child(work: Callable[[], None]) -> int:
    """Run `work` in a forked child; its exit status."""
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            work()
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


@pytest.mark.parametrize("mode", list(WriteMode), ids=lambda mode: mode.value)
def test_parent_and_child_both_read_and_write(make: MakeStore, mode: WriteMode) -> None:
    store = make(write_behind_flush_interval=0.05)
    notes = store.register(schema(Note, name="notes", write_mode=mode))
    store.migrate()
    sure(store)
    notes.set(1, Note(1, "parent"))
    store.flush_dirty()

    def child() -> None:
        assert notes.get(1).text == "parent"
        notes.set(2, Note(2, "child"))
        assert notes.get(2).text == "child"
        sure(store)
        store.close()

    assert in_child(child) == 0
    wait_until(lambda: notes.get(2).text == "child")
    notes.set(3, Note(3, "parent again"))
    store.flush_dirty()
    assert notes.get(3, force_l3=True).text == "parent again"


def test_the_childs_writes_are_seen_by_the_parent_through_the_bus(make: MakeStore) -> None:
    store = make()
    notes = store.register(schema(Note, name="notes"))
    store.migrate()
    sure(store)
    notes.set(1, Note(1, "old"))
    assert in_child(lambda: _set(notes, "new")) == 0
    wait_until(lambda: notes.get(1).text == "new")


def test_what_the_parent_wrote_behind_is_persisted_once_and_by_the_parent(make: MakeStore, dsn: str) -> None:
    store = make(write_behind_flush_interval=60, write_behind_flush_threshold=1000)
    notes = store.register(schema(Note, name="notes", write_mode=WriteMode.WRITE_BEHIND))
    store.migrate()
    for n in range(20):
        notes.set(n, Note(n, "parent"))

    def child() -> None:
        assert store.stats().dirty_count == 0
        store.close()

    assert in_child(child) == 0
    with psycopg.connect(dsn) as conn:
        assert conn.execute("SELECT count(*) FROM notes").fetchone() == (0,)
        store.flush_dirty()
        assert conn.execute("SELECT count(*) FROM notes").fetchone() == (20,)


def test_a_turn_that_a_thread_of_the_parent_has_keeps_nobody_in_the_child_waiting(
    make: MakeStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(modify, "TURN", math.inf)
    store = make()
    notes = store.register(schema(Note, name="notes", l1=None, l3=None))
    notes.set(1, Note(1, "parent"))
    begun, go = threading.Event(), threading.Event()

    def slowly(note: Note) -> Note:
        begun.set()
        go.wait()
        return replace(note, tags=["parent"])

    thread = threading.Thread(target=notes.modify, args=(1, slowly))
    thread.start()
    begun.wait()

    def child() -> None:
        notes.modify(1, lambda note: replace(note, text="child"))
        store.close()

    assert in_child(child) == 0
    go.set()
    thread.join()
    assert (notes.get(1).text, notes.get(1).tags) == ("child", ["parent"])


def test_a_child_of_multiprocessing_flushes_at_its_end(make: MakeStore, dsn: str) -> None:
    store = make(write_behind_flush_interval=60, write_behind_flush_threshold=1000)
    notes = store.register(schema(Note, name="notes", write_mode=WriteMode.WRITE_BEHIND))
    store.migrate()
    process = multiprocessing.get_context("fork").Process(target=_write_some, args=(notes,))
    process.start()
    process.join(30)
    assert process.exitcode == 0
    with psycopg.connect(dsn) as conn:
        assert conn.execute("SELECT count(*) FROM notes").fetchone() == (5,)


def test_forking_while_other_threads_use_the_store_leaves_no_lock_held(make: MakeStore) -> None:
    store = make()
    notes = store.register(schema(Note, name="notes"))
    store.migrate()
    stop = False

    def busy() -> None:
        n = 0
        while not stop:
            n += 1
            notes.set(n % 5, Note(n % 5, "busy"))
            notes.get(n % 7, default=None)

    threads = [threading.Thread(target=busy) for _ in range(3)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(10):
            assert in_child(lambda: _set(notes, "child")) == 0
    finally:
        stop = True
        for thread in threads:
            thread.join()


def test_a_fork_while_a_load_goes_on_in_the_background(make: MakeStore, dsn: str) -> None:
    store = make()
    policies = {"l1": MemPolicy(negative_ttl=60), "l3": PostgresPolicy(hard_timeout=0.2)}
    notes = store.register(schema(Note, name="notes", **policies))
    store.migrate()
    sure(store)
    assert notes.get(2, default=None) is None

    def answered(id: int, text: str | None) -> bool:
        try:
            found = notes.get(id, default=None)
        except L3UnavailableError:
            return False  # the machine is busy
        return (found and found.text) == text

    def child() -> None:
        wait_until(lambda: answered(1, None))
        wait_until(lambda: answered(2, None))
        notes.set(1, Note(1, "child"))
        notes.set(2, Note(2, "child"))
        assert notes.get(1).text == notes.get(2).text == "child"

    with locked(dsn) as table:
        with pytest.raises(L3UnavailableError):
            notes.get(1)
        assert any(daemon.started for daemon in inspect(store).background.daemons)
        table.release()
        assert in_child(child) == 0
    wait_until(lambda: answered(1, "child"))
    wait_until(lambda: answered(2, "child"))


# -- descriptors: what the child of a fork has of its parent's -----------------------------------------------------


OPEN = Path("/proc/self/fd")
linux = pytest.mark.skipif(not OPEN.exists(), reason="descriptors are looked up in /proc")


def sockets() -> set[str]:
    """The sockets and pipes that this process has open, by the kernel's names for them."""
    names = set()
    for descriptor in OPEN.iterdir():
        with contextlib.suppress(OSError):  # the directory's own
            names.add(str(descriptor.readlink()))
    return {name for name in names if name.startswith(("socket:", "pipe:"))}


def connected(store: DataStore) -> None:
    """Use pools, bus and listener."""
    store.set("notes", 1, Note(1, "through"))
    store.get("notes", 1, force_l2=True)
    sure(store)
    listener = inspect(store).listener
    wait_until(lambda: listener.connected, what="a listener")
    repairs = inspect(store).repairs
    wait_until(lambda: repairs._sure and not repairs._busy)  # no thread is in the midst of connecting


def busy(store: DataStore) -> None:
    """Use everything that has a connection, write-behind and its doorbell too."""
    connected(store)
    store.set("behind", 1, Note(1, "behind"))
    store.flush_dirty()
    inspect(store).doorbell._ring(Shard("behind", 0))


@pytest.fixture
def used(make: MakeStore, dsn: str) -> DataStore:
    store = make(write_behind_flush_interval=0.01)
    store.register(schema(Note, name="notes", l3=PostgresPolicy(watch=True)))
    store.register(schema(Note, name="behind", write_mode=WriteMode.WRITE_BEHIND))
    store.migrate()
    return store


@linux
def test_the_child_keeps_no_socket_of_its_parents(make: MakeStore, used: DataStore, dsn: str) -> None:
    before = sockets()
    busy(used)
    theirs = sockets() - before
    assert len(theirs) > 5
    with locked(dsn, "behind") as table:
        before = sockets()
        reads = threading.Thread(target=lambda: used.get("behind", 7, default=None), daemon=True)
        reads.start()  # in the midst of a statement, and not there in the child
        wait_until(table.waiting)
        theirs |= sockets() - before

        def child() -> None:
            assert sockets() & theirs == set()

        assert in_child(child) == 0
    reads.join()


def sessions(dsn: str, redis_addr: str) -> set[str]:
    """Who is connected to the servers, by the servers' own numbers, but for those who ask here."""
    with psycopg.connect(dsn) as conn:
        found = conn.execute("SELECT pid FROM pg_stat_activity WHERE application_name LIKE 'strata%'").fetchall()
    host, port = redis_addr.rsplit(":", 1)
    with redis.Redis(host=host, port=int(port)) as client:
        own = client.client_id()
        return {f"pg {pid}" for (pid,) in found} | {
            f"redis {c['id']}" for c in client.client_list() if c["id"] != str(own)
        }


def test_nothing_that_the_child_does_ends_a_session_of_its_parents(used: DataStore, dsn: str, redis_addr: str) -> None:
    busy(used)
    resets = used.stats().bus_resets
    before = sessions(dsn, redis_addr)

    def child() -> None:
        gc.collect()
        busy(used)
        used.close()
        gc.collect()

    assert in_child(child) == 0
    assert before <= sessions(dsn, redis_addr)
    busy(used)
    assert used.stats().bus_resets == resets


def test_a_transaction_that_was_open_fails_in_the_child_and_commits_in_the_parent(used: DataStore, dsn: str) -> None:
    pid, status = -1, 1
    try:
        with inspect(used).database.transaction() as conn:
            conn.execute("INSERT INTO notes (id, text) VALUES (1, 'parent')")
            if (pid := os.fork()) == 0:
                conn.execute("INSERT INTO notes (id, text) VALUES (2, 'child')")
    except L3UnavailableError:
        assert pid == 0
        wait_until(lambda: used.get("notes", 1, force_l3=True).text == "parent")
        status = 0
    finally:
        if pid == 0:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    with psycopg.connect(dsn) as other:
        assert other.execute("SELECT id FROM notes").fetchall() == [(1,)]


@linux
def test_a_chain_of_forks_adds_no_descriptor_a_generation(make: MakeStore) -> None:
    store = make()
    store.register(schema(Note, name="notes", l3=PostgresPolicy(watch=True)))
    store.migrate()
    counts: list[int] = []

    def generation() -> None:
        counts.append(len(list(OPEN.iterdir())))
        connected(store)
        if len(counts) < 5:
            assert in_child(generation) == 0
        else:
            assert max(counts) == counts[0], counts

    connected(store)
    assert in_child(generation) == 0


def _set(notes: Any, text: str) -> None:
    notes.set(1, Note(1, text))
    assert notes.get(1).text


def _write_some(notes: Any) -> None:
    for n in range(5):
        notes.set(n, Note(n, "child"))
