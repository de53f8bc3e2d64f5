"""Loads that no caller has to wait for, in a few threads that come and go."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Hashable

from strata import waits
from strata.observe.log import SafeLogger
from strata.runtime.daemon import Daemon

QUEUED = 1000  # jobs that may wait for a thread
IDLE = 5.0  # seconds after which a thread without work ends
STOP_TIMEOUT = 2.0

Job = Callable[[], None]


class Background:
    """At most `threads` daemon threads, and a bounded queue.

    `_queue`, `_keys` and `_free` are collections of which each use is one call. Whoever takes a hand out of `_free`
    calls it; a hand puts itself in before it looks into the queue for the last time, so that no job is left to nobody.
    After fork the child calls `reset`: the parent's jobs are the parent's.
    """

    def __init__(self, threads: int, log: SafeLogger) -> None:
        self._most = threads
        self._log = log
        self.reset()

    def reset(self) -> None:
        """No thread, nothing to do."""
        self._queue: deque[tuple[Hashable, Job]] = deque()
        self._keys: dict[Hashable, object] = {}  # of what is queued or under way, by whose submission
        self._hands = [_Hand(self, self._log) for _ in range(self._most)]
        self._free = dict.fromkeys(self._hands)
        self.stopped = False

    @property
    def full(self) -> bool:
        """Whether jobs are refused since too many wait; a hint."""
        return len(self._queue) >= QUEUED

    @property
    def daemons(self) -> list[Daemon]:
        """The threads, started or not."""
        return [hand.daemon for hand in self._hands]

    def submit(self, key: Hashable, job: Job) -> bool:
        """Have the job run; False where it is not: too many wait, no thread can be had, or `key` is under way.

        To be called without any lock held.
        """
        me, queued = object(), False
        if self.stopped or self.full:
            return False
        try:
            if self._keys.setdefault(key, me) is not me:
                queued = True
                return False
            first = None
            if len(self._free) == self._most and (first := self._call()) is None:
                return False
            queued = True
            self._queue.append((key, job))
            if first is None or first in self._free:
                self._call()
            return True
        finally:
            if not queued:
                self._keys.pop(key, None)

    def stop(self) -> None:
        """Take no more jobs; those that wait are still run. Returns after `STOP_TIMEOUT` seconds at the latest."""
        self.stopped = True
        until = waits.monotonic() + STOP_TIMEOUT
        begun = [daemon for daemon in self.daemons if daemon.started]
        for daemon in begun:
            daemon.wake()
        for daemon in begun:
            daemon.join(max(0.0, until - waits.monotonic()))

    def _call(self) -> _Hand | None:
        """Have a free hand look into the queue, the one that was busy last."""
        try:
            hand, _ = self._free.popitem()
        except KeyError:
            return None
        if hand.daemon.wake():
            return hand
        self._free[hand] = None
        return None

    def work(self, hand: _Hand) -> None:
        """Run jobs in a hand's thread, until there are none."""
        while True:
            while (taken := self._next()) is not None:
                self._run(*taken)
                del taken
            self._free[hand] = None
            if not self._queue or self._free.pop(hand, self) is self:
                return  # who took it out has called it

    def _run(self, key: Hashable, job: Job) -> None:
        try:
            job()
        except BaseException as error:  # noqa: BLE001 nobody waits for it, and the thread is needed
            self._log.debug("a background load failed", error=type(error).__name__)
        finally:
            self._keys.pop(key, None)

    def _next(self) -> tuple[Hashable, Job] | None:
        try:
            return self._queue.popleft()
        except IndexError:
            return None


class _Hand:
    """One of the threads."""

    def __init__(self, pool: Background, log: SafeLogger) -> None:
        self._pool = pool
        self.daemon = Daemon("strata-background", self._step, log, linger=IDLE)

    def _step(self) -> None:
        self._pool.work(self)
        if self._pool.stopped:
            self.daemon.stop()
