"""The Celery app of the fleet, and the user's store, which knows schemas, hooks and keys."""

from __future__ import annotations

import os

from strata.application import load_store
from strata.integrations.celery.install import add
from strata.integrations.celery.installed import Installed, change
from strata.integrations.celery.tasks import tasks_in
from strata.worker.arrival import arrived
from strata.writebehind.fleet.broker import TASKS, celery_app


def _installed() -> Installed:
    """In Strata's own app, or in one of the user's, who may have done it already."""
    store = load_store(os.environ.get("STRATA_APP", ""))
    made = Installed(celery_app(store.config), store)
    if not tasks_in(made.app):
        add(made, among_others=store.config.celery_app is not None)
    made.prepare()
    return made


installed = arrived(_installed)
app = installed.app
app.amqp.queues.select([installed.broker.queue(task).name for task in TASKS])  # not the application's own
change(app, worker_consumer="strata.worker.consumer:Consumer", include=["strata.worker.lifecycle"])
