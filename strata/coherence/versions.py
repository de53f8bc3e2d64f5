"""Versions: 63-bit hybrid logical clock stamps, unique among live processes and rising in each.

A version is microseconds since 1970 shifted left by 11 bits, or'ed with the process's node id (0 to 2047). The
clock is the machine's, corrected by the offset to Redis's TIME, and never behind a version met (S. Kulkarni et
al., "Logical Physical Clocks", 2014), unless that one lies more than 60 s ahead: a clock gone wrong elsewhere
must not take everybody along.
"""

from __future__ import annotations

import random
import threading

from strata.clock import Clock

NODE_BITS = 11
NODES = 1 << NODE_BITS
L3_NODE = NODES - 1  # of versions that PostgreSQL itself gives, to rows changed outside; no process has it
_FAR = 60_000_000 << NODE_BITS  # 60 s as a distance between versions


def text(version: int) -> str:
    """The version as Redis and the bus carry it: 19 digits, so that text order is number order."""
    return f"{version:019d}"


class VersionClock:
    """Stamps versions. Thread-safe: `_lock` guards `_last`, `_offset` and `_node`.

    `node` is leased by the bus where there is a Redis; until then, and without one, it is drawn at random.
    After fork the child calls `reset`, since two processes must not share a node id.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self.reset()

    def reset(self) -> None:
        """Forget node id and history."""
        self._lock = threading.Lock()
        self._last = 0
        self._offset = 0
        self._disciplined = False
        self._node = random.SystemRandom().randrange(L3_NODE)

    @property
    def node(self) -> int:
        """This process's node id."""
        return self._node

    def adopt_node(self, node: int) -> None:
        """Take a node id that was leased."""
        with self._lock:
            self._node = node

    def discipline(self, reference_seconds: float, asked: float, answered: float) -> None:
        """Take over the time of a reference read between two readings of the own wall clock (all in seconds).

        The offset moves no further than that reading proves it wrong: a Redis or a process that stood still meanwhile
        proves little, and half of its pause, as an estimate, would put one process's writes before another's.
        """
        least, most = (int((reference_seconds - own) * 1_000_000) for own in (answered, asked))
        with self._lock:
            self._disciplined = True
            self._offset = min(max(self._offset, least), most)

    def reference_ms(self) -> int | None:
        """The reference's time in ms since 1970; None while it was never read."""
        return (int(self._clock.wall() * 1_000_000) + self._offset) // 1000 if self._disciplined else None

    def stamp(self) -> int:
        """A version above every one stamped or met before."""
        with self._lock:
            now = int(self._clock.wall() * 1_000_000) + self._offset
            micros = max(now, (self._last >> NODE_BITS) + 1)
            self._last = micros << NODE_BITS | self._node
            return self._last

    def observe(self, version: int) -> None:
        """Stay ahead of a version met in a tier or a message."""
        if version <= self._last:
            return
        with self._lock:
            now = int(self._clock.wall() * 1_000_000) + self._offset << NODE_BITS
            if self._last < version < now + _FAR:
                self._last = version
