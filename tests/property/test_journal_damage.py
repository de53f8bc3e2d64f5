"""Whatever happens to a journal's bytes, what was whole before the damage is read, and nothing that was not written."""

from __future__ import annotations

import tempfile
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from strata.observe import SafeLogger
from strata.observe.metrics import SafeMetrics
from strata.protocol.entry import Entry, EntryOp
from strata.writebehind.dirty.journal import Journal, Segment
from strata.writebehind.dirty.orphan import JournalRecord, Orphan, SegmentContents
from tests.garbage import Damage, damages


class Keeper:
    segment: Segment | None = None


rows = st.lists(st.tuples(st.text(max_size=8), st.binary(max_size=300)), min_size=1, max_size=8)


def written(directory: Path, given: list[tuple[str, bytes]]) -> tuple[Path, list[JournalRecord], list[int]]:
    """A journal of these records, and where each of them ends."""
    journal = Journal(directory, "dead", SafeLogger(None), SafeMetrics(None))
    records, ends = [], []
    for number, (key, row) in enumerate(given, 1):
        record = JournalRecord("things", key, Entry(number, EntryOp.SET, 1, "me", row), number if number % 2 else None)
        journal.append(Keeper(), lambda record=record: record)  # type: ignore[misc]
        records.append(record)
        ends.append(sum(segment.size for segment in journal._segments))
    journal.close()
    [path] = directory.iterdir()
    return path, records, ends


def read(path: Path) -> SegmentContents:
    orphan = Orphan(path)
    try:
        return orphan.read()
    finally:
        orphan.leave()


@given(given=rows, damage=damages)
def test_damage_costs_no_record_before_it_and_never_raises(given: list[tuple[str, bytes]], damage: Damage) -> None:
    with tempfile.TemporaryDirectory() as name:
        path, records, ends = written(Path(name), given)
        data = path.read_bytes()
        damaged = damage(data)
        path.write_bytes(damaged)
        first = next(
            (at for at, (a, b) in enumerate(zip(data, damaged, strict=False)) if a != b), min(len(data), len(damaged))
        )
        whole = sum(end <= first for end in ends)
        found = read(path)
        assert found.records[:whole] == records[:whole]
        assert found.records == records[: len(found.records)]
        # Nobody deletes bytes that were not understood.
        rest = damaged[ends[len(found.records) - 1] if found.records else 0 :]
        assert found.damaged or not rest.strip(b"\0")


@given(data=st.binary(max_size=2000))
def test_a_file_of_anything_is_read_without_a_word(data: bytes) -> None:
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "strata-x-1.journal"
        path.write_bytes(data)
        assert read(path).records == []
