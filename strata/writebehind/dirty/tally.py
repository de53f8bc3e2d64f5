"""What this process has added to columns, in total: the series of which its pending writes carry the points; and the
records as it knows them meanwhile."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable, Mapping
from typing import Any

from msgspec.structs import replace

from strata.model.numbers import exact, plus
from strata.protocol.added import Added, Series, thinned
from strata.writebehind.dirty.owner import Owner
from strata.writebehind.dirty.slot import Addition, Buffered, HeldRow

MOST = 10_000  # keys whose totals are remembered; who adds to another one begins a new series
KNOWN_FOR = 1.0  # seconds for which a record is known without a read: what others add meanwhile is not in it


class Tally:
    """Of one key: its series by column, the `last` version of them; and the record with all that was added, where it is
    known, `since` when what it was added to was read (monotonic). Something else was heard, or read, of the key since
    it was added to at the version `after`, and before it was again."""

    __slots__ = ("after", "known", "last", "series", "since")

    def __init__(self, last: int) -> None:
        self.series: dict[str, Series] = {}
        self.known: Any = None
        self.since = 0.0
        self.after = self.last = last


class Tallies:
    """The totals of the keys that were added to lately. Guarded by the lock of the buffer whose they are; after fork
    the child has a buffer, and a name, of its own."""

    def __init__(self, owner: Owner) -> None:
        self._owner = owner
        self._of: OrderedDict[Hashable, Tally] = OrderedDict()

    def __contains__(self, place: Hashable) -> bool:
        return place in self._of  # one call, without the lock

    def known(self, place: Hashable, now: float) -> tuple[Any, float]:
        """The record of a key as it is known, None where it is not, and since when."""
        tally = self._of.get(place)
        if tally is None or now >= tally.since + KNOWN_FOR:
            return None, now
        return tally.known, tally.since

    def count(self, place: tuple[str, Hashable], what: Addition, now: float) -> Any:
        """The record with what was added to its key, for the caller; None where it is not known."""
        known, since = self.known(place, now) if what.known is None else (what.known, now)
        counted = self._owner.count(*place, what, known)
        tally = self._of[place]
        tally.known, tally.since = counted.kept, now if counted.in_l1 else since
        if counted.in_l1 or what.known is not None:
            tally.after = tally.last - 1
        return counted.shown

    def learn(self, place: tuple[str, Hashable], row: HeldRow, item: Buffered | None, since: float) -> None:
        """L3 has held this row of a key `since` then (monotonic), of which `item` is pending.

        The ledger had what was added here up to `counted` when the row was read. Where that was stamped after the last
        that was heard, or read, of the key, the row has that, too, as a read would.
        """
        tally, over = self._of.get(place), None
        if tally is None or row.counted <= tally.after:
            return
        if item is not None and item.version > row.counted:
            if item.record is None:
                return
            if self._owner.carried(place[0], item.record):
                if item.version <= row.version or item.ages or not item.partial:
                    return  # which of its columns are newer is not known
                over = item.record
        more = {column: series.after(row.counted) for column, series in tally.series.items()}
        deltas = {column: delta for column, delta in more.items() if delta}
        tally.known, tally.since = self._owner.counted(place[0], row.record, deltas, over), since
        tally.after = row.counted - 1

    def unknow(self, place: Hashable) -> None:
        """Something else than increments became of a key."""
        tally = self._of.get(place)
        if tally is not None:
            tally.known, tally.after = None, tally.last

    def add(self, place: Hashable, deltas: Mapping[str, Any], version: int, shown: int) -> Added:
        """The series of a key with this on top; a point above `shown`, which nobody has seen, gives way to it."""
        tally = self._of.get(place)
        if tally is None:
            tally = self._of[place] = Tally(version - 1)
            if len(self._of) > MOST:
                self._of.popitem(last=False)
        else:
            self._of.move_to_end(place)
        tally.last = version
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
                seen = points if len(points) == 1 or points[-1][0] <= shown else points[:-1]
                points = thinned((*seen, (version, plus(points[-1][1], delta))))
                series[column] = Series(held.origin, held.start, column, points)
        return tuple([series[column] for column in sorted(series)])

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
        """Who adds to the key begins anew: what was added before was written over, or is on its way by itself."""
        self._of.pop(place, None)
