"""The Celery app of the fleet, and the user's store, which knows schemas, hooks and keys."""

from __future__ import annotations

import os
from functools import cache

import kombu

from strata import DataStore
from strata.cli.app import load_store
from strata.writebehind.broker import celery_app

QUEUES = ("strata.persist", "strata.redrive", "strata.warm", "strata.migrate", "strata.audit")


@cache
def store() -> DataStore:
    """The store that STRATA_APP names as `package.module:store`. Raises `InvalidConfigError` where there is none."""
    return load_store(os.environ.get("STRATA_APP", ""))


app = celery_app(store().config)
# Direct queues: Celery publishes to them without a binding, which a flushed Redis would lose.
app.conf.task_queues = [kombu.Queue(name, routing_key=name) for name in QUEUES]  # type: ignore[attr-defined, no-untyped-call]
app.conf.include = ["workers.tasks", "workers.lifecycle"]
