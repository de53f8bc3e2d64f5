"""A thread that runs errands to shards, each at most once at a time, so that whoever sends it never waits."""

from __future__ import annotations

from collections.abc import Callable

from strata.errors import StrataError
from strata.observe.log import SafeLogger
from strata.runtime.daemon import Daemon
from strata.writebehind.ledger.shard import Shard


class KeyedWorker:
    """Started by the first errand; thread-safe: `_waiting` is a dict of which each use is one call.

    After fork the child makes another one. Nothing depends on the errands that are left at exit.
    """

    def __init__(self, name: str, run: Callable[[Shard], object], log: SafeLogger) -> None:
        self._run = run
        self._log = log
        self._waiting: dict[Shard, None] = {}
        self.daemon = Daemon(name, self._step, log)

    def add(self, shard: Shard) -> None:
        """Send it to a shard; one that waits already is not sent twice."""
        if not self.daemon.stopped:
            self._waiting[shard] = None
            self.daemon.wake()

    def stop(self, timeout: float) -> None:
        """No more errands; wait for the one under way."""
        self.daemon.stop()
        self._waiting.clear()
        self.daemon.join(timeout)

    def _step(self) -> None:
        for shard in list(self._waiting):
            self._waiting.pop(shard, None)  # from now on it can be sent there again
            try:
                self._run(shard)
            except StrataError as error:
                self._log.debug("an errand failed", errand=self.daemon.name, error=type(error).__name__)
            if self.daemon.stopped:
                return
