"""The journal: what a process appended is there for the next one, and nothing is kept that L3 has."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from strata.observe import SafeLogger
from strata.writebehind import journal as journals
from strata.writebehind.entry import Entry, Op
from strata.writebehind.journal import Journal, Segment

LOG = SafeLogger(None)


class Slot:
    """What keeps a record alive."""

    def __init__(self, key: str) -> None:
        self.key = key
        self.segment: Segment | None = None


def entry(version: int) -> Entry:
    return Entry(version, Op.SET, 1, "me", b"row %d" % version)


def append(journal: Journal, slot: Slot, version: int) -> None:
    journal.append(slot, lambda: ("things", slot.key, entry(version)))


def abandoned(directory: Path, *writes: tuple[str, int]) -> Journal:
    """A journal of a process that was killed: its locks are gone with it."""
    journal = Journal(directory, "dead", LOG)
    for key, version in writes:
        append(journal, Slot(key), version)
    for segment in journal._segments:
        os.close(segment.file)
    return journal


def found(directory: Path) -> list[tuple[str, int]]:
    return [
        (key, entry.version)
        for orphan in Journal(directory, "next", LOG).orphans()
        for _, key, entry in orphan.records()
    ]


def test_what_a_killed_process_appended_is_read_by_the_next(tmp_path: Path) -> None:
    abandoned(tmp_path, ("a", 1), ("b", 2), ("a", 3))
    assert found(tmp_path) == [("a", 1), ("b", 2), ("a", 3)]


def test_the_journal_of_a_living_process_is_nobody_else_s(tmp_path: Path) -> None:
    journal = Journal(tmp_path, "alive", LOG)
    append(journal, Slot("a"), 1)
    assert found(tmp_path) == []
    journal.close()
    assert found(tmp_path) == [("a", 1)]


def test_a_closed_journal_without_live_records_leaves_no_file(tmp_path: Path) -> None:
    journal = Journal(tmp_path, "me", LOG)
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
    journal = Journal(tmp_path, "me", LOG)
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
    journal = Journal(tmp_path, "me", LOG)
    slot = Slot("hot")
    for version in range(1000):
        append(journal, slot, version)
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) < 1500


def test_too_many_segments_name_the_one_to_be_emptied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journals, "SEGMENT_BYTES", 50)
    monkeypatch.setattr(journals, "SEGMENTS", 4)
    journal = Journal(tmp_path, "me", LOG)
    slots = [Slot(f"k{number}") for number in range(6)]
    for version, slot in enumerate(slots):
        append(journal, slot, version)
    segment = journal.crowded()
    assert segment is slots[0].segment
    append(journal, slots[0], 9)
    assert journal.crowded() is not segment


def test_two_processes_do_not_both_take_what_a_third_left(tmp_path: Path) -> None:
    abandoned(tmp_path, ("a", 1))
    [mine] = Journal(tmp_path, "one", LOG).orphans()
    assert list(Journal(tmp_path, "two", LOG).orphans()) == []
    mine.done()
    assert list(tmp_path.iterdir()) == []


def test_files_are_for_their_owner_only(tmp_path: Path) -> None:
    directory = tmp_path / "journal"
    append(Journal(directory, "me", LOG), Slot("a"), 1)
    [path] = directory.iterdir()
    assert path.stat().st_mode & 0o077 == 0 and directory.stat().st_mode & 0o077 == 0
