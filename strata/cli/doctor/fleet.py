"""Workers, and the work that waits for them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from strata.cli.doctor.finding import Finding, fail, good, refused, warn
from strata.cli.inside import addressed, defers, pending
from strata.datastore import DataStore
from strata.errors import InvalidConfigError, StrataError
from strata.l2 import refusals
from strata.writebehind.broker import celery_app

PATIENCE = 2.0  # seconds for workers to answer
OLD = 10.0  # seconds that a deferred write may wait


def fleet(store: DataStore) -> Iterator[Finding]:
    """The findings about workers and pending writes; none where no schema is written behind, or none can be, since an
    address is missing."""
    if not defers(store) or not addressed(store):
        return
    try:
        app = celery_app(store.config)
    except InvalidConfigError as error:
        yield refused("workers", error)
        return
    yield _workers(store, app)
    try:
        yield from _pending(store)
    except StrataError as error:
        yield refused("pending writes", error)


def _workers(store: DataStore, app: Any) -> Finding:
    try:
        replies = app.control.ping(timeout=PATIENCE)
    except Exception as error:  # noqa: BLE001 each broker's driver has errors of its own
        return _broker(store, app, error)
    if not replies:
        return fail(
            "workers", "none answers", "start one: STRATA_APP=package.module:store celery -A strata.worker worker"
        )
    names = ", ".join(sorted(name for reply in replies for name in reply))
    return good("workers", f"{len(replies)}: {names}")


def _broker(store: DataStore, app: Any, error: Exception) -> Finding:
    refusal = refusals.refusal_of(error.__cause__ or error)  # kombu puts its own around some
    if refusal is None:
        said = f"the broker does not answer ({type(error).__name__})"
        return fail("workers", said, "start it, or correct broker_url")
    if not refusal.answered:
        return fail("workers", f"the broker refused. {refusal.found}", "correct broker_url, or what it is made of")
    rights = refusals.rights(store.config.keyspace, store.config.invalidation_channel, broker=True)
    advice = refusal.advice.format(user=app.connection_for_write().userid or "default", rights=rights)
    return fail("workers", f"the broker refused. {refusal.found}", advice)


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
