"""Durability JOURNAL: what `set` has acknowledged survives SIGKILL of the process before any hand-off."""

from __future__ import annotations

import os
import sys
import threading
import time
import zlib
from pathlib import Path
from typing import Any

import msgspec
import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from strata import DataStore, Durability, InvalidConfigError
from strata.cli.doctor.finding import FindingState
from strata.cli.doctor.journal import journal
from strata.embedded import EmbeddedValkey
from strata.testing import Proxy, inspect
from strata.writebehind import service
from strata.writebehind.dirty.directory import set_aside
from strata.writebehind.dirty.orphan import HEAD
from strata.writebehind.writer.flush import Flush
from strata.writebehind.writer.replay import Replay
from tests import forked
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
    return forked.run(words, env=environment(dsn, redis_addr), cwd=ROOT, timeout=60).returncode


def test_a_write_that_has_waited_for_room_is_in_the_journal_too(make: MakeStore, dsn: str, tmp_path: Path) -> None:
    place = conninfo_to_dict(dsn)
    with Proxy(f"{place['host']}:{place['port']}") as link:
        slow = {"write_behind_flush_interval": HOUR, "write_behind_flush_threshold": 10**9, "write_behind_max_dirty": 1}
        store = journalled(
            make, tmp_path, deferred(), postgres_dsn=make_conninfo(dsn, hostaddr="127.0.0.1", port=link.port), **slow
        )
        idle(store)
        link.refuse()
        store.set(Note, 1, Note(1, "the first"))
        later = threading.Thread(target=store.set, args=(Note, 2, Note(2, "the second")))
        later.start()
        later.join(0.2)  # it waits for room: PostgreSQL does not take it
        hand_off(store)
        later.join(20)
        assert any(b"the second" in file.read_bytes() for file in tmp_path.rglob("*.journal"))
        link.resume()
        store.flush_dirty(10)
    assert rows(dsn, "SELECT text FROM note ORDER BY id") == [("the first",), ("the second",)]


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


