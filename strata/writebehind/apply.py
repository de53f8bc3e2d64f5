"""Persisting: from claimed entries of the ledger to L3, then L2, the ledger, and the word to those who wrote them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from strata.bound import Bound
from strata.clock import Clock
from strata.coherence.messages import Announcer
from strata.coherence.messages import Op as Said
from strata.coherence.versions import VersionClock
from strata.errors import DecodeError, L2UnavailableError
from strata.l2.client import RedisServer
from strata.l3.apply import Applied, Change, Status
from strata.l3.failures import Diagnosis, Failure
from strata.observe.log import SafeLogger
from strata.observe.metrics import SafeMetrics
from strata.writebehind.entry import Entry, Op, decode
from strata.writebehind.isolate import Outcome, isolate
from strata.writebehind.ledger import Claimed, Ledger, Release, Shard
from strata.writebehind.outcomes import Failed, Outcomes, Persisted, reports
from strata.writebehind.undertaker import Blame, Undertaker

NO_ROW = "some columns were not loaded, and there is no row to keep them from"
BELOW_HORIZON = "the write is older than the deletions that are remembered"
CRASHES_FREE = 2  # claims in company that may end in a crash before the record is claimed alone


@dataclass(slots=True)
class Work:
    """One claimed entry on its way to L3."""

    claimed: Claimed
    entry: Entry
    change: Change


@dataclass(slots=True)
class Result:
    """What became of a claim. `stopped`: L3 cannot be written now, whatever the record."""

    persisted: int = 0
    failed: int = 0
    stopped: Diagnosis | None = None
    releases: list[Release] = field(default_factory=list)
    failures: list[tuple[str, Failed]] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Desk:
    """What persisting needs besides its records; shared and immutable."""

    ledger: Ledger
    outcomes: Outcomes
    undertaker: Undertaker
    announcer: Announcer
    publisher: RedisServer | None
    versions: VersionClock
    clock: Clock
    max_retry: int
    log: SafeLogger
    metrics: SafeMetrics


class Applier:
    """Thread-safe: it keeps no state. Methods raise `L2UnavailableError`; what was written to L3 by then is found
    written the next time, since versions make applying twice harmless."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk

    def apply(self, bound: Bound, shard: Shard, token: str, claimed: Sequence[Claimed]) -> Result:
        """Persist what was claimed."""
        result = Result()
        began = self._desk.clock.monotonic()
        works = self._works(bound, shard, claimed, result)
        if works:
            outcome = self._write(bound, works)
            self._succeeded(bound, shard, works, outcome, result)
            self._refused(bound, shard, works, outcome, result)
            self._left(works, outcome, result)
        self._desk.ledger.release(shard, token, result.releases)
        for origin, report in reports(bound.name, (), result.failures).items():
            self._desk.outcomes.send(origin, report)
        seconds = self._desk.clock.monotonic() - began
        self._desk.metrics.observe("strata_write_behind_batch_seconds", seconds, schema=bound.name)
        return result

    def settle(self, bound: Bound, changes: Sequence[tuple[Change, Applied]]) -> None:
        """Tell L2 and the bus what L3 holds."""
        items = [self._settlement(bound, change, applied) for change, applied in changes]
        channel = self._desk.announcer.channel
        if bound.l2 is not None:
            bound.l2.settle(channel, items)
        elif self._desk.publisher is not None:
            self._desk.publisher.pipeline([("PUBLISH", channel, item[4]) for item in items if item[4]])

    # -- before -------------------------------------------------------------------------------------------------

    def _works(self, bound: Bound, shard: Shard, claimed: Sequence[Claimed], result: Result) -> list[Work]:
        works = []
        for item in claimed:
            try:
                entry = decode(item.entry)
                works.append(Work(item, entry, _change(bound, item.key_text, entry)))
            except (DecodeError, ValueError) as error:
                self._park(bound, item, error, result)
                continue
            if item.crashes >= CRASHES_FREE + self._desk.max_retry:
                works.pop()
                blame = Blame(f"it ended its worker {item.crashes} times", "", item.crashes)
                self._desk.undertaker.bury(bound, shard, item.key_text, entry, blame)
                result.failed += 1
        works.sort(key=lambda work: work.change.key)
        return works

    def _park(self, bound: Bound, item: Claimed, error: Exception, result: Result) -> None:
        """A newer process wrote it, and can read it: it waits, and is never dropped."""
        self._desk.log.warning("a pending write waits for a newer worker", schema=bound.name, error=type(error).__name__)
        version = int(item.entry[3:22]) if item.entry[3:22].isdigit() else 0
        pause = self._desk.ledger.pace.after_outage(item.outages + 1)
        result.releases.append(Release(item.key_text, version, pause, item.crashes, item.attempts, item.outages + 1))

    def _write(self, bound: Bound, works: Sequence[Work]) -> Outcome[Applied]:
        table, database = bound.table, bound.database
        assert table is not None and database is not None

        def write(places: Sequence[int]) -> Sequence[Applied]:
            with database.transaction() as conn:
                return table.apply(conn, [works[place].change for place in places])

        outcome = isolate(write, len(works))
        # An older process does not know the newest columns: an existing row keeps them, a new one gets defaults.
        narrow = [
            place
            for place, applied in outcome.written.items()
            if applied.status is Status.MISSING_ROW and works[place].entry.op is Op.SET
        ]
        if narrow:
            for place in narrow:
                works[place].change = _widened(bound, works[place].change)
            again = isolate(lambda places: write([narrow[place] for place in places]), len(narrow))
            for place in narrow:
                del outcome.written[place]
            outcome.written.update((narrow[place], applied) for place, applied in again.written.items())
            outcome.refused.update((narrow[place], found) for place, found in again.refused.items())
            outcome.left.update((narrow[place], found) for place, found in again.left.items())
            outcome.stopped = outcome.stopped or again.stopped
        return outcome

    # -- afterwards ---------------------------------------------------------------------------------------------

    def _succeeded(self, bound: Bound, shard: Shard, works: Sequence[Work], outcome: Outcome[Applied], result: Result) -> None:
        written: list[tuple[Work, Applied]] = []
        for place, applied in outcome.written.items():
            if applied.status in (Status.APPLIED, Status.SUPERSEDED):
                written.append((works[place], applied))
            else:
                reason = NO_ROW if applied.status is Status.MISSING_ROW else BELOW_HORIZON
                self._bury(bound, shard, works[place], Blame(reason, "", works[place].claimed.attempts + 1), result)
        if not written:
            return
        changes = [(work.change, applied) for work, applied in written]
        self._desk.versions.observe(max(applied.version for _, applied in changes))
        self._settle_or_repair(bound, changes)
        self._desk.ledger.done(shard, [(change.key_text, applied.version) for change, applied in changes])
        persisted = [
            (work.entry.origin, Persisted(work.change.key_text, applied.version, _kept(work.change, applied)))
            for work, applied in written
        ]
        for origin, report in reports(bound.name, persisted, ()).items():
            self._desk.outcomes.send(origin, report)
        result.persisted += len(written)
        superseded = sum(1 for work, applied in written if applied.version > work.entry.version)
        self._desk.metrics.count("strata_write_behind_persisted", len(written) - superseded, schema=bound.name)
        self._desk.metrics.count("strata_write_behind_superseded", superseded, schema=bound.name)

    def _settle_or_repair(self, bound: Bound, changes: Sequence[tuple[Change, Applied]]) -> None:
        try:
            self.settle(bound, changes)
        except L2UnavailableError:
            # L2 may be away for long, and the ledger must not wait for it. A repair removes what is older than its
            # version: one above L3's, so that a pending value of this very version goes too.
            if bound.l2 is None or bound.l2.server is self._desk.ledger.server:
                raise
            table, database = bound.table, bound.database
            assert table is not None and database is not None
            with database.transaction() as conn:
                for change, applied in changes:
                    table.record_repair(conn, change.key_text, applied.version + 1)

    def _settlement(self, bound: Bound, change: Change, applied: Applied) -> tuple[str, int, bytes, int, bytes]:
        content, px, message = b"", 0, b""
        if applied.version > change.version:
            message = self._desk.announcer.message(bound.name, change.key_text, Said.SET, applied.version)
        elif _kept(change, applied):
            # Not SET: those who hold this very version must drop it too.
            message = self._desk.announcer.message(bound.name, change.key_text, Said.INVALIDATE, applied.version)
            if bound.l2 is not None:
                record = _as_kept(bound, change, applied)
                content, px = bound.l2.content(applied.version, bound.plan.cached(record)), bound.l2.px(record)
        return change.key_text, applied.version, content, px, message

    def _refused(self, bound: Bound, shard: Shard, works: Sequence[Work], outcome: Outcome[Applied], result: Result) -> None:
        pace = self._desk.ledger.pace
        for place, found in outcome.refused.items():
            work = works[place]
            attempts = work.claimed.attempts + 1
            if attempts > self._desk.max_retry:
                self._bury(bound, shard, work, Blame(found.message, found.sqlstate, attempts), result)
                continue
            pause = pace.permanent if found.failure is Failure.PERMANENT else pace.after_order(attempts)
            result.releases.append(_release(work, pause, attempts, work.claimed.outages))
            result.failed += 1
            self._desk.metrics.count("strata_write_behind_retries", schema=bound.name, sqlstate=found.sqlstate)

    def _left(self, works: Sequence[Work], outcome: Outcome[Applied], result: Result) -> None:
        """L3 is away, not ready, or busy: nobody is to blame and everything stays. The hook fires once it has lasted."""
        result.stopped = outcome.stopped
        for place, found in outcome.left.items():
            work = works[place]
            outages = work.claimed.outages + 1
            pause = self._desk.ledger.pace.after_outage(outages)
            result.releases.append(_release(work, pause, work.claimed.attempts, outages))
            if outages == self._desk.max_retry + 1:
                failed = Failed(work.change.key_text, work.entry.version, found.sqlstate, found.message, outages, False)
                result.failures.append((work.entry.origin, failed))
        result.failed += len(outcome.left)

    def _bury(self, bound: Bound, shard: Shard, work: Work, blame: Blame, result: Result) -> None:
        self._desk.undertaker.bury(bound, shard, work.change.key_text, work.entry, blame)
        result.failed += 1


