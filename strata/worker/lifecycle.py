"""What a worker does besides its tasks: it beats, looks for overdue work, makes partitions ahead, and ends in order.

Children of the prefork pool share no connection with the parent: the store forgets the parent's sockets, threads and
buffer after each fork (`DataStore` registers for it), and opens its own when a task first needs them.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import os
import threading
from collections.abc import Callable
from typing import Any

from celery.signals import worker_init, worker_process_shutdown, worker_ready, worker_shutdown, worker_shutting_down
from celery.utils.log import get_logger

from strata.errors import InvalidConfigError, StrataError
from strata.worker.application import app, broker, store

INTERVAL = 1.0  # seconds between looks at the oldest due times
CHORES = 60.0  # seconds between asking whether partitions are to be made; one worker an hour then looks
PERSIST = "strata.persist"
JOBS = ("strata.warm", "strata.migrate")

log = get_logger(__name__)
_stopped = threading.Event()


@worker_init.connect  # type: ignore[untyped-decorator]
def check_redis(**_: Any) -> None:
    """A worker whose Redis is another database's does not start."""
    try:
        store().fleet.admit()
    except InvalidConfigError as error:
        raise SystemExit(f"InvalidConfigError: {error}") from None


@worker_ready.connect  # type: ignore[untyped-decorator]
def start_threads(**_: Any) -> None:
    """Start the threads, in the main process, that look after what this worker is for.

    One for other jobs must not pass for one that persists.
    """
    served = app.amqp.queues.consume_from
    if broker.queue(PERSIST).name in served:
        threading.Thread(target=_every_second, args=[store().fleet.redrive], name="strata-redrive", daemon=True).start()
    jobs = {task for task in JOBS if broker.queue(task).name in served}
    if jobs:
        look = functools.partial(store().fleet.look_after_jobs, jobs)
        threading.Thread(target=_every_second, args=[look], name="strata-jobs", daemon=True).start()


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
        log.error("no metrics at STRATA_METRICS_ADDR=%s, which takes host:port: %s", given, error)


def _metrics() -> Any:
    # Only who asks for metrics needs the extra `prometheus`.
    return importlib.import_module("strata.integrations.prometheus")


@worker_ready.connect  # type: ignore[untyped-decorator]
def start_chores(**_: Any) -> None:
    """Start the thread, in the main process of every worker; a lease in Redis says whose turn it is."""
    threading.Thread(target=_chores, name="strata-chores", daemon=True).start()


@worker_shutting_down.connect  # type: ignore[untyped-decorator]
def stop_threads(**_: Any) -> None:
    """End the threads; running tasks go on to their end."""
    _stopped.set()


@worker_process_shutdown.connect  # type: ignore[untyped-decorator]
def close_child(**_: Any) -> None:
    """A child ends: what its hooks wrote behind is flushed, since atexit does not run there."""
    _close()
    if os.environ.get("STRATA_METRICS_ADDR"):
        with contextlib.suppress(ImportError):
            _metrics().ended()


@worker_shutdown.connect  # type: ignore[untyped-decorator]
def close_worker(**_: Any) -> None:
    """The worker ends."""
    _close()


def _close() -> None:
    try:
        store().close(timeout=10)
    except StrataError as error:
        log.warning("the store was closed with writes left: %s", error)


def _every_second(look: Callable[[], object]) -> None:
    while not _stopped.wait(INTERVAL):
        try:
            look()
        except StrataError:
            pass  # Redis does not answer; the next second it may
        except Exception:
            log.exception("the look for overdue work failed")


def _chores() -> None:
    while True:
        for chore in (store().fleet.make_partitions, store().fleet.forget_tombstones, _ring_for_audit):
            try:
                chore()
            except StrataError as error:
                log.warning("a periodic job waits: %s", error)
            except Exception:
                log.exception("a periodic job failed")
        if _stopped.wait(CHORES):
            return


def _ring_for_audit() -> None:
    if store().fleet.audit_due():
        broker.publish("strata.audit", ())
