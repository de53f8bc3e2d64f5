"""`Nudge`: one operation wakes another."""

from __future__ import annotations

import threading
from collections.abc import Callable

from strata.waits import hub


class Nudge:
    """Wakes the one operation that waits for it, now or when it comes; several are one. Made of one lock, so it is
    whole after any exception from outside, in the one who gives as in the one who waits. `told` is set by the hub of
    the one who waits, where it is to be called when a nudge was given, in the thread of the one who gives."""

    __slots__ = ("_lock", "told")

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._lock.acquire()
        self.told: Callable[[], object] | None = None

    def give(self) -> None:
        """Wake the one who waits."""
        try:
            self._lock.release()
        except RuntimeError:
            return  # given already
        if (told := self.told) is not None:
            told()

    def wait(self, seconds: float | None = None) -> bool:
        """Wait for a nudge, `seconds` at most; whether there was one."""
        return hub.current().nudged(self, seconds)

    def wait_a_while(self, seconds: float) -> None:
        """As `wait`, or until it is time to look whether the nudge was missed."""
        at = hub.current()
        at.nudged(self, min(seconds, at.look))

    def block(self, seconds: float | None) -> bool:
        """As `wait`, in a thread of the system, which stands still meanwhile."""
        if seconds is None:
            return self._lock.acquire()
        return self._lock.acquire(timeout=min(max(seconds, 0.0), threading.TIMEOUT_MAX))
