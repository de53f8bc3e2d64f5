"""A Redis or a disk that is full, a Redis that evicts, a broker that never answers: nothing is lost, nothing hangs."""

from __future__ import annotations

import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
import redis

from strata import DataStore, Durability
from strata.cli.doctor.finding import FindingState
from strata.cli.doctor.redis import redis as findings
from strata.embedded import EmbeddedValkey
from strata.testing import inspect
from tests import forked
from tests.behind import client, deferred, hand_off, idle, paced, persist, rows
from tests.fleet import ROOT, environment, workers
from tests.models import Note
from tests.stores import MakeStore, schema, stores
from tests.support import wait_until

pytestmark = [pytest.mark.faults, pytest.mark.slow]

HOUR = 3600.0


@pytest.fixture
def make(dsn: str, own_valkey: EmbeddedValkey) -> Iterator[MakeStore]:
    with stores(dsn, own_valkey.addr) as factory:
        yield factory


def store_of(make: MakeStore, *, by_hand: bool = False, **config: Any) -> DataStore:
    slow = {"write_behind_flush_interval": HOUR, "write_behind_flush_threshold": 10**9}
    store = make(**(slow if by_hand else {"write_behind_flush_interval": 0.02}) | config)
    paced(store)
    store.register(deferred())
    store.migrate()
    if by_hand:
        idle(store)
    return store


def full(valkey: EmbeddedValkey) -> None:
    """From now on it takes nothing that needs memory."""
    client(valkey.addr).config_set("maxmemory", "1mb")
    with pytest.raises(redis.OutOfMemoryError):
        client(valkey.addr).set("another", "key")


def roomy(valkey: EmbeddedValkey) -> None:
    client(valkey.addr).config_set("maxmemory", "0")


# -- a Redis that is out of memory ----------------------------------------------------------------------------------

WRITER = """
import os
from strata.testing import inspect
from tests.fleet_app import store, Note
inspect(store).drainer.stop(1.0)
for id in range(1000):
    store.set(Note, id, Note(id, "a"))
inspect(store).handoff.run()
os.kill(os.getpid(), 9)
"""


def write_and_die(dsn: str, valkey: EmbeddedValkey) -> None:
    script = [sys.executable, "-c", WRITER]
    ended = forked.run(script, env=environment(dsn, valkey.addr), cwd=ROOT, timeout=60)
    assert ended.returncode == -signal.SIGKILL


def test_a_ledger_that_is_out_of_memory_can_still_be_drained(
    make: MakeStore, dsn: str, own_valkey: EmbeddedValkey
) -> None:
    store = store_of(make, by_hand=True)
    write_and_die(dsn, own_valkey)
    full(own_valkey)
    wait_until(lambda: (persist(store, "note"), rows(dsn, "SELECT count(*) FROM note") == [(1000,)])[1], timeout=60)
    assert client(own_valkey.addr).keys("strata:{note:*}:dirty") == []


def test_the_fleet_drains_a_redis_that_is_out_of_memory_and_its_broker_too(
    make: MakeStore, dsn: str, own_valkey: EmbeddedValkey, tmp_path: Path
) -> None:
    store_of(make, by_hand=True).close()
    with workers(environment(dsn, own_valkey.addr, STRATA_TEST_LEASE="3"), tmp_path), psycopg.connect(dsn) as conn:
        conn.execute("LOCK TABLE note IN ACCESS EXCLUSIVE MODE")
        write_and_die(dsn, own_valkey)
        full(own_valkey)
        conn.rollback()
        wait_until(lambda: rows(dsn, "SELECT count(*) FROM note") == [(1000,)], timeout=60)
        wait_until(lambda: client(own_valkey.addr).keys("strata:{note:*}:dirty") == [], timeout=20)


