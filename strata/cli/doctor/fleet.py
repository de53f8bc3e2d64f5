"""Workers, and the work that waits for them."""

from __future__ import annotations

from collections.abc import Iterator

from strata.cli.doctor.finding import Finding, fail, good, warn
from strata.cli.inside import defers, pending
from strata.datastore import DataStore
from strata.errors import StrataError
from strata.writebehind.broker import celery_app

PATIENCE = 2.0  # seconds for workers to answer
OLD = 10.0  # seconds that a deferred write may wait


def fleet(store: DataStore) -> Iterator[Finding]:
    """The findings about workers and pending writes; none where no schema is written behind."""
    if not defers(store):
        return
    yield _workers(store)
    try:
        yield from _pending(store)
    except StrataError as error:
        yield fail("pending writes", str(error), "start the ledger's Redis, or correct its address")


def _workers(store: DataStore) -> Finding:
    try:
        replies = celery_app(store.config).control.ping(timeout=PATIENCE)
    except Exception as error:  # noqa: BLE001 each broker's driver has errors of its own
        said = f"the broker does not answer ({type(error).__name__})"
        return fail("workers", said, "start it, or correct broker_url")
    if not replies:
        return fail(
            "workers", "none answers", "start one: STRATA_APP=package.module:store celery -A strata.worker worker"
        )
    names = ", ".join(sorted(name for reply in replies for name in reply))
    return good("workers", f"{len(replies)}: {names}")


def _pending(store: DataStore) -> Iterator[Finding]:
    dead = 0
    for name, waiting in pending(store).items():
        dead += waiting.dead
        said = f"{waiting.pending}, the oldest {waiting.oldest_age:.1f} s old" if waiting.pending else "none"
        if waiting.oldest_age > OLD:
            yield warn(f"pending in {name}", said, "look at the workers' log, and at `strata dead-letters list`")
        else:
            yield good(f"pending in {name}", said)
    if dead:
        yield warn("dead letters", str(dead), "see `strata dead-letters list`; mend the cause, then retry them")
    else:
        yield good("dead letters", "none")
