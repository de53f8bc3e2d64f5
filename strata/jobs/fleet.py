"""What the worker fleet does for a store: the bodies of its tasks, and the handing over of jobs to it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection
from typing import TYPE_CHECKING, Any

from strata import waits
from strata._wiring import Wiring
from strata.bound import Bound
from strata.engine.search import rows_of
from strata.errors import RefusedError, UnavailableError
from strata.jobs.job import Job, new_id
from strata.jobs.parts import Bell, Crew, JobPart, JobParts, TakenPart, open_jobs, overdue
from strata.maintenance.audit import AuditReport
from strata.maintenance.warm import Span, Warmer

if TYPE_CHECKING:
    from strata.l3.migrations import Migrator

LEASE = 20.0  # seconds for which a worker holds a part of a job, and has not got on with it
RINGS = 16  # tasks that a divided job begins with
WARM, MIGRATE, AUDIT = "strata.warm", "strata.migrate", "strata.audit"
PLAN, SPAN = "plan", "span"  # kinds of parts

AUDIT_INTERVAL = 60.0  # seconds from one audit of the fleet to the next
AUDIT_SAMPLE = 500  # keys of each schema
ROUND_WAITS = 30.0  # seconds after which a round that beat rang for, and no worker came to, is rung for again


class Fleet:
    """Called by the tasks of `strata.integrations.celery`, and by the store to start them. Thread-safe."""

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
        self.tracer = wiring.tracer
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
        """Write what is due in a schema to L3, in this shard of the ledger first; returns how many records."""
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

        wanted = any(bound.rows.table.monthly for bound in wiring.schemas if bound.l3 is not None)
        return wiring.housekeeping.hourly("partitions", make) if wanted else 0

    def keep_house(self) -> int:
        """Remove what nobody comes for any more, where no process did within the hour; returns how much."""
        return self._wiring.housekeeping.keep()

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
            try:
                bell = work.bell()
                if bell is not None and bell.task in tasks and _meant(bell) and overdue(server, work):
                    self._ring(work, bell)
                    rung += 1
            except RefusedError as error:  # something is wrong with this job: the others go on
                self._wiring.log.warning("a job cannot be looked after", reason=str(error), job=work.id)
        return rung

    def wants_round(self) -> bool:
        """Whether beat is to ring for a round: none that it has rung for waits for a worker. Raises
        `UnavailableError`."""
        return self._due("round", ROUND_WAITS)

    def begin_round(self) -> None:
        """A worker is here: beat may ring for the next one. Raises `UnavailableError`."""
        ledger = self._wiring.ledger()
        ledger.execute("DEL", ledger.keys.own("fleet", "round"))

    def audit_due(self) -> bool:
        """Whether the caller, of all workers, is to see to an audit now."""
        return self._due("audited", AUDIT_INTERVAL)

    def ring_for_audit(self) -> None:
        """Where one is due. Raises `UnavailableError`."""
        if self.audit_due():
            self._wiring.publish(AUDIT, (), None)

    def _due(self, name: str, seconds: float) -> bool:
        ledger = self._wiring.ledger()
        key = ledger.keys.own("fleet", name)  # text: there until it is due again
        return bool(ledger.execute("SET", key, "1", "NX", "PX", round(seconds * 1000)))

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
        rows_of(bound)
        return self._start(JobPart(PLAN), Bell(WARM, [bound.name, limit]))

    def start_migrate(self) -> Job:
        """Hand `migrate` over to the fleet."""
        return self._start(JobPart(MIGRATE), Bell(MIGRATE, []))

    def _start(self, first: JobPart, bell: Bell) -> Job:
        work = self._work(new_id())
        work.open(first, bell)
        self._wiring.publish(bell.task, (work.id, *bell.args), work.id)
        return Job(work.record)

    def _work(self, id: str) -> JobParts:
        return JobParts(self._wiring.ledger(), id, self.lease)

    def _run(self, work: JobParts, do: Callable[[TakenPart], int]) -> int:
        count = self._crew.run(work, lambda: waits.token(16), do)
        if work.waits() and (bell := work.bell()) is not None and _meant(bell):
            with contextlib.suppress(UnavailableError, RefusedError):  # whoever looks after jobs rings in its place
                self._ring(work, bell)
        return count

    def _ring(self, work: JobParts, bell: Bell) -> None:
        self._wiring.publish(bell.task, (work.id, *bell.args), None)

    def _migrate_part(self, work: JobParts, taken: TakenPart) -> int:
        with work.held(taken, self._wiring.log):
            applied = len(self._migrator().migrate().applied)
        work.advance(taken, None, applied)
        return applied

    def _warm_part(self, work: JobParts, taken: TakenPart, bound: Bound, limit: int) -> int:
        if taken.part.kind == PLAN:
            division = self._warmer.divide(bound, limit)
            work.split(taken, [_part_of(bound, span) for span in division.spans], division.total)
            bell = Bell(WARM, [bound.name, limit])
            with contextlib.suppress(UnavailableError, RefusedError):
                for _ in division.spans[1:RINGS]:
                    self._ring(work, bell)
            return 0
        return self._warm_span(work, taken, bound)

    def _warm_span(self, work: JobParts, taken: TakenPart, bound: Bound) -> int:
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


def _meant(bell: Bell) -> bool:
    """Whether a job's record asks for a task of a job. It is not believed when it asks for another one."""
    kinds = {WARM: [str, int], MIGRATE: []}.get(bell.task)
    return [type(arg) for arg in bell.args] == kinds


def _part_of(bound: Bound, span: Span) -> JobPart:
    text = bound.plan.key_text
    after, last = (None if key is None else text(key) for key in (span.after, span.last))
    return JobPart(SPAN, after, last, span.most)


def _span_of(bound: Bound, part: JobPart) -> Span:
    parse = bound.plan.parse_key
    after, last = (None if key is None else parse(key) for key in (part.after, part.last))
    return Span(after, last, part.most)
