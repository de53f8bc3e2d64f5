"""One daemon thread of a part that needs one, started when it is first wanted."""

from __future__ import annotations

import threading
from collections.abc import Callable


class OwnThread:
    """Runs `run` in a thread of its own, once. `run` returns soon after `goes_on` has become false.

    Thread-safe: `_lock` guards `_thread` and `_stopped`. It is never held while the thread starts, nor may a caller
    hold one then: under gevent and eventlet a start gives way to others, who would wait for that lock for ever. After
    fork the child calls `reset`. At exit the thread just ends.
    """

    def __init__(self, name: str, run: Callable[[], None]) -> None:
        self._name = name
        self._run = run
        self.reset()

    def reset(self) -> None:
        """As new: not started, not stopped."""
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._stopped = False

    @property
    def started(self) -> bool:
        """Whether it runs, or is about to."""
        return self._thread is not None

    @property
    def stopped(self) -> bool:
        """Whether it is to run no more."""
        return self._stopped

    @property
    def goes_on(self) -> bool:
        """Whether the thread that asks is still the one that is to run: not one whose start was broken off."""
        return not self._stopped and self._thread is threading.current_thread()

    def start(self) -> None:
        """Start the thread, unless it runs or was stopped. Where no thread can be had, the next call may."""
        if self._thread is not None or self._stopped:
            return
        thread = threading.Thread(target=self._main, name=self._name, daemon=True)
        try:
            with self._lock:
                if self._thread is not None or self._stopped:
                    return
                self._thread = thread
            thread.start()
        except BaseException as error:
            if self._thread is thread:
                self._thread = None
            if not isinstance(error, RuntimeError):  # can't start new thread; or the interpreter is ending
                raise

    def stop(self) -> None:
        """Not to run any more; whoever calls this wakes it, and may `join` it."""
        with self._lock:
            self._stopped = True

    def join(self, timeout: float) -> bool:
        """Wait for its end, for `timeout` seconds at most; whether it has ended."""
        thread = self._thread
        if thread is None or thread is threading.current_thread():
            return thread is None
        try:
            thread.join(timeout)
        except RuntimeError:
            return True  # it was to start just now, and finds that it was stopped
        return not thread.is_alive()

    def _main(self) -> None:
        if self.goes_on:
            self._run()
