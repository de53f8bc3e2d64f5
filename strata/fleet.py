"""What the worker fleet does for a store: the bodies of its tasks, and the handing over of jobs to it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from strata._wiring import Wiring
from strata.bound import Bound
from strata.engine.jobs import Job, JobRecord, JobState, new_id
from strata.engine.search import tables
from strata.engine.warm import Warmer
from strata.errors import StrataError
from strata.l3.migrations import Migrator
from strata.query import Query

PARTITIONS = "strata:{chores}:partitions"  # the lease: held while partitions are made, and an hour from then on
PARTITIONS_HELD_MS = 60_000  # a worker that failed, or died over it, is followed by another after that
PARTITIONS_DONE_MS = 3_600_000


class Fleet:
    """Called by the tasks of `workers.tasks`, and by the store to start them. Thread-safe."""

    def __init__(
        self, lookup: Callable[[Any], Bound], wiring: Wiring, warmer: Warmer, migrator: Callable[[], Migrator]
    ) -> None:
        self._lookup = lookup
        self._wiring = wiring
        self._warmer = warmer
        self._migrator = migrator

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
        if not any(bound.table.monthly for bound in wiring.schemas if bound.table is not None):
            return 0
        ledger = wiring.ledger()
        if not ledger.execute("SET", PARTITIONS, wiring.instance, "NX", "PX", PARTITIONS_HELD_MS):
            return 0
        report = self._migrator().make_partitions()
        for change in report.manual:
            wiring.log.warning("a partition could not be made", reason=change.text)
        ledger.execute("SET", PARTITIONS, wiring.instance, "PX", PARTITIONS_DONE_MS)
        return len(report.applied)

    def warm(self, job_id: str, schema: str, limit: int) -> int:
        """Warm the caches, telling the job's record how far it is."""
        record = JobRecord(self._wiring.ledger(), job_id)
        return self._run(record, lambda: self._warm(record, self._lookup(schema), limit))

    def migrate(self, job_id: str) -> int:
        """Bring PostgreSQL to the registered schemas; returns how many changes were applied."""
        record = JobRecord(self._wiring.ledger(), job_id)
        return self._run(record, lambda: len(self._migrator().migrate().applied))

    def start_warm(self, bound: Bound, limit: int) -> Job:
        """Hand `warm_cache` over to the fleet."""
        tables(bound)
        return self._start("strata.warm", bound.name, limit)

    def start_migrate(self) -> Job:
        """Hand `migrate` over to the fleet."""
        return self._start("strata.migrate")

    def _start(self, task: str, *args: Any) -> Job:
        record = JobRecord(self._wiring.ledger(), new_id())
        record.write(state=JobState.PENDING)
        self._wiring.publish(task, (record.id, *args), record.id)
        return Job(record)

    def _warm(self, record: JobRecord, bound: Bound, limit: int) -> int:
        table, database = tables(bound)
        with database.connection() as conn:
            rows = table.count(conn, Query())
        total = min(rows, limit) if limit else rows
        record.write(done=0, total=total)
        return self._warmer.warm(bound, limit, lambda done: record.write(done=done, total=max(total, done)))

    def _run(self, record: JobRecord, body: Callable[[], int]) -> int:
        record.write(state=JobState.RUNNING)
        try:
            result = body()
        except StrataError as error:
            record.write(state=JobState.FAILED, error=f"{type(error).__name__}: {error}")
            raise
        record.write(state=JobState.DONE, result=result)
        return result
