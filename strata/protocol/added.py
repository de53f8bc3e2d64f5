"""What processes have added to columns of a record, which counts once however often, late or out of order it arrives.

A process keeps, of each column of a record, the running total of what it has added: a *series*, whose points are totals
at versions. Whoever has a series' newest total adds what that has over the one which is in the row already, so that
nothing is counted twice, and nothing is missed with a point that never came (a state-based counter, as in M. Shapiro et
al., "A comprehensive study of Convergent and Commutative Replicated Data Types", 2011).

A write of the column itself takes the place of what was added before it, by version; what was added after it is on top.
Therefore not the newest point alone is kept, but some before it: a write that comes late falls between two of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import msgspec

from strata.model.numbers import plus

MOST = (
    48  # points of a series: a worker that was killed holds its claims for 15 s, and a process hands off twice a second
)


class Series(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """What `origin`, an instance, has added to a column since the version `start`: (version, total), oldest first.

    The first point is what all others are compared with: L3 has it, or it is that of nothing, at version 0.
    """

    origin: str
    start: int
    column: str
    points: tuple[tuple[int, Any], ...]

    @property
    def last(self) -> int:
        """The version of its newest point."""
        return self.points[-1][0]

    @property
    def first(self) -> int:
        """The version of the oldest point that counts."""
        return self.points[min(1, len(self.points) - 1)][0]

    @property
    def name(self) -> tuple[str, int, str]:
        """What tells it from others."""
        return self.origin, self.start, self.column

    def after(self, version: int) -> Any:
        """What was added after a version."""
        base = self.points[0]
        for point in self.points:
            if point[0] > version:
                break
            base = point
        return plus(self.points[-1][1], base[1], -1)

    def in_form(self, form: Callable[[Any], Any]) -> Series:
        """With totals of another form, such as text."""
        points = tuple((version, form(total)) for version, total in self.points)
        return msgspec.structs.replace(self, points=points)

    def restamped(self, version: int) -> Series:
        """Without points that are above the version, but for its last total, which has that version."""
        points = tuple(point for point in self.points if point[0] < version)
        return msgspec.structs.replace(self, points=(*points, (version, self.points[-1][1])))

    def since(self, version: int) -> Series:
        """Without what was before the last point that is not above the version."""
        place = 0
        for number, point in enumerate(self.points):
            if point[0] <= version:
                place = number
        return msgspec.structs.replace(self, points=self.points[place:]) if place else self


Added = tuple[Series, ...]


def joined(one: Added, other: Added) -> Added:
    """All points of both."""
    if not one or not other:
        return one or other
    found = {series.name: series for series in one}
    for series in other:
        held = found.get(series.name)
        found[series.name] = series if held is None else _both(held, series)
    return tuple(found[name] for name in sorted(found))


def rejoined(under: Added, over: Added) -> Added:
    """As `joined`, where `over` has the whole of each series that it has."""
    if not under or not over:
        return under or over
    if len(under) == len(over) == 1 and under[0].name == over[0].name:
        return over
    found = {series.name: series for series in under} | {series.name: series for series in over}
    return tuple(found[name] for name in sorted(found))


def beyond(added: Added, written: Callable[[str], int]) -> Added:
    """What counts on top of columns that were `written` at these versions."""
    return tuple(series.since(written(series.column)) for series in added if series.last > written(series.column))


def total(added: Iterable[Series], column: str, version: int) -> Any:
    """What was added to a column after a version; 0 where nothing was."""
    found: Any = 0
    for series in added:
        if series.column == column:
            found = plus(found, series.after(version))
    return found


def newest(added: Added) -> int:
    """The version of the newest point; 0 without any."""
    return max((series.last for series in added), default=0)


def origins(added: Added) -> dict[str, int]:
    """The newest version of each process that has added."""
    found: dict[str, int] = {}
    for series in added:
        found[series.origin] = max(series.last, found.get(series.origin, 0))
    return found


def thinned(points: tuple[tuple[int, Any], ...], most: int = MOST) -> tuple[tuple[int, Any], ...]:
    """As many points at most: the first, and the newest."""
    return points if len(points) <= most else (points[0], *points[1 - most :])


def _both(one: Series, other: Series) -> Series:
    if one.points == other.points:
        return one
    points = dict(one.points) | dict(other.points)
    return msgspec.structs.replace(one, points=thinned(tuple(sorted(points.items(), key=_version))))


def _version(point: tuple[int, Any]) -> int:
    return point[0]
