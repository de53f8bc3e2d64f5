"""Commands to a single Redis over connections of our own.

redis-py opens a connection (TLS, AUTH, SELECT, Sentinel's master); hiredis packs and parses. redis-py's own
`execute_command` costs as much as the round trip itself (measured: 25 µs of 50), and retries; here a command is sent
once, and what fails is decided above.
"""

from __future__ import annotations

import contextlib
import math
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple, Protocol

import hiredis
from redis.exceptions import (
    AskError,
    AuthenticationError,
    ClusterDownError,
    MovedError,
    NoScriptError,
    OutOfMemoryError,
    ReadOnlyError,
    ResponseError,
    TryAgainError,
)
from redis.exceptions import ConnectionError as LostError

from strata.forks.inherited import abandon_in_child
from strata.waits import hub
from strata.waits.seats import Seats


class WireTimeouts(NamedTuple):
    """Seconds: for a command to be sent whole (`write`), and for anything of its answer to come (`read`). None: no
    end."""

    read: float | None
    write: float | None


class Wire:
    """One connection; used by one thread at a time, which names its time-out each time."""

    __slots__ = ("__weakref__", "_connection", "_failure", "_read", "_reader", "_stream", "_write", "silent")

    def __init__(self, connection: Any, patience: WireTimeouts) -> None:
        self._connection = connection
        self._read, self._write = patience
        abandon_in_child(self)
        self._stream = hub.current().stream(connection)
        # Whether nothing came unasked: a server that went away leaves the end of the stream to be read.
        self.silent: Callable[[], bool] = self._stream.silent
        self._reader = hiredis.Reader(protocolError=LostError, replyError=_reply_error)
        self._failure: Exception | None = None

    def send(self, packed: bytes) -> None:
        """Send packed commands."""
        self._stream.send(packed, self._write)

    def call(self, command: Sequence[Any]) -> Any:
        """The answer to one command. Raises `redis.RedisError` or `OSError`."""
        return raised(self.ask(packed(command), 1))

    def ask(self, packed: bytes, count: int) -> list[Any]:
        """The answers to so many packed commands; an error answer is among them as an exception, not raised."""
        reader, answers = self._reader, list[Any]()
        data = self._stream.ask(packed, self._write, self._read)
        while True:
            if not data:
                raise LostError(CLOSED)
            reader.feed(data)
            while (answer := reader.gets()) is not False:
                answers.append(answer)
                if len(answers) == count:
                    return answers
            data = self._stream.receive(self._read)

    def hear(self, seconds: float) -> None:
        """Wait until something comes, for `seconds` at most. What goes wrong is for `heard` to raise."""
        try:
            self._take(self._stream.receive(max(seconds, 0.001)))
        except TimeoutError:
            pass
        except Exception as error:  # noqa: BLE001 redis-py and hiredis raise any, and so does a socket that was closed
            self._failure = error

    def _take(self, data: bytes) -> None:
        if not data:
            raise LostError(CLOSED)
        self._reader.feed(data)

    def heard(self) -> list[Any]:
        """The answers that have come. Raises what `hear` met."""
        answers: list[Any] = []
        while (answer := self._reader.gets()) is not False:
            answers.append(answer)
        if self._failure is not None and not answers:
            raise self._failure
        return answers

    @property
    def fileno(self) -> int:
        """The socket's descriptor, for whoever waits at many."""
        return self._stream.fileno

    def unblock(self) -> None:
        """From now on only `send_now` and `read_now` are used, by one thread."""
        self._stream.unblock()

    def send_now(self, data: bytes) -> int:
        """Send what can be sent without a wait; how many bytes that was."""
        return self._stream.send_now(data)

    def read_now(self) -> list[Any]:
        """The answers that have come whole, without a wait. Raises `LostError` at the end of the stream."""
        data = self._stream.receive_now()
        if data is None:
            return []
        self._take(data)
        return self.heard()

    def hang_up(self) -> None:
        """From another thread: who waits for an answer is told at once that the connection is closed."""
        self._stream.hang_up()

    def abandon(self) -> None:
        """In the child of a fork: close the parent's socket, without a word on it."""
        abandon([self._connection])

    def close(self) -> None:
        """Close it, without a word where the server is gone."""
        with contextlib.suppress(Exception):
            self._stream.hang_up()
            self._connection.disconnect()


def abandon(connections: Iterable[Any]) -> None:
    """In the child of a fork: close the sockets of redis-py's connections. Its own way may wait for locks."""
    for connection in connections:
        if (sock := connection._sock) is not None:
            sock.close()


class SharedWire(Protocol):
    """A connection that many operations use at a time."""

    def retire(self) -> None:
        """From any thread: what is under way is the last, and then it is to be closed."""


