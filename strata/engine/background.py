"""Loads that no caller has to wait for, in a few threads that come and go."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Hashable

from strata.interrupts import Nudge
from strata.observe.log import SafeLogger

QUEUED = 1000  # jobs that may wait for a thread
IDLE = 5.0  # seconds after which a thread without work ends, so that a store dropped unclosed leaves none
STOP_TIMEOUT = 2.0

Job = Callable[[], None]


class Background:
    """At most `threads` daemon threads, and a bounded queue.

    `_queue`, `_keys`, `_threads` and `_idle` are collections of which each use is one call; `_lock` guards only how
    many threads there are. After fork the child calls `reset`: the parent's jobs are the parent's.
    """

    def __init__(self, threads: int, log: SafeLogger) -> None:
        self._most = threads
        self._log = log
        self.reset()

    def reset(self) -> None:
        """No thread, nothing to do."""
        self._lock = threading.Lock()
        self._queue: deque[tuple[Hashable, Job]] = deque()
        self._keys: dict[Hashable, object] = {}  # of what is queued or under way, by whose submission
        self._threads: dict[threading.Thread, None] = {}
        self._idle: dict[threading.Thread, Nudge] = {}  # those that look into the queue before they sleep
        self._stopped = False

    @property
    def full(self) -> bool:
        """Whether jobs are refused since too many wait; a hint."""
        return len(self._queue) >= QUEUED

    @property
    def begun(self) -> bool:
        """Whether there are threads."""
        return bool(self._threads)

    def submit(self, key: Hashable, job: Job) -> bool:
        """Have the job run; False where it is not: too many wait, no thread can be had, or `key` is under way.

        To be called without any lock held.
        """
        me, queued = object(), False
        if self._stopped or self.full:
            return False
        try:
            if self._keys.setdefault(key, me) is not me:
                queued = True
                return False
            first = not self._threads and self._start()
            if not self._threads:
                return False
            queued = True
            self._queue.append((key, job))
            self._call(start=not first)
            return True
        finally:
            if not queued:
                self._keys.pop(key, None)

    def stop(self) -> None:
        """Take no more jobs; those that wait are still run. Returns after `STOP_TIMEOUT` seconds at the latest."""
        self._stopped = True
        for nudge in list(self._idle.values()):
            nudge.give()
        for thread in list(self._threads):
            if thread is not threading.current_thread() and thread.ident is not None:
                thread.join(STOP_TIMEOUT)

    def _call(self, *, start: bool) -> None:
        """Wake a thread; `start` one where all are at work."""
        try:
            _, nudge = self._idle.popitem()
        except KeyError:
            if start:
                self._start()
        else:
            nudge.give()

    def _start(self) -> bool:
        """One more thread, if there may be one and the system has one to give."""
        thread = threading.Thread(target=self._run, name="strata-background", daemon=True)
        started = False
        try:
            with self._lock:
                if len(self._threads) >= self._most:
                    return False
                self._threads[thread] = None
            thread.start()
            started = True
        except RuntimeError:  # the interpreter is going down, or has no thread to give
            pass
        finally:
            if not started:
                self._threads.pop(thread, None)
        return started

    def _run(self) -> None:
        me, nudge = threading.current_thread(), Nudge()
        while (taken := self._take(me, nudge)) is not None:
            key, job = taken
            try:
                job()
            except BaseException as error:  # noqa: BLE001 nobody waits for it, and the thread is needed
                self._log.debug("a background load failed", error=type(error).__name__)
            finally:
                self._keys.pop(key, None)
            del job, taken

    def _take(self, me: threading.Thread, nudge: Nudge) -> tuple[Hashable, Job] | None:
        while True:
            # Before the look: whoever queues a job from now on finds this thread and calls it.
            self._threads[me] = None
            self._idle[me] = nudge
            if (job := self._next()) is not None:
                self._idle.pop(me, None)
                return job
            if self._stopped or not nudge.wait(IDLE):
                called = self._idle.pop(me, None) is None
                self._threads.pop(me, None)
                if not called and not self._queue:
                    return None

    def _next(self) -> tuple[Hashable, Job] | None:
        try:
            return self._queue.popleft()
        except IndexError:
            return None
