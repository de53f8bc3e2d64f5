"""A thread that does something every so often."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable


class Ticker:
    """Calls `tick`, a method, every `interval` seconds in a daemon thread.

    The thread starts at the first `start`, so that a process that forks before forks without it, and ends when the
    method's object is gone, which it does not keep alive. `_lock` guards `_thread`. After fork the child calls
    `after_fork`.
    """

    def __init__(self, name: str, interval: float, tick: Callable[[], None]) -> None:
        self._name = name
        self._interval = interval
        self._tick = weakref.WeakMethod(tick)
        self._thread: threading.Thread | None = None
        self._reset()

    @property
    def stopped(self) -> bool:
        """Whether it was stopped for good."""
        return self._stopped.is_set()

    def start(self) -> None:
        """Start the thread, unless it runs or was stopped. Never raises."""
        if self._thread is not None:
            return
        with self._lock:
            if self._thread is not None or self.stopped:
                return
            arguments = (self._tick, self._stopped, self._interval)
            thread = threading.Thread(target=_run, args=arguments, name=self._name, daemon=True)
            try:
                thread.start()
            except RuntimeError:
                return  # the interpreter is going down, or has no thread to give
            self._thread = thread

    def stop(self, timeout: float) -> None:
        """End the thread, waiting for at most `timeout` seconds; it does not come back. Idempotent."""
        self._stopped.set()
        with self._lock:
            thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            thread.join(timeout)

    def after_fork(self) -> None:
        """In the child: no thread, until it is started again, unless it was stopped."""
        stopped = self.stopped
        self._reset()
        if stopped:
            self._stopped.set()

    def _reset(self) -> None:
        self._lock = threading.Lock()
        self._stopped = threading.Event()
        self._thread = None


def _run(tick: weakref.WeakMethod[Callable[[], None]], stopped: threading.Event, interval: float) -> None:
    while not stopped.wait(interval):
        call = tick()
        if call is None:
            return
        call()
        del call
