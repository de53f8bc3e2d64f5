"""Whether a Redis is still what it was, which the subscription does not show.

One that is flushed keeps its connections: it is asked again whose it is (`ownership.py`), before another application
takes it for its own.

The subscription to a single Redis, or to the master that Sentinels name, breaks when its server is gone. In a Cluster
it is held by any one node, and does not care for the others. But each failover raises the Cluster's epoch.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from strata.waits.clock import Clock

if TYPE_CHECKING:
    from strata.l2.client import RedisServer

INTERVAL = 1.0  # seconds between looks
EPOCH = re.compile(rb"cluster_current_epoch:(\d+)")


class Lineage:
    """Used by the bus's thread only. `on_change` is called when the epoch has changed since the last look."""

    def __init__(self, server: RedisServer, on_change: Callable[[], None], clock: Clock) -> None:
        self._server = server
        self._on_change = on_change
        self._clock = clock
        self._due = 0.0
        self._epoch: Any = None

    def look(self) -> None:
        """Ask whose it is, and for the epoch, where it is time. Raises `L2UnavailableError`, `InvalidConfigError`."""
        now = self._clock.monotonic()
        if now < self._due:
            return
        self._due = now + INTERVAL
        self._server.look()
        if not self._server.clustered:
            return
        found = EPOCH.search(self._server.execute("CLUSTER", "INFO"))
        known, self._epoch = self._epoch, None if found is None else found[1]
        if known is not None and known != self._epoch:
            self._on_change()
