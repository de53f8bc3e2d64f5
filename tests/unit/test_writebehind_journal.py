"""The journal: what a process appended is there for the next one, and nothing is kept that L3 has."""

from __future__ import annotations

import errno
import os
import zlib
from pathlib import Path

import msgspec
import pytest

from strata.errors import InvalidConfigError
from strata.observe import SafeLogger
from strata.observe.metrics import SafeMetrics
from strata.protocol.entry import Entry, EntryOp
from strata.writebehind.dirty import journal as journals
from strata.writebehind.dirty.directory import aside, check, set_aside
from strata.writebehind.dirty.journal import Journal, Segment
from strata.writebehind.dirty.orphan import HEAD, JournalRecord, Orphan

LOG = SafeLogger(None)
METRICS = SafeMetrics(None)


class Slot:
    """What keeps a record alive."""

    def __init__(self, key: str) -> None:
        self.key = key
        self.segment: Segment | None = None


def entry(version: int) -> Entry:
    return Entry(version, EntryOp.SET, 1, "me", b"row %d" % version)


def append(journal: Journal, slot: Slot, version: int) -> None:
    journal.append(slot, lambda: JournalRecord("things", slot.key, entry(version)))


def abandoned(directory: Path, *writes: tuple[str, int]) -> Journal:
    """A journal of a process that was killed: its locks are gone with it."""
    journal = Journal(directory, "dead", LOG, METRICS)
    for key, version in writes:
        append(journal, Slot(key), version)
    for segment in journal._segments:
        os.close(segment.file)
    return journal


def found(directory: Path) -> list[tuple[str, int]]:
    return [
        (key, entry.version)
        for orphan in Journal(directory, "next", LOG, METRICS).orphans()
        for _, key, entry, _ in orphan.read().records
    ]


def test_what_a_killed_process_appended_is_read_by_the_next(tmp_path: Path) -> None:
    abandoned(tmp_path, ("a", 1), ("b", 2), ("a", 3))
    assert found(tmp_path) == [("a", 1), ("b", 2), ("a", 3)]


def test_the_journal_of_a_living_process_is_nobody_else_s(tmp_path: Path) -> None:
    journal = Journal(tmp_path, "alive", LOG, METRICS)
    append(journal, Slot("a"), 1)
    assert found(tmp_path) == []
    journal.close()
    assert found(tmp_path) == [("a", 1)]


def test_a_closed_journal_without_live_records_leaves_no_file(tmp_path: Path) -> None:
    journal = Journal(tmp_path, "me", LOG, METRICS)
    slot = Slot("a")
    append(journal, slot, 1)
    journal.release(slot)
    journal.close()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("cut", [1, 5, 9, 30])
def test_a_torn_end_hides_nothing_before_it(tmp_path: Path, cut: int) -> None:
    abandoned(tmp_path, ("a", 1), ("b", 2))
    [path] = tmp_path.iterdir()
    path.write_bytes(path.read_bytes()[:-cut])
    assert found(tmp_path) == [("a", 1)]


def test_a_damaged_record_is_not_believed(tmp_path: Path) -> None:
    abandoned(tmp_path, ("a", 1), ("b", 2))
    [path] = tmp_path.iterdir()
    data = bytearray(path.read_bytes())
    data[-3] ^= 1
    path.write_bytes(data)
    assert found(tmp_path) == [("a", 1)]


def test_segments_of_which_nothing_is_needed_are_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journals, "SEGMENT_BYTES", 200)
    journal = Journal(tmp_path, "me", LOG, METRICS)
    slots = [Slot(f"k{number}") for number in range(50)]
    for version, slot in enumerate(slots):
        append(journal, slot, version)
    many = len(list(tmp_path.iterdir()))
    assert many > 10
    for slot in slots[:-1]:
        journal.release(slot)
    assert len(list(tmp_path.iterdir())) == 1
    journal.close()
    assert found(tmp_path)[-1][0] == slots[-1].key


def test_a_key_written_all_the_time_does_not_let_the_journal_grow(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journals, "SEGMENT_BYTES", 500)
    journal = Journal(tmp_path, "me", LOG, METRICS)
    slot = Slot("hot")
    for version in range(1000):
        append(journal, slot, version)
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) < 1500


def test_too_many_segments_name_the_one_to_be_emptied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journals, "SEGMENT_BYTES", 50)
    monkeypatch.setattr(journals, "SEGMENTS", 4)
    journal = Journal(tmp_path, "me", LOG, METRICS)
    slots = [Slot(f"k{number}") for number in range(6)]
    for version, slot in enumerate(slots):
        append(journal, slot, version)
    segment = journal.crowded()
    assert segment is slots[0].segment
    append(journal, slots[0], 9)
    assert journal.crowded() is not segment


def test_two_processes_do_not_both_take_what_a_third_left(tmp_path: Path) -> None:
    abandoned(tmp_path, ("a", 1))
    [mine] = Journal(tmp_path, "one", LOG, METRICS).orphans()
    assert list(Journal(tmp_path, "two", LOG, METRICS).orphans()) == []
    mine.remove()
    mine.leave()
    assert list(tmp_path.iterdir()) == []


def test_files_are_for_their_owner_only(tmp_path: Path) -> None:
    directory = tmp_path / "journal"
    append(Journal(directory, "me", LOG, METRICS), Slot("a"), 1)
    [path] = directory.iterdir()
    assert path.stat().st_mode & 0o077 == 0 and directory.stat().st_mode & 0o077 == 0


