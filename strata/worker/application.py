"""The Celery app of the fleet, and the user's store, which knows schemas, hooks and keys."""

from __future__ import annotations

import os
from functools import cache

from strata.application import load_store
from strata.datastore import DataStore
from strata.writebehind.broker import TASKS, Broker


@cache
def store() -> DataStore:
    """The store that STRATA_APP names. Raises `InvalidConfigError` where there is none."""
    return load_store(os.environ.get("STRATA_APP", ""))


broker = Broker(store().config)
app = broker.app
app.amqp.queues = app.conf.task_queues = [broker.queue(task) for task in TASKS]
app.conf.include = ["strata.worker.tasks", "strata.worker.lifecycle"]
