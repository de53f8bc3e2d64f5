"""What a worker does besides its tasks: it beats, looks for overdue work and waiting jobs, and does chores.

Its end needs nothing here: `strata.writebehind.endings` flushes where a process of any application ends. Children of
the prefork pool share no connection with the parent: the store forgets the parent's sockets, threads and buffer after
each fork (`DataStore` registers for it), and opens its own when a task first needs them.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable
from typing import Any

from celery.signals import worker_init, worker_ready, worker_shutting_down

from strata.errors import InvalidConfigError
from strata.integrations.celery.chores import JOBS, chores, log
from strata.integrations.celery.installed import Installed
from strata.runtime.daemon import Daemon

INTERVAL = 1.0  # seconds between looks at the oldest due times
CHORES = 60.0  # seconds between asking whether there are chores
METRICS = "STRATA_METRICS_ADDR"


class Lifecycle:
    """Of the workers of an app; one of none of Strata's queues is left alone. `_daemons` are of the worker's main
    process, written by its main thread."""

    def __init__(self, installed: Installed) -> None:
        self._installed = installed
        self._daemons: list[Daemon] = []

    def connect(self) -> None:
        """Have Celery call it."""
        worker_init.connect(self._admit, weak=False)
        worker_ready.connect(self._begin, weak=False)
        worker_shutting_down.connect(self._stop_threads, weak=False)

    def _concerns(self, worker: Any) -> bool:
        return worker.app is self._installed.app and bool(self._installed.served)

    def _admit(self, sender: Any, **_: Any) -> None:
        """A worker whose Redis is another database's does not start."""
        if self._concerns(sender):
            try:
                self._installed.store.fleet.admit()
            except InvalidConfigError as error:
                raise SystemExit(f"InvalidConfigError: {error}") from None

    def _begin(self, sender: Any, **_: Any) -> None:
        if self._concerns(sender):
            self._serve_metrics()
            if not self._installed.beat:
                self._start_threads()

    def _start_threads(self) -> None:
        """In the main process, for what this worker is for: one for other jobs must not pass for one that persists."""
        served, fleet = self._installed.served, self._installed.store.fleet
        if "strata.persist" in served:
            self._start("strata-redrive", _every(INTERVAL, fleet.redrive))
        if jobs := served.intersection(JOBS):
            self._start("strata-jobs", _every(INTERVAL, lambda: fleet.look_after_jobs(jobs)))
        self._start("strata-chores", _every(CHORES, lambda: chores(fleet)))

    def _start(self, name: str, step: Callable[[], float]) -> None:
        def step_and_others() -> float:
            for other in list(self._daemons):
                other.start()  # one that was refused its thread
            return step()

        self._daemons.append(daemon := Daemon(name, step_and_others, log))
        daemon.start()

    def _stop_threads(self, **_: Any) -> None:
        """Running tasks go on to their end."""
        for daemon in self._daemons:
            daemon.stop()

    def _serve_metrics(self) -> None:
        """Where STRATA_METRICS_ADDR (host:port) is set, serve there what this worker and its children record."""
        given = os.environ.get(METRICS, "")
        if not given:
            return
        host, _, port = given.rpartition(":")
        try:
            _metrics().serve(host or "127.0.0.1", int(port))
        except (ImportError, OSError, ValueError) as error:
            log.error("no metrics are served; STRATA_METRICS_ADDR takes host:port", given=given, error=str(error))


def _every(seconds: float, look: Callable[[], object]) -> Callable[[], float]:
    def step() -> float:
        look()
        return seconds

    return step


def _metrics() -> Any:
    # Only who asks for metrics needs the extra `prometheus`.
    return importlib.import_module("strata.integrations.prometheus")