def test_a_file_that_is_no_segment_is_set_aside_unopened(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("keep me")
    directory = tmp_path / "journal"
    directory.mkdir(mode=0o700)
    (directory / "strata-a-1.journal").symlink_to(victim)
    (directory / "strata-b-1.journal").symlink_to("/nonexistent")
    (directory / "strata-c-1.journal").mkdir()
    os.mkfifo(directory / "strata-d-1.journal")
    with (directory / "strata-e-1.journal").open("wb") as huge:
        huge.truncate(1 << 40)
    assert found(directory) == []
    names = sorted(path.name for path in directory.iterdir())
    assert names == [f"strata-{letter}-1.journal.unreadable" for letter in "abcde"]
    assert victim.read_text() == "keep me"
    assert aside(directory) == names


def test_what_is_set_aside_takes_the_place_of_nothing(tmp_path: Path) -> None:
    for text in ("first", "second", "third"):
        (tmp_path / "strata-a-1.journal").write_text(text)
        set_aside(tmp_path / "strata-a-1.journal")
    assert sorted(path.read_text() for path in tmp_path.iterdir()) == ["first", "second", "third"]


def test_a_file_that_cannot_be_moved_is_looked_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "strata-a-1.journal").symlink_to("/nonexistent")
    abandoned(tmp_path, ("b", 1))
    monkeypatch.setattr("strata.writebehind.dirty.directory.set_aside", full)
    journal = Journal(tmp_path, "next", LOG, METRICS)
    for _ in range(2):
        orphans = list(journal.orphans())
        assert [orphan.read().records[0][1] for orphan in orphans] == ["b"]
        for orphan in orphans:
            orphan.leave()
    assert journal._fixed == {"strata-a-1.journal"}


def full(path: Path) -> Path:
    raise OSError(errno.ENOSPC, "the disk is full")


def test_a_segment_that_was_taken_over_meanwhile_is_nobody_s_any_more(tmp_path: Path) -> None:
    abandoned(tmp_path, ("a", 1))
    [path] = tmp_path.iterdir()
    [first] = Journal(tmp_path, "one", LOG, METRICS).orphans()
    late = os.open(path, os.O_RDONLY)  # another process has opened it, and gets the lock later
    set_aside(path)
    first.leave()
    os.close(late)
    with pytest.raises(FileNotFoundError):
        Orphan(path)


@pytest.mark.parametrize("mode", [0o777, 0o770, 0o1777])
def test_a_directory_that_others_may_write_to_is_refused(tmp_path: Path, mode: int) -> None:
    directory = tmp_path / "open"
    directory.mkdir()
    directory.chmod(mode)
    with pytest.raises(InvalidConfigError, match="can be written by others"):
        check(directory)
    with pytest.raises(PermissionError):
        append(Journal(directory, "me", LOG, METRICS), Slot("a"), 1)
    assert list(directory.iterdir()) == []


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a directory away")
def test_a_directory_of_another_user_is_refused(tmp_path: Path) -> None:
    directory = tmp_path / "theirs"
    directory.mkdir(mode=0o700)
    os.chown(directory, 12345, -1)
    with pytest.raises(InvalidConfigError, match="another user"):
        check(directory)


def test_directories_on_the_way_are_made_for_their_owner_only(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        append(Journal(tmp_path / "a" / "b", "me", LOG, METRICS), Slot("a"), 1)
    finally:
        os.umask(before)
    assert [(tmp_path / part).stat().st_mode & 0o777 for part in ("a", "a/b")] == [0o700, 0o700]


def test_a_record_of_a_newer_release_is_told_from_damage(tmp_path: Path) -> None:
    fields = msgspec.msgpack.encode(["things", "a", entry(1).encode(), 0, "new"])
    later = msgspec.msgpack.encode(["things", "b", entry(2).encode().replace(b"E1:", b"E2:")])
    odd = msgspec.msgpack.encode(["things", "c", b"hello"])
    for body, newer in ((fields, True), (later, True), (odd, False), (b"\x93\xa2\xff\xfe\xa1a\xc4\x01x", False)):
        abandoned(tmp_path, ("first", 1), ("later", 2))
        [path] = tmp_path.iterdir()
        first, size = path.read_bytes(), path.stat().st_size // 2
        path.write_bytes(first[:size] + HEAD.pack(len(body), zlib.crc32(body)) + body + first[size:])
        orphan = Orphan(path)
        contents = orphan.read()
        assert (contents.newer, contents.damaged) == (newer, not newer)
        assert [key for _, key, *_ in contents.records] == ["first", "later"]
        orphan.remove()
        orphan.leave()


def test_a_directory_that_takes_no_change_any_more_is_said_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journals, "SEGMENT_BYTES", 1)  # a segment for each record
    home, moved = tmp_path / "journals", tmp_path / "moved"
    said: list[str] = []
    log = SafeLogger(None)
    monkeypatch.setattr(log, "warning", lambda msg, **fields: said.append(fields["error"]))
    journal = Journal(home, "me", log, METRICS)
    slots = [Slot(key) for key in "abc"]
    for slot in slots:
        append(journal, slot, 1)
    home.rename(moved)
    home.write_text("not a directory")
    for slot in slots:
        journal.release(slot)
    journal.close()
    assert {path.stat().st_size for path in moved.iterdir()} == {0}  # nobody reads them again
    assert said == ["NotADirectoryError"] * 3
