"""What this process has added to columns, in total: the series of which its pending writes carry the points; and the
records as it knows them meanwhile."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable, Mapping
from typing import Any

from msgspec.structs import replace

from strata.model.numbers import exact, plus
from strata.protocol.added import Added, Series, thinned
from strata.waits.clock import Clock
from strata.waits.hub import MemoryLock
from strata.writebehind.dirty.owner import Owner
from strata.writebehind.dirty.slot import Accepted, Addition, Buffered, HeldRow, LastEvent, Slot

MOST = 10_000  # keys whose totals are remembered; who adds to another one begins a new series
KNOWN_FOR = 1.0  # seconds for which a record is known without a read: what others add meanwhile is not in it


class Tally:
    """Of one key: its series by column, the `last` version of them; and the record with all that was added, where it is
    known, `since` when what it was added to was read (monotonic). Something else was heard, or read, of the key since
    it was added to at the version `after`, and before it was again. `seen` is the number of the last such event of the
    key, `before` that of the one before the last addition. `item`: what the buffer then had of the key, where that was
    nothing but what was added."""

    __slots__ = ("after", "before", "item", "known", "last", "seen", "series", "since")

    def __init__(self) -> None:
        self.series: dict[str, Series] = {}
        self.known: Any = None
        self.since = 0.0
        self.after = self.last = 0
        self.before = self.seen = 0
        self.item: Buffered | None = None


class Tallies:
    """The totals of the keys that were added to lately; `_events` numbers what happens to them. Guarded by the lock of
    the buffer whose they are, which `seen`, `learn` and `forget` take by themselves; after fork the child has a buffer,
    and a name, of its own."""

    def __init__(self, owner: Owner, clock: Clock, lock: MemoryLock) -> None:
        self._owner = owner
        self._clock = clock
        self._lock = lock
        self._of: OrderedDict[Hashable, Tally] = OrderedDict()
        self._events = 0

    def __contains__(self, place: Hashable) -> bool:
        return place in self._of  # one call, without the lock

    def knows(self, place: Hashable) -> bool:
        """Whether the record of a key is known; without the lock."""
        tally = self._of.get(place)
        return tally is not None and tally.known is not None and self._clock.monotonic() < tally.since + KNOWN_FOR

    def seen(self, place: Hashable) -> LastEvent:
        """The number of the last event of a key: a record that is read from here on is known where it still is the last
        one when the key is added to."""
        with self._lock:
            return LastEvent(self._tally(place).seen, self._clock.monotonic())

    def on_top(self, slot: Slot, what: Addition) -> Accepted | None:
        """What is to take the place of a slot's write that is nothing but what was added before, to a record that is
        known; None where it is not that. Without a part it has the stamps of that one: none."""
        place, under, now = (slot.schema, slot.key), slot.item, self._clock.monotonic()
        tally = self._of.get(place)
        if tally is None or tally.item is not under or tally.known is None or now >= tally.since + KNOWN_FOR:
            return None
        version = self._owner.stamp()
        if version < under.version or (under.default is None and what.default is not None):
            return None
        part = under.record if what.part is None else what.part
        added = self.add(place, what.deltas, version, max(slot.shown, slot.superseded))
        tally.item = Buffered(version, part, True, (), added, under.default, under.deleted, span=what.span)
        return Accepted(version, item=tally.item, known=self._count(place, tally, what, now))

    def count(self, place: tuple[str, Hashable], slot: Slot | None, what: Addition) -> Any:
        """The record with what was added to its key, and is in its slot, for the caller; None where it is not known."""
        tally, item = self._of[place], None if slot is None else slot.item
        alone = item is not None and item.partial and item.held is what.part and not item.ages
        tally.item = item if alone and item is not None and len(item.added) == len(tally.series) else None
        return self._count(place, tally, what, self._clock.monotonic())

    def _count(self, place: tuple[str, Hashable], tally: Tally, what: Addition, now: float) -> Any:
        since = now
        known = what.known if tally.before == what.seen.number else None
        is_read = known is not None
        if is_read:
            since = min(now, what.seen.at)  # this process may have stood still since then
        elif now < tally.since + KNOWN_FOR:
            known, since = tally.known, tally.since
        counted = self._owner.count(*place, what, known)
        tally.known, tally.since = counted.kept, now if counted.in_l1 else since
        if counted.in_l1 or is_read:
            tally.after = tally.last - 1
        return counted.shown

    def learn(self, place: tuple[str, Hashable], row: HeldRow, slot: Slot | None) -> None:
        """L3 has this row of a key, of which the slot, if there is one, has what is pending.

        The ledger had what was added here up to `counted` when the row was read. Where that was stamped after the last
        that was heard, or read, of the key, the row has that, too, as a read would.
        """
        with self._lock:
            tally, over, item = self._of.get(place), None, None if slot is None else slot.item
            if tally is None or row.counted <= tally.after:
                return
            if item is not None and item.version > row.counted:
                if item.deletes:
                    return
                if self._owner.carried(place[0], item.record):
                    if item.version <= row.version or item.ages or not item.partial:
                        return  # which of its columns are newer is not known
                    over = item.record
            more = {column: series.after(row.counted) for column, series in tally.series.items()}
            deltas = {column: delta for column, delta in more.items() if delta}
            tally.known = self._owner.counted(place[0], row.record, deltas, over)
            tally.since = self._clock.monotonic() - self._owner.age(row.at)
            tally.after = row.counted - 1

    def unknow(self, place: Hashable) -> None:
        """Something else than increments became of a key."""
        tally = self._of.get(place)
        if tally is not None:
            tally.known, tally.after = None, tally.last
            self._happens(tally)

    def add(self, place: Hashable, deltas: Mapping[str, Any], version: int, shown: int) -> Added:
        """The series of a key with this on top; a point above `shown`, which nobody has seen, gives way to it."""
        tally = self._tally(place)
        tally.before, tally.last = tally.seen, version
        if not tally.series:
            tally.after = version - 1
        self._happens(tally)
        series = tally.series
        for column, given in deltas.items():
            delta = exact(given)
            held = series.get(column)
            if held is None:
                series[column] = Series(
                    self._owner.source, version, column, ((0, plus(delta, delta, -1)), (version, delta))
                )
            else:
                points = held.points
                last, before = points[-1]
                seen = points if len(points) == 1 or last <= shown else points[:-1]
                points = thinned((*seen, (version, plus(before, delta))))
                series[column] = Series(held.origin, held.start, column, points)
        return tuple([series[column] for column in sorted(series)] if len(series) > 1 else series.values())

    def _tally(self, place: Hashable) -> Tally:
        tally = self._of.get(place)
        if tally is None:
            tally = self._of[place] = Tally()
            if len(self._of) > MOST:
                self._of.popitem(last=False)
        else:
            self._of.move_to_end(place)
        return tally

    def _happens(self, tally: Tally) -> None:
        self._events += 1
        tally.seen = self._events

    def settle(self, place: Hashable, version: int) -> Added:
        """L3 has everything up to a version: what counts from there on; empty where that is nothing."""
        tally = self._of.get(place)
        if tally is None:
            return ()
        for column, series in tally.series.items():
            tally.series[column] = series.since(version)
        return tuple(series for column, series in sorted(tally.series.items()) if len(series.points) > 1)

    def settled(self, place: Hashable, item: Buffered, version: int) -> Buffered:
        """A write of which L3 has what it adds up to a version."""
        if not item.added:
            return item
        own = {series.name: series for series in self.settle(place, version)}
        added = tuple(own.get(series.name, series) for series in item.added)
        return replace(item, added=tuple(series for series in added if series.last > version))

    def forget(self, place: Hashable) -> None:
        """Who adds to the key begins anew: what was added before was written over, or is on its way by itself, or may
        not be taken after all."""
        with self._lock:
            self._of.pop(place, None)
