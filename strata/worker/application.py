"""The Celery app of the fleet, and the user's store, which knows schemas, hooks and keys."""

from __future__ import annotations

import os
from functools import cache

from strata.application import load_store
from strata.datastore import DataStore
from strata.observe.log import SafeLogger, StandardLogger
from strata.worker.arrival import arrived
from strata.writebehind.fleet.broker import TASKS, Broker

log = SafeLogger(StandardLogger("strata.worker"))


@cache
def store() -> DataStore:
    """The store that STRATA_APP names. Raises `InvalidConfigError` where there is none."""
    return load_store(os.environ.get("STRATA_APP", ""))


def _broker() -> Broker:
    made = Broker(store().config)
    _ = made.app  # which refuses what cannot be a broker
    return made


broker = arrived(_broker)
app = broker.app
app.amqp.queues = app.conf.task_queues = [broker.queue(task) for task in TASKS]
app.conf.worker_consumer = "strata.worker.consumer:Consumer"
app.conf.include = ["strata.worker.tasks", "strata.worker.lifecycle"]
