"""Things that are known for as long as others keep them."""

from __future__ import annotations

import weakref
from typing import Generic, TypeVar

T = TypeVar("T")


class Living(Generic[T]):
    """What was added and still lives; not a `WeakSet`, which may not be gone through while another thread adds.

    Thread-safe, free-threaded too, without a lock: `_known` is a dict of which each use is one call, and entries leave
    by a callback that is C, as `Seats` has it. So it is whole in the child of a fork, where its owner may `clear` it,
    and at exit.
    """

    def __init__(self) -> None:
        self._known: dict[weakref.ref[T], None] = {}

    def add(self, thing: T) -> None:
        """From now on, for as long as it lives."""
        self._known[weakref.ref(thing, self._known.pop)] = None

    def discard(self, thing: T) -> None:
        """No more; no matter whether it was there."""
        self._known.pop(weakref.ref(thing), None)

    def all(self) -> list[T]:
        """Those that live now."""
        return [thing for known in list(self._known) if (thing := known()) is not None]

    def clear(self) -> None:
        """Forget all of them."""
        self._known.clear()
