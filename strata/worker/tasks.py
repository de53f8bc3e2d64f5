"""The tasks: thin, with tiny arguments, and returning numbers only, since Flower shows both.

Their arguments come from the broker. A message that names others than a task takes is left out: it is at most a bell
that did not ring.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from strata.errors import RefusedError, StrataError, UnavailableError
from strata.worker.application import app, log, store


def task(name: str, *kinds: type) -> Callable[[Callable[..., int]], Any]:
    """A task of this name, with arguments of just these types. What keeps it from being done is a line at most, for
    which Celery would give a traceback; whoever rings for it rings again."""

    def register(body: Callable[..., int]) -> Any:
        def run(*given: Any, **named: Any) -> int:
            if named or [type(argument) for argument in given] != list(kinds):
                log.warning("a message has other arguments than its task takes; it is left out", task=name)
                return 0
            try:
                with _span(name):
                    return body(*given)
            except (UnavailableError, RefusedError) as error:  # which is said for all that need it
                log.debug("a task waits", task=name, reason=str(error))
            except StrataError as error:
                log.warning("a task could not be done", task=name, reason=str(error))
            return 0

        run.__name__, run.__doc__, run.__module__ = body.__name__, body.__doc__, body.__module__
        return app.task(name=name, typing=False)(run)

    return register


def _span(name: str) -> AbstractContextManager[object]:
    """That of a task; `strata.persist` has one for each batch."""
    return nullcontext() if name == "strata.persist" else store().fleet.tracer.span(name)


@task("strata.persist", str, int)
def persist(schema: str, shard: int) -> int:
    """Write what is due in one shard of the ledger to L3."""
    return store().fleet.persist(schema, shard)


@task("strata.redrive")
def redrive() -> int:
    """Look for overdue entries whose doorbell was lost."""
    return store().fleet.redrive()


@task("strata.warm", str, str, int)
def warm(job_id: str, schema: str, limit: int) -> int:
    """Take part in loading the caches; progress is in the job's record."""
    return store().fleet.warm(job_id, schema, limit)


@task("strata.migrate", str)
def migrate(job_id: str) -> int:
    """Bring PostgreSQL to the registered schemas, unless another worker is at it."""
    return store().fleet.migrate(job_id)


@task("strata.audit")
def audit() -> int:
    """Compare a sample of the caches with PostgreSQL; how many copies are stale."""
    return store().fleet.audit()


TASKS: tuple[Any, ...] = (persist, redrive, warm, migrate, audit)