def test_out_of_memory_writers_go_on_and_others_read_what_is_new(
    make: MakeStore, dsn: str, own_valkey: EmbeddedValkey
) -> None:
    store, other = store_of(make), store_of(make)
    store.set_many(Note, {id: Note(id, "old") for id in range(20)})
    assert other.get(Note, 1).text == "old"
    full(own_valkey)
    for id in range(10):
        store.set(Note, id, Note(id, "new"))
        assert store.get(Note, id).text == "new"
    store.delete(Note, 9)
    store.flush_dirty(30)
    assert rows(dsn, "SELECT count(*) FROM note WHERE text = 'new'") == [(9,)]
    for id in range(9):
        wait_until(lambda id=id: other.get(Note, id).text == "new")  # type: ignore[misc]
    wait_until(lambda: other.get(Note, 9, default=None) is None)
    roomy(own_valkey)
    store.set(Note, 11, Note(11, "later"))
    store.flush_dirty(30)
    wait_until(lambda: other.get(Note, 11).text == "later")
    assert store.dead_letters.list() == []


def test_out_of_memory_synchronous_writes_are_read_by_others_too(
    make: MakeStore, dsn: str, own_valkey: EmbeddedValkey
) -> None:
    store, other = make(), make()
    for each in (store, other):
        each.register(schema(Note, name="notes"))
    store.migrate()
    store.set_many("notes", {id: Note(id, "old") for id in range(20)})
    assert other.get("notes", 1).text == "old"
    full(own_valkey)
    store.set("notes", 1, Note(1, "new"))
    store.delete("notes", 2)
    store.set_many("notes", {3: Note(3, "new")})
    for id in (1, 3):
        assert store.get("notes", id).text == "new"
        wait_until(lambda id=id: other.get("notes", id).text == "new")  # type: ignore[misc]
        wait_until(lambda id=id: other.get("notes", id, force_l2=True).text == "new")  # type: ignore[misc]
    wait_until(lambda: other.get("notes", 2, default=None) is None)


# -- a Redis that evicts --------------------------------------------------------------------------------------------


