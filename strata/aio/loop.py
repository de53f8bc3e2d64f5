"""`EventLoop`: what this process has for one event loop, of asyncio's or uvloop's."""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
import weakref
from collections import deque
from collections.abc import Awaitable, Callable
from concurrent.futures import wait
from functools import partial
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

import psycopg
from greenlet import getcurrent

from strata.aio.links import Link
from strata.aio.operations import Operation, fail, finish, outer
from strata.waits.hub import LOOK, THREADS, NoLoopError, refuse

if TYPE_CHECKING:
    from strata.l2.wire import Wires
    from strata.l3.connection import Connection

P = ParamSpec("P")
T = TypeVar("T")
R = TypeVar("R")
IDLE = 200  # greenlets that are kept; each has a stack of some 16 KiB
MOST = 100  # statements that wait to be given up; a PostgreSQL that stands still gives up none
LARGE = 4_096  # bytes from which commands go another way, lest everybody's wait for them, or for many answers


class EventLoop:
    """Greenlets and links of one loop. Used in the thread that runs it; `soon` by any.

    Made at the first call in a loop, and forgotten with it, or with its thread (`here`). In the child of a fork another
    loop runs, and so has another one of these; what this one has connected is closed there by whom it belongs to.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self._thread = threading.get_ident()
        self._idle: list[Operation] = []
        self._busy: set[Operation] = set()
        self._apart: set[asyncio.Task[None]] = set()  # which a loop alone keeps only weakly
        self._begun = 0
        self._links: dict[tuple[int, bool], Link] = {}  # by the id of the wires, which a link keeps alive
        self._process = os.getpid()
        # Appended to in the loop's thread, and taken from by one that is begun with the first, and ends with the last.
        self._giving_up: deque[Callable[[], None]] = deque()
        _last.insert(0, weakref.ref(self))

    async def call(self, call: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """Make a call of the engine, giving way to the loop while it waits.

        A cancellation is raised in the call where it waits, and comes here when the call has let it pass; one that
        comes while the call is shielded is raised where it waits next, or else at its end.
        """
        idle = self._idle
        operation = idle.pop() if idle else Operation(self)
        self._begun += 1
        # A hook's call, in the hook's task, is of the operation that awaits the hook, and must not wait for itself.
        operation.number = outer() or -self._begun  # threads have positive numbers
        operation.ended = False
        self._busy.add(operation)
        held: asyncio.CancelledError | None = None
        try:
            # Whoever runs the task now, which may be another greenlet than before, is whom it comes back to.
            me = operation.parent = getcurrent()
            operation.gr_context = me.gr_context  # the task's, so that the engine runs as the caller does
            found: Any = operation.switch(call, args, kwargs)
            while not operation.ended:
                if held is not None and not operation.shields:
                    _forget(found)
                    error, held = held, None
                    found = operation.raising(error)
                    continue
                try:
                    if operation.shields:
                        found = asyncio.ensure_future(found)
                        answer = await _unbroken(found)
                    else:
                        answer = await found
                except GeneratorExit as error:
                    operation.drop(error)
                    raise
                except asyncio.CancelledError as error:
                    if operation.shields and not found.cancelled():
                        held = error
                        if operation.asking is not None:
                            self.give_up(operation.asking)
                    else:
                        found = operation.raising(error)
                except BaseException as error:  # noqa: BLE001 it belongs to the engine's code
                    found = operation.raising(error)
                else:
                    operation.parent = getcurrent()
                    found = operation.switch(answer)
            if held is not None:
                raise held
            if operation.failed:
                raise found
            return found  # type: ignore[no-any-return]  # what the call returned
        finally:
            self._busy.discard(operation)
            if operation.ended and not operation.dropped and len(idle) < IDLE:
                idle.append(operation)
            found = held = None

    def soon(self, call: Callable[[], object]) -> None:
        """From any thread: have the loop call it. Nothing where the loop was closed."""
        if threading.get_ident() == self._thread:
            if not self.loop.is_closed():
                self.loop.call_soon(call)
            return
        with contextlib.suppress(RuntimeError):
            self.loop.call_soon_threadsafe(call)

    def apart(self, run: Callable[[], None], at_end: Callable[[], None]) -> Callable[[], object]:
        """Have a call of the engine carried out by a task of its own, and `at_end` be called after it; what cancels the
        task, from any thread. In the loop's thread."""
        task = self.loop.create_task(self.call(run))
        self._apart.add(task)

        def ended(task: asyncio.Task[None]) -> None:
            self._apart.discard(task)
            at_end()

        task.add_done_callback(ended)
        return partial(self.soon, task.cancel)

    def in_thread(self, call: Callable[[], T]) -> asyncio.Future[T]:
        """What a call returns, or raises, that waits by means of its own, in a thread of its own."""
        future: asyncio.Future[T] = self.loop.create_future()

        def run() -> None:
            try:
                result = call()
            except BaseException as error:  # noqa: BLE001 it is raised where it is awaited
                self.soon(partial(fail, future, error))
            else:
                self.soon(partial(finish, future, result))

        threading.Thread(target=run, name="strata-connects", daemon=True).start()
        return future

    def give_up(self, connection: Connection) -> None:
        """Have PostgreSQL give up the statement of a call that was cancelled, which would hold its locks, or run on,
        when the call is long over. But a COMMIT is seen to its end."""
        if connection.committing or connection.given_up or len(self._giving_up) >= MOST:
            return
        with contextlib.suppress(psycopg.Error):  # the connection is lost
            self._giving_up.append(connection.giving_up())
            if len(self._giving_up) == 1:
                threading.Thread(target=self._give_up_all, name="strata-gives-up", daemon=True).start()

    def _give_up_all(self) -> None:
        while self._giving_up:
            with contextlib.suppress(psycopg.Error):
                self._giving_up[0]()
            self._giving_up.popleft()

    @property
    def runs_here(self) -> bool:
        """Whether it is this thread's."""
        return threading.get_ident() == self._thread

    @property
    def runs_elsewhere(self) -> bool:
        """Whether this thread could wait for what it does."""
        return not self.runs_here and os.getpid() == self._process and self.loop.is_running()

    def link(self, wires: Wires, size: int) -> Link:
        """The way for commands of so many bytes."""
        key = (id(wires), size >= LARGE)
        link = self._links.get(key)
        if link is None or link.retired:
            link = self._links[key] = Link(self, wires)
        return link

    def unlink(self, link: Link) -> None:
        """Nobody is to use it any more."""
        for key, known in list(self._links.items()):
            if known is link:
                del self._links[key]

    def deaf(self, fileno: int, *, reading: bool = True, writing: bool = True) -> None:
        """The loop is to look at a socket no longer."""
        if not self.loop.is_closed():
            if reading:
                self.loop.remove_reader(fileno)
            if writing:
                self.loop.remove_writer(fileno)

    def leave(self) -> None:
        """The loop runs no more: what its calls have taken is given back, and what it has connected is closed. In the
        loop's thread."""
        for operation in list(self._busy):
            with contextlib.suppress(BaseException):
                operation.drop(GeneratorExit())
        self._busy.clear()
        for link in list(self._links.values()):
            link.lose(ConnectionError("the event loop runs no more"))

    def close(self) -> None:
        """Close what it has connected, once nobody waits for an answer."""
        for link in list(self._links.values()):
            link.retire()


