"""Workers, and the work that waits for them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from strata.cli.doctor.finding import Finding, fail, good, refused, warn
from strata.cli.inside import addressed, defers, pending
from strata.datastore import DataStore
from strata.errors import InvalidConfigError, StrataError
from strata.writebehind.fleet.broker import TASKS, Broker, celery_app

PATIENCE = 2.0  # seconds for workers to answer
WORKER = (
    "STRATA_APP=package.module:store celery -A strata.worker worker, or a worker of the app that has Strata's tasks"
)


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
        queues = app.control.inspect(timeout=PATIENCE).active_queues()
    except Exception as error:  # noqa: BLE001 each broker's driver has errors of its own
        return _broker(store, error)
    if not queues:
        return fail("workers", "none answers", f"start one: {WORKER}")
    found = f"{len(queues)}: {', '.join(sorted(queues))}"
    consumed = {queue["name"] for those in queues.values() for queue in those}
    names = {task: Broker(store.config).queue(task).name for task in TASKS}
    idle = [task for task, name in names.items() if name not in consumed]
    if not idle:
        return good("workers", found)
    tell, left = (fail, ["strata.persist"]) if "strata.persist" in idle else (warn, idle)
    wanted = ",".join(names[task] for task in left)
    return tell("workers", f"{found}; none takes {', '.join(left)}", f"start one with -Q {wanted}, or without -Q")


def _broker(store: DataStore, error: Exception) -> Finding:
    refusal = Broker(store.config).refusal(error)
    if refusal is None:
        said = f"the broker does not answer ({type(error).__name__})"
        return fail("workers", said, "start it, or correct broker_url")
    if not refusal.answered:
        return fail("workers", f"the broker refused: {refusal.found}", "correct broker_url, or what it is made of")
    return fail("workers", f"the broker refused: {refusal.found}", refusal.advice)


def _late(schema: str, shard: int, age: float) -> Finding:
    """A shard that stands still; what a killed worker held is free again before that."""
    return warn(
        f"pending in {schema}",
        f"the oldest entry of shard {shard} is {age:.0f} s old",
        f"look at the workers' log for what strata.persist('{schema}', {shard}) says, or whether it does not end, at "
        "locks in PostgreSQL (pg_stat_activity), and at `strata dead-letters list --waiting`",
    )


def _pending(store: DataStore) -> Iterator[Finding]:
    dead = 0
    for name, waiting in pending(store).items():
        dead += waiting.dead
        said = f"{waiting.pending}, the oldest {waiting.oldest_age:.1f} s old" if waiting.pending else "none"
        if not waiting.late:
            yield good(f"pending in {name}", said)
        for shard, age in waiting.late.items():
            yield _late(name, shard, age)
    if dead:
        yield warn("dead letters", str(dead), "see `strata dead-letters list`; mend the cause, then retry them")
    else:
        yield good("dead letters", "none")
