"""A thread that does something every so often."""

from __future__ import annotations

import weakref
from collections.abc import Callable

from strata.interrupts import Nudge
from strata.threads import OwnThread


class Ticker:
    """Calls `tick`, a method, every `interval` seconds in a daemon thread.

    The thread starts at the first `start`, so that a process that forks before forks without it, and ends when the
    method's object is gone, which it does not keep alive. After fork the child calls `after_fork`.
    """

    def __init__(self, name: str, interval: float, tick: Callable[[], None]) -> None:
        self._interval = interval
        self._tick = weakref.WeakMethod(tick)
        self._end = Nudge()
        self._own = OwnThread(name, self._run)

    @property
    def started(self) -> bool:
        """Whether the thread runs, or is about to."""
        return self._own.started

    @property
    def stopped(self) -> bool:
        """Whether it was stopped for good."""
        return self._own.stopped

    def start(self) -> None:
        """Start the thread, unless it runs or was stopped. To be called without any lock held."""
        self._own.start()

    def stop(self, timeout: float) -> None:
        """End the thread, waiting for at most `timeout` seconds; it does not come back. Idempotent."""
        self._own.stop()
        self._end.give()
        self._own.join(timeout)

    def after_fork(self) -> None:
        """In the child: no thread, until it is started again, unless it was stopped."""
        stopped = self.stopped
        self._end = Nudge()
        self._own.reset()
        if stopped:
            self._own.stop()

    def _run(self) -> None:
        while not self._end.wait(self._interval) and self._own.goes_on:
            call = self._tick()
            if call is None:
                return
            call()
            del call
