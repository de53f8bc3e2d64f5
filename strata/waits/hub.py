"""`Hub`: who carries out what an operation waits for.

An operation runs in a thread of the system, which it blocks, unless whoever runs it says otherwise (`find_by`): there
may be one that runs many operations in one thread, and goes on with another one meanwhile. gevent and eventlet are no
such hubs: they put something of their own in the place of the system's threads, and nothing here knows of it.
"""

from __future__ import annotations

import contextlib
import random
import threading
import time
from collections.abc import Awaitable, Callable
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, NoReturn, Protocol, TypeVar

from strata.errors import StrataError
from strata.waits.clock import Clock, SystemClock
from strata.waits.sockets import Stream

if TYPE_CHECKING:
    from strata.waits.nudge import Nudge

T = TypeVar("T")
LOOK = 0.05  # seconds after which who waits looks for itself, since whoever was to nudge may have been interrupted
MemoryLock = threading.RLock


class NoLoopError(StrataError):
    """Nobody is there to await what is a coroutine."""


class Thread(Protocol):
    """As in `threading`."""

    def start(self) -> None: ...

    def join(self, timeout: float | None = None) -> None: ...

    def is_alive(self) -> bool: ...


class Hub(Protocol):
    """Called by the operation that runs. Out of any wait an exception may come from outside, such as a cancellation.

    One of another kind than `Threads` has to keep this:

    - A `Stream` is used by the operation, of whichever hub, that takes its connection out of the pool, not only by the
      one that opened it; a connection of PostgreSQL too.
    - The store's own threads wait at sockets, and so have threads of the system (`thread`), unless the hub gives them
      streams, and a PostgreSQL, of its own.
    - `lock` is asked for when a store is made; `is_inside` needs an RLock's `_is_owned`.
    - `call` may run what it is given elsewhere, where `waits.thread_ident` is another one.
    """

    clock: Clock
    chance: random.Random  # for all that is drawn at random, keys of encryption and their nonces too
    look: float  # seconds after which who waits for a nudge looks whether it was missed
    # Whether many operations run in one thread, of which none is interrupted by another: a signal's handler would wait
    # for ever behind what it has interrupted.
    together: bool

    @property
    def stopped(self) -> bool:
        """Whether nobody goes on with the operation that it is the hub of while the caller, in any thread, waits."""
        ...

    def sleep(self, seconds: float) -> None:
        """Let time pass."""

    def nudged(self, nudge: Nudge, seconds: float | None) -> bool:
        """Wait for a nudge, `seconds` at most, None being without end; whether there was one."""
        ...

    def call(self, wait: Callable[[], T]) -> T:
        """Make a call that waits by means of its own, such as a driver's that connects."""
        ...

    def stream(self, connection: Any) -> Stream:
        """Have a connection of redis-py connect; the bytes to and from it."""
        ...

    def exchange(self, wires: Any, packed: bytes, count: int) -> list[Any]:
        """Send commands to a Redis, and take their answers (`strata.l2.wire.Wires`)."""
        ...

    def query(self, connection: Any, steps: Any, timeout: float | None) -> Any:
        """Take the steps of libpq (`strata.l3.connection.Connection`); `timeout` is for each wait among them."""
        ...

    def awaited(self, awaitable: Awaitable[T]) -> T:
        """What comes of a coroutine, as one that a hook returns. Raises `StrataError` where there is no event loop."""
        ...

    def apart(self, run: Callable[[], None], at_end: Callable[[], None]) -> Callable[[], object] | None:
        """Have a call carried out by itself, so that a cancellation of the operation does not end it, and `at_end` be
        called after it, whatever became of it; returns what cancels it. None where no operation is ever cancelled:
        then nothing was begun."""
        ...

    def shield(self) -> AbstractContextManager[None]:
        """A block that a cancellation of the operation does not break off: it is raised where the operation waits next
        after it, or at its end."""
        ...

    def thread(self, run: Callable[[], None], name: str) -> Thread:
        """A thread that is not started yet. It does not keep the process from ending."""
        ...

    def current_thread(self) -> Thread:
        """The one that asks."""
        ...

    def lock(self) -> MemoryLock:
        """A lock of memory, reentrant (`strata.waits.locks`)."""
        ...

    def ident(self) -> int:
        """A number of the operation that asks, which no other one that is under way has."""
        ...


NOTHING = contextlib.nullcontext()  # shields nobody where nobody is cancelled


def _nowhere(awaitable: Awaitable[Any]) -> Any:
    refuse(awaitable)


def refuse(awaitable: Awaitable[Any]) -> NoReturn:
    """Raise `StrataError`: there is no event loop to await it."""
    close = getattr(awaitable, "close", None)
    if close is not None:
        close()  # else Python complains that it was never awaited
    raise NoLoopError(
        "a coroutine was returned to a call that awaits nothing; give a plain function, or call by the store's `aio`, "
        "with a coroutine function"
    )


class Threads:
    """The hub of operations that each have a thread of the system. Thread-safe: `elsewhere`, by which coroutines are
    awaited, is set by each event loop that begins to use a store, and called by whoever finds it."""

    def __init__(self) -> None:
        self.clock: Clock = SystemClock()
        self.chance: random.Random = random.SystemRandom()
        self.look = LOOK
        self.together = self.stopped = False
        self.elsewhere: Callable[[Awaitable[Any]], Any] = _nowhere

    def sleep(self, seconds: float) -> None:
        time.sleep(seconds)

    def nudged(self, nudge: Nudge, seconds: float | None) -> bool:
        return nudge.block(seconds)

    def call(self, wait: Callable[[], T]) -> T:
        return wait()

    def stream(self, connection: Any) -> Stream:
        connection.connect()
        return Stream(connection._sock)

    def exchange(self, wires: Any, packed: bytes, count: int) -> list[Any]:
        answers: list[Any] = wires.block(packed, count)
        return answers

    def query(self, connection: Any, steps: Any, timeout: float | None) -> Any:
        return connection.block(steps, timeout)

    def awaited(self, awaitable: Awaitable[T]) -> T:
        result: T = self.elsewhere(awaitable)
        return result

    def apart(self, run: Callable[[], None], at_end: Callable[[], None]) -> Callable[[], object] | None:
        return None

    def shield(self) -> AbstractContextManager[None]:
        return NOTHING

    def thread(self, run: Callable[[], None], name: str) -> Thread:
        return threading.Thread(target=run, name=name, daemon=True)

    def current_thread(self) -> Thread:
        return threading.current_thread()

    def lock(self) -> MemoryLock:
        return threading.RLock()

    def ident(self) -> int:
        return threading.get_ident()


THREADS = Threads()


def threads() -> Hub:
    """That of threads, to which all belong where `current` is this function."""
    return THREADS


# The hub of the operation that asks: `hub.current()`. Written by `find_by` alone, when the first hub of another kind is
# made; a thread that does not see it yet has none of these.
current: Callable[[], Hub] = threads


def find_by(find: Callable[[], Hub | None]) -> None:
    """From now on, in every thread, `find` says whose hub an operation has; None: whoever was asked before says."""
    global current
    before = current

    def found() -> Hub:
        known = find()
        return before() if known is None else known

    current = found
