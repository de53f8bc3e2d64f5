"""The lives of records whose lowest tier is L2: no read that begins after the end of one shows the record.

All lives that are given are equally long. So a record ends at the latest so long after the last call that may have
given it one has returned; while such a call is under way, or where nobody knows what became of it, no end is known.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from tests.simulator.world import World

LIFE = 2.0  # seconds
SOON = 0.002  # seconds by which clocks that tell whole milliseconds may be late


class Lives:
    """Of one episode, by the texts of records, each of which is written once."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._ends: dict[tuple[Any, str], float] = {}  # of those that are written
        self._unknown: dict[Any, int] = {}  # touches of a key that have not returned, or failed
        self._short: set[Any] = set()  # keys that had such lives

    def wrote(self, key: Any, text: str | None) -> None:
        """A record was written, with whatever life."""
        if text is not None:
            self._ends.setdefault((key, text), math.inf)

    @contextmanager
    def begins(self, key: Any, text: str) -> Iterator[None]:
        """A call that writes a record with such a life."""
        self._ends[key, text] = math.inf
        self._short.add(key)
        yield
        self._ends[key, text] = self._world.now + LIFE

    @contextmanager
    def touches(self, key: Any) -> Iterator[None]:
        """A call that gives such a life to what is there."""
        there = [place for place in self._ends if place[0] == key]
        self._unknown[key] = self._unknown.get(key, 0) + 1
        self._short.add(key)
        yield
        self._unknown[key] -= 1
        for place in there:
            self._ends[place] = self._world.now + LIFE

    def may_be_over(self, key: Any) -> bool:
        """Whether a record of the key has had such a life."""
        return key in self._short

    def read(self, process: Any, key: Any, text: str | None, began: float) -> None:
        """A read that began then has returned."""
        ends = math.inf if text is None or self._unknown.get(key) else self._ends.get((key, text), math.inf)
        if began > ends + SOON:
            self._world.breaks(f"{process} read {text} of {key}, {began - ends:.3f} s after it had ended")
