"""A connection to Redis that all operations of an event loop share.

What is asked while an answer is awaited goes out in one write ("automatic pipelining"), and answers come in order. So a
hundred that ask at once cost a few writes and reads instead of a hundred each.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING, Any

from redis.exceptions import ConnectionError as LostError

from strata.aio.operations import finish
from strata.errors import twin

if TYPE_CHECKING:
    from strata.aio.loop import EventLoop
    from strata.l2.wire import Wire, Wires


class LostTogether(LostError):
    """What all but the first are told of a connection that broke under many: one loss is one, for the breaker."""


class Link:
    """Used in its loop's thread only, but for `retire`. It connects in a thread of its own, once.

    A connection that breaks, or over which nothing gets on for as long as an answer may take, is closed, and all that
    is under way fails: whether it was done is as unknown as with a connection of each one's own. An answer whose
    caller was cancelled is taken off all the same.
    """

    def __init__(self, of: EventLoop, wires: Wires) -> None:
        self._of = of
        self._loop = of.loop
        self._wires = wires
        self._read, self._write = wires.patience
        self._moved = 0.0  # when something was sent, or came, by the loop's clock
        self._wire: Wire | None = None
        self._asked: deque[_Asked] = deque()
        self._unsent: list[bytes] = []  # to go out together
        self._timer: asyncio.TimerHandle | None = None
        self._writing = False  # whether the socket has to be able to take more first
        self.retired = False  # nothing new comes this way
        wires.share(self)
        opening = of.in_thread(wires.open)
        opening.add_done_callback(self._opened)

    def exchange(self, packed: bytes, count: int) -> asyncio.Future[list[Any]]:
        """Send commands; their answers."""
        asked = _Asked(count, self._loop)
        alone = not self._asked and self._wire is not None
        self._asked.append(asked)
        if self._timer is None and (patience := self._patience) is not None:
            self._timer = self._loop.call_later(patience, self._look)
        if alone:
            self._send(packed)
        else:
            if not self._unsent and self._wire is not None:
                self._loop.call_soon(self._flush)
            self._unsent.append(packed)
        return asked.future

    def retire(self) -> None:
        """From any thread: what is under way is the last, and then the connection is closed."""
        self.retired = True
        self._of.soon(self._end_if_idle)

    def lose(self, error: Exception) -> None:
        """Close it; all that is under way fails."""
        self.retired = True
        self._of.unlink(self)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        wire, self._wire = self._wire, None
        if wire is not None:
            self._of.deaf(wire.fileno)
            wire.close()
        asked, self._asked = self._asked, deque()
        self._unsent.clear()
        told = error
        if self._loop.is_closed():
            return  # nobody waits there any more
        for item in asked:
            if not item.future.done():
                item.future.set_exception(told)
                told = LostTogether(str(error)) if isinstance(error, LostError) else twin(error)

    def _opened(self, opening: asyncio.Future[Wire]) -> None:
        if (error := opening.exception()) is not None:
            self.lose(error if isinstance(error, Exception) else LostError("it was not opened"))
            return
        wire = self._wire = opening.result()
        wire.unblock()
        self._loop.add_reader(wire.fileno, self._readable)
        now = self._loop.time()
        for asked in self._asked:
            asked.at = now  # connecting has a time-out of its own
        if self._unsent:
            self._flush()
        self._end_if_idle()

    def _end_if_idle(self) -> None:
        if self.retired and not self._asked:
            self.lose(LostError("it is not used any more"))

    def _flush(self) -> None:
        if self._unsent and not self._writing and self._wire is not None:
            data = self._unsent[0] if len(self._unsent) == 1 else b"".join(self._unsent)
            self._unsent.clear()
            self._send(data)

    def _send(self, data: bytes) -> None:
        wire = self._wire
        assert wire is not None
        try:
            sent = wire.send_now(data)
        except Exception as error:  # noqa: BLE001 a socket, or TLS, raises what it likes
            self.lose(error if isinstance(error, OSError) else LostError(str(error)))
            return
        if sent:
            self._moved = self._loop.time()
        if sent < len(data):
            self._unsent.insert(0, data[sent:])
            if not self._writing:
                self._writing = True
                self._loop.add_writer(wire.fileno, self._writable)

    def _writable(self) -> None:
        self._writing = False
        if self._wire is not None:
            self._loop.remove_writer(self._wire.fileno)
            self._flush()

    def _readable(self) -> None:
        wire = self._wire
        if wire is None:
            return
        try:
            answers = wire.read_now()
        except Exception as error:  # noqa: BLE001 redis-py and hiredis raise any, and so does a socket
            self.lose(error if isinstance(error, LostError | OSError) else LostError(str(error)))
            return
        self._moved = self._loop.time()
        waiting = self._asked
        for answer in answers:
            if not waiting:
                self.lose(LostError("the server answered what it was not asked"))
                return
            asked = waiting[0]
            asked.answers.append(answer)
            if len(asked.answers) == asked.count:
                waiting.popleft()
                finish(asked.future, asked.answers)
        if self.retired:
            self._end_if_idle()

    @property
    def _patience(self) -> float | None:
        return self._write if self._writing else self._read

    def _look(self) -> None:
        """Whether nothing has got on for too long since the oldest answer is awaited."""
        self._timer = None
        patience = self._patience
        if not self._asked or patience is None:
            return
        connecting = self._wire is None  # which ends by itself
        left = patience if connecting else max(self._asked[0].at, self._moved) + patience - self._loop.time()
        if left <= 0:
            self.lose(TimeoutError("timed out"))
        else:
            self._timer = self._loop.call_later(left, self._look)


class _Asked:
    """Commands that were, or are to be, sent together by one operation; at that time of the loop's."""

    __slots__ = ("answers", "at", "count", "future")

    def __init__(self, count: int, loop: asyncio.AbstractEventLoop) -> None:
        self.count = count
        self.answers: list[Any] = []
        self.future: asyncio.Future[list[Any]] = loop.create_future()
        self.at = loop.time()
