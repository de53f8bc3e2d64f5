"""`Operation`: a call of the engine in a greenlet, which comes back to the event loop with all that it waits for.

So the engine stays what it is: plain calls, which wait by `strata.waits`. The way is SQLAlchemy's `greenlet_spawn`; the
greenlets are kept, since a new one costs a stack that the kernel has to map (10 µs of 12, measured).
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from greenlet import getcurrent, greenlet
from psycopg.waiting import READY_R, READY_W, WAIT_R, WAIT_W

from strata.l2.wire import ELSEWHERE
from strata.l3.failures import WaitTimeout
from strata.waits import hub
from strata.waits.clock import Clock
from strata.waits.hub import THREADS, MemoryLock, Thread

if TYPE_CHECKING:
    from strata.aio.loop import EventLoop
    from strata.l2.wire import Wires
    from strata.waits.nudge import Nudge
    from strata.waits.sockets import Stream

T = TypeVar("T")

_outer: ContextVar[tuple[int, asyncio.Task[Any] | None]] = ContextVar("strata_outer")  # who awaits a hook's coroutine


def outer() -> int | None:
    """The number of the operation that awaits a hook's coroutine in this very task."""
    known = _outer.get(None)
    return known[0] if known is not None and known[1] is asyncio.current_task() else None


