"""The gate before the dirty buffer: while the process is about to end, new writes wait."""

from __future__ import annotations

from strata import _compiled, waits
from strata.errors import ClosedError
from strata.waits.clock import Clock
from strata.waits.hub import LOOK


class Gate:
    """Thread-safe: `_until` and `_by` are written by the thread that ends the process, under the buffer's lock where it
    shuts; each is read in one call."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._until: float | None = None  # the monotonic time until which writes wait; then they are refused
        self._by = 0  # the thread that must not wait, since it does what the others wait for

    @property
    def is_open(self) -> bool:
        """Whether writes are taken."""
        return self._until is None

    def shut(self, seconds: float) -> None:
        """Writes wait for so many seconds, and are refused then."""
        self._by = waits.ident()
        self._until = self._clock.monotonic() + seconds

    def open(self) -> None:
        """Writes are taken again."""
        self._until = None

    def wait(self) -> None:
        """Until writes are taken again. Raises `ClosedError` where that is not in time, or for who shut it."""
        mine = self._by == waits.ident()
        while (until := self._until) is not None:
            if mine or self._clock.monotonic() >= until:
                raise ClosedError("the process is about to end, by SIGTERM; the write was not taken")
            waits.sleep(LOOK)


_compiled.replace(globals(), "gate", "Gate")
