"""What a worker does besides its tasks: it beats, looks for overdue work, makes partitions ahead, and ends in order.

Children of the prefork pool share no connection with the parent: the store forgets the parent's sockets, threads and
buffer after each fork (`DataStore` registers for it), and opens its own when a task first needs them.
"""

from __future__ import annotations

import contextlib
import importlib
import os
from collections.abc import Callable, Mapping
from typing import Any

from celery.signals import worker_init, worker_process_shutdown, worker_ready, worker_shutdown, worker_shutting_down
from celery.worker import worker
from celery.worker.control import inspect_command

from strata.errors import InvalidConfigError, RefusedError, StrataError, UnavailableError
from strata.runtime.daemon import Daemon
from strata.worker.application import app, broker, log, store
from strata.worker.refusal import Refused
from strata.writebehind.fleet.broker import TASKS, without_secrets

INTERVAL = 1.0  # seconds between looks at the oldest due times
CHORES = 60.0  # seconds between asking whether partitions are to be made; one worker an hour then looks
PERSIST = "strata.persist"
JOBS = ("strata.warm", "strata.migrate")

_daemons: list[Daemon] = []  # of the worker's main process, written by its main thread


@inspect_command()  # type: ignore[untyped-decorator]
def stats(state: Any, **_: Any) -> dict[str, Any]:
    """In the place of Celery's own command, which shows how one logs in to Sentinels, as does Flower after it."""
    told: dict[str, Any] = state.consumer.controller.stats()
    broker = told.get("broker")
    return told | {"broker": without_secrets(broker)} if isinstance(broker, Mapping) else told


@worker_init.connect  # type: ignore[untyped-decorator]
def check_redis(**_: Any) -> None:
    """A worker whose Redis is another database's does not start."""
    try:
        store().fleet.admit()
    except InvalidConfigError as error:
        raise SystemExit(f"InvalidConfigError: {error}") from None


@worker_init.connect  # type: ignore[untyped-decorator]
def speak_plainly(**_: Any) -> None:
    """Why a worker ends is said in one line, where it is a mistake in the set-up."""
    worker.logger.addFilter(Refused(broker))


@worker_ready.connect  # type: ignore[untyped-decorator]
def look_at_queues(**_: Any) -> None:
    """Say it where `-Q` names a queue that no task comes to: a wrong name, or another namespace's."""
    served = set(app.amqp.queues.consume_from)
    known = {broker.queue(task).name for task in TASKS}
    if served - known:
        log.warning(
            "no task of this store ever comes to a queue that -Q names",
            wrong=", ".join(sorted(served - known)),
            right=", ".join(sorted(known)),
        )


@worker_ready.connect  # type: ignore[untyped-decorator]
def start_threads(**_: Any) -> None:
    """Start the threads, in the main process, that look after what this worker is for.

    One for other jobs must not pass for one that persists.
    """
    served = app.amqp.queues.consume_from
    if broker.queue(PERSIST).name in served:
        _start("strata-redrive", _each_second(store().fleet.redrive))
    jobs = {task for task in JOBS if broker.queue(task).name in served}
    if jobs:
        _start("strata-jobs", _each_second(lambda: store().fleet.look_after_jobs(jobs)))


@worker_ready.connect  # type: ignore[untyped-decorator]
def serve_metrics(**__: Any) -> None:
    """Where STRATA_METRICS_ADDR (host:port) is set, serve there what this worker and its children record."""
    given = os.environ.get("STRATA_METRICS_ADDR", "")
    if not given:
        return
    host, _, port = given.rpartition(":")
    try:
        _metrics().serve(host or "127.0.0.1", int(port))
    except (ImportError, OSError, ValueError) as error:
        log.error("no metrics are served; STRATA_METRICS_ADDR takes host:port", given=given, error=str(error))


def _metrics() -> Any:
    # Only who asks for metrics needs the extra `prometheus`.
    return importlib.import_module("strata.integrations.prometheus")


@worker_ready.connect  # type: ignore[untyped-decorator]
def start_chores(**_: Any) -> None:
    """Start the thread, in the main process of every worker; a lease in Redis says whose turn it is."""
    _start("strata-chores", _chores)


@worker_shutting_down.connect  # type: ignore[untyped-decorator]
def stop_threads(**_: Any) -> None:
    """End the threads; running tasks go on to their end."""
    for daemon in _daemons:
        daemon.stop()


@worker_process_shutdown.connect  # type: ignore[untyped-decorator]
def close_child(**_: Any) -> None:
    """A child ends: what its hooks wrote behind is flushed, since atexit does not run there."""
    _close()
    if os.environ.get("STRATA_METRICS_ADDR"):
        with contextlib.suppress(ImportError):
            _metrics().ended(os.getpid())


@worker_shutdown.connect  # type: ignore[untyped-decorator]
def close_worker(**_: Any) -> None:
    """The worker ends."""
    _close()


def _close() -> None:
    try:
        store().close(timeout=10)
    except StrataError as error:
        log.warning("the store was closed with writes left", reason=str(error))


def _start(name: str, step: Callable[[], float]) -> None:
    def step_and_others() -> float:
        for other in list(_daemons):
            other.start()  # one that was refused its thread
        return step()

    _daemons.append(daemon := Daemon(name, step_and_others, log))
    daemon.start()


def _each_second(look: Callable[[], object]) -> Callable[[], float]:
    def step() -> float:
        look()
        return INTERVAL

    return step


def _chores() -> float:
    for chore in (store().fleet.make_partitions, store().fleet.keep_house, _ring_for_audit):
        try:
            chore()
        except (UnavailableError, RefusedError) as error:  # which is said for all that need it
            log.debug("a periodic job waits", reason=str(error))
        except StrataError as error:
            log.warning("a periodic job waits", reason=str(error))
        except Exception as error:  # noqa: BLE001 one job's mistake must not keep the others from being done
            log.error("a periodic job failed", error=type(error).__name__)
    return CHORES


def _ring_for_audit() -> None:
    if store().fleet.audit_due():
        broker.publish("strata.audit", ())
