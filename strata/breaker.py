"""A circuit breaker: after a failure of a server, nobody waits for it again until a probe succeeds.

States and names are those of M. Nygard, "Release It!": closed, open, half-open.
"""

from __future__ import annotations

import random
import threading

from strata.clock import Clock


class Breaker:
    """Opens at `threshold` failures in a row; then lets one caller through each `pause` seconds as a probe.

    `said` is what the last failure was, for those who are not let through. The pause doubles up to `longest` while
    probes fail. Thread-safe: `_lock` guards every field below it; `closed` and `said` are read without it, since a
    stale answer costs at most one more time-out. After fork the child calls `reset`.
    """

    def __init__(self, clock: Clock, *, threshold: int = 2, pause: float = 0.25, longest: float = 1.0) -> None:
        self._clock = clock
        self._threshold = threshold
        self._first_pause = pause
        self._longest = longest
        self.reset()

    def reset(self) -> None:
        """Forget every failure."""
        self._lock = threading.Lock()
        self._failures = 0
        self._pause = self._first_pause
        self._retry_at = 0.0
        self.said = ""
        self.closed = True

    def allow(self) -> bool:
        """Whether this caller may ask the server; in the open state one caller a pause may, as the probe."""
        if self.closed:
            return True
        with self._lock:
            now = self._clock.monotonic()
            if now < self._retry_at:
                return False
            self._retry_at = now + self._pause
            return True

    def succeeded(self) -> None:
        """The server answered."""
        if self.closed and not self._failures:
            return
        with self._lock:
            self._failures = 0
            self._pause = self._first_pause
            self.closed = True

    def failed(self, said: object) -> None:
        """The server did not answer, or cannot be used; `said` is why, in words that may be shown."""
        with self._lock:
            self._failures += 1
            self.said = str(said)
            if self._failures < self._threshold:
                return
            if not self.closed:
                self._pause = min(self._pause * 2, self._longest)
            self.closed = False
            self._retry_at = self._clock.monotonic() + self._pause * random.uniform(0.8, 1.2)  # noqa: S311 jitter
