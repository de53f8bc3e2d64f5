"""How long this instance may trust its L1: until when it surely has heard every message."""

from __future__ import annotations

import math

from strata import _compiled

BUS_GRACE = 1.0  # seconds for which an unsure instance serves what it has just read from below


class TrustFields:
    """What an L1 hit reads of `Trust`."""

    __slots__ = ("until",)

    until: float


_compiled.replace(globals(), "hits", "TrustFields")


class Trust(TrustFields):
    """`until`: the monotonic time up to which L1 is surely coherent; `since`: the one before which messages may have
    been missed.

    Written by the bus's thread only (and, before it starts, by nobody); read without a lock on every L1 hit, where
    one float read is atomic. The echo of a heartbeat sent at t proves that all messages published before t were
    handled, so `until` follows the sending, not the arrival.
    """

    __slots__ = ("since",)

    def __init__(self, until: float = -math.inf) -> None:
        self.until = until
        self.since = -math.inf

    def sure(self, now: float) -> bool:
        """Whether L1 may be served without looking at when it was read."""
        return now < self.until

    def heard(self, began: float, now: float) -> bool:
        """Whether every message since then was surely heard."""
        return now < self.until and began >= self.since


ALWAYS = Trust(math.inf)
"""For schemas whose only tier is L1: no other instance can know better."""
