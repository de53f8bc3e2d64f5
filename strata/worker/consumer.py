"""What a worker takes from the broker: whatever stands there, only what is a message of a task reaches Celery.

Celery reads a message bit by bit: what it did not foresee ends the worker, or costs it one of its slots for good, and
the message goes back into its queue, to the next worker.
"""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import Callable
from datetime import datetime
from typing import Any

import msgspec
from celery.exceptions import CPendingDeprecationWarning
from celery.worker import consumer, request
from celery.worker.consumer.consumer import promise

from strata.observe.log import SafeLogger, StandardLogger
from strata.protocol.entry import UNDECODABLE

_NO_MESSAGE = (*UNDECODABLE, LookupError, TypeError, AttributeError)  # what reading nonsense ends in
# Where the broker is lost, tasks under way go on, a migration for instance: that is meant, and needs no warning.
_CANCEL = "(?s).*worker_cancel_long_running_tasks_on_connection_loss"
warnings.filterwarnings("ignore", _CANCEL, CPendingDeprecationWarning)
_log = SafeLogger(StandardLogger("strata.worker"))
_NOT_ACKNOWLEDGED = "Couldn't ack %r, reason:%r"  # kombu's, of a message whose connection was lost under way
_Seconds = float | None


class Headers(msgspec.Struct, frozen=True):
    """Those of Celery's protocol 2 that a worker reads; others may be there."""

    task: str
    id: str
    lang: str | None = None
    root_id: str | None = None
    parent_id: str | None = None
    group: str | None = None
    group_index: int | None = None
    eta: datetime | None = None
    expires: datetime | None = None
    retries: int | None = 0
    timelimit: tuple[_Seconds, _Seconds] | None = None
    argsrepr: str | None = None
    kwargsrepr: str | None = None
    origin: str | None = None
    shadow: str | None = None
    replaced_task_nesting: int = 0
    stamped_headers: list[str] | None = None
    stamps: dict[str, Any] | None = None


_Body = tuple[list[Any], dict[str, Any], dict[str, None]]  # arguments, and what else is to be called: nothing


class Consumer(consumer.Consumer):  # type: ignore[misc]
    """Called by the worker's main thread only. What is no message at all, so that kombu stumbles over it, costs a new
    connection, and no more: it is out of its queue by then."""

    connection: Any  # kombu's, while there is one
    connection_errors: tuple[type[BaseException], ...]

    def __init__(self, *given: Any, **named: Any) -> None:
        # Workers have nothing to say to each other. Where the broker goes, gossip fails with a traceback, and each
        # start would wait a second for neighbours.
        alone = {"without_gossip": True, "without_mingle": True}
        super().__init__(*given, **named | {"worker_options": {**(named.get("worker_options") or {}), **alone}})
        self.connection_errors += _NO_MESSAGE

    def create_task_handler(self, promise: Any = promise) -> Callable[..., Any]:
        """Celery's, for messages of a task; the others are acknowledged, so that they do not come back."""
        handle = super().create_task_handler(promise)

        def on_task_received(message: Any) -> Any:
            try:
                msgspec.convert(message.headers, Headers)
                msgspec.convert(message.payload, _Body)
            except Exception as error:  # noqa: BLE001 of any of the libraries that decode it
                _say(error)
                message.ack_log_error(consumer.consumer.logger, self.conninfo.connection_errors)
            else:
                return handle(message)

        return on_task_received

    def on_connection_error_after_connected(self, exc: BaseException) -> None:
        """Begin anew, and say why."""
        # With a task under way kombu fails to close a connection to a Redis that is away: it asserts that every message
        # was given back. Celery would end the worker. The broker gives the message to another worker, or again to this.
        with contextlib.suppress(Exception):
            if isinstance(exc, _NO_MESSAGE):
                _say(exc)
                self.connection.collect()
            else:
                super().on_connection_error_after_connected(exc)


def _brief(record: logging.LogRecord) -> bool:
    """A filter of the logger of Celery's requests: an outage is no traceback."""
    if record.msg == _NOT_ACKNOWLEDGED:
        record.exc_info = record.exc_text = None
    return True


request.logger.addFilter(_brief)


def _say(error: BaseException) -> None:
    _log.warning("what came from the broker is no message of a task; it is left out", reason=type(error).__name__)
