"""The tasks: thin, with tiny arguments, and returning numbers only, since Flower shows both."""

from __future__ import annotations

from typing import Any

from strata.worker.application import app, store


@app.task(name="strata.persist")  # type: ignore[untyped-decorator]
def persist(schema: str, shard: int) -> int:
    """Write what is due in one shard of the ledger to L3."""
    return store().fleet.persist(schema, shard)


@app.task(name="strata.redrive")  # type: ignore[untyped-decorator]
def redrive() -> int:
    """Look for overdue entries whose doorbell was lost."""
    return store().fleet.redrive()


@app.task(name="strata.warm")  # type: ignore[untyped-decorator]
def warm(job_id: str, schema: str, limit: int) -> int:
    """Take part in loading the caches; progress is in the job's record."""
    return store().fleet.warm(job_id, schema, limit)


@app.task(name="strata.migrate")  # type: ignore[untyped-decorator]
def migrate(job_id: str) -> int:
    """Bring PostgreSQL to the registered schemas, unless another worker is at it."""
    return store().fleet.migrate(job_id)


@app.task(name="strata.audit")  # type: ignore[untyped-decorator]
def audit() -> int:
    """Compare a sample of the caches with PostgreSQL; how many copies are stale."""
    return store().fleet.audit()


TASKS: tuple[Any, ...] = (persist, redrive, warm, migrate, audit)