def test_what_a_redis_evicts_of_the_ledger_is_handed_off_again_while_its_writer_lives(
    dsn: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with (
        EmbeddedValkey({"maxmemory-policy": "allkeys-lru"}, password="") as valkey,
        stores(dsn, valkey.addr) as factory,
    ):
        store = store_of(factory, by_hand=True)
        ledger = next(item for item in findings(store) if item.what.startswith("eviction"))
        assert ledger.state is FindingState.FAIL and "noeviction" in ledger.advice
        for id in range(500):
            store.set(Note, id, Note(id, "a"))
        hand_off(store)
        before = client(valkey.addr).keys("strata:{note:*}:dirty")
        full_of_other_things(valkey)
        assert len(client(valkey.addr).keys("strata:{note:*}:dirty")) < len(before)
        roomy(valkey)
        store.flush_dirty(60)
        assert rows(dsn, "SELECT count(*) FROM note") == [(500,)]
        assert store.stats().dirty_count == 0


@pytest.mark.parametrize("part", ["dirty", "due", "claims", "epoch", "floor?", "*"])
def test_whatever_part_of_the_ledger_is_evicted_nothing_of_a_living_writer_is_lost(
    make: MakeStore, dsn: str, own_valkey: EmbeddedValkey, part: str
) -> None:
    store = store_of(make)
    there = client(own_valkey.addr)
    with psycopg.connect(dsn) as conn:
        conn.execute("LOCK TABLE note IN ACCESS EXCLUSIVE MODE")
        for id in range(200):
            store.set(Note, id, Note(id, "a"))
        wait_until(lambda: inspect(store).buffer.unsent == 0)
        evicted = there.keys(f"strata:{{note:*}}:{part}")
        if evicted:
            there.delete(*evicted)
    wait_until(lambda: rows(dsn, "SELECT count(*) FROM note") == [(200,)], timeout=60)
    wait_until(lambda: store.stats().dirty_count == 0, timeout=60)


def test_what_a_process_left_that_is_gone_is_found_although_redis_has_evicted_its_times(
    make: MakeStore, dsn: str, own_valkey: EmbeddedValkey
) -> None:
    gone, other = store_of(make, by_hand=True), store_of(make)
    for id in range(50):
        gone.set(Note, id, Note(id, "a"))
    hand_off(gone)
    there = client(own_valkey.addr)
    assert there.delete(*there.keys("strata:{note:*}:due"))
    other.get(Note, 0)
    wait_until(lambda: rows(dsn, "SELECT count(*) FROM note") == [(50,)], timeout=60)


def full_of_other_things(valkey: EmbeddedValkey) -> None:
    """Others write so much that what was not read lately goes."""
    there = client(valkey.addr)
    there.config_set("maxmemory", str(there.info("memory")["used_memory"] + (1 << 20)))
    for n in range(4_000):
        there.set(f"other:{n}", b"x" * 1000)


# -- a disk that is full --------------------------------------------------------------------------------------------

JOURNALIST = """
import os, resource, sys
from strata import Config, DataStore, Durability
from tests.behind import deferred
from tests.models import Note
store = DataStore(Config.from_env(
    write_behind_durability=Durability.JOURNAL, journal_dir=sys.argv[1], write_behind_flush_interval=3600,
    write_behind_flush_threshold=10**9,
))
store.register(deferred())
if int(sys.argv[2]):
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]), int(sys.argv[2])))
for id in range(2000):
    store.set(Note, id, Note(id, "old" * 40))
    store.set(Note, id, Note(id, "new"))
os.kill(os.getpid(), 9)
"""


@pytest.fixture
def tiny_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 256 KiB."""
    place = tmp_path / "disk"
    place.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(place)]
    if shutil.which("mount") is None or subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("a tmpfs cannot be mounted here: a full disk is tried by a limit of the size of files only")
    yield place
    subprocess.run(["umount", "--lazy", str(place)], check=True)


def journalled_and_killed(make: MakeStore, dsn: str, valkey: EmbeddedValkey, journal: Path, limit: int = 0) -> None:
    """A writer whose disk is full, killed before any hand-off of its flusher; then another process on its journal."""
    store_of(make, by_hand=True).close()
    script = [sys.executable, "-c", JOURNALIST, str(journal), str(limit)]
    ended = forked.run(script, env=environment(dsn, valkey.addr), cwd=ROOT, timeout=100)
    assert ended.returncode == -signal.SIGKILL
    store = store_of(make, write_behind_durability=Durability.JOURNAL, journal_dir=journal)
    wanted = [(2000, "new", "new")]
    wait_until(lambda: rows(dsn, "SELECT count(*), min(text), max(text) FROM note") == wanted, timeout=60)
    wait_until(lambda: store.stats().dirty_count == 0)
    store.close()
    assert list(journal.iterdir()) == []


def test_what_a_full_disk_does_not_take_is_in_the_ledger_when_set_returns(
    tiny_disk: Path, make: MakeStore, dsn: str, own_valkey: EmbeddedValkey
) -> None:
    journalled_and_killed(make, dsn, own_valkey, tiny_disk / "journal")


@pytest.mark.in_turn
def test_a_journal_whose_files_may_not_grow_goes_on_in_others(
    make: MakeStore, dsn: str, own_valkey: EmbeddedValkey, tmp_path: Path
) -> None:
    journalled_and_killed(make, dsn, own_valkey, tmp_path / "journal", limit=100_000)


# -- a broker that accepts, and never answers -----------------------------------------------------------------------


@pytest.fixture
def silent() -> Iterator[int]:
    """The port of a server that accepts connections and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        kept: list[socket.socket] = []
        thread = threading.Thread(target=_accept, args=(server, kept), daemon=True)
        thread.start()
        yield server.getsockname()[1]
        server.shutdown(socket.SHUT_RDWR)
        thread.join()
        assert kept, "nobody has rung at all"
        for connection in kept:
            connection.close()


def _accept(server: socket.socket, kept: list[socket.socket]) -> None:
    while True:
        try:
            kept.append(server.accept()[0])
        except OSError:
            return


@pytest.mark.parametrize("scheme", ["redis", "amqp"])
def test_a_broker_that_never_answers_holds_up_neither_set_nor_hand_off_nor_close(
    make: MakeStore, dsn: str, own_valkey: EmbeddedValkey, silent: int, scheme: str
) -> None:
    store = store_of(make, broker_url=f"{scheme}://127.0.0.1:{silent}//")
    client(own_valkey.addr).set("strata:{fleet}:alive", "somebody", px=120_000)  # or nobody would ring
    slowest = 0.0
    for id in range(500):
        began = time.monotonic()
        store.set(Note, id, Note(id, "a"))
        slowest = max(slowest, time.monotonic() - began)
    wait_until(lambda: rows(dsn, "SELECT count(*) FROM note") == [(500,)], timeout=30)
    assert slowest < 2, "less than the broker's own time-outs"
    store.close()
