"""What a worker does besides its tasks: it beats, looks for overdue work, makes partitions ahead, and ends in order.

Children of the prefork pool share no connection with the parent: the store forgets the parent's sockets, threads and
buffer after each fork (`DataStore` registers for it), and opens its own when a task first needs them.
"""

from __future__ import annotations

import threading
from typing import Any

from celery.signals import worker_process_shutdown, worker_ready, worker_shutdown, worker_shutting_down
from celery.utils.log import get_logger

from strata.errors import StrataError
from workers.application import app, store

INTERVAL = 1.0  # seconds between looks at the oldest due times
CHORES = 60.0  # seconds between asking whether partitions are to be made; one worker an hour then looks
QUEUE = "strata.persist"

log = get_logger(__name__)
_stopped = threading.Event()


@worker_ready.connect  # type: ignore[untyped-decorator]
def start_redrive(**_: Any) -> None:
    """Start the thread, in the main process, of a worker that persists; one for other jobs must not pass for such."""
    if QUEUE in app.amqp.queues.consume_from:
        threading.Thread(target=_redrive, name="strata-redrive", daemon=True).start()


@worker_ready.connect  # type: ignore[untyped-decorator]
def start_chores(**_: Any) -> None:
    """Start the thread, in the main process of every worker; a lease in Redis says whose turn it is."""
    threading.Thread(target=_chores, name="strata-chores", daemon=True).start()


@worker_shutting_down.connect  # type: ignore[untyped-decorator]
def stop_redrive(**_: Any) -> None:
    """End the threads; running tasks go on to their end."""
    _stopped.set()


@worker_process_shutdown.connect  # type: ignore[untyped-decorator]
def close_child(**_: Any) -> None:
    """A child ends: what its hooks wrote behind is flushed, since atexit does not run there."""
    _close()


@worker_shutdown.connect  # type: ignore[untyped-decorator]
def close_worker(**_: Any) -> None:
    """The worker ends."""
    _close()


def _close() -> None:
    try:
        store().close(timeout=10)
    except StrataError as error:
        log.warning("the store was closed with writes left: %s", error)


def _redrive() -> None:
    while not _stopped.wait(INTERVAL):
        try:
            store().fleet.redrive()
        except StrataError:
            pass  # the ledger does not answer; the next second it may
        except Exception:
            log.exception("the look at the ledger failed")


def _chores() -> None:
    while True:
        try:
            store().fleet.make_partitions()
        except StrataError as error:
            log.warning("partitions could not be made: %s", error)
        except Exception:
            log.exception("the making of partitions failed")
        if _stopped.wait(CHORES):
            return
