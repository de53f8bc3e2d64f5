"""How an entry of L1 or L2 ages: within its TTL, and beyond it."""

from __future__ import annotations

from dataclasses import dataclass

from strata import waits


@dataclass(frozen=True, slots=True)
class Aging:
    """`jitter` and `eager` are fractions of the TTL, `stay` is seconds; 0 is off.

    An entry lives for its TTL, shortened at random by up to `jitter`; it is due for a refresh after the part `eager` of
    that; and it is kept for `stay` seconds beyond it, stale, to be served while the tiers below are down.
    """

    jitter: float = 0.0
    eager: float = 0.0
    stay: float = 0.0

    def draw(self, ttl: float) -> float:
        """The life of one entry, in the unit of `ttl`; the jitter never adds to it."""
        return ttl * waits.uniform(1 - self.jitter, 1) if self.jitter else ttl


PLAIN = Aging()
"""Nothing but the TTL."""
