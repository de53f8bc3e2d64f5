"""How a command that started processes ends: in order, whichever signal ends it."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator
from types import FrameType

ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Ended(KeyboardInterrupt):
    """A signal asked the command to end; `number` is the signal's."""

    def __init__(self, number: int) -> None:
        super().__init__(f"ended by {signal.Signals(number).name}")
        self.number = number


@contextlib.contextmanager
def ending_in_order() -> Iterator[None]:
    """SIGTERM and SIGHUP raise where Ctrl-C does, so that every `finally` runs. In the main thread only."""

    def end(number: int, frame: FrameType | None) -> None:
        raise Ended(number)

    with _handlers(end):
        yield


@contextlib.contextmanager
def undisturbed() -> Iterator[None]:
    """No signal interrupts the body: a second Ctrl-C would leave half of the processes behind."""
    with _handlers(signal.SIG_IGN):
        yield


@contextlib.contextmanager
def _handlers(handler: signal._HANDLER) -> Iterator[None]:
    # What was ignored when we came (nohup, a background job) stays so.
    numbers = [number for number in ENDING if signal.getsignal(number) is not signal.SIG_IGN]
    before = {number: signal.signal(number, handler) for number in numbers}
    try:
        yield
    finally:
        for number, old in before.items():
            signal.signal(number, old)