def test_a_process_that_is_closed_while_it_takes_over_flushes_what_it_took_and_leaves_the_rest(
    make: MakeStore, dsn: str, redis_addr: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = journalled(make, tmp_path / "journal")
    journalled(make, tmp_path / "other", deferred())
    assert write(dsn, redis_addr, tmp_path / "journal", "os.kill(os.getpid(), 9)") == -9
    put, run, flushed, some = Replay._put, Flush.run, threading.Event(), threading.Event()

    def put_with_a_pause(self: Replay, bound: Any, record: Any, taken: list[Any]) -> bool:
        if len(taken) == 100 and not some.is_set():
            some.set()
            flushed.wait(0.3)
        elif some.is_set():
            time.sleep(0.004)  # a large journal, on a slow machine
        return put(self, bound, record, taken)

    def run_and_tell(self: Flush, timeout: float, **how: bool) -> int:
        try:
            return run(self, timeout, **how)
        finally:
            flushed.set()

    monkeypatch.setattr(service, "CLOSE_GRACE", 0.8)
    monkeypatch.setattr(Replay, "_put", put_with_a_pause)
    monkeypatch.setattr(Flush, "run", run_and_tell)
    store.register(deferred())
    assert some.wait(20)
    store.close()
    (found,) = rows(dsn, "SELECT count(*) FROM note")
    assert 90 < found[0] < 499
    later = journalled(make, tmp_path / "journal", deferred())
    wait_until(lambda: rows(dsn, "SELECT count(*) FROM note") == [(499,)], timeout=30)
    later.close()
    assert list((tmp_path / "journal").iterdir()) == []


def test_who_takes_over_a_journal_does_not_read_what_was_before(
    make: MakeStore, dsn: str, redis_addr: str, tmp_path: Path
) -> None:
    store = journalled(make, tmp_path, deferred())
    idle(store)
    store.set_many(Note, {1: Note(1, "before")})
    assert write(dsn, redis_addr, tmp_path, "os.kill(os.getpid(), 9)") == -9
    assert store.get(Note, 1).text == "before"
    inspect(store).replay.take_over()
    assert store.get(Note, 1).text == "new"


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
    journal = inspect(store).journal
    assert sum(segment.live for segment in journal._segments) == 1
    persist(store, "note")
    assert sum(segment.live for segment in journal._segments) == 0


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
    make: MakeStore, dsn: str, redis_addr: str, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("not a directory")
    store = journalled(make, tmp_path / "file", deferred(), write_behind_flush_interval=HOUR)
    with psycopg.connect(dsn) as conn:
        conn.execute("LOCK TABLE note")  # so that what is in the ledger stays there
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


class Lines:
    """A logger that keeps what it is told."""

    def __init__(self) -> None:
        self.lines: list[tuple[str, dict[str, Any]]] = []

    def _keep(self, msg: str, **fields: Any) -> None:
        self.lines.append((msg, fields))

    debug = info = warning = error = _keep

    def about(self, words: str) -> list[dict[str, Any]]:
        return [fields for msg, fields in self.lines if words in msg]


def left_behind(make: MakeStore, directory: Path, *notes: Note, **config: Any) -> Path:
    """A segment that a process with these pending writes would leave if it were killed."""
    writer = journalled(make, directory.with_name("living"), deferred(), write_behind_flush_interval=HOUR, **config)
    idle(writer)
    for note in notes:
        writer.set(Note, note.id, note)
    journal = inspect(writer).journal
    directory.mkdir(mode=0o700, exist_ok=True)
    copy = directory / f"strata-dead-{len(list(directory.iterdir())):08d}.journal"
    copy.write_bytes(journal._segments[-1].path.read_bytes())
    for slot, item in inspect(writer).buffer.pending():  # it is gone
        inspect(writer).buffer.drop("note", slot.key, item.version)
    return copy


def test_damaged_files_hold_up_neither_a_hand_off_nor_a_good_journal(make: MakeStore, dsn: str, tmp_path: Path) -> None:
    directory = tmp_path / "journal"
    zeros = left_behind(make, directory, Note(1, "before the zeros"))
    with zeros.open("ab") as file:
        file.write(bytes(64))
    torn = left_behind(make, directory, Note(2, "before the tear"), Note(3, "torn"))
    torn.write_bytes(torn.read_bytes()[:-5])
    (directory / "strata-odd-1.journal").write_bytes(b"\x93\x00\x01 anything")
    os.mkfifo(directory / "strata-odd-2.journal")
    newer = msgspec.msgpack.encode(["note", "4", b"E2:0000000000000000001:anything"])
    ours = HEAD.pack(len(newer), zlib.crc32(newer)) + newer
    (directory / "strata-newer-1.journal").write_bytes(ours)
    log = Lines()
    store = journalled(make, directory, deferred(), write_behind_flush_interval=0.05, logger=log)
    store.set(Note, 9, Note(9, "new"))
    wanted = [("before the zeros",), ("before the tear",), ("new",)]
    wait_until(lambda: rows(dsn, "SELECT text FROM note ORDER BY id") == wanted)
    wait_until(lambda: len(list(directory.glob("*.unreadable"))) == 3)
    wait_until(lambda: not zeros.exists())
    sweeps = inspect(store).redrive._rounds
    wait_until(lambda: inspect(store).redrive._rounds > sweeps + 3)
    assert len(log.about("it was set aside")) == 3
    assert len(log.about("waits for a process that can read it")) == 1
    assert (directory / "strata-newer-1.journal").read_bytes() == ours


def test_a_journal_that_is_larger_than_the_buffer_is_taken_over_whole(
    make: MakeStore, dsn: str, tmp_path: Path
) -> None:
    left_behind(make, tmp_path / "journal", *(Note(id, "old") for id in range(40)))
    store = journalled(
        make, tmp_path / "journal", deferred(), write_behind_flush_interval=0.05, write_behind_max_dirty=5
    )
    wait_until(lambda: rows(dsn, "SELECT count(*) FROM note") == [(40,)])
    wait_until(lambda: not list((tmp_path / "journal").glob("strata-dead-*")))
    assert store.dead_letters.list() == []


def test_a_journal_directory_that_others_may_write_to_is_refused_at_register(make: MakeStore, tmp_path: Path) -> None:
    tmp_path.chmod(0o777)
    store = make(write_behind_durability=Durability.JOURNAL, journal_dir=tmp_path)
    with pytest.raises(InvalidConfigError, match="can be written by others"):
        store.register(deferred())


def test_the_doctor_shows_what_was_set_aside(make: MakeStore, tmp_path: Path) -> None:
    directory = tmp_path / "journal"
    store = journalled(make, directory, deferred(), write_behind_flush_interval=HOUR)
    store.set(Note, 1, Note(1, "a"))
    [finding] = journal(store)
    assert finding.state is FindingState.OK
    set_aside(next(directory.glob("*.journal")))
    [finding] = journal(store)
    assert finding.state is FindingState.WARN and ".unreadable" in finding.found
    directory.chmod(0o777)
    [finding] = journal(store)
    assert finding.state is FindingState.FAIL and "others" in finding.found
