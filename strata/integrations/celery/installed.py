"""A Celery app that has Strata's tasks: which store they are for, and where they go."""

from __future__ import annotations

import os
from typing import Any

import kombu

from strata.application import load_store
from strata.datastore import DataStore
from strata.errors import InvalidConfigError
from strata.jobs.fleet import ROUND_WAITS
from strata.writebehind.fleet.broker import TASKS, Broker, serializer

ENTRY = "strata.redrive"  # of the schedule, and the task
ROUND = 1.0  # seconds between rounds, where beat rings for them


class Installed:
    """For a store that is given, or that `name` names, or else STRATA_APP. Thread-safe: `_store` is written by whoever
    needs it first, several finding the same."""

    def __init__(
        self, app: Any, store: DataStore | None = None, name: str | None = None, *, beat: bool = False
    ) -> None:
        self.app = app
        self.beat = beat
        self._store = store
        self._name = name

    @property
    def store(self) -> DataStore:
        """Found when it is first needed, since its module may import the app's. Raises `InvalidConfigError` where
        there is none, or one that calls others than this app's workers."""
        if self._store is None:
            found = load_store(os.environ.get("STRATA_APP", "") if self._name is None else self._name)
            check_calls(found, self.app)
            self._store = found
        return self._store

    @property
    def broker(self) -> Broker:
        """Where the store's work goes."""
        return Broker(self.store.config)

    @property
    def served(self) -> set[str]:
        """Of Strata's tasks, those whose queues this worker consumes."""
        queues = self.app.amqp.queues.consume_from
        return {task for task in TASKS if self.broker.queue(task).name in queues}

    def prepare(self, **_: Any) -> None:
        """Before a worker, beat or Flower begins: the settings of the app are what they will be. Raises
        `InvalidConfigError` where the store is none, or the app accepts nothing that Strata writes."""
        serializer(self.app)
        self._declare()
        self.route()
        if self.beat and ENTRY not in self.app.conf.beat_schedule:
            self.app.add_periodic_task(ROUND, self.app.signature(ENTRY), name=ENTRY, expires=ROUND_WAITS)

    def route(self, **_: Any) -> None:
        """Strata's tasks to their queues, whatever routes the application has for its own."""
        given = self.app.conf.task_routes
        routes = list(given) if isinstance(given, list | tuple) else [given] if given else []
        if self._route not in routes:
            change(self.app, task_routes=[self._route, *routes])

    def _route(self, name: str, *_: Any, **__: Any) -> dict[str, Any] | None:
        return {"queue": self.broker.queue(name)} if name in TASKS else None

    def _declare(self) -> None:
        # Beside the application's own queues, and not in `task_queues`: what is there takes the default queue's place.
        queues = self.app.amqp.queues
        for queue in map(self.broker.queue, TASKS):
            if queue.name not in queues:
                # Celery would bind it to the application's exchange, of which some kinds send everything to everybody.
                queue.exchange = kombu.Exchange(queue.name)  # type: ignore[attr-defined, no-untyped-call]
                queues.select_add(queue)


def change(app: Any, **settings: Any) -> None:
    """Settings of the app, which it may know by names of its own (`Celery(namespace=)`): those would win."""
    conf = app.conf
    conf.update({conf._to_keys(name)[0]: value for name, value in settings.items()})


def check_calls(store: DataStore, app: Any) -> None:
    """Raise `InvalidConfigError` for a store whose processes call others than the app's workers."""
    if store.config.celery_app is not app:
        raise InvalidConfigError(
            "the store does not call this app's workers; make it with Config(celery_app=app), app being the one that "
            "Strata is installed in"
        )
