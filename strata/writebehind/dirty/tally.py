"""What this process has added to columns, in total: the series of which its pending writes carry the points."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable, Mapping
from typing import Any

from strata.model.numbers import exact, plus
from strata.protocol.added import Added, Series, thinned
from strata.writebehind.dirty.owner import Owner

MOST = 10_000  # keys whose totals are remembered; who adds to another one begins a new series


class Tallies:
    """The totals of the keys that were added to lately. Guarded by the lock of the buffer whose they are; after fork
    the child has a buffer, and a name, of its own."""

    def __init__(self, owner: Owner) -> None:
        self._owner = owner
        self._of: OrderedDict[Hashable, dict[str, Series]] = OrderedDict()

    def add(self, place: Hashable, deltas: Mapping[str, Any], version: int, shown: int) -> Added:
        """The series of a key with this on top; a point above `shown`, which nobody has seen, gives way to it."""
        tally = self._of.get(place)
        if tally is None:
            tally = self._of[place] = {}
            if len(self._of) > MOST:
                self._of.popitem(last=False)
        else:
            self._of.move_to_end(place)
        for column, given in deltas.items():
            delta = exact(given)
            held = tally.get(column)
            if held is None:
                tally[column] = Series(
                    self._owner.source, version, column, ((0, plus(delta, delta, -1)), (version, delta))
                )
            else:
                points = held.points
                seen = points if len(points) == 1 or points[-1][0] <= shown else points[:-1]
                points = thinned((*seen, (version, plus(points[-1][1], delta))))
                tally[column] = Series(held.origin, held.start, column, points)
        return tuple(tally[column] for column in sorted(tally))

    def settle(self, place: Hashable, version: int) -> Added:
        """L3 has everything up to a version: what counts from there on; empty where that is nothing."""
        tally = self._of.get(place)
        if tally is None:
            return ()
        for column, series in tally.items():
            tally[column] = series.since(version)
        return tuple(series for column, series in sorted(tally.items()) if len(series.points) > 1)

    def forget(self, place: Hashable) -> None:
        """Who adds to the key begins anew: what was added before was written over, or is on its way by itself."""
        self._of.pop(place, None)
