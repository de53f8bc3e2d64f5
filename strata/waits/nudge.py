"""`Nudge`: one operation wakes another."""

from __future__ import annotations

import threading

from strata.waits import hub

LOOK = 0.05  # seconds after which who waits looks for itself, since whoever was to nudge may have been interrupted


class Nudge:
    """Wakes the one operation that waits for it, now or when it comes; several are one. Made of one lock, so it is
    whole after any exception from outside, in the one who gives as in the one who waits."""

    __slots__ = ("_lock",)

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._lock.acquire()

    def give(self) -> None:
        """Wake the one who waits."""
        try:
            self._lock.release()
        except RuntimeError:
            pass  # given already

    def wait(self, seconds: float | None = None) -> bool:
        """Wait for a nudge, `seconds` at most; whether there was one."""
        return hub.current().nudged(self, seconds)

    def block(self, seconds: float | None) -> bool:
        """As `wait`, in a thread of the system, which stands still meanwhile."""
        if seconds is None:
            return self._lock.acquire()
        return self._lock.acquire(timeout=min(max(seconds, 0.0), threading.TIMEOUT_MAX))
