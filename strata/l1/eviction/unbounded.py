"""No eviction: the null object for a store without a capacity."""

from __future__ import annotations

from strata.l1.entry import Entry


class Unbounded:
    """Knows nothing and is never asked."""

    def add(self, entry: Entry) -> None:
        pass

    def swap(self, entry: Entry, now: float) -> Entry | None:
        return None

    def left(self, entry: Entry) -> None:
        pass

    def clear(self) -> None:
        pass

    def __len__(self) -> int:
        return 0
