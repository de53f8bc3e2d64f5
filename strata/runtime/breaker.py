"""A circuit breaker: after a failure of a server, nobody waits for it again until a probe succeeds.

States and names are those of M. Nygard, "Release It!": closed, open, half-open.
"""

from __future__ import annotations

from typing import Any, Protocol

from strata import waits
from strata.waits.clock import Clock
from strata.waits.locks import memory_lock


class Watcher(Protocol):
    """Is told when a breaker opens and closes, and of calls that it turns away; called without a lock held."""

    def gone(self, cause: str, advice: str = "") -> None: ...

    def back(self) -> None: ...

    def missed(self) -> None: ...


class Grumbler(Protocol):
    """Is told of what a server that is there refused; `fades`, of a call that went well, once `away` is set."""

    away: Any

    def gone(self, cause: str, advice: str = "") -> None: ...

    def fades(self, seconds: float) -> None: ...


class _Nobody:
    away = None

    def gone(self, cause: str, advice: str = "") -> None: ...

    def back(self) -> None: ...

    def missed(self) -> None: ...

    def fades(self, seconds: float) -> None: ...


NOBODY = _Nobody()


class Breaker:
    """Opens at `threshold` failures in a row; then lets one caller through each `pause` seconds as a probe.

    `said` is what the last failure was, for those who are not let through. `answered_at` is a time since which the
    server has answered something, by the monotonic clock; None before it ever did. The pause doubles up to `longest`
    while probes fail.
    Thread-safe: `_lock` guards every field below it; `closed`, `said` and `answered_at` are read without it, since a
    stale answer costs at most one more time-out. After fork the child calls `reset`.
    """

    def __init__(self, clock: Clock, *, threshold: int = 2, pause: float = 0.25, longest: float = 1.0) -> None:
        self._clock = clock
        self._threshold = threshold
        self._first_pause = pause
        self._longest = longest
        self.watcher: Watcher = NOBODY  # set once, before the server is used
        self.reset()

    def reset(self) -> None:
        """Forget every failure."""
        self._lock = memory_lock()
        self._failures = 0
        self._pause = self._first_pause
        self._retry_at = 0.0
        self._opened_at = 0.0
        self.said = ""
        self.answered_at: float | None = None
        self.closed = True

    def allow(self) -> bool:
        """Whether this caller may ask the server; in the open state one caller a pause may, as the probe."""
        if self.closed:
            return True
        with self._lock:
            now = self._clock.monotonic()
            if now >= self._retry_at:
                self._retry_at = now + self._pause
                return True
        self.watcher.missed()
        return False

    def succeeded(self, asked: float, answered: float | None = None) -> None:
        """The server answered what it was asked at that time, by the monotonic clock; `answered`: when that was, where
        it may have been much later."""
        self.answered_at = asked if answered is None else answered
        if self.closed and not self._failures:
            return
        with self._lock:
            if not self.closed and asked < self._opened_at:
                return  # the answer was on its way when the server went
            self._failures = 0
            self._pause = self._first_pause
            self.closed = True
        self.watcher.back()
        if not self.closed:  # another thread has found it away meanwhile, and may have said so before
            self.watcher.gone(self.said)

    def failed(self, said: object, cause: str = "", advice: str = "") -> None:
        """The server did not answer, or cannot be used; `said` is why, in words that may be shown; `cause` says it in
        few words, and `advice` what to do, for the watcher."""
        with self._lock:
            self._failures += 1
            self.said = str(said)
            if self._failures < self._threshold:
                return
            now = self._clock.monotonic()
            if self.closed:
                self._opened_at = now
            else:
                self._pause = min(self._pause * 2, self._longest)
            self.closed = False
            self._retry_at = now + self._pause * waits.uniform(0.8, 1.2)
        self.watcher.gone(cause or self.said, advice)
        if self.closed:  # as above, the other way round
            self.watcher.back()
