"""What the worker fleet does for a store: the bodies of its tasks, and the handing over of jobs to it."""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import Callable, Collection
from datetime import UTC, datetime, timedelta
from typing import Any

from strata._wiring import Wiring
from strata.bound import Bound
from strata.engine.audit import AuditReport
from strata.engine.jobs import Job, new_id
from strata.engine.search import tables
from strata.engine.warm import Span, Warmer
from strata.engine.work import Bell, Crew, Part, Taken, Work, open_jobs, overdue
from strata.errors import UnavailableError
from strata.l3.migrations import Migrator

LEASE = 20.0  # seconds for which a worker holds a part of a job, and has not got on with it
RINGS = 16  # tasks that a divided job begins with
WARM, MIGRATE = "strata.warm", "strata.migrate"
PLAN, SPAN = "plan", "span"  # kinds of parts

# For which the lease of an hourly chore is held while it is done, and from then on.
CHORE_HELD_MS = 60_000  # a worker that failed, or died over it, is followed by another after that
CHORE_DONE_MS = 3_600_000
FORGOTTEN = 5_000  # tombstones in one transaction
TOMBSTONES_KEPT = timedelta(days=7)  # what is written behind and held up for longer may not be a new row any more

AUDIT_INTERVAL = 60.0  # seconds from one audit of the fleet to the next
AUDIT_SAMPLE = 500  # keys of each schema


