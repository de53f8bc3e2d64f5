"""What must hold at the end of a run, and what was found."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal

from strata import Durability
from tests.faults.chaos.counters import COUNT, NAME, OFFSET, counted, key_in_diary, one_of
from tests.faults.chaos.diary import Told, Write
from tests.faults.chaos.writer import POISON, STRIDE


@dataclass(frozen=True)
class Page:
    """The diary of an incarnation."""

    level: Durability
    killed: bool
    told: Told
    place: int

    def durable(self, write: Write) -> bool:
        """Whether the write must have reached its end: L3, or the dead letters."""
        if not self.killed:
            return write.acknowledged
        return write.safe or (write.acknowledged and self.level is not Durability.MEMORY)


@dataclass
class Verdict:
    """What was found wrong, and what was counted."""

    operations: int = 0
    keys: int = 0
    increments: int = 0
    forfeited: int = 0  # acknowledged MEMORY writes of killed writers that were not handed off, and are lost
    letters: int = 0
    untold: int = 0  # reports that were claimed by a process which was killed before it made them
    wrong: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Found:
    """L3, what a fresh process reads through the caches, the dead letters, and the calls of OnWriteError."""

    rows: Mapping[int, int]
    read: Mapping[int, int]
    sums: Mapping[int, Decimal]  # of counters, in L3 and as they are read
    sums_read: Mapping[int, Decimal]
    letters: Iterable[int]
    reports: Iterable[int]


def judge(pages: Sequence[Page], found: Found, kills: int) -> Verdict:
    """Compare."""
    verdict = Verdict()
    histories: dict[int, list[tuple[Write, bool]]] = {}
    for page in pages:
        verdict.wrong += page.told.wrong
        if not page.killed and page.told.end != "flushed":
            verdict.wrong.append(f"a {page.level.name} writer: {page.told.end or 'it did not come to its end'}")
        for key, writes in page.told.writes.items():
            histories.setdefault(key, []).extend((write, page.durable(write)) for write in writes)
            verdict.operations += len(writes)
    letters, reports = Counter(found.letters), Counter(found.reports)
    for counter in range(COUNT):
        _counter(verdict, counter, pages, found, letters[key_in_diary(NAME, counter)])
    for key, history in histories.items():
        if key >= OFFSET:
            continue
        if key % STRIDE >= POISON:
            _poison(verdict, key, history, found, letters[key], reports[key])
        else:
            verdict.keys += 1
            _plain(verdict, key, history, found, letters[key])
    if verdict.untold > 50 * kills:
        verdict.wrong.append(f"{verdict.untold} dead letters were claimed and not told, with {kills} kills")
    return verdict


def _plain(verdict: Verdict, key: int, history: Sequence[tuple[Write, bool]], found: Found, letters: int) -> None:
    last = max((at for at, (_, durable) in enumerate(history) if durable), default=-1)
    allowed = {write.n for write, _ in history[max(last, 0) :]} | (set() if last >= 0 else {0})
    row = found.rows.get(key, 0)
    if row not in allowed:
        verdict.wrong.append(
            f"key {key}: L3 has {row or 'no row'}, allowed {sorted(allowed)[:5]}, {len(history)} writes"
        )
    if found.read.get(key, 0) != row:
        verdict.wrong.append(f"key {key}: a process reads {found.read.get(key, 0)}, L3 has {row}")
    if letters:
        verdict.wrong.append(f"key {key}: a dead letter of a record that nothing is wrong with")
    place = next((at for at, (write, _) in enumerate(history) if write.n == row), -1)
    verdict.forfeited += sum(1 for write, durable in history[max(place, last) + 1 :] if write.acknowledged)


def _counter(verdict: Verdict, counter: int, pages: Sequence[Page], found: Found, letters: int) -> None:
    """Each incarnation's increments are in the sum once: those that must have reached L3, and none that never was."""
    sum_, told = found.sums.get(counter, Decimal(0)), 0
    for page in pages:
        writes = page.told.writes.get(key_in_diary(NAME, counter), [])
        least, count = sum(map(page.durable, writes)), counted(sum_, page.place)
        verdict.increments += count
        told += count * int(one_of(page.place))
        if not least <= count <= len(writes):
            whose = f"{'killed ' * page.killed}{page.level.name} writer {page.place}"
            verdict.wrong.append(f"counter {counter}: L3 has {count} of {len(writes)} of {whose}; it must have {least}")
        verdict.forfeited += max(0, sum(write.acknowledged for write in writes) - count)
    if int(sum_) != told:
        verdict.wrong.append(f"counter {counter}: L3 has what nobody has added")
    if found.sums_read.get(counter) != found.sums.get(counter):
        verdict.wrong.append(f"counter {counter}: a process reads another sum than L3 has")
    if letters:
        verdict.wrong.append(f"counter {counter}: a dead letter of increments that nothing is wrong with")


def _poison(
    verdict: Verdict, key: int, history: Sequence[tuple[Write, bool]], found: Found, letters: int, reports: int
) -> None:
    verdict.letters += letters
    if key in found.rows or key in found.read:
        verdict.wrong.append(f"key {key}: L3, or a cache, has what violates a constraint")
    if letters > 1 or (not letters and any(durable for _, durable in history)):
        verdict.wrong.append(f"key {key}: {letters} dead letters of an acknowledged record that L3 refuses")
    if reports > 1 or (reports and not letters):
        verdict.wrong.append(f"key {key}: {letters} dead letters, and {reports} calls of on_write_error")
    if letters and not reports:
        verdict.untold += 1