class Operation(greenlet):  # type: ignore[misc]  # greenlet has no types
    """Carries out one call after another, for tasks of one event loop; used by one of them at a time. It is its own
    hub: the methods below the first two are called in it.

    `ended` and `failed` say how it last came back: with what the call returned, or raised, or with something to await.
    `shields` counts the blocks that a cancellation has to wait for; `asking` is the connection of PostgreSQL with a
    statement under way. `dropped`: its task is no more, and nothing can be awaited. `number` is that of the call, for
    `ident`.
    """

    clock: Clock = THREADS.clock
    chance: random.Random = THREADS.chance
    together = True
    look = 1.0  # a thousand may wait, and all would look
    parent: Any  # a greenlet: None is only that of a thread's first one

    def __init__(self, of: EventLoop) -> None:
        super().__init__()
        self._of = of
        self._loop = of.loop
        self.number = 0
        self.shields = 0
        self.asking: Any = None
        self.ended = self.failed = self.dropped = False

    @property
    def stopped(self) -> bool:
        """Whether the loop does not run, or is that of a caller who would stop it."""
        return not self._loop.is_running() or (current() is None and self._of.runs_here)

    def run(self, call: Callable[..., Any], args: Any, kwargs: Any) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]  # as greenlet wants it
        """The greenlet's life. Ended by greenlet itself, while it waits for a call, once nobody refers to it."""
        while True:
            outcome: Any
            try:
                outcome, self.failed = call(*args, **kwargs), False
            except BaseException as error:  # noqa: BLE001 it is raised where the call was awaited
                outcome, self.failed = error, True
            self.ended = True
            call = args = kwargs = None  # type: ignore[assignment]  # nothing of it is kept alive
            call, args, kwargs = self.parent.switch(outcome)

    def drop(self, error: GeneratorExit) -> None:
        """End the call where it waits, for its task is no more."""
        self.dropped = True
        if not self.ended:
            self.raising(error)

    def raising(self, error: BaseException) -> Any:
        """Have it go on with an error, raised where it waits; what it comes back with."""
        self.parent = getcurrent()
        return self.throw(type(error), error, error.__traceback__)

    def _wait(self, awaitable: Awaitable[Any]) -> Any:
        """What the loop has awaited. Raises what that raised, such as `CancelledError`."""
        if self.dropped:
            raise GeneratorExit
        return self.parent.switch(awaitable)

    # -- Hub ----------------------------------------------------------------------------------------------------

    def sleep(self, seconds: float) -> None:
        future = self._loop.create_future()
        timer = self._loop.call_later(seconds, finish, future, None)
        try:
            self._wait(future)
        finally:
            timer.cancel()

    def nudged(self, nudge: Nudge, seconds: float | None) -> bool:
        if nudge.block(0):
            return True
        if seconds is not None and seconds <= 0:
            return False
        future = self._loop.create_future()
        arrive = partial(finish, future, None)
        timer = None
        try:
            nudge.told = partial(self._of.soon, arrive)
            if nudge.block(0):  # given just now
                return True
            if seconds is not None:
                timer = self._loop.call_later(seconds, arrive)
            self._wait(future)
            return nudge.block(0)
        finally:
            nudge.told = None
            if timer is not None:
                timer.cancel()

    def call(self, wait: Callable[[], T]) -> T:
        result: T = self._wait(self._of.in_thread(wait))
        return result

    def awaited(self, awaitable: Awaitable[T]) -> T:
        token = _outer.set((self.number, asyncio.current_task()))  # in the context of the task, as all here
        try:
            result: T = self._wait(awaitable)
        finally:
            _outer.reset(token)
        return result

    def apart(self, run: Callable[[], None], at_end: Callable[[], None]) -> Callable[[], object]:
        return self._of.apart(run, at_end)

    @contextmanager
    def shield(self) -> Iterator[None]:
        self.shields += 1
        try:
            yield
        finally:
            self.shields -= 1

    def stream(self, connection: Any) -> Stream:
        return self.call(lambda: THREADS.stream(connection))

    def exchange(self, wires: Wires, packed: bytes, count: int) -> list[Any]:
        link = self._of.link(wires, len(packed))
        answers: list[Any] = self._wait(link.exchange(packed, count))
        for answer in answers:
            if isinstance(answer, ELSEWHERE):
                link.retire()
                wires.close()
        return answers

    def query(self, connection: Any, steps: Any, timeout: float | None) -> Any:
        self.asking = connection
        try:
            want = next(steps)
            while True:
                if want & WAIT_W:
                    want = steps.send(READY_W)  # a socket takes what is sent, but for a lot
                    if not want & WAIT_W:
                        continue
                want = steps.send(self._able(connection.pgconn.socket, want, timeout))
        except StopIteration as end:
            return end.value
        except (asyncio.CancelledError, GeneratorExit):
            self._of.give_up(connection)
            raise
        finally:
            self.asking = None

    def _able(self, fileno: int, want: int, timeout: float | None) -> int:
        """Wait until a socket can be read, or written to, as far as that is wanted; which of these it can."""
        loop = self._loop
        future: asyncio.Future[int] = loop.create_future()
        timer = None
        try:
            if want & WAIT_R:
                loop.add_reader(fileno, finish, future, int(READY_R))
            if want & WAIT_W:
                loop.add_writer(fileno, finish, future, int(READY_W))
            if timeout is not None:
                timer = loop.call_later(timeout, finish, future, 0)
            ready: int = self._wait(future)
        finally:
            self._of.deaf(fileno, reading=bool(want & WAIT_R), writing=bool(want & WAIT_W))
            if timer is not None:
                timer.cancel()
        if not ready:
            raise WaitTimeout("wait timeout expired")
        return ready

    def thread(self, run: Callable[[], None], name: str) -> Thread:
        return THREADS.thread(run, name)

    def current_thread(self) -> Thread:
        return THREADS.current_thread()

    def lock(self) -> MemoryLock:
        return THREADS.lock()

    def ident(self) -> int:
        return self.number


def finish(future: asyncio.Future[T], result: T) -> None:
    """Set its result, unless it was cancelled."""
    if not future.done():
        future.set_result(result)


def fail(future: asyncio.Future[Any], error: BaseException) -> None:
    """Have it raise, unless it was cancelled."""
    if not future.done():
        future.set_exception(error)


def current() -> Operation | None:
    """The one that asks."""
    me = getcurrent()
    return me if type(me) is Operation else None


hub.find_by(current)
