"""How long the keys of L2 live, and when their values are due for a refresh."""

from __future__ import annotations

import math
from typing import Any

from strata.aging import PLAIN, Aging

TOMBSTONE_MS = 10_000


class Lifetimes:
    """Immutable. `ttl` in seconds, 0 = no expiry; `negative`: seconds for which an absence is kept."""

    def __init__(self, ttl: float, aging: Aging = PLAIN, negative: float = 0.0) -> None:
        self._ttl_ms = ttl * 1000
        self._aging = aging
        self.stay_ms = round(aging.stay * 1000)
        # What the shortest life that jitter may draw has left when it becomes due, so that no refresh is early.
        self.due_ms = self.stay_ms + self._ttl_ms * (1 - aging.jitter) * (1 - aging.eager) if aging.eager else -1.0
        self.ages = bool(aging.stay or aging.eager)  # whether what a key has left of its life matters
        self.negative_px = round(negative * 1000)
        self._one_for_all = -1 if aging.jitter else self._kept_px()

    def px(self, record: Any, life: float | None = None) -> int:
        """Milliseconds that a value, or for None a tombstone, is kept; 0 = no expiry. `life`: the seconds of a life of
        its own, which nothing shortens or prolongs; infinity is for ever, None the life of all."""
        if record is None:
            return TOMBSTONE_MS
        if life is not None:
            return 0 if life == math.inf else max(1, round(life * 1000))
        return self._kept_px() if self._one_for_all < 0 else self._one_for_all

    def _kept_px(self) -> int:
        fresh = self.fresh_px()
        return fresh and fresh + self.stay_ms

    def fresh_px(self) -> int:
        """Milliseconds that something is fresh; 0 = for ever."""
        return max(1, round(self._aging.draw(self._ttl_ms))) if self._ttl_ms else 0
