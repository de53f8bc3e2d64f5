"""Persisting: from claimed entries of the ledger to L3, then L2, the ledger, and the word to those who wrote them."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import msgspec

from strata.bound import Bound
from strata.clock import Clock
from strata.errors import DecodeError, L2UnavailableError
from strata.l3.failures import Diagnosis, Failure
from strata.l3.table import Applied, Change, Status
from strata.observe.log import SafeLogger
from strata.observe.metrics import SafeMetrics
from strata.versions import VersionClock
from strata.writebehind import changes
from strata.writebehind.entry import Entry, Op, decode
from strata.writebehind.isolate import CIRCLE, Outcome, isolate
from strata.writebehind.ledger import Claimed, Ledger, Release
from strata.writebehind.outcomes import Failed, Outcomes, Persisted, reports
from strata.writebehind.settle import Settler
from strata.writebehind.shard import Shard
from strata.writebehind.undertaker import Blame, Undertaker

NO_ROW = "some columns were not loaded, and there is no row to keep them from"
NOT_INSERTED = "it is older than the deletions that are remembered, or a trigger of the table keeps it out"
FROM_FUTURE = "its version is of the far future: whoever wrote it had a clock gone wrong, or was somebody else"
BEHIND_FUTURE = (
    "PostgreSQL has a version of the far future for this key, which no deferred write can overtake; set "
    "_strata_version of the row, or the version of its tombstone, to 0, then retry"
)
CRASHES_FREE = 2  # claims in company that may end in a crash before the record is claimed alone


class Work(msgspec.Struct, gc=False, eq=False):
    """One claimed entry on its way to L3."""

    claimed: Claimed
    entry: Entry
    change: Change


@dataclass(slots=True)
class Result:
    """What became of a claim. `stopped`: L3 cannot be written now, whatever the record; `soon`: seconds after which
    records are due again whose next try needs no long pause, 0 without such."""

    persisted: int = 0
    soon: float = 0.0
    stopped: Diagnosis | None = None
    releases: list[Release] = field(default_factory=list)
    failures: list[tuple[str, Failed]] = field(default_factory=list)


@dataclass(slots=True)
class Batch:
    """Works of one shard, in the order of their keys, and what becomes of them."""

    bound: Bound
    shard: Shard
    works: list[Work]
    result: Result


@dataclass(frozen=True, slots=True, kw_only=True)
class Desk:
    """What persisting needs besides its records; shared and immutable."""

    ledger: Ledger
    outcomes: Outcomes
    undertaker: Undertaker
    settler: Settler
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
        began = self._desk.clock.monotonic()
        batch = Batch(bound, shard, [], Result())
        self._open(batch, claimed)
        if batch.works:
            outcome = self._write(batch)
            self._close_circles(batch, outcome)
            self._succeeded(batch, outcome)
            self._refused(batch, outcome)
            self._left(batch, outcome)
        self._desk.ledger.release(shard, token, batch.result.releases)
        for origin, report in reports(bound.name, (), batch.result.failures).items():
            self._desk.outcomes.send(origin, report)
        seconds = self._desk.clock.monotonic() - began
        self._desk.metrics.observe("strata_write_behind_batch_seconds", seconds, schema=bound.name)
        return batch.result

    def give_back(self, shard: Shard, token: str, claimed: Sequence[Claimed]) -> None:
        """Release claims, blaming nobody; without a word where the ledger is away."""
        releases, pause = [], self._desk.ledger.pace.outage_first
        for item in claimed:
            with contextlib.suppress(DecodeError):
                version = decode(item.entry).version
                releases.append(Release(item.key_text, version, pause, item.crashes, item.attempts, item.outages))
        with contextlib.suppress(L2UnavailableError):
            self._desk.ledger.release(shard, token, releases)

    # -- before -------------------------------------------------------------------------------------------------

    def _open(self, batch: Batch, claimed: Sequence[Claimed]) -> None:
        """Read the entries; bury those that keep ending their worker, and let wait what is not for this process."""
        for item in claimed:
            try:
                work = _work(batch.bound, item)
            except (DecodeError, ValueError) as error:
                self._park(batch, item, error)
                continue
            if not self._desk.versions.believed(work.entry.version):
                self._bury(batch, work, Blame(FROM_FUTURE))
            elif item.crashes >= CRASHES_FREE + self._desk.max_retry:
                self._bury(batch, work, Blame(f"it ended its worker {item.crashes} times", "", item.crashes))
            else:
                batch.works.append(work)
        batch.works.sort(key=lambda work: work.change.key)

    def _park(self, batch: Batch, item: Claimed, error: Exception) -> None:
        """A newer process wrote it, and can read it: it waits, and is never dropped."""
        name = batch.bound.name
        self._desk.log.warning("a pending write waits for a newer worker", schema=name, error=type(error).__name__)
        version = int(item.entry[3:22]) if item.entry[3:22].isdigit() else 0
        outages = item.outages + 1
        pause = self._desk.ledger.pace.after_outage(outages)
        batch.result.releases.append(Release(item.key_text, version, pause, item.crashes, item.attempts, outages))

    def _writer(self, bound: Bound, works: Sequence[Work]) -> Callable[[Sequence[int]], Sequence[Applied]]:
        table, database = bound.table, bound.database
        assert table is not None and database is not None

        def write(places: Sequence[int]) -> Sequence[Applied]:
            with database.transaction() as conn:
                return table.apply(conn, [works[place].change for place in places])

        return write

    def _write(self, batch: Batch) -> Outcome[Applied]:
        works, write = batch.works, self._writer(batch.bound, batch.works)
        outcome = isolate(write, len(works))
        # An older process does not know the newest columns: an existing row keeps them, a new one gets defaults.
        narrow = [
            place
            for place, applied in outcome.written.items()
            if applied.status is Status.MISSING_ROW and works[place].entry.op is Op.SET
        ]
        if narrow:
            for place in narrow:
                works[place].change = changes.widened(batch.bound, works[place].change, works[place].entry)
            outcome.replace(narrow, isolate(lambda places: write([narrow[place] for place in places]), len(narrow)))
        return outcome

    def _close_circles(self, batch: Batch, outcome: Outcome[Applied]) -> None:
        """Records of several shards may be legal only together, as two that exchanged a unique value are."""
        stuck = [
            place
            for place, found in outcome.refused.items()
            if found.failure is Failure.ORDER and batch.works[place].claimed.attempts in (1, self._desk.max_retry)
        ]
        if not stuck or len(stuck) > CIRCLE:
            return
        others: list[tuple[Shard, Work]] = []
        for shard, key_text, raw in self._desk.ledger.failing(batch.bound.name)[:CIRCLE]:
            if shard != batch.shard:
                with contextlib.suppress(DecodeError, ValueError):
                    others.append((shard, _work(batch.bound, Claimed(key_text, raw))))
        works = [batch.works[place] for place in stuck] + [work for _, work in others]
        if not others or len(works) > CIRCLE:
            return
        joint = isolate(self._writer(batch.bound, works), len(works))
        for place, applied in joint.written.items():
            if place < len(stuck):
                del outcome.refused[stuck[place]]
                outcome.written[stuck[place]] = applied
            else:
                shard, work = others[place - len(stuck)]
                alone = Batch(batch.bound, shard, [work], batch.result)
                self._succeeded(alone, Outcome({0: applied}))

    # -- afterwards ---------------------------------------------------------------------------------------------

    def _succeeded(self, batch: Batch, outcome: Outcome[Applied]) -> None:
        bound, shard, desk = batch.bound, batch.shard, self._desk
        done: list[tuple[Work, Applied]] = []
        for place, applied in outcome.written.items():
            work = batch.works[place]
            reason = why_lost(applied, desk.versions)
            if reason:
                self._bury(batch, work, Blame(reason, "", work.claimed.attempts + 1))
            else:
                done.append((work, applied))
        if not done:
            return
        desk.versions.observe(max(applied.version for _, applied in done))
        desk.settler.settle_or_repair(bound, [(work.change, applied) for work, applied in done])
        # A newer row may itself have been written in part: it does not speak for what came between the two.
        partial = {w.change.key_text for w, a in done if a.status is Status.SUPERSEDED or w.entry.op is Op.PARTIAL}
        desk.ledger.done([(shard, [(work.change.key_text, work.entry.version) for work, _ in done])], partial)
        told = [
            (
                work.entry.origin,
                Persisted(
                    work.change.key_text, work.entry.version, changes.kept(work.change, applied), applied.version
                ),
            )
            for work, applied in done
        ]
        for origin, report in reports(bound.name, told, ()).items():
            desk.outcomes.send(origin, report)
        batch.result.persisted += len(done)
        superseded = sum(1 for work, applied in done if applied.version > work.entry.version)
        desk.metrics.count("strata_write_behind_persisted", len(done) - superseded, schema=bound.name)
        desk.metrics.count("strata_write_behind_superseded", superseded, schema=bound.name)

    def _refused(self, batch: Batch, outcome: Outcome[Applied]) -> None:
        pace = self._desk.ledger.pace
        for place, found in outcome.refused.items():
            work = batch.works[place]
            attempts = work.claimed.attempts + 1
            if attempts > self._desk.max_retry:
                self._bury(batch, work, Blame(found.message, found.sqlstate, attempts))
                continue
            pause = pace.permanent if found.failure is Failure.PERMANENT else pace.after_order(attempts)
            if found.failure is Failure.PERMANENT:
                batch.result.soon = pause
            batch.result.releases.append(_release(work, pause, attempts, work.claimed.outages))
            self._desk.metrics.count("strata_write_behind_retries", schema=batch.bound.name, sqlstate=found.sqlstate)

    def _left(self, batch: Batch, outcome: Outcome[Applied]) -> None:
        """L3 is away, not ready, or busy: nobody is to blame, and everything stays; the hook fires once it lasts."""
        batch.result.stopped = outcome.stopped
        for place, found in outcome.left.items():
            work = batch.works[place]
            outages = work.claimed.outages + 1
            pause = self._desk.ledger.pace.after_outage(outages)
            batch.result.releases.append(_release(work, pause, work.claimed.attempts, outages))
            if outages == self._desk.max_retry + 1:
                failed = Failed(work.change.key_text, work.entry.version, found.sqlstate, found.message, outages, False)
                batch.result.failures.append((work.entry.origin, failed))

    def _bury(self, batch: Batch, work: Work, blame: Blame) -> None:
        self._desk.undertaker.bury(batch.bound, batch.shard, work.change.key_text, work.entry, blame)


def why_lost(applied: Applied, versions: VersionClock) -> str:
    """Why L3 took a write neither as it is nor has a newer one; empty where it did."""
    if applied.status is Status.MISSING_ROW:
        return NO_ROW
    if applied.status is Status.BELOW_HORIZON:
        return NOT_INSERTED
    behind = applied.status is Status.SUPERSEDED and not applied.late
    return BEHIND_FUTURE if behind and not versions.believed(applied.version) else ""


def _work(bound: Bound, claimed: Claimed) -> Work:
    entry = decode(claimed.entry)
    return Work(claimed, entry, changes.of_entry(bound, claimed.key_text, entry))


def _release(work: Work, pause: float, attempts: int, outages: int) -> Release:
    return Release(work.change.key_text, work.entry.version, pause, work.claimed.crashes, attempts, outages)
