"""The one place where Strata waits: for sockets, libpq, other threads, time to pass; and asks for the time, and chance.

The rooms of the engine call it in the place of `threading`, `time`, `select`, `socket` and `random`, but for a short
list in `tests/shape/test_waits.py`, which holds that. Who carries a wait out is the `Hub` of the operation
(`strata.waits.hub`).

| module | what is in it |
|---|---|
| `hub` | who carries out a wait: the system's threads, or one that runs many operations in one thread |
| `clock` | clocks as a parameter |
| `nudge` `seats` | one wakes another; at most so many at a time |
| `locks` | those of memory, and those that are held while their holder waits |
| `sockets` | bytes to and from a socket, and whether anything came |

The functions here are those of the hub of whoever calls them.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from typing import Any, TypeVar

from strata.waits import hub

T = TypeVar("T")
TURN = 200  # items, which are some milliseconds


def monotonic() -> float:
    """Seconds from an arbitrary start, by the clock that waits go by; a store may have another one."""
    return hub.current().clock.monotonic()


def wall() -> float:
    """Seconds since 1970 (UTC)."""
    return hub.current().clock.wall()


def sleep(seconds: float) -> None:
    """Let time pass."""
    hub.current().sleep(seconds)


def call(wait: Callable[[], T]) -> T:
    """Make a call that waits by means of its own: a driver's that connects, say."""
    return hub.current().call(wait)


def in_turns(items: Iterable[T]) -> Iterable[T]:
    """The items; where many operations run in one thread, others have a turn after each so many. For what takes its
    time over each, and holds no lock of memory."""
    if hub.current is hub.threads:
        return items
    at = hub.current()
    return _in_turns(items, at) if at.together else items


def give_way() -> None:
    """Let others have a turn, where many operations run in one thread."""
    if hub.current is not hub.threads and (at := hub.current()).together:
        at.sleep(0)


def _in_turns(items: Iterable[T], at: hub.Hub) -> Iterator[T]:
    for place, item in enumerate(items, 1):
        yield item
        if place % TURN == 0:
            at.sleep(0)


def awaited(answer: Any) -> Any:
    """What a function of the user's returned, or what comes of that where it is a coroutine, or the like. Raises
    `StrataError` where there is no event loop."""
    return hub.current().awaited(answer) if hasattr(answer, "__await__") else answer


def apart(run: Callable[[], None], at_end: Callable[[], None]) -> Callable[[], object] | None:
    """Have a call carried out by itself, and `at_end` be called after it; what cancels it. None where the caller is to
    do so itself, since nobody cancels it."""
    return hub.current().apart(run, at_end)


def shield() -> AbstractContextManager[None]:
    """A block that no cancellation breaks off."""
    return hub.NOTHING if hub.current is hub.threads else hub.current().shield()


def chance() -> random.Random:
    """What is drawn at random: by the system, whatever an application has seeded."""
    return hub.current().chance


def uniform(low: float, high: float) -> float:
    """Somewhere between: what a pause is multiplied by, so that those who begin at once do not go on at once."""
    return hub.current().chance.uniform(low, high)


def token(bytes: int) -> str:
    """Hexadecimal digits that nobody else draws."""
    return hub.current().chance.randbytes(bytes).hex()


def thread(run: Callable[[], None], name: str) -> hub.Thread:
    """A thread that is not started yet. It does not keep the process from ending."""
    return hub.current().thread(run, name)


def current_thread() -> hub.Thread:
    """The one that asks."""
    return hub.current().current_thread()


def ident() -> int:
    """A number of the operation that asks, which no other one that is under way has; some hubs run many operations in
    one thread."""
    return hub.current().ident()


def thread_ident() -> int:
    """The number of the system's thread that asks."""
    return threading.get_ident()
