"""The doorbell: a Celery task with tiny arguments that asks the fleet to drain a shard.

It hangs in a thread of its own, since a broker that hangs must not stop the hand-offs. A ring that is lost costs
time only: flushers and workers look at the oldest due times once a second.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable
from typing import Any

from strata.errors import UnavailableError
from strata.forks.inherited import abandon_in_child
from strata.l2.causes import cause_of
from strata.l2.wire import abandon
from strata.observe.log import SafeLogger
from strata.observe.metrics import SafeMetrics
from strata.observe.outages import Outage
from strata.writebehind.fleet.broker import Broker
from strata.writebehind.fleet.keyed_worker import KeyedWorker
from strata.writebehind.ledger.shard import Shard

TASK = "strata.persist"


class Doorbell:
    """Thread-safe. `_connection` and `_producer` belong to the thread; `stop` takes them from one that hangs at the
    broker. After fork the child closes their sockets and makes another doorbell."""

    def __init__(
        self, broker: Broker, log: SafeLogger, metrics: SafeMetrics, because: Callable[[], Iterable[Outage]] = tuple
    ) -> None:
        self._broker = broker
        self._outage = log.outage(
            "the broker takes no doorbells",
            "the broker takes doorbells again",
            tell=lambda: {"address": broker.address, "meanwhile": "workers find the work within some seconds"},
            because=because,
        )
        self._metrics = metrics
        self._ringer = KeyedWorker("strata-doorbell", self._ring, log)
        self.daemon = self._ringer.daemon
        self._connection: Any = None
        self._producer: Any = None
        abandon_in_child(self)

    def ring(self, shard: Shard) -> None:
        """Ask the fleet to drain the shard; returns at once."""
        self._ringer.add(shard)

    def stop(self, timeout: float) -> None:
        """End the thread."""
        self._ringer.stop(timeout)
        self._hang_up()

    def abandon(self) -> None:
        """In the child of a fork: close the parent's sockets, without a word on them."""
        connection = self._connection
        if (amqp := getattr(getattr(connection, "_connection", None), "transport", None)) is not None:
            amqp.sock.close()
        transport = getattr(connection, "_transport", None)
        if (poller := getattr(getattr(transport, "cycle", None), "poller", None)) is not None:
            poller.close()
        for channel in getattr(transport, "channels", None) or ():
            for pool in (getattr(channel, "_pool", None), getattr(channel, "_async_pool", None)):
                if pool is not None:
                    abandon([*pool._available_connections, *pool._in_use_connections])

    def _ring(self, shard: Shard) -> None:
        try:
            if self._producer is None:
                app = self._broker.app
                self._connection = app.connection_for_write()
                self._producer = app.amqp.Producer(self._connection)
            self._broker.publish(TASK, (shard.schema, shard.number), producer=self._producer)
            self._outage.back()
        except UnavailableError as error:
            self._hang_up()
            self._metrics.count("strata_write_behind_rings_lost", schema=shard.schema)
            refusal = self._broker.refusal(error)
            if refusal is None:
                self._outage.gone(cause_of(error.__cause__ or error))
            else:
                self._outage.gone(refusal.found, refusal.advice)

    def _hang_up(self) -> None:
        connection, self._connection, self._producer = self._connection, None, None
        if connection is not None:
            with contextlib.suppress(Exception):
                connection.release()
