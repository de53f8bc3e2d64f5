"""`LoopHub`: carries out what operations wait for on an asyncio event loop, or uvloop's."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextvars import ContextVar
from functools import partial
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

from psycopg.waiting import READY_R, READY_W, WAIT_R, WAIT_W

from strata.aio import operations
from strata.aio.links import Link
from strata.aio.operations import Operation
from strata.l2.wire import ELSEWHERE
from strata.l3.failures import WaitTimeout
from strata.waits import hub
from strata.waits.hub import THREADS, MemoryLock, Thread

if TYPE_CHECKING:
    from strata.l2.wire import Wires
    from strata.waits.nudge import Nudge
    from strata.waits.sockets import Stream

P = ParamSpec("P")
T = TypeVar("T")
R = TypeVar("R")
_outer: ContextVar[tuple[int, asyncio.Task[Any] | None]] = ContextVar("strata_outer")  # who awaits a hook's coroutine

IDLE = 200  # greenlets that are kept; each has a stack of some 16 KiB
LARGE = 65_536  # bytes from which commands go another way, lest everybody's wait for them


class LoopHub:
    """The hub of the operations of one event loop, in the thread that runs it; only `soon` is for any other.

    Made at the first call in a loop, and forgotten with it, or with its thread (`of_running_loop`). In the child of a
    fork another loop runs, and so has another hub; what this one has connected is closed there by whom it belongs to.
    """

    look = 1.0  # a thousand may wait, and all would look

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self.clock = THREADS.clock
        self.chance = THREADS.chance
        self._thread = threading.get_ident()
        self._idle: list[Operation] = []
        self._begun = 0
        self._links: dict[tuple[int, bool], Link] = {}  # by the id of the wires, which a link keeps alive

    # -- operations ---------------------------------------------------------------------------------------------

    async def carry(self, call: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """Make a call of the engine, giving way to the loop while it waits.

        A cancellation is raised in the call where it waits, and comes here when the call has let it pass; one that
        comes while the call is shielded is raised where it waits next, or else at its end.
        """
        operation = self._operation()
        held: BaseException | None = None
        found: Any = operations.switch(operation, call, args, kwargs)
        while not operation.ended:
            if held is not None and not operation.shields:
                _forget(found)
                error, held = held, None
                found = operations.throw(operation, error)
                continue
            if operation.shields:
                found = asyncio.ensure_future(found)
            try:
                answer = await (_unbroken(found) if operation.shields else found)
            except GeneratorExit as error:
                operation.dropped = True
                operations.throw(operation, error)
                raise
            except asyncio.CancelledError as error:
                if operation.shields and not found.cancelled():
                    held = error
                else:
                    found = operations.throw(operation, error)
            except BaseException as error:  # noqa: BLE001 it belongs to the engine's code
                found = operations.throw(operation, error)
            else:
                found = operations.switch(operation, answer)
        try:
            if operation.failed:
                raise found
            if held is not None:
                raise held
            result: R = found
            return result
        finally:
            self._free(operation)
            del found, held

    def _operation(self) -> Operation:
        """One that is free. What a hook calls, in its task, is of the operation that awaits the hook, and must not wait
        for itself."""
        operation = self._idle.pop() if self._idle else Operation(self)
        operation.ended = False
        outer = _outer.get(None)
        if outer is not None and outer[1] is asyncio.current_task():
            operation.number = outer[0]
        else:
            self._begun += 1
            operation.number = -self._begun  # threads have positive numbers
        return operation

    def _free(self, operation: Operation) -> None:
        """It has ended."""
        if len(self._idle) < IDLE and not operation.dropped:
            self._idle.append(operation)

    def soon(self, call: Callable[[], object]) -> None:
        """From any thread: have the loop call it. Nothing where the loop was closed."""
        if threading.get_ident() == self._thread:
            if not self.loop.is_closed():
                self.loop.call_soon(call)
            return
        with contextlib.suppress(RuntimeError):
            self.loop.call_soon_threadsafe(call)

    def in_thread(self, call: Callable[[], T]) -> asyncio.Future[T]:
        """What a call returns, or raises, that waits by means of its own, in a thread of its own."""
        future: asyncio.Future[T] = self.loop.create_future()

        def run() -> None:
            try:
                result = call()
            except BaseException as error:  # noqa: BLE001 it is raised where it is awaited
                self.soon(partial(_fail, future, error))
            else:
                self.soon(partial(_finish, future, result))

        threading.Thread(target=run, name="strata-connects", daemon=True).start()
        return future

    def close(self) -> None:
        """Close what it has connected, of a loop that is closed or about to be."""
        for link in list(self._links.values()):
            link.retire() if not self.loop.is_closed() else link.lose(ConnectionError("the event loop was closed"))

    def unlink(self, link: Link) -> None:
        """Nobody is to use it any more."""
        for key, known in list(self._links.items()):
            if known is link:
                del self._links[key]

    def deaf(self, fileno: int) -> None:
        """The loop is to look at a socket no longer."""
        if not self.loop.is_closed():
            self.loop.remove_reader(fileno)
            self.loop.remove_writer(fileno)

    # -- Hub ----------------------------------------------------------------------------------------------------

    def sleep(self, seconds: float) -> None:
        future = self.loop.create_future()
        timer = self.loop.call_later(seconds, _finish, future, None)
        try:
            _me().wait(future)
        finally:
            timer.cancel()

    def nudged(self, nudge: Nudge, seconds: float | None) -> bool:
        if nudge.block(0):
            return True
        if seconds is not None and seconds <= 0:
            return False
        future = self.loop.create_future()
        arrive = partial(_finish, future, None)
        timer = None
        try:
            nudge.told = partial(self.soon, arrive)
            if nudge.block(0):  # given just now
                return True
            if seconds is not None:
                timer = self.loop.call_later(seconds, arrive)
            _me().wait(future)
            return nudge.block(0)
        finally:
            nudge.told = None
            if timer is not None:
                timer.cancel()

    def call(self, wait: Callable[[], T]) -> T:
        result: T = _me().wait(self.in_thread(wait))
        return result

    def awaited(self, awaitable: Awaitable[T]) -> T:
        operation = _me()
        token = _outer.set((operation.number, asyncio.current_task()))  # in the context of the task, as all here
        try:
            result: T = operation.wait(awaitable)
        finally:
            _outer.reset(token)
        return result

    @contextlib.contextmanager
    def shield(self) -> Iterator[None]:
        operation = _me()
        operation.shields += 1
        try:
            yield
        finally:
            operation.shields -= 1

    def stream(self, connection: Any) -> Stream:
        return self.call(lambda: THREADS.stream(connection))

    def exchange(self, wires: Wires, packed: bytes, count: int) -> list[Any]:
        key = (id(wires), len(packed) >= LARGE)
        link = self._links.get(key)
        if link is None or link.retired:
            link = self._links[key] = Link(self, wires)
        answers: list[Any] = _me().wait(link.exchange(packed, count))
        if any(isinstance(answer, ELSEWHERE) for answer in answers):
            link.retire()
            wires.close()
        return answers

    def query(self, connection: Any, steps: Any, timeout: float | None) -> Any:
        try:
            want = next(steps)
            while True:
                ready = READY_W if want & WAIT_W else 0  # a socket takes what is sent, but for a lot
                if ready:
                    want = steps.send(ready)
                if not ready or want & WAIT_W:
                    want = steps.send(self._able(connection.pgconn.socket, want, timeout))
        except StopIteration as end:
            return end.value

    def _able(self, fileno: int, want: int, timeout: float | None) -> int:
        """Wait until a socket can be read, or written to, as far as that is wanted; which of these it can."""
        loop = self.loop
        future: asyncio.Future[int] = loop.create_future()
        timer = None
        try:
            if want & WAIT_R:
                loop.add_reader(fileno, _finish, future, int(READY_R))
            if want & WAIT_W:
                loop.add_writer(fileno, _finish, future, int(READY_W))
            if timeout is not None:
                timer = loop.call_later(timeout, _finish, future, 0)
            ready: int = _me().wait(future)
        finally:
            if not loop.is_closed():
                if want & WAIT_R:
                    loop.remove_reader(fileno)
                if want & WAIT_W:
                    loop.remove_writer(fileno)
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
        return _me().number


async def _unbroken(future: asyncio.Future[Any]) -> Any:
    """Wait for it; a cancellation ends the wait, and leaves it."""
    await asyncio.wait([future])
    return future.result()


def _forget(awaitable: Any) -> None:
    if isinstance(awaitable, asyncio.Future):
        awaitable.cancel()
    else:
        awaitable.close()


def _me() -> Operation:
    operation = operations.current()
    assert operation is not None
    return operation


def _finish(future: asyncio.Future[T], result: T) -> None:
    if not future.done():
        future.set_result(result)


def _fail(future: asyncio.Future[Any], error: BaseException) -> None:
    if not future.done():
        future.set_exception(error)


class _Here(threading.local):
    """The hubs of the loops that this thread runs, by id, and that of the last one."""

    def __init__(self) -> None:
        self.hubs: dict[int, LoopHub] = {}
        self.hub: LoopHub | None = None


_here = _Here()


def of_running_loop() -> LoopHub:
    """The hub of the loop that runs here. Raises `RuntimeError` where none does."""
    loop = asyncio.get_running_loop()
    here = _here.hub
    if here is not None and here.loop is loop:
        return here
    hubs = _here.hubs
    for known in [known for known in hubs.values() if known.loop.is_closed()]:
        del hubs[id(known.loop)]
        known.close()
    if id(loop) not in hubs:
        hubs[id(loop)] = LoopHub(loop)
    here = _here.hub = hubs[id(loop)]
    return here


def _of_operation() -> LoopHub | None:
    operation = operations.current()
    return None if operation is None else operation.hub


hub.find_by(_of_operation)
