"""Loads that no caller has to wait for, in a few threads that come and go."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Hashable

from strata.observe.log import SafeLogger

QUEUED = 1000  # jobs that may wait for a thread
IDLE = 5.0  # seconds after which a thread without work ends, so that a store dropped unclosed leaves none
STOP_TIMEOUT = 2.0

Job = Callable[[], None]


class Background:
    """At most `threads` daemon threads, and a bounded queue.

    `_changed` guards every field below it. After fork the child calls `reset`: the parent's jobs are the parent's.
    """

    def __init__(self, threads: int, log: SafeLogger) -> None:
        self._most = threads
        self._log = log
        self.reset()

    def reset(self) -> None:
        """No thread, nothing to do."""
        self._changed = threading.Condition(threading.Lock())
        self._queue: deque[tuple[Hashable, Job]] = deque()
        self._keys: set[Hashable] = set()  # of what is queued or under way
        self._threads: set[threading.Thread] = set()
        self._idle = 0
        self._stopped = False

    @property
    def full(self) -> bool:
        """Whether jobs are refused since too many wait; a hint, read without the lock."""
        return len(self._queue) >= QUEUED

    def submit(self, key: Hashable, job: Job) -> bool:
        """Have the job run; False where it is not: too many wait, no thread can be had, or `key` is under way."""
        with self._changed:
            if self._stopped or key in self._keys or self.full:
                return False
            # One that was woken counts as idle until it runs.
            wanted = len(self._queue) >= self._idle and len(self._threads) < self._most
            if wanted and not self._start() and not self._threads:
                return False
            self._queue.append((key, job))
            self._keys.add(key)
            self._changed.notify()
            return True

    def stop(self) -> None:
        """Take no more jobs; those that wait are still run. Returns after `STOP_TIMEOUT` seconds at the latest."""
        with self._changed:
            self._stopped = True
            self._changed.notify_all()
            threads = list(self._threads)
        for thread in threads:
            if thread is not threading.current_thread():
                thread.join(STOP_TIMEOUT)

    def _start(self) -> bool:
        thread = threading.Thread(target=self._run, name="strata-background", daemon=True)
        self._threads.add(thread)
        try:
            thread.start()
        except RuntimeError:  # the interpreter is going down, or has no thread to give
            self._threads.discard(thread)
            return False
        return True

    def _run(self) -> None:
        while (taken := self._take()) is not None:
            key, job = taken
            try:
                job()
            except BaseException as error:  # noqa: BLE001 nobody waits for it, and the thread is needed
                self._log.debug("a background load failed", error=type(error).__name__)
            finally:
                with self._changed:
                    self._keys.discard(key)

    def _take(self) -> tuple[Hashable, Job] | None:
        with self._changed:
            while not self._queue:
                self._idle += 1
                woken = not self._stopped and self._changed.wait(IDLE)
                self._idle -= 1
                if not woken and not self._queue:
                    self._threads.discard(threading.current_thread())
                    return None
            return self._queue.popleft()
