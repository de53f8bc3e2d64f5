"""The doorbell: a Celery task with tiny arguments that asks the fleet to drain a shard.

It hangs in a thread of its own, since a broker that hangs must not stop the hand-offs. A ring that is lost costs
time only: flushers and workers look at the oldest due times once a second.
"""

from __future__ import annotations

import contextlib
from typing import Any

from strata.errors import UnavailableError
from strata.observe.log import SafeLogger
from strata.observe.metrics import SafeMetrics
from strata.writebehind.broker import Broker
from strata.writebehind.errands import Errands
from strata.writebehind.shard import Shard

TASK = "strata.persist"


class Doorbell:
    """Thread-safe. `_connection` and `_producer` belong to the thread alone. After fork the child makes another one."""

    def __init__(self, broker: Broker, log: SafeLogger, metrics: SafeMetrics) -> None:
        self._broker = broker
        self._log = log
        self._metrics = metrics
        self._errands = Errands("strata-doorbell", self._ring, log)
        self._connection: Any = None
        self._producer: Any = None

    def ring(self, shard: Shard) -> None:
        """Ask the fleet to drain the shard; returns at once."""
        self._errands.add(shard)

    @property
    def started(self) -> bool:
        """Whether the thread was started."""
        return self._errands.started

    def stop(self, timeout: float) -> None:
        """End the thread."""
        self._errands.stop(timeout)
        self._hang_up()

    def _ring(self, shard: Shard) -> None:
        try:
            if self._producer is None:
                app = self._broker.app
                self._connection = app.connection_for_write()
                self._producer = app.amqp.Producer(self._connection)
            self._broker.publish(TASK, (shard.schema, shard.number), producer=self._producer)
        except UnavailableError as error:
            self._hang_up()
            self._metrics.count("strata_write_behind_rings_lost", schema=shard.schema)
            self._log.warning("the doorbell could not be rung", schema=shard.schema, error=str(error))

    def _hang_up(self) -> None:
        connection, self._connection, self._producer = self._connection, None, None
        if connection is not None:
            with contextlib.suppress(Exception):
                connection.release()
