"""Servers of Redis as the processes reach them: streams of bytes over links that can be cut."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import hiredis
from greenlet import getcurrent
from redis.exceptions import ConnectionError as LostError
from redis.exceptions import TimeoutError as LateError

from tests.simulator.valkey import RefusedError, Status, Valkey
from tests.simulator.world import Event, World

if TYPE_CHECKING:
    from tests.simulator.process import Process

SLOW = (0.0, 0.02, 0.3)  # seconds for which a slow answer is on its way
LATE = (0.0, 0.0, 0.05, 0.6, 2.0)  # seconds after which is run what was lost with a connection
DIAL = 1.0  # seconds that it takes to give a cut link up


def encoded(answer: Any) -> bytes:
    """As it goes over the wire (RESP 2)."""
    if answer is None:
        return b"$-1\r\n"
    if isinstance(answer, Status):
        return b"+%b\r\n" % answer
    if isinstance(answer, bytes):
        return b"$%d\r\n%b\r\n" % (len(answer), answer)
    if isinstance(answer, int):
        return b":%d\r\n" % answer
    if isinstance(answer, RefusedError):
        return b"-%b\r\n" % str(answer).encode()
    return b"*%d\r\n" % len(answer) + b"".join(map(encoded, answer))


class Server:
    """One Redis. `up`: whether it runs; `frozen`: whether it does nothing, while its connections stay."""

    def __init__(self, world: World, name: str) -> None:
        self.world = world
        self.name = name
        self.ahead = 0.0
        self.valkey = Valkey(lambda: (world.now + self.ahead) * 1000, self._publish)
        world.sources.append(self)
        self.begin()

    def begin(self) -> None:
        """Empty, and nobody connected."""
        self.valkey.begin()
        self.up, self.frozen = True, False
        self.ahead = 0.0  # seconds by which its clock is
        self.mute: set[Process] = set()  # who may not publish
        self.doomed: set[Process] = set()  # whose next call loses its connection
        self.slow: set[Process] = set()  # to whom the next answer is a while on its way
        self.valkey.read_only = False
        self.cut: set[Process] = set()  # between whom and the server nothing gets through
        self.streams: list[SimStream] = []

    def __str__(self) -> str:
        return self.name

    def open(self, process: Process) -> SimStream:
        """A connection. Raises as redis-py does."""
        if process in self.cut or self.frozen:
            self.world.pause(lambda: process not in self.cut and not self.frozen, DIAL, f"{self} to be reached")
            if process in self.cut or self.frozen:
                raise LateError("Timeout connecting to server")
        if not self.up:
            raise LostError("Connection refused")
        stream = SimStream(self, process)
        self.streams.append(stream)
        return stream

    def restart(self, *, empty: bool) -> None:
        """Its connections are gone, and its data where that is not kept."""
        for stream in list(self.streams):
            stream.lose()
        if empty:
            self.valkey.begin()

    def heal(self) -> None:
        """Everybody gets through again. What was sent by those who have given up meanwhile is lost."""
        self.cut.clear()
        self.mute.clear()
        self.doomed.clear()
        self.slow.clear()
        self.frozen, self.up, self.valkey.read_only = False, True, False

    def lose_call(self, stream: SimStream) -> None:
        """A connection breaks; what was sent over it is run later, or never."""
        requests, chance = list(stream.requests), self.world.chance
        stream.lose()
        self.doomed.discard(stream.process)
        said = f"{stream.process} has lost its connection, and {said_all(requests)}"
        self.world.say(f"!! {said}")
        if chance.random() < 0.5:
            self.world.after(chance.choice(LATE), lambda: self._run_late(requests), f"{said} arrives")

    def _run_late(self, requests: Sequence[Sequence[bytes]]) -> None:
        if not self.up:
            return
        self.valkey.mute = False
        for command in requests:
            self.valkey.command(command)

    def _publish(self, channel: bytes, message: bytes) -> int:
        heard = [stream for stream in self.streams if channel in stream.channels]
        for stream in heard:
            stream.flight.append(encoded([b"message", channel, message]))
        return len(heard)

    def deadline(self) -> float:
        """Of what is a while on its way."""
        held = [stream.held for stream in self.streams if stream.requests and stream.held > self.world.now]
        return min(held, default=math.inf)

    def add_events(self, events: list[Event]) -> None:
        """What was sent, and what it sends."""
        if self.frozen or not self.up:
            return
        for stream in self.streams:
            if stream.requests and stream.process not in self.cut and stream.held <= self.world.now:
                events.append(stream)
            if stream.flight and stream.process not in self.cut:
                events.append(stream.mail)


class Mail:
    """The next message on its way over a stream."""

    def __init__(self, stream: SimStream) -> None:
        self.stream = stream

    def happen(self) -> None:
        """It arrives."""
        self.stream.arrived += self.stream.flight.popleft()

    def said(self) -> str:
        """What arrives."""
        message = self.stream.flight[0].splitlines()[-1]
        return f"{self.stream.process} gets {readable(message):.120}"


class SimStream:
    """The bytes between a process and a server, as `strata.waits.sockets.Stream` has them."""

    def __init__(self, server: Server, process: Process) -> None:
        self.server = server
        self.process = process
        self.requests: deque[list[bytes]] = deque()
        self.flight: deque[bytes] = deque()  # messages on their way
        self.arrived = bytearray()
        self.channels: set[bytes] = set()
        self.lost = self.hung_up = False
        self.asker = ""  # for a trace: who has sent last
        self.held = 0.0  # when what was sent arrives, where it is a while on its way
        self.mail = Mail(self)
        self._reader = hiredis.Reader()

    def happen(self) -> None:
        """The server runs the next command."""
        server, command = self.server, self.requests.popleft()
        if command[0] == b"SUBSCRIBE":
            self.channels.update(command[1:])
            answer = b"".join(encoded([b"subscribe", channel, 1]) for channel in command[1:])
        else:
            server.valkey.mute = self.process in server.mute
            answer = encoded(server.valkey.command(command))
        if server.world.trace is not None:
            server.world.say(f"    {readable(answer):.110} to {self.asker}")
        if self.process in server.slow and not self.channels and command[0] in (b"EVALSHA", b"MGET"):
            server.slow.discard(self.process)
            server.world.after(
                server.world.chance.choice(SLOW), lambda: self._arrive(answer), f"!! {answer!r:.60} arrives by and by"
            )
        else:
            self._arrive(answer)
        if self.hung_up and not self.requests:
            server.streams.remove(self)

    def asks(self, script: str) -> bool:
        """Whether this script was sent, and has not run yet."""
        return any(command[0] == b"EVALSHA" and SCRIPTS.get(command[1]) == script for command in self.requests)

    def _arrive(self, answer: bytes) -> None:
        self.arrived += answer

    def said(self) -> str:
        """The command."""
        return f"{self.server} serves {self.asker}: {said(self.requests[0])}"

    def send(self, data: bytes, seconds: float | None) -> None:
        if self.lost or self.hung_up:
            raise ConnectionResetError("the connection is lost")
        self.asker = str(getcurrent())
        self._reader.feed(data)
        while (command := self._reader.gets()) is not False:
            self.requests.append(command)
        if self.process in self.server.doomed and self.requests and self.requests[-1][0] != b"SUBSCRIBE":
            self.server.lose_call(self)

    def ask(self, data: bytes, sending: float | None, receiving: float | None) -> bytes:
        self.send(data, sending)
        return self.receive(receiving)

    def receive(self, seconds: float | None) -> bytes:
        if not self.arrived and not self.lost and not self.hung_up:
            self.server.world.pause(self._has_come, seconds, f"{self.server}'s answer")
        if self.arrived:
            data = bytes(self.arrived)
            self.arrived.clear()
            return data
        if self.lost or self.hung_up:
            return b""
        raise TimeoutError("timed out")

    def _has_come(self) -> bool:
        return bool(self.arrived) or self.lost or self.hung_up

    def silent(self) -> bool:
        return not self._has_come()

    def hang_up(self) -> None:
        """By the client. What it has sent may still arrive."""
        self.hung_up = True
        self.flight.clear()
        self.channels.clear()
        if not self.requests and self in self.server.streams:
            self.server.streams.remove(self)

    def lose(self) -> None:
        """The connection breaks; what was not served is lost."""
        self.lost = True
        self.requests.clear()
        self.flight.clear()
        if self in self.server.streams:
            self.server.streams.remove(self)


def said(command: Sequence[bytes]) -> str:
    """A command, for a trace."""
    if command[0] in (b"EVALSHA", b"EVAL"):
        return f"{SCRIPTS.get(command[1], command[1][:8])} {readable(b' '.join(command[3:])):.110}"
    return f"{readable(b' '.join(command)):.120}"


def readable(data: bytes) -> str:
    """As text, in one line."""
    return data.decode(errors="backslashreplace").replace("\r\n", " ").strip()


def said_all(commands: Sequence[Sequence[bytes]]) -> str:
    """Commands, for a trace."""
    return "; ".join(map(said, commands))


SCRIPTS: dict[bytes, str] = {}
"""The names of scripts by their sums."""
