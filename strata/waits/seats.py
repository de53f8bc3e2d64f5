"""`Seats`: at most so many at a time."""

from __future__ import annotations

import math
import weakref
from typing import TYPE_CHECKING

from strata.waits import hub
from strata.waits.locks import memory_lock
from strata.waits.nudge import Nudge

if TYPE_CHECKING:
    from strata.waits.hub import Hub


PATIENCE = 0.05  # seconds; who comes meanwhile goes before, which is faster: it has a processor already


class Seats:
    """At most `size` users at a time. A user is any object that lives for as long as the use and no longer.

    A use ends with `leave`, and at the latest with the life of its user: the reference's callback is a method of C.
    Thread-safe: `_lock` guards the count against another taker; entries leave without it, and those who wait come to
    `_waiting` and go in one call each. After fork the child makes another one, in which users of the parent's leave no
    trace.
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self._lock = memory_lock()
        self._used: dict[weakref.ref[object], None] = {}
        self._end = self._used.pop
        self._waiting: dict[Nudge, float] = {}  # since when, by the clock of waits

    @property
    def used(self) -> int:
        """How many there are."""
        return len(self._used)

    def sit(self, user: object) -> bool:
        """Take a seat for `user`, where one is free."""
        used = self._used
        reference = weakref.ref(user, self._end)
        with self._lock:
            used[reference] = None  # first, so that a handler that comes now finds it taken
            if len(used) <= self._size or self._shares(user):
                return True
            used.pop(reference, None)
            return False

    def take(self, user: object, patience: float = math.inf) -> bool:
        """Take a seat for `user`, as soon as one is free; False after `patience` seconds."""
        if self._waiting and self._overdue(hub.current()) and not self._shares(user):
            return self._wait(user, patience)
        return self.sit(user) or self._wait(user, patience)

    def leave(self, user: object) -> None:
        """Give the seat back; no matter whether `user` has one."""
        self._end(weakref.ref(user), None)
        if self._waiting:
            self._call_next()

    def _shares(self, user: object) -> bool:
        """Whether `user`, which is among those that have a seat, takes none of anybody's."""
        return False

    def _wait(self, user: object, patience: float) -> bool:
        at = hub.current()
        deadline = at.clock.monotonic() + patience
        nudge = Nudge()
        try:
            self._waiting[nudge] = at.clock.monotonic()
            while (self._overdue(at) and self._first() is not nudge) or not self.sit(user):
                left = deadline - at.clock.monotonic()
                if left <= 0:
                    return False
                nudge.wait_a_while(left)
            return True
        finally:
            self._waiting.pop(nudge, None)
            if self._waiting and len(self._used) < self._size:
                self._call_next()  # two left while one was called, or who was called went without

    def _call_next(self) -> None:
        nudge = self._first()
        if nudge is not None:
            nudge.give()

    def _overdue(self, at: Hub) -> bool:
        """Whether who waits longest has done so for long enough that nobody who came later may go before."""
        first = self._first() if at.together else None
        return first is not None and at.clock.monotonic() - self._waiting.get(first, math.inf) > PATIENCE

    def _first(self) -> Nudge | None:
        """Whose turn it is next."""
        try:
            return next(iter(self._waiting), None)
        except RuntimeError:  # another thread came, or went, in between
            return next(iter(list(self._waiting)), None)


class Turn:
    """Whose turn it is, of a `Turns`: made by the call that takes it, and kept nowhere else."""

    __slots__ = ("__weakref__", "ident")

    def __init__(self) -> None:
        self.ident = hub.current().ident()


class Turns(Seats):
    """A lock for what waits while it is held: one operation at a time, which may take it again.

    It is the operation's, not its thread's, as an RLock's is: of two in one thread the second one waits, and the thread
    does not. To be used as `take` in a `try`, and `leave` in its `finally`; what a `with` would do in between would be
    Python, and so no place to be interrupted.
    """

    def __init__(self) -> None:
        super().__init__(1)

    def _shares(self, user: object) -> bool:
        holders = [holder for known in list(self._used) if isinstance(holder := known(), Turn)]
        return isinstance(user, Turn) and all(holder.ident == user.ident for holder in holders)