class Fleet:
    """Called by the tasks of `strata.worker.tasks`, and by the store to start them. Thread-safe."""

    def __init__(
        self,
        lookup: Callable[[Any], Bound],
        wiring: Wiring,
        warmer: Warmer,
        migrator: Callable[[], Migrator],
        audit: Callable[..., AuditReport],
    ) -> None:
        self._lookup = lookup
        self._wiring = wiring
        self._warmer = warmer
        self._migrator = migrator
        self._crew = Crew()
        self.lease = LEASE
        self._audit = audit

    def admit(self) -> None:
        """Before a worker works. Raises `InvalidConfigError` where a Redis of the store is another database's."""
        ownership = self._wiring.context.ownership
        if ownership is not None:
            ownership.ensure()

    def persist(self, schema: str, shard: int) -> int:
        """Write what is due in one shard of the ledger to L3; returns how many records."""
        return self._wiring.writebehind().persist(schema, shard)

    def redrive(self) -> int:
        """Look for overdue entries whose doorbell was lost; returns how many shards were rung or drained."""
        return self._wiring.writebehind().redrive()

    def make_partitions(self) -> int:
        """Make the partitions of the months ahead, unless some worker did within the hour; returns how many steps.

        Nothing is asked where no table is partitioned by month. Raises `UnavailableError`, or `MigrationError` where
        PostgreSQL refuses; another try comes a minute later.
        """
        wiring = self._wiring

        def make() -> int:
            report = self._migrator().make_partitions()
            for change in report.manual:
                wiring.log.warning("a partition could not be made", reason=change.text)
            return len(report.applied)

        wanted = any(bound.table.monthly for bound in wiring.schemas if bound.table is not None)
        return self._hourly("partitions", make) if wanted else 0

    def forget_tombstones(self, kept: timedelta = TOMBSTONES_KEPT) -> int:
        """Remove the tombstones of old deletions, unless some worker did within the hour; returns how many.

        Raises `UnavailableError`, or `MigrationError` where their table is not there yet.
        """
        deferred = [bound for bound in self._wiring.schemas if bound.deferred]
        before = datetime.now(UTC) - kept
        return self._hourly("tombstones", lambda: sum(_forget(bound, before) for bound in deferred)) if deferred else 0

    def _hourly(self, name: str, chore: Callable[[], int]) -> int:
        ledger, me = self._wiring.ledger(), self._wiring.instance
        lease = ledger.keys.own("chores", name)
        if not ledger.execute("SET", lease, me, "NX", "PX", CHORE_HELD_MS):
            return 0
        done = chore()
        ledger.execute("SET", lease, me, "PX", CHORE_DONE_MS)
        return done

    def warm(self, job_id: str, schema: str, limit: int) -> int:
        """Take part in warming the caches, for about ten seconds; returns how many records this task read."""
        work = self._work(job_id)
        return self._run(work, lambda taken: self._warm_part(work, taken, self._lookup(schema), limit))

    def migrate(self, job_id: str) -> int:
        """Bring PostgreSQL to the registered schemas, unless another worker is at it; returns the changes applied."""
        work = self._work(job_id)
        return self._run(work, lambda taken: self._migrate_part(work, taken))

    def look_after_jobs(self, tasks: Collection[str]) -> int:
        """Ring again for jobs of these tasks of which a part waits and nobody comes; returns how many were rung for."""
        server = self._wiring.ledger()
        rung = 0
        for work in open_jobs(server, self.lease):
            bell = work.bell()
            if bell is not None and bell.task in tasks and overdue(server, work):
                self._ring(work, bell)
                rung += 1
        return rung

    def audit_due(self) -> bool:
        """Whether the caller, of all workers, is to audit now."""
        ledger = self._wiring.ledger()
        audited = ledger.keys.own("fleet", "audited")  # text: there until the next audit is due
        return bool(ledger.execute("SET", audited, "1", "NX", "PX", round(AUDIT_INTERVAL * 1000)))

    def audit(self) -> int:
        """Audit every schema; the gauges have what was found. Returns how many copies are stale."""
        report = self._audit(sample=AUDIT_SAMPLE)
        if report.stale:
            names = ", ".join(item.schema for item in report.schemas if item.stale)
            self._wiring.log.warning(
                "cached copies do not agree with PostgreSQL; `strata audit` names them",
                schemas=names,
                stale=len(report.stale),
                compared=report.compared,
            )
        return len(report.stale)

    def start_warm(self, bound: Bound, limit: int) -> Job:
        """Hand `warm_cache` over to the fleet."""
        tables(bound)
        return self._start(Part(PLAN), Bell(WARM, [bound.name, limit]))

    def start_migrate(self) -> Job:
        """Hand `migrate` over to the fleet."""
        return self._start(Part(MIGRATE), Bell(MIGRATE, []))

    def _start(self, first: Part, bell: Bell) -> Job:
        work = self._work(new_id())
        work.open(first, bell)
        self._wiring.publish(bell.task, (work.id, *bell.args), work.id)
        return Job(work.record)

    def _work(self, id: str) -> Work:
        return Work(self._wiring.ledger(), id, self.lease)

    def _run(self, work: Work, do: Callable[[Taken], int]) -> int:
        count = self._crew.run(work, lambda: uuid.uuid4().hex, do)
        if work.waits() and (bell := work.bell()) is not None:
            with contextlib.suppress(UnavailableError):  # whoever looks after jobs rings in its place
                self._ring(work, bell)
        return count

    def _ring(self, work: Work, bell: Bell) -> None:
        self._wiring.publish(bell.task, (work.id, *bell.args), None)

    def _migrate_part(self, work: Work, taken: Taken) -> int:
        with work.held(taken):
            applied = len(self._migrator().migrate().applied)
        work.advance(taken, None, applied)
        return applied

    def _warm_part(self, work: Work, taken: Taken, bound: Bound, limit: int) -> int:
        if taken.part.kind == PLAN:
            division = self._warmer.divide(bound, limit)
            work.split(taken, [_part_of(bound, span) for span in division.spans], division.total)
            bell = Bell(WARM, [bound.name, limit])
            with contextlib.suppress(UnavailableError):
                for _ in division.spans[1:RINGS]:
                    self._ring(work, bell)
            return 0
        return self._warm_span(work, taken, bound)

    def _warm_span(self, work: Work, taken: Taken, bound: Bound) -> int:
        deadline = self._wiring.clock.monotonic() + self._crew.budget
        count = 0
        for left, rows in self._warmer.run(bound, _span_of(bound, taken.part), strict=True):
            rest = None if left is None else _part_of(bound, left)
            if not work.advance(taken, rest, rows):
                return count  # another worker thought this one dead, and goes on where it was
            count += rows
            if rest is not None and self._wiring.clock.monotonic() >= deadline:
                work.give_back(taken, rest)
                return count
        return count


def _part_of(bound: Bound, span: Span) -> Part:
    text = bound.plan.key_text
    after, last = (None if key is None else text(key) for key in (span.after, span.last))
    return Part(SPAN, after, last, span.most)


def _span_of(bound: Bound, part: Part) -> Span:
    parse = bound.plan.parse_key
    after, last = (None if key is None else parse(key) for key in (part.after, part.last))
    return Span(after, last, part.most)


def _forget(bound: Bound, before: datetime) -> int:
    table, database = bound.table, bound.database
    assert table is not None and database is not None
    forgotten = 0
    while True:  # in short transactions, since each keeps every writer of the schema out
        with database.transaction() as conn:
            count = table.forget_tombstones(conn, before, FORGOTTEN)
        forgotten += count
        if count < FORGOTTEN:
            return forgotten
