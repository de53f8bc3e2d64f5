"""No eviction: the null object for a store without a capacity."""

from __future__ import annotations

from strata.l1.entry import L1Entry


class Unbounded:
    """Knows nothing and is never asked."""

    def add(self, entry: L1Entry) -> None:
        pass

    def swap(self, entry: L1Entry, now: float) -> L1Entry | None:
        return None

    def left(self, entry: L1Entry) -> None:
        pass

    def clear(self) -> None:
        pass

    def __len__(self) -> int:
        return 0
