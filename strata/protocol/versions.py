"""Versions: 63-bit hybrid logical clock stamps, unique among live processes and rising in each.

A version is microseconds since 1970 shifted left by 11 bits, or'ed with the process's node id (0 to 2047). The
clock is Redis's TIME as it was read last, carried on by a clock that nobody sets, and never behind a version met
(S. Kulkarni et al., "Logical Physical Clocks", 2014). Until it was read once, the machine's clock has to do.

One that lies more than 60 s ahead is nobody's: a clock gone wrong elsewhere, or one forged or damaged byte, must
neither take everybody along nor overtake a write. Whoever takes a version from outside asks `believed` first.
"""

from __future__ import annotations

from typing import Protocol

from strata import _compiled, waits
from strata.waits.clock import Clock
from strata.waits.locks import memory_lock

NODE_BITS = 11
NODES = 1 << NODE_BITS
# No process leases these, so that no stamp is the same. The highest are of versions just above a row's, where late
# writes were laid under it. That is nothing new, so a version of the same microsecond has to do, whatever node the
# row's is of: whoever has met the newest of what was laid together stamps a later one, and that is to win.
LATE_NODES = range(NODES - 64, NODES)
# Of who holds the row's lock and writes, a microsecond above it; and of versions that PostgreSQL gives.
ROW_NODE, L3_NODE = LATE_NODES.start - 1, LATE_NODES.start - 2
# As the late ones, of entries of the ledger.
MERGED_NODES = range(L3_NODE - 512, L3_NODE)
LEASED = range(MERGED_NODES.start)
VERSION_DIGITS = 19
AHEAD = 60_000_000  # microseconds that a version may be ahead; `strata/l2/scripts/common.lua` has the same bound


def text(version: int) -> str:
    """The version as Redis and the bus carry it: 19 digits, so that text order is number order."""
    return f"{version:019d}"


def above(version: int, nodes: range, step: int = 1) -> int:
    """A version of some reserved nodes that is above another, in the same microsecond unless all are taken; `step`: the
    least, the one after it, and so on."""
    tick = version >> NODE_BITS << NODE_BITS
    raised = max(version, (tick | nodes.start) - 1) + step
    return raised if raised <= tick | nodes[-1] else tick + NODES + nodes[step - 1]


class Reference(Protocol):
    """Whoever knows the time, and gives out node ids.

    `ensure` before a stamp; `beat` once in a while, in the background; `compare` where the clock is doubted.
    """

    def ensure(self) -> None: ...

    def beat(self) -> None: ...

    def compare(self) -> None: ...


class NoReference:
    """Nobody: the machine's clock has to do."""

    def ensure(self) -> None:
        pass

    def beat(self) -> None:
        pass

    def compare(self) -> None:
        pass


class VersionClock:
    """Stamps versions, and judges those of others. Thread-safe: `_lock` guards `_last`, `_offset`, `_slept` and
    `_node`, which are read without it where a moment's difference does not matter. `_offset` is the seconds by which
    the reference is ahead of the monotonic clock, None while it was never read; `_slept` those that the machine had
    slept by then.

    `node` is leased by the identity where there is a Redis; until then, and without one, it is drawn at random.
    `reference` is set once, by the identity. After fork the child calls `reset`, since two processes must not share a
    node id.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self.reference: Reference = NoReference()
        self.reset()

    def reset(self) -> None:
        """Forget node id and history."""
        self._lock = memory_lock()
        self._last = 0
        self._offset: float | None = None
        self._slept = 0.0
        self.draw_node()

    @property
    def node(self) -> int:
        """This process's node id."""
        return self._node

    def adopt_node(self, node: int) -> None:
        """Take a node id that was leased."""
        with self._lock:
            self._node = node

    def draw_node(self) -> None:
        """Take a node id at random, which another process may have, if not likely."""
        self.adopt_node(waits.chance().randrange(LEASED.stop))

    def discipline(self, reference_seconds: float, asked: float, answered: float) -> None:
        """Take over the time of a reference read between two readings of the own monotonic clock (all in seconds).

        The offset moves no further than that reading proves it wrong: a Redis or a process that stood still meanwhile
        proves little, and half of its pause, as an estimate, would put one process's writes before another's. Stamps
        that a clock gone wrong has made beyond the bound do not count any more: nobody believes them.
        """
        least, most = reference_seconds - answered, reference_seconds - asked
        with self._lock:
            offset = self._offset
            if offset is None:
                offset = self._clock.wall() - self._clock.monotonic()
            self._offset = min(max(offset, least), most)
            self._slept = self._sleep()
            now = self._now()
            if self._last >> NODE_BITS > now + AHEAD:
                self._last = now << NODE_BITS

    def awoke(self) -> None:
        """Count in what the machine has slept, if it has: its monotonic clock stood still meanwhile."""
        with self._lock:
            slept = self._sleep()
            if self._offset is not None:
                self._offset += slept - self._slept
            self._slept = slept

    def reference_ms(self) -> int | None:
        """The reference's time in ms since 1970; None while it was never read."""
        return None if self._offset is None else self._now() // 1000

    def stamp(self) -> int:
        """A version above every one stamped or met before."""
        with self._lock:
            now = self._now()
            # No call from here to the store: a signal's handler that stamps too comes before or after both.
            micros = (self._last >> NODE_BITS) + 1
            if micros < now:
                micros = now
            self._last = version = micros << NODE_BITS | self._node
            return version

    def observe(self, version: int) -> None:
        """Stay ahead of a version met in a tier or a message, unless it is nobody's."""
        if version <= self._last:
            return
        with self._lock:
            if self._near(version) and self._last < version:
                self._last = version

    def plausible(self, version: int) -> bool:
        """Whether a version is not from the far future, by the clock as it is known; without any I/O.

        A clock that was never compared with its reference is no judge: it may itself be late.
        """
        return self._near(version) or self._offset is None

    def believed(self, version: int) -> bool:
        """As `plausible`; before one is refused, the clock is compared with its reference, as the own one may be wrong.

        It may take a round trip; no lock may be held that others wait for.
        """
        if self._near(version):
            return True
        self.reference.compare()
        return self.plausible(version)

    def surely(self) -> int:
        """The highest version that is plausible now, as far as that takes no more than a look at the clock."""
        return max(self._last, (self._now() + AHEAD) << NODE_BITS)

    def _near(self, version: int) -> bool:
        return version <= self._last or version >> NODE_BITS <= self._now() + AHEAD

    def _now(self) -> int:
        offset = self._offset
        return int((self._clock.wall() if offset is None else self._clock.monotonic() + offset) * 1_000_000)

    def _sleep(self) -> float:
        return self._clock.steady() - self._clock.monotonic()


_compiled.replace(globals(), "versions", "VersionClock")
