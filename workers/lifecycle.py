"""What a worker does besides its tasks: looks for overdue work once a second, and ends in order."""

from __future__ import annotations

import threading
from typing import Any

from celery.signals import worker_process_shutdown, worker_ready, worker_shutting_down

from strata.errors import StrataError
from workers.application import store

INTERVAL = 1.0  # seconds between looks at the oldest due time

_stopped = threading.Event()


@worker_ready.connect  # type: ignore[untyped-decorator]
def start_redrive(**_: Any) -> None:
    """Start the thread in the worker's main process; its children inherit neither it nor its connections."""
    threading.Thread(target=_redrive, name="strata-redrive", daemon=True).start()


@worker_shutting_down.connect  # type: ignore[untyped-decorator]
def stop_redrive(**_: Any) -> None:
    """End the thread; running tasks go on to their end."""
    _stopped.set()


@worker_process_shutdown.connect  # type: ignore[untyped-decorator]
def close_store(**_: Any) -> None:
    """A child ends: what its hooks wrote behind is flushed, since atexit does not run there."""
    try:
        store().close(timeout=10)
    except StrataError:
        pass  # it is safe in the ledger, or was reported by the store's log


def _redrive() -> None:
    while not _stopped.wait(INTERVAL):
        try:
            store().fleet.redrive()
        except StrataError:
            pass  # the ledger does not answer; the next second it may
