"""Durability JOURNAL: what `set` has acknowledged survives SIGKILL of the process before any hand-off."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

from strata import DataStore, Durability
from strata.embedded import EmbeddedValkey
from tests.behind import client, deferred, hand_off, idle, paced, persist, rows
from tests.fleet import ROOT, environment
from tests.models import Account, Note
from tests.stores import MakeStore, stores
from tests.support import wait_until

HOUR = 3600.0
WRITER = """
import os, sys
from strata import Config, DataStore, Durability
from tests.behind import deferred
from tests.models import Note
store = DataStore(Config.from_env(
    write_behind_durability=Durability.JOURNAL, journal_dir=sys.argv[1], write_behind_flush_interval=3600,
    write_behind_flush_threshold=10**9,
))
store.register(deferred())
for id in range(500):
    store.set(Note, id, Note(id, "old"))
    store.set(Note, id, Note(id, "new"))
store.delete(Note, 7)
{end}
"""


def journalled(make: MakeStore, directory: Path, *schemas: Any, **config: Any) -> DataStore:
    store = make(write_behind_durability=Durability.JOURNAL, journal_dir=directory, **config)
    paced(store)
    for schema in schemas:
        store.register(schema)
    store.migrate()
    return store


def write(dsn: str, redis_addr: str, directory: Path, end: str) -> int:
    words = [sys.executable, "-c", WRITER.format(end=end), str(directory)]
    return subprocess.run(words, env=environment(dsn, redis_addr), cwd=ROOT, timeout=60, check=False).returncode


def test_a_killed_writer_s_records_are_in_l3_after_the_next_start(
    make: MakeStore, dsn: str, redis_addr: str, tmp_path: Path
) -> None:
    assert write(dsn, redis_addr, tmp_path, "os.kill(os.getpid(), 9)") == -9
    assert client(redis_addr).keys("*:dirty") == []
    store = journalled(make, tmp_path, deferred(), write_behind_flush_interval=0.05)
    wanted = [(499, "new", "new")]
    wait_until(lambda: rows(dsn, "SELECT count(*), min(text), max(text) FROM note") == wanted, timeout=30)
    assert rows(dsn, "SELECT * FROM note WHERE id = 7") == []
    store.close()
    assert list(tmp_path.iterdir()) == []


def test_an_orderly_end_leaves_no_journal(make: MakeStore, dsn: str, redis_addr: str, tmp_path: Path) -> None:
    journalled(make, tmp_path / "other", deferred())
    assert write(dsn, redis_addr, tmp_path / "journal", "") == 0
    assert rows(dsn, "SELECT count(*) FROM note") == [(499,)]
    assert list((tmp_path / "journal").iterdir()) == []


def test_a_replayed_write_never_overwrites_a_newer_one(
    make: MakeStore, dsn: str, redis_addr: str, tmp_path: Path
) -> None:
    write(dsn, redis_addr, tmp_path, "os.kill(os.getpid(), 9)")
    store = journalled(make, tmp_path / "other", deferred())
    store.set_many(Note, {1: Note(1, "newest")})
    store.close()
    later = journalled(make, tmp_path, deferred(), write_behind_flush_interval=0.05)
    wait_until(lambda: rows(dsn, "SELECT count(*) FROM note") == [(499,)], timeout=30)
    wait_until(lambda: later.stats().dirty_count == 0, timeout=30)
    assert rows(dsn, "SELECT text FROM note WHERE id = 1") == [("newest",)]


def test_the_journal_has_no_plaintext_of_an_encrypted_field(make: MakeStore, dsn: str, tmp_path: Path) -> None:
    store = journalled(make, tmp_path, deferred(Account), write_behind_flush_interval=HOUR, encryption_key=bytes(32))
    store.set(Account, "a", Account("a", "ann", None, None, "t0p-s3cret"))
    data = b"".join(path.read_bytes() for path in tmp_path.iterdir())
    assert b"ann" in data and b"t0p-s3cret" not in data


def test_records_leave_the_journal_when_l3_has_them(make: MakeStore, dsn: str, tmp_path: Path) -> None:
    store = journalled(make, tmp_path, deferred(), write_behind_flush_interval=HOUR)
    idle(store)
    store.set(Note, 1, Note(1, "a"))
    hand_off(store)
    parts = store._wiring.writebehind()._parts
    assert parts.journal is not None and sum(segment.live for segment in parts.journal._segments) == 1
    persist(store, "note")
    assert sum(segment.live for segment in parts.journal._segments) == 0


def test_a_journal_for_a_schema_that_is_registered_later_waits_for_it(
    make: MakeStore, dsn: str, redis_addr: str, tmp_path: Path
) -> None:
    write(dsn, redis_addr, tmp_path, "os.kill(os.getpid(), 9)")
    store = journalled(make, tmp_path, deferred(Account), write_behind_flush_interval=0.05, encryption_key=bytes(32))
    store.set(Account, "a", Account("a", "ann"))
    wait_until(lambda: store.stats().dirty_count == 0)
    store.register(deferred())
    store.migrate()
    wait_until(lambda: rows(dsn, "SELECT count(*) FROM note") == [(499,)], timeout=30)


def test_a_journal_that_cannot_be_written_sends_the_record_to_the_ledger_at_once(
    make: MakeStore, redis_addr: str, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("not a directory")
    store = journalled(make, tmp_path / "file", deferred(), write_behind_flush_interval=HOUR)
    store.set(Note, 1, Note(1, "a"))
    assert len(client(redis_addr).keys("strata:{note:*}:dirty")) == 1


def test_with_redis_away_a_killed_writer_s_records_survive_in_the_journal(
    dsn: str, own_valkey: EmbeddedValkey, tmp_path: Path
) -> None:
    addr = own_valkey.addr
    with stores(dsn, addr) as factory:
        journalled(factory, tmp_path / "other", deferred())
    own_valkey.kill()
    assert write(dsn, addr, tmp_path / "journal", "os.kill(os.getpid(), 9)") == -9
    own_valkey.restart()
    with stores(dsn, addr) as factory:
        journalled(factory, tmp_path / "journal", deferred(), write_behind_flush_interval=0.05)
        wait_until(lambda: rows(dsn, "SELECT count(*) FROM note") == [(499,)], timeout=30)
