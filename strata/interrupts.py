"""What holds where an exception comes from outside, at any moment: raised by a signal's handler (Celery's soft time
limit, an alarm, Ctrl-C), by gevent.Timeout, or by another thread (PyThreadState_SetAsyncExc).

CPython 3.11 to 3.14 lets one in where a function written in Python begins, where a loop turns back, and when a call of
a function written in C has returned; a wait in C, as for a lock, is broken off before it has its effect. It comes
nowhere else: not between two stores of attributes, nor between a `return` and its caller's next instruction. Hence:

- `with lock:` on a lock made by `threading.Lock` or `RLock`, which are C, leaves no lock held. `lock.acquire()` and
  then `try` does. So do Condition, Event and Semaphore, whose `__enter__` is Python: the exception comes between their
  lock's and their caller's block. Calls of the user's never use these, but `Nudge`; only threads of ours may, since no
  signal's handler runs there.
- Whoever takes something announces it inside the `try` whose `finally` takes it back, by a name that it has before.
- A cleaning up that is written in Python may not even begin. What has to be is the first thing in a `finally`: one
  store, or one call in C. Or it comes with the end of an object that only the interrupted call holds (`Seats`).
- What was in the midst of an exchange is thrown away, never used again; a half change of the dirty buffer is mended.
"""

from __future__ import annotations

import threading
import time
import weakref

LOOK = 0.05  # seconds after which who waits looks for itself, since whoever was to nudge may have been interrupted


class Nudge:
    """Wakes the one thread that waits for it, now or when it comes; several are one. Made of one lock, so it is whole
    after any exception from outside, in the one who gives as in the one who waits."""

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
        if seconds is None:
            return self._lock.acquire()
        return self._lock.acquire(timeout=min(max(seconds, 0.0), threading.TIMEOUT_MAX))


class Seats:
    """At most `size` users at a time. A user is any object that lives for as long as the use and no longer.

    A use ends with `leave`, and at the latest with the life of its user: the reference's callback is a method of C.
    Thread-safe: `_lock` guards the count against another taker; entries leave without it. After fork the child makes
    another one, in which users of the parent's leave no trace.
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self._lock = threading.Lock()
        self._used: dict[weakref.ref[object], None] = {}
        self._waiting: dict[Nudge, None] = {}

    @property
    def used(self) -> int:
        """How many there are."""
        return len(self._used)

    def sit(self, user: object) -> bool:
        """Take a seat for `user`, where one is free."""
        used = self._used
        reference = weakref.ref(user, used.pop)
        with self._lock:
            if len(used) < self._size:
                used[reference] = None
                return True
            return False

    def take(self, user: object, patience: float) -> bool:
        """Take a seat for `user`, as soon as one is free; False after `patience` seconds."""
        return self.sit(user) or self._wait(user, patience)

    def leave(self, user: object) -> None:
        """Give the seat back; no matter whether `user` has one."""
        self._used.pop(weakref.ref(user), None)
        if self._waiting:
            self._call_next()

    def _wait(self, user: object, patience: float) -> bool:
        # By the system's clock: it is a thread that waits here.
        deadline = time.monotonic() + patience
        nudge = Nudge()
        try:
            self._waiting[nudge] = None
            while not self.sit(user):
                left = deadline - time.monotonic()
                if left <= 0:
                    return False
                nudge.wait(min(left, LOOK))
        finally:
            self._waiting.pop(nudge, None)
        if self._waiting and len(self._used) < self._size:
            self._call_next()  # two left while one was called
        return True

    def _call_next(self) -> None:
        for nudge in list(self._waiting)[:1]:
            nudge.give()
