"""A thread that runs errands to shards, each at most once at a time, so that whoever sends it never waits."""

from __future__ import annotations

from collections.abc import Callable

from strata.errors import StrataError
from strata.interrupts import Nudge
from strata.observe.log import SafeLogger
from strata.threads import OwnThread
from strata.writebehind.shard import Shard


class Errands:
    """Started by the first errand; thread-safe: `_waiting` is a dict of which each use is one call.

    After fork the child makes another one. At exit the daemon thread just ends: nothing depends on its errands.
    """

    def __init__(self, name: str, run: Callable[[Shard], object], log: SafeLogger) -> None:
        self._name = name
        self._run = run
        self._log = log
        self._nudge = Nudge()
        self._waiting: dict[Shard, None] = {}
        self._own = OwnThread(name, self._loop)

    def add(self, shard: Shard) -> None:
        """Send it to a shard; one that waits already is not sent twice."""
        if self._own.stopped:
            return
        self._waiting[shard] = None
        self._own.start()
        self._nudge.give()

    @property
    def started(self) -> bool:
        """Whether the thread was started."""
        return self._own.started

    def stop(self, timeout: float) -> None:
        """No more errands; wait for the one under way."""
        self._own.stop()
        self._waiting.clear()
        self._nudge.give()
        self._own.join(timeout)

    def _loop(self) -> None:
        while self._own.goes_on:
            if not self._waiting:
                self._nudge.wait()
                continue
            for shard in list(self._waiting):
                self._waiting.pop(shard, None)  # from now on it can be sent there again
                self._go(shard)
                if not self._own.goes_on:
                    return

    def _go(self, shard: Shard) -> None:
        try:
            self._run(shard)
        except StrataError as error:
            self._log.debug("an errand failed", errand=self._name, error=type(error).__name__)
        except Exception as error:  # noqa: BLE001 the thread must outlive a mistake in one errand
            self._log.error("an errand failed", errand=self._name, error=type(error).__name__)