def _change(bound: Bound, key_text: str, entry: Entry) -> Change:
    key = bound.plan.parse_key(key_text)
    if entry.op is Op.DELETE:
        return Change(key, key_text, entry.version, delete=True)
    names, values = bound.plan.unpack_row(entry.row)
    whole = entry.op is Op.SET and names == bound.plan.column_names
    return Change(key, key_text, entry.version, False, None if whole else names, values)


def _widened(bound: Bound, change: Change) -> Change:
    """A whole row of one that lacks columns: those get the defaults of the model."""
    given = dict(zip(change.names or (), change.values or (), strict=True))
    values = [given[field.name] if field.name in given else _default(bound, field) for field in bound.plan.columns]
    return replace(change, names=None, values=tuple(values))


def _default(bound: Bound, field: Any) -> Any:
    value = None if field.default_factory is None else field.default_factory()
    convert = bound.plan.conversion(field.name).to_row
    return value if convert is None else convert(value)


def _kept(change: Change, applied: Applied) -> bool:
    """Whether L3 has other columns than a whole row was written with."""
    return applied.kept is not None and change.names is None and not change.delete


def _as_kept(bound: Bound, change: Change, applied: Applied) -> Any:
    """The record as L3 has it: written, but for the columns of which L3 kept its own values."""
    assert bound.table is not None and change.values is not None and applied.kept is not None
    held = dict(zip(bound.plan.column_names, change.values, strict=True))
    held |= zip(bound.table.kept_names, applied.kept, strict=True)
    return bound.plan.from_row(tuple(held.values()), bound.cipher)


def _release(work: Work, pause: float, attempts: int, outages: int) -> Release:
    return Release(work.change.key_text, work.entry.version, pause, work.claimed.crashes, attempts, outages)
