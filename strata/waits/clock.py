"""Time as a parameter, so that no unit test has to sleep."""

from __future__ import annotations

import time
from functools import partial
from typing import Protocol


class Clock(Protocol):
    """`monotonic` never goes back, in seconds from an arbitrary start; `steady` is as it, and counts also while the
    machine sleeps; `wall` is seconds since 1970 (UTC), and may be set."""

    def monotonic(self) -> float: ...

    def steady(self) -> float: ...

    def wall(self) -> float: ...


class SystemClock:
    """The machine's own clocks."""

    monotonic = staticmethod(time.monotonic)
    # Linux stops its CLOCK_MONOTONIC while the machine sleeps; that of macOS goes on.
    steady = staticmethod(partial(time.clock_gettime, getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)))
    wall = staticmethod(time.time)


class ManualClock:
    """A clock that a test moves by hand; all times move together."""

    def __init__(self, start: float = 1_700_000_000.0) -> None:
        self._now = start

    def monotonic(self) -> float:
        return self._now

    steady = monotonic

    def wall(self) -> float:
        return self._now

    def advance(self, seconds: float) -> None:
        self._now += seconds
