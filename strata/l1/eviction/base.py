"""The shape of an eviction policy.

Nothing is done on a hit: it leaves a later `used` and a higher `hits` on the entry, and the policy finds out when it
looks at that entry for a victim. What was used since it was queued is queued again, where it belongs by then.
"""

from __future__ import annotations

from collections import deque
from typing import Protocol

from strata.l1.entry import GONE, L1Entry

# Entries that one eviction may look at. All of a large store may have been used since the last eviction; settling
# their order at once would hold the lock for seconds. So the best victim among these goes, and the next one goes on.
LOOKS = 256


class Eviction(Protocol):
    """Knows every entry of one store. Called under the store's lock; `clear` makes it new, also after fork."""

    def add(self, entry: L1Entry) -> None:
        """A new entry, `queued` being its `used`, is about to be in the store."""

    def swap(self, entry: L1Entry, now: float) -> L1Entry | None:
        """As `add`, in place of the entry returned, which is no longer known; None if none was known."""

    def left(self, entry: L1Entry) -> None:
        """The entry, already GONE, left the store in another way than by `swap`."""

    def clear(self) -> None:
        """The store is empty."""

    def __len__(self) -> int:
        """The number of queued items, of entries that left among them."""
        ...


class Remains:
    """Counts the queued items whose entries are gone, and says when they are worth clearing away.

    They keep their values in memory, so more than a quarter is too many: clearing then costs each of them the look at
    five items, whatever the size of the store. It looks at all items in one hold of the lock, so what is at the front
    of a queue, as all of it is where entries leave in the order in which they came, is taken away at once.
    """

    __slots__ = ("gone",)

    def __init__(self) -> None:
        self.gone = 0

    def add(self, *queues: deque[L1Entry], others: int = 0) -> bool:
        """One more is gone, of the items in some queues, and of `others`; whether to clear away."""
        self.gone += 1
        for queue in queues:
            while queue and queue[0].expires == GONE:
                queue.popleft()
                self.gone -= 1
            others += len(queue)
        return self.gone > 64 + others // 5


def still_there(entry: L1Entry) -> bool:
    """Whether the entry has not left its store."""
    return entry.expires != GONE
