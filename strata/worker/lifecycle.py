"""What a worker of Strata's own says: why it ends, which queue of `-Q` is none, and no password."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from celery.signals import worker_init, worker_ready
from celery.worker import worker
from celery.worker.control import inspect_command

from strata.integrations.celery.chores import log
from strata.worker.application import app, installed
from strata.worker.refusal import Refused
from strata.writebehind.fleet.broker import TASKS, without_secrets


@inspect_command()  # type: ignore[untyped-decorator]
def stats(state: Any, **_: Any) -> dict[str, Any]:
    """In the place of Celery's own command, which shows how one logs in to Sentinels, as does Flower after it."""
    told: dict[str, Any] = state.consumer.controller.stats()
    broker = told.get("broker")
    return told | {"broker": without_secrets(broker)} if isinstance(broker, Mapping) else told


@worker_init.connect  # type: ignore[untyped-decorator]
def speak_plainly(**_: Any) -> None:
    """Why a worker ends is said in one line, where it is a mistake in the set-up."""
    worker.logger.addFilter(Refused(installed.broker))


@worker_ready.connect  # type: ignore[untyped-decorator]
def look_at_queues(**_: Any) -> None:
    """Say it where `-Q` names a queue that no task comes to: a wrong name, or another namespace's."""
    served = set(app.amqp.queues.consume_from)
    known = {installed.broker.queue(task).name for task in TASKS}
    if served - known:
        log.warning(
            "no task of this store ever comes to a queue that -Q names",
            wrong=", ".join(sorted(served - known)),
            right=", ".join(sorted(known)),
        )
