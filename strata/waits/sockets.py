"""Bytes to and from a socket, and whether anything came: known at once or waited for, whatever the descriptors are.

`select.select` takes none above 1023, so `poll` is used where there is one, except under gevent and eventlet: there it
is their `select` that gives way to others, and takes any.
"""

from __future__ import annotations

import contextlib
import importlib.util
import math
import os
import select
import ssl
from socket import SHUT_RDWR
from types import BuiltinFunctionType, ModuleType
from typing import Any

from strata.forks.inherited import abandon_in_child

RECEIVE = 65_536  # bytes asked for at once
_LATER = (BlockingIOError, InterruptedError, ssl.SSLWantReadError, ssl.SSLWantWriteError)


def _own_copy() -> ModuleType:
    # gevent puts a poll of its own into the module, which gives way to others, and eventlet takes it out. A fresh
    # copy of the module has the system's.
    spec = importlib.util.find_spec("select")
    if spec is None or spec.loader is None:
        return select
    copy = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(copy)
    return copy


_select = _own_copy()


def patched() -> bool:
    """Whether `select` gives way to other greenlets."""
    return not isinstance(select.select, BuiltinFunctionType)


class Ear:
    """Listens at one socket; used by one thread at a time. A server that went away leaves its farewell, or the end of
    the stream, to be read."""

    __slots__ = ("_poller", "_socket")

    def __init__(self, socket: Any) -> None:
        self._socket = socket
        self._poller: Any = None
        if hasattr(_select, "poll"):  # which not every system has
            self._poller = _select.poll()
            self._poller.register(socket, _select.POLLIN)

    def silent(self) -> bool:
        """Whether nothing is there to be read."""
        if self._poller is None:
            return not _select.select([self._socket], [], [], 0)[0]
        return not self._poller.poll(0)


class Stream:
    """Bytes to and from a connected socket, which belongs to whoever opened it; used by one thread at a time. Seconds
    are those that a send, or a receive, may take; None: no end. Methods raise `OSError`."""

    __slots__ = ("_socket", "silent")

    def __init__(self, socket: Any) -> None:
        self._socket = socket
        self.silent = Ear(socket).silent  # whether nothing is there to be read, not even the end

    def ask(self, data: bytes, sending: float | None, receiving: float | None) -> bytes:
        """As `send`, and then `receive`."""
        socket = self._socket
        if socket.gettimeout() != sending:  # to set it is a system call
            socket.settimeout(sending)
        socket.sendall(data)
        if sending != receiving:
            socket.settimeout(receiving)
        answer: bytes = socket.recv(RECEIVE)
        return answer

    def send(self, data: bytes, seconds: float | None) -> None:
        """Send all of it."""
        self._allow(seconds)
        self._socket.sendall(data)

    def receive(self, seconds: float | None) -> bytes:
        """What has come, waiting for something to come; nothing at the end of the stream."""
        self._allow(seconds)
        data: bytes = self._socket.recv(RECEIVE)
        return data

    def _allow(self, seconds: float | None) -> None:
        if self._socket.gettimeout() != seconds:  # as above
            self._socket.settimeout(seconds)

    @property
    def fileno(self) -> int:
        """Its descriptor, for whoever waits at many."""
        number: int = self._socket.fileno()
        return number

    def unblock(self) -> None:
        """From now on only `send_now` and `receive_now` are used."""
        self._socket.setblocking(False)

    def send_now(self, data: bytes) -> int:
        """Send what can be sent without a wait; how much that was."""
        try:
            sent: int = self._socket.send(data)
        except _LATER:
            return 0
        return sent

    def receive_now(self) -> bytes | None:
        """What has come; nothing at the end of the stream, None where there is nothing yet."""
        try:
            data: bytes = self._socket.recv(RECEIVE)
            pending = getattr(self._socket, "pending", None)  # of TLS, which may hold what no poll shows
            while data and pending is not None and pending():
                data += self._socket.recv(RECEIVE)
        except _LATER:
            return None
        return data

    def hang_up(self) -> None:
        """From another thread: who waits here finds the end of the stream."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(SHUT_RDWR)


def able(fileno: int, reading: bool, writing: bool, seconds: float) -> tuple[bool, bool]:
    """Wait until a socket can be read, or written to, as far as that is asked; which of these it can. By `select` only,
    which under gevent and eventlet gives way to others."""
    readable, writable, _ = select.select([fileno] * reading, [fileno] * writing, [], seconds)
    return bool(readable), bool(writable)


class Ears:
    """Waits for a socket, which it does not own, in one thread; any other may `wake` it, by a pipe (djb's self-pipe).

    The pipe is closed with the object, so that nobody can wake through a descriptor that is another's meanwhile.
    """

    def __init__(self, fileno: int) -> None:
        self._fileno = fileno
        self._pipe: tuple[int, ...] = os.pipe()
        abandon_in_child(self)

    def wait(self, seconds: float) -> None:
        """Until something came, or it was woken, for `seconds` at most."""
        listened = [self._fileno, *self._pipe[:1]]
        if patched() or not hasattr(_select, "poll"):
            select.select(listened, [], [], seconds)
            return
        poller = _select.poll()
        for fileno in listened:
            poller.register(fileno, _select.POLLIN)
        poller.poll(math.ceil(seconds * 1000))

    def wake(self) -> None:
        """End a wait, or the next one."""
        for writing in self._pipe[1:]:
            os.write(writing, b"x")

    def abandon(self) -> None:
        """In the child of a fork: the pipe is the parent's."""
        pipe, self._pipe = self._pipe, ()
        for fileno in pipe:
            os.close(fileno)

    def __del__(self) -> None:
        self.abandon()
