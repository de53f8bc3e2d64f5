"""Persisting: from claimed entries of the ledger to L3, then L2, the ledger, and the word to those who wrote them."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec

from strata.bound import Bound
from strata.errors import WITHOUT_L2, DecodeError, StrataError
from strata.l3 import failures
from strata.l3.diagnosis import Diagnosis, swallowed
from strata.l3.sqlstates import Failure
from strata.l3.values import Applied, Change, Status
from strata.model.plan import UnknownColumnError
from strata.protocol.entry import IN_PARTS, Entry, EntryOp, decode, version_of
from strata.protocol.versions import VersionClock
from strata.writebehind.dirty import changes
from strata.writebehind.ledger.answers import Claimed, Release
from strata.writebehind.ledger.common import Common
from strata.writebehind.ledger.shard import Shard
from strata.writebehind.persist.giving_up import GivingUp, Reason
from strata.writebehind.persist.isolate import CIRCLE, Outcome, diagnosis_of, isolate
from strata.writebehind.persist.outcomes import Failed, Outcomes, Persisted, reports
from strata.writebehind.persist.settle import Settler

NO_ROW = "some columns were not loaded, and there is no row to keep them from"
NOT_INSERTED = "it is older than the deletions that are remembered"
FROM_FUTURE = "its version is of the far future: whoever wrote it had a clock gone wrong, or was somebody else"
BEHIND_FUTURE = (
    "PostgreSQL has a version of the far future for this key, which no deferred write can overtake; set "
    "_strata_version of the row, or the version of its tombstone, to 0, then retry"
)
LOCKED, BRIEFLY = "55P03", "SET LOCAL lock_timeout = '100ms'"
OUTAGE = "outage"  # the part of a key of the ledger: OnWriteError has told of the outage that is under way
ROW_MOST = 2_048  # bytes of a row that is told of with its outcome; who adds to a larger one reads it
CRASHES_FREE = 2  # claims in company that may end in a crash before the record is claimed alone


class ClaimedWrite(msgspec.Struct, gc=False, eq=False):
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
class ShardBatch:
    """Works of one shard, in the order of their keys, what becomes of them, and the token of their claims; `enough`:
    they had their time; `at`: a stamp of when they were claimed."""

    bound: Bound
    shard: Shard
    token: str
    works: list[ClaimedWrite]
    result: Result
    enough: Callable[[], bool]
    at: int


class Persister:
    """Thread-safe: it keeps nothing but what it said last. Methods raise `L2UnavailableError` and `L2RefusedError`;
    what was written to L3 by then is found written the next time, since versions make applying twice harmless."""

    def __init__(
        self, common: Common, outcomes: Outcomes, giving_up: GivingUp, settler: Settler, max_retry: int
    ) -> None:
        self._ledger = common.ledger
        self._versions = common.versions
        self._clock = common.clock
        self._log = common.log
        self._metrics = common.metrics
        self._outcomes = outcomes
        self._giving_up = giving_up
        self._settler = settler
        self._max_retry = max_retry

    def apply(self, bound: Bound, shard: Shard, token: str, claimed: Sequence[Claimed]) -> Result:
        """Persist what was claimed."""
        began = self._clock.monotonic()
        until = began + self._ledger.timing.tries
        batch = ShardBatch(
            bound, shard, token, [], Result(), lambda: self._clock.monotonic() >= until, self._versions.stamp()
        )
        self._open(batch, claimed)
        if batch.works:
            outcome = self._write(batch)
            self._close_circles(batch, outcome)
            self._succeeded(batch, outcome)
            self._refused(batch, outcome)
            self._left(batch, outcome)
        self._ledger.release(shard, token, batch.result.releases)
        for origin, report in reports(bound.name, (), batch.result.failures).items():
            self._outcomes.send(origin, report)
        seconds = self._clock.monotonic() - began
        self._metrics.observe("strata_write_behind_batch_seconds", seconds, schema=bound.name)
        return batch.result

    def give_back(self, shard: Shard, token: str, claimed: Sequence[Claimed]) -> None:
        """Release claims, blaming nobody; without a word where the ledger is away."""
        releases, pause = [], self._ledger.timing.outage_first
        for item in claimed:
            version = version_of(item.entry)
            releases.append(Release(item.key_text, version, pause, item.crashes, item.attempts, item.outages))
        with contextlib.suppress(*WITHOUT_L2):
            self._ledger.release(shard, token, releases)

    # -- before -------------------------------------------------------------------------------------------------

    def _open(self, batch: ShardBatch, claimed: Sequence[Claimed]) -> None:
        """Read the entries; bury those that keep ending their worker, and let wait what is not for this process."""
        for item in claimed:
            try:
                key, entry = changes.key_of(batch.bound, item.key_text), decode(item.entry)
            except UnknownColumnError as error:
                self._park(batch, item, error)
            except DecodeError as error:
                self._giving_up.set_aside(batch.bound, batch.shard, item.key_text, item.entry, str(error))
            else:
                self._examine(batch, item, entry, key)
        batch.works.sort(key=lambda work: work.change.key)

    def _examine(self, batch: ShardBatch, item: Claimed, entry: Entry, key: Any) -> None:
        if not self._versions.believed(entry.version):
            self._bury(batch, item.key_text, entry, Reason(FROM_FUTURE))
        elif item.crashes >= CRASHES_FREE + self._max_retry:
            blame = Reason(f"it ended its worker {item.crashes} times", "", item.crashes)
            self._bury(batch, item.key_text, entry, blame)
        else:
            try:
                change = changes.of_entry(batch.bound, key, item.key_text, entry)
            except UnknownColumnError as error:
                self._park(batch, item, error)
            except DecodeError as error:
                self._misfit(batch, item, entry, error)
            else:
                batch.works.append(ClaimedWrite(item, entry, change))

    def _park(self, batch: ShardBatch, item: Claimed, error: DecodeError) -> None:
        """A newer process wrote it, and can read it: it waits, and is never dropped."""
        name, outages = batch.bound.name, item.outages + 1
        self._log.warning("a deferred write waits for a newer release", reason=str(error), schema=name)
        pause, version = self._ledger.timing.after_outage(outages), version_of(item.entry)
        batch.result.releases.append(Release(item.key_text, version, pause, item.crashes, item.attempts, outages))

    def _misfit(self, batch: ShardBatch, item: Claimed, entry: Entry, error: DecodeError) -> None:
        """It does not fit the schema. Another release may know a choice more: it gets its tries, which take longer than
        those of a record that L3 refuses."""
        attempts = item.attempts + 1
        if attempts > self._max_retry:
            self._bury(batch, item.key_text, entry, Reason(f"it does not fit the schema: {error}", "", attempts))
            return
        pause = self._ledger.timing.after_outage(attempts)
        batch.result.releases.append(Release(item.key_text, entry.version, pause, item.crashes, attempts, item.outages))

    def _write(self, batch: ShardBatch) -> Outcome[Applied]:
        works, write = batch.works, _Writer(batch.bound, batch.works)
        outcome = isolate(write, len(works), batch.enough)
        # An older process does not know the newest columns: an existing row keeps them, a new one gets defaults.
        narrow = [
            place
            for place, applied in outcome.written.items()
            if applied.status is Status.MISSING_ROW
            and works[place].entry.op is not EntryOp.PARTIAL
            and works[place].change.names is not None
        ]
        if narrow:
            for place in narrow:
                works[place].change = changes.widened(batch.bound, works[place].change, works[place].entry)
            again = isolate(lambda places: write([narrow[place] for place in places]), len(narrow), batch.enough)
            outcome.replace(narrow, again)
        return outcome

    def _close_circles(self, batch: ShardBatch, outcome: Outcome[Applied]) -> None:
        """Records of several shards may be legal only together, as two that exchanged a unique value are."""
        stuck = [
            place
            for place, found in outcome.refused.items()
            if found.failure is Failure.ORDER and batch.works[place].claimed.attempts in (1, self._max_retry)
        ]
        if not stuck or len(stuck) > CIRCLE:
            return
        others: list[tuple[Shard, ClaimedWrite]] = []
        for shard, key_text, raw in self._ledger.failing(batch.bound.name)[:CIRCLE]:
            if shard != batch.shard:
                with contextlib.suppress(DecodeError):
                    others.append((shard, _work(batch.bound, Claimed(key_text, raw))))
        works = [batch.works[place] for place in stuck] + [work for _, work in others]
        if not others or len(works) > CIRCLE:
            return
        joint = isolate(_Writer(batch.bound, works), len(works), batch.enough)
        for place, applied in joint.written.items():
            if place < len(stuck):
                del outcome.refused[stuck[place]]
                outcome.written[stuck[place]] = applied
            else:
                shard, work = others[place - len(stuck)]
                alone = ShardBatch(batch.bound, shard, "", [work], batch.result, batch.enough, batch.at)
                self._succeeded(alone, Outcome({0: applied}))

    # -- afterwards ---------------------------------------------------------------------------------------------

    def _succeeded(self, batch: ShardBatch, outcome: Outcome[Applied]) -> None:
        bound, shard = batch.bound, batch.shard
        done: list[tuple[ClaimedWrite, Applied]] = []
        for place, applied in outcome.written.items():
            work = batch.works[place]
            reason = why_lost(bound, applied, self._versions)
            if reason:
                self._give_up(batch, work, Reason(reason, "", work.claimed.attempts + 1))
            else:
                done.append((work, applied))
        if not done:
            return
        self._versions.observe(max(applied.version for _, applied in done))
        if any(work.claimed.outages for work, _ in done):
            self._outage_is_over(batch)
        # A newer row may itself have been written in part: it does not speak for what came between the two.
        partial = {w.change.key_text for w, a in done if a.status is Status.SUPERSEDED or w.entry.op in IN_PARTS}
        written = [(work.change, applied) for work, applied in done]
        self._settler.finish(bound, shard, written, partial, batch.token)
        told = [
            (origin, _persisted(batch, work, applied, origin, version))
            for work, applied in done
            for origin, version in work.entry.versions().items()
        ]
        for origin, report in reports(bound.name, told, ()).items():
            self._outcomes.send(origin, report)
        batch.result.persisted += len(done)
        superseded = sum(1 for work, applied in done if applied.version > work.entry.version)
        self._metrics.count("strata_write_behind_persisted", len(done) - superseded, schema=bound.name)
        self._metrics.count("strata_write_behind_superseded", superseded, schema=bound.name)

    def _refused(self, batch: ShardBatch, outcome: Outcome[Applied]) -> None:
        timing = self._ledger.timing
        for place, found in outcome.refused.items():
            work = batch.works[place]
            attempts = work.claimed.attempts + 1
            if attempts > self._max_retry:
                self._give_up(batch, work, Reason(found.message, found.sqlstate, attempts))
                continue
            pause = timing.permanent if found.failure is Failure.PERMANENT else timing.after_order(attempts)
            if found.failure is Failure.PERMANENT:
                batch.result.soon = pause
            batch.result.releases.append(_release(work, pause, attempts, work.claimed.outages))
            told = failures.label_of(found.sqlstate)
            self._metrics.count("strata_write_behind_retries", schema=batch.bound.name, sqlstate=told)

    def _left(self, batch: ShardBatch, outcome: Outcome[Applied]) -> None:
        """L3 is away, not ready, or busy: nobody is to blame, and everything stays; once it lasts, the hook fires, for
        one of the records."""
        batch.result.stopped = outcome.stopped
        lasting: list[tuple[ClaimedWrite, Diagnosis, int]] = []
        for place, found in outcome.left.items():
            work = batch.works[place]
            outages = work.claimed.outages + 1
            pause = self._ledger.timing.after_outage(outages)
            batch.result.releases.append(_release(work, pause, work.claimed.attempts, outages))
            if outages > self._max_retry:
                lasting.append((work, found, outages))
        if lasting and self._outage_is_news(batch):
            work, found, outages = lasting[0]
            failed = Failed(work.change.key_text, work.entry.version, found.sqlstate, found.message, outages, False)
            batch.result.failures.append((work.entry.origin, failed))

    def _outage_is_news(self, batch: ShardBatch) -> bool:
        """Whether nobody has told of this outage to those who wrote in this schema; who asks is to do it."""
        ledger = self._ledger
        mark, lasts = ledger.key(Shard(batch.bound.name, 0), OUTAGE), ledger.timing.outage_told
        news = ledger.mark(mark, "1", lasts, new=True)
        if not news:
            ledger.mark(mark, "1", lasts)
        return news

    def _outage_is_over(self, batch: ShardBatch) -> None:
        self._ledger.server.execute("DEL", self._ledger.key(Shard(batch.bound.name, 0), OUTAGE))

    def _give_up(self, batch: ShardBatch, work: ClaimedWrite, blame: Reason) -> None:
        self._bury(batch, work.change.key_text, work.entry, blame)

    def _bury(self, batch: ShardBatch, key_text: str, entry: Entry, blame: Reason) -> None:
        self._giving_up.bury(batch.bound, batch.shard, key_text, entry, blame)


class _Writer:
    """Writes some works of a batch, in one transaction. Once a lock was waited for in vain, and it is to be found whose
    that is, locks are waited for but briefly. Not thread-safe."""

    def __init__(self, bound: Bound, works: Sequence[ClaimedWrite]) -> None:
        self._bound, self._database = bound, bound.rows.primary
        self._works = works
        self._locked = False

    def __call__(self, places: Sequence[int]) -> Sequence[Applied]:
        try:
            with self._database.transaction() as conn:
                if self._locked:
                    conn.command(BRIEFLY)
                return changes.apply(self._bound, conn, [self._works[place].change for place in places])
        except StrataError as error:
            self._locked = self._locked or diagnosis_of(error).sqlstate == LOCKED
            raise


def why_lost(bound: Bound, applied: Applied, versions: VersionClock) -> str:
    """Why L3 took a write neither as it is nor has a newer one; empty where it did."""
    if applied.status is Status.SWALLOWED:
        return swallowed(bound.rows.table.name)
    if applied.status is Status.MISSING_ROW:
        return NO_ROW
    if applied.status is Status.BELOW_HORIZON:
        return NOT_INSERTED
    behind = applied.status is Status.SUPERSEDED and not applied.late
    return BEHIND_FUTURE if behind and not versions.believed(applied.version) else ""


def _persisted(batch: ShardBatch, work: ClaimedWrite, applied: Applied, origin: str, version: int) -> Persisted:
    change, row = work.change, b""
    if applied.row is not None and applied.counted.get(origin) == version:
        row = batch.bound.plan.pack_row(applied.row)
    told = row if len(row) <= ROW_MOST else b""
    return Persisted(change.key_text, version, changes.kept(change, applied), applied.version, told, batch.at)


def _work(bound: Bound, claimed: Claimed) -> ClaimedWrite:
    key, entry = changes.key_of(bound, claimed.key_text), decode(claimed.entry)
    return ClaimedWrite(claimed, entry, changes.of_entry(bound, key, claimed.key_text, entry))


def _release(work: ClaimedWrite, pause: float, attempts: int, outages: int) -> Release:
    return Release(work.change.key_text, work.entry.version, pause, work.claimed.crashes, attempts, outages)
