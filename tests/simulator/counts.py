"""What is added to rows, bit by bit: each increment adds one that no other does, and there is a bit between that nobody
adds, so that a sum shows which of them are in it, and that one was counted twice."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from strata.protocol.added import Added
from tests.simulator.world import World

STALE = 3.0  # seconds after a commit from which on nobody reads what was before


@dataclass(eq=False)
class Bit:
    """One increment. `version` is that of its stamp, then that of the point in which it was handed off; `change`: it
    has none before L3 has it, since it is made of what the row holds there; `safe`: it is in the ledger, to which it
    was `handed_off`; `lost`: it may have been given up; `era` with which text it is in L3, and since when."""

    value: int
    process: Any
    change: bool = False
    version: int = 0
    acked: bool = False
    safe: bool = False
    lost: bool = False
    handed_off: bool = False
    era: str | None = None
    at: float = 0.0


class Counts:
    """The increments of each key, and what each process has seen of them."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.version_of: Callable[[Any, str | None], int] = lambda key, text: 0  # of the write of a text
        self.written_after: Callable[[Any, int], bool] = lambda key, version: False  # whether there is such a write
        self.deleted_after: Callable[[Any, int], bool] = lambda key, version: False  # whether there is a deletion
        self.begin(deferred=False)

    def begin(self, *, deferred: bool) -> None:
        """Nothing was added."""
        self._deferred = deferred
        self._bits: dict[Any, list[Bit]] = {}
        self._held: dict[Any, tuple[str, int]] = {}  # text and sum that L3 has
        self._texts: dict[Any, set[str]] = {}  # texts that it has had
        self._changes: dict[Any, list[int]] = {}  # the versions at which somebody made a sum of the one that was there

    def fresh(self, process: Any, key: Any, *, change: bool = False) -> Bit | None:
        """One more increment of a key; None where there is no room for more."""
        bits = self._bits.setdefault(key, [])
        if len(bits) >= 30:
            return None
        bits.append(Bit(1 << 2 * len(bits), process, change))
        return bits[-1]

    def added(self, key: Any, process: Any, version: int) -> None:
        """A process has stamped what it adds."""
        for bit in self._bits.get(key, ()):
            if bit.process is process and not bit.version and not bit.change:
                bit.version = version

    def handed_off(self, key: Any, process: Any, version: int) -> None:
        """The ledger has what a process has added up to a version."""
        for bit in self._bits.get(key, ()):
            if bit.process is process and 0 < bit.version <= version:
                bit.safe = bit.handed_off = True

    def ledger_lost(self) -> None:
        """What nobody has in memory is lost."""
        for bits in self._bits.values():
            for bit in bits:
                bit.safe = False

    def let_go(self, key: Any, process: Any) -> None:
        """A full buffer has let go of what was handed off: it is lost with the ledger."""
        for bit in self._bits.get(key, ()):
            if bit.process is process and bit.handed_off:
                bit.process = None

    def forget(self, process: Any, *, durable: bool) -> None:
        """The process ended; what it had in memory only is lost, unless that is `durable`."""
        for bits in self._bits.values():
            for bit in bits:
                if bit.process is process:
                    bit.process = None
                    bit.safe |= durable and bit.acked

    def gave_up(self, key: Any, version: int) -> None:
        """What was added to a key up to a version may be given up."""
        for bit in self._bits.get(key, ()):
            if bit.version <= version:
                bit.lost = True

    def told(self, key: Any, added: Added) -> None:
        """L3 is told of points, each of which has the version of all that it has in it."""
        for series in added:
            before = 0
            for version, sum_ in series.points:
                for bit in self._bits.get(key, ()):
                    if bit.value & sum_ and not bit.value & before and (before or series.points[0][0] == 0):
                        bit.version = max(bit.version, version)
                before = sum_

    def committed(self, key: Any, version: int, text: str | None, sum_: int) -> None:
        """L3 holds this of a key."""
        if text is None:
            self._held.pop(key, None)
            return
        bits = self._bits.get(key, [])
        known = sum(bit.value for bit in bits)
        if sum_ & ~known:
            self._world.breaks(f"L3 took {sum_:b} of {key}, in which something was counted twice, or by nobody")
        before = self._held.get(key)
        # Of what is written behind some may be found to be older than a write that it was on top of.
        if not self._deferred and before is not None and before[0] == text and before[1] & ~sum_:
            self._world.breaks(f"L3 took {sum_:b} of {key} after {before[1]:b}, so that something is lost")
        for bit in bits:
            if bit.value & sum_ and bit.era != text:
                bit.era, bit.at = text, self._world.now
        if self._deferred and any(bit.value & sum_ and bit.change and not bit.version for bit in bits):
            self._changed(bits, sum_, version)
            self._changes.setdefault(key, []).append(version)
        self._held[key] = text, sum_
        self._texts.setdefault(key, set()).add(text)

    def _changed(self, bits: Sequence[Bit], sum_: int, version: int) -> None:
        """Somebody, who has no stamp, made this of what L3 held before, without what comes late."""
        for bit in bits:
            if bit.value & sum_:
                bit.version, bit.safe = max(bit.version, version), True

    def is_change(self, key: Any, version: int) -> bool:
        """Whether that is when somebody made a sum of the one that was there."""
        return version in self._changes.get(key, ())

    def untold(self, bit: Bit) -> None:
        """Nobody has to know of an increment yet."""
        bit.at = math.inf

    def acknowledged(self, key: Any, bit: Bit) -> None:
        """A call returned."""
        bit.acked = True
        if not self._deferred and bit.era is None:
            self._world.breaks(f"{bit.process} was told that it has added {bit.value:b} to {key}, which L3 never took")

    def read(self, process: Any, key: Any, text: str | None, sum_: int, acked: set[Bit], began: float) -> None:
        """A process has read a record, having added, before that, what `acked` is."""
        if text is None:
            return
        bits = self._bits.get(key, [])
        if sum_ & ~sum(bit.value for bit in bits):
            self._world.breaks(f"{process} read {sum_:b} of {key}, in which something was counted twice, or by nobody")
        for bit in bits:
            if bit.value & sum_ or bit.lost:
                continue
            if bit.era is not None and text not in self._texts.get(key, ()):
                continue  # a write that was handed off late hides what L3 has on top of it, until L3 has it too
            mine = bit in acked and (self._is_after(key, bit, text) if self._deferred else bit.era == text)
            mine = mine and bit.version >= max(self._changes.get(key, [0]))  # else it is hidden until L3 has it
            late = bit.era == text and bit.at < began - STALE
            if mine or late:
                told = "itself had added" if mine else f"was committed {began - bit.at:.1f} s before"
                self._world.breaks(f"{process} read {sum_:b} of {key}, without {bit.value:b}, which {told}")

    def acked_by(self, process: Any, key: Any) -> set[Bit]:
        """What a process has added, as far as it was told so."""
        return {bit for bit in self._bits.get(key, ()) if bit.process is process and bit.acked}

    def added_after(self, key: Any, version: int, but: Any = None) -> bool:
        """Whether something was added at a later version, by others than that process, or beside its buffer."""
        bits = [bit for bit in self._bits.get(key, ()) if bit.version > version]
        return any(but is None or bit.process is not but or bit.change for bit in bits)

    def newest(self, key: Any) -> int:
        """The newest version at which something was added."""
        return max((bit.version for bit in self._bits.get(key, ())), default=0)

    def check(self, key: Any, written: int) -> None:
        """At rest: L3 has all that it is owed, and nothing that is older than what the row, or its deletion, was
        `written` at."""
        held = self._held.get(key)
        for bit in self._bits.get(key, ()):
            there = held is not None and bool(bit.value & held[1])
            after = bit.version > written if self._deferred else held is not None and bit.era == held[0]
            owed = bit.acked and (bit.process is not None or bit.safe) and not bit.lost
            owed = owed and not self.deleted_after(key, bit.version)
            if key in self._changes:  # a write that ended it may have come too late for the number
                owed = owed and not self.written_after(key, bit.version)
            if there and not after:
                self._world.breaks(f"L3 has {bit.value:b} of {key}, which was written over")
            if owed and after and not there:
                self._world.breaks(f"L3 has not {bit.value:b} of {key}, which was added")

    def _is_after(self, key: Any, bit: Bit, text: str) -> bool:
        written = self.version_of(key, text)
        return 0 < written < bit.version and not self.deleted_after(key, bit.version)