class Wires:
    """Connections kept for reuse, the last one returned first. Thread-safe: a deque's ends are atomic, and `_seats`
    counts who uses one. One whose use was broken off is closed: its answer may still be on its way. `greet` has the
    first word on each connection, and may raise to refuse it. Who finds all in use waits as long as for an answer."""

    def __init__(
        self, pool: Any, size: int, patience: WireTimeouts, greet: Callable[[Wire], None] | None = None
    ) -> None:
        self._pool = pool
        self._greet = greet
        self.patience = patience
        self._longest = math.inf if patience.read is None else patience.read
        self._idle: deque[Wire] = deque()
        self._seats = Seats(size)
        self._shared: dict[int, weakref.ref[SharedWire]] = {}  # each use is one call

    def call(self, command: Sequence[Any]) -> Any:
        """The answer to one command. Raises `redis.RedisError` or `OSError`; `LostError` if the connection broke."""
        return raised(self._exchange(packed(command), 1))

    def call_many(self, commands: Sequence[Sequence[Any]]) -> list[Any]:
        """The answers to many commands in one round trip; error answers are among them, as exceptions."""
        return self._exchange(b"".join([packed(command) for command in commands]), len(commands))

    def _exchange(self, packed: bytes, count: int) -> list[Any]:
        if hub.current is hub.threads:  # who blocks, as all do
            return self.block(packed, count)
        return hub.current().exchange(self, packed, count)

    def open(self) -> Wire:
        """A connection outside the pool, as for a subscription."""
        wire = Wire(self._pool.connection_class(**self._pool.connection_kwargs), self.patience)
        if self._greet is not None:
            try:
                self._greet(wire)
            except BaseException:
                wire.close()
                raise
        return wire

    def share(self, link: SharedWire) -> None:
        """Operations of an event loop share a connection that was opened here."""
        number = id(link)
        self._shared[number] = weakref.ref(link, lambda _: self._shared.pop(number, None))

    def close(self) -> None:
        """Close what is idle; what is shared, once nobody waits for an answer."""
        while self._idle:
            with contextlib.suppress(IndexError):
                self._idle.pop().close()
        for known in list(self._shared.values()):
            if (link := known()) is not None:
                link.retire()

    def block(self, packed: bytes, count: int) -> list[Any]:
        """Send commands, and take their answers, in a thread of the system, which stands still meanwhile."""
        user = _User()
        wire = None
        try:
            if not self._seats.take(user, self._longest):
                raise LostError("all connections are in use; raise L2PoolConfig.pool_size")
            while wire is None:
                try:
                    wire = self._idle.pop()
                except IndexError:
                    wire = self.open()
                    break
                if not wire.silent():
                    wire.close()
                    wire = None
            answers = wire.ask(packed, count)
            for answer in answers:
                if isinstance(answer, ELSEWHERE):
                    # The master became a replica: whoever took its place is found by new connections. And a connection
                    # whose login has run out logs in anew.
                    wire.close()
                    self.close()
                    return answers
            whole, wire = wire, None
            self._idle.append(whole)
            return answers
        except BaseException:
            if wire is not None:
                wire.close()
            raise
        finally:
            self._seats.leave(user)


ELSEWHERE = (ReadOnlyError, AuthenticationError)
CLOSED = "the server closed the connection"


def raised(answers: Sequence[Any]) -> Any:
    """The only one of the answers; raises it where it is an error."""
    [answer] = answers
    if isinstance(answer, Exception):
        raise answer
    return answer


class _User:
    """Who holds a seat: the frame of one exchange."""

    __slots__ = ("__weakref__",)


def packed(command: Sequence[Any]) -> bytes:
    """A command as it is sent.

    hiredis gets text and bytes only: where a signal's handler raises while it makes the text of a number, it crashes.
    """
    for part in command:
        if part.__class__ is not str and part.__class__ is not bytes:
            command = [str(part) if isinstance(part, int | float) else part for part in command]
            break
    made: bytes = hiredis.pack_command(tuple(command))
    return made


_REDIRECTIONS: dict[str, Callable[[str], Exception]] = {
    "MOVED": MovedError, "ASK": AskError, "TRYAGAIN": TryAgainError, "CLUSTERDOWN": ClusterDownError,
}  # fmt: skip


def _reply_error(text: str) -> Exception:
    code = text.partition(" ")[0]
    if code == "NOSCRIPT":
        return NoScriptError(text)
    if code == "NOAUTH":
        return AuthenticationError(text)
    if code in _REDIRECTIONS:
        with contextlib.suppress(ValueError):  # it names no node
            return _REDIRECTIONS[code](text[len(code) + 1 :])
    if code == "READONLY":
        return ReadOnlyError(text)
    if code == "OOM" or " -OOM " in text:  # the latter is how Redis 6 says it of a script
        return OutOfMemoryError(text)
    return ResponseError(text)
