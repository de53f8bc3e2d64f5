"""Time as a parameter, so that no unit test has to sleep."""

from __future__ import annotations

import time
from typing import Protocol


class Clock(Protocol):
    """`monotonic` never goes back, in seconds from an arbitrary start; `wall` is seconds since 1970 (UTC)."""

    def monotonic(self) -> float: ...

    def wall(self) -> float: ...


class SystemClock:
    """The machine's own clocks."""

    monotonic = staticmethod(time.monotonic)
    wall = staticmethod(time.time)


class ManualClock:
    """A clock that a test moves by hand; both times move together."""

    def __init__(self, start: float = 1_700_000_000.0) -> None:
        self._now = start

    def monotonic(self) -> float:
        return self._now

    def wall(self) -> float:
        return self._now

    def advance(self, seconds: float) -> None:
        self._now += seconds