_last: list[weakref.ref[EventLoop]] = []  # the last one first; each use is one call


def _from_thread(awaitable: Awaitable[T]) -> T:
    """What comes of a hook's coroutine, of a call that a thread makes: of the last loop that began to use a store, and
    still runs. Raises `StrataError` where none does."""
    for known in [known for known in list(_last) if (of := known()) is None or of.loop.is_closed()]:
        with contextlib.suppress(ValueError):  # another thread has done so
            _last.remove(known)
    loop = next((of.loop for known in list(_last) if (of := known()) is not None and of.runs_elsewhere), None)
    if loop is None:
        refuse(awaitable)
    future = asyncio.run_coroutine_threadsafe(_as_coroutine(awaitable), loop)
    while not wait([future], LOOK).done:
        if not loop.is_running():
            if not loop.is_closed():
                future.cancel()
            raise NoLoopError("the event loop that awaited it was stopped in the midst of it")
    return future.result()


THREADS.elsewhere = _from_thread


async def _as_coroutine(awaitable: Awaitable[T]) -> T:
    return await awaitable


async def _unbroken(future: asyncio.Future[T]) -> T:
    """Wait for it; a cancellation ends the wait, and leaves it."""
    await asyncio.wait([future])
    return future.result()


def _forget(awaitable: Any) -> None:
    if isinstance(awaitable, asyncio.Future):
        awaitable.cancel()
    else:
        awaitable.close()


class _Known(threading.local):
    """Those of the loops that this thread runs, by the loop's id, and that of the last one."""

    def __init__(self) -> None:
        self.all = _Loops()
        self.last: EventLoop | None = None


class _Loops(dict[int, "EventLoop"]):
    """Goes with its thread, which is the last to be able to go on with what its loops have left."""

    def __del__(self) -> None:
        for of in list(self.values()):
            if not of.loop.is_running():
                of.leave()


_known = _Known()


def running() -> EventLoop:
    """That of the loop that runs here. Raises `RuntimeError` where none does."""
    loop = asyncio.get_running_loop()
    last = _known.last
    if last is not None and last.loop is loop:
        return last
    known = _known.all
    for other in [other for other in known.values() if other.loop.is_closed()]:
        del known[id(other.loop)]
        other.leave()
    if id(loop) not in known:
        known[id(loop)] = EventLoop(loop)
    last = _known.last = known[id(loop)]
    return last
