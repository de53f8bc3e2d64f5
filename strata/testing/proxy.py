"""A TCP proxy on 127.0.0.1 in front of a real server, with which a test cuts, stalls, delays or refuses connections."""

from __future__ import annotations

import contextlib
import re
import select
import socket
import ssl
import threading
import time
from collections import deque
from typing import Self

from strata.durations import seconds as seconds_of
from strata.embedded.lifetime import Lifetime
from strata.errors import StrataError

CHUNK = 65_536
POLL = 0.2  # seconds after which a thread looks whether it is to end
_PLACE = re.compile(
    r"(?P<before>(?:[\w+]+://)?(?:[^@/?]*@)?)(?P<host>\[[^]]*]|[^@/?:]+):(?P<port>\d+)(?P<after>(?:[/?].*)?)"
)
FULL = 0.001  # seconds after which a side that takes no more is tried again


class Proxy(Lifetime):
    """Passes bytes between its clients and `target`: `host:port`, or a URL with one. A context manager; thread-safe.

    With `tls`, clients speak TLS to it, and it speaks plainly to the server: `ssl.create_default_context(
    ssl.Purpose.CLIENT_AUTH)` with a certificate loaded. `_lock` guards the connections and what is done to them; the
    accepting thread and one thread a connection read it.

    >>> with EmbeddedValkey() as valkey, Proxy(valkey.url) as link, DataStore(Config(redis_addr=link.addr)) as store:
    ...     link.stall()  # nothing gets through, and nothing is closed
    """

    def __init__(self, target: str, *, tls: ssl.SSLContext | None = None) -> None:
        place = _PLACE.fullmatch(target) if isinstance(target, str) else None
        if place is None:
            raise StrataError("the target of a proxy must be host:port, or a URL with a host and a port")
        self._before, self._after = place["before"], place["after"]
        self._target = (place["host"].strip("[]"), int(place["port"]))
        if tls is not None and not isinstance(tls, ssl.SSLContext):
            raise StrataError(f"tls is a {type(tls).__name__}; it must be an ssl.SSLContext, or None")
        self._tls = tls
        self._lock = threading.Condition()
        self._links: set[_Link] = set()
        self._stalled = False
        self._refusing = False
        self._delay = 0.0
        self._listener: socket.socket | None = None
        self._closed = False
        self.port = 0
        self.accepted = 0  # connections so far

    @property
    def addr(self) -> str:
        """Where clients connect: what `target` is, with this proxy's host and port in the place of the server's."""
        return f"{self._before}127.0.0.1:{self.port}{self._after}"

    @property
    def connections(self) -> int:
        """How many there are now."""
        with self._lock:
            return len(self._links)

    def start(self) -> Self:
        """Listen on a free port. Raises `StrataError` where it was started before."""
        if self._listener is not None:
            raise StrataError("this proxy was started before; make another one")
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=128)
        self._listener.settimeout(POLL)
        self.port = int(self._listener.getsockname()[1])
        threading.Thread(target=self._accept, args=(self._listener,), name="strata-proxy", daemon=True).start()
        return self

    def stop(self) -> None:
        """Close everything."""
        with self._lock:
            self._closed = True
            self._stalled = False
            self._lock.notify_all()
        if self._listener is not None:
            self._listener.close()
        self.cut()

    def cut(self) -> int:
        """Close all connections, towards both sides; returns how many. New ones are let through."""
        with self._lock:
            links = list(self._links)
        for link in links:
            link.close()
        with self._lock:
            self._lock.notify_all()
        return len(links)

    def half_open(self) -> int:
        """Close all connections towards the server only, as when it vanished: its clients hear nothing more, not
        even an end, and what they send is swallowed. Returns how many. New connections are let through."""
        with self._lock:
            links = list(self._links)
        for link in links:
            link.deaf = True
            link.close_server()
        return len(links)

    def stall(self) -> None:
        """Let nothing through, in either direction and on new connections too, and close nothing."""
        with self._lock:
            self._stalled = True

    def refuse(self) -> None:
        """Close all connections, and new ones as soon as they are made."""
        with self._lock:
            self._refusing = True
        self.cut()

    def delay(self, seconds: float) -> None:
        """Hold back whatever is sent, in each direction, for some seconds; 0 ends that. Raises `InvalidConfigError` for
        what are no seconds."""
        wait = seconds_of(seconds, "seconds") or 0.0
        with self._lock:
            self._delay = wait

    def resume(self) -> None:
        """Let everything through again; what was stalled goes on its way."""
        with self._lock:
            self._stalled = self._refusing = False
            self._delay = 0.0
            self._lock.notify_all()

    def _accept(self, listener: socket.socket) -> None:
        while not self._closed:
            try:
                client, _ = listener.accept()
            except TimeoutError:
                continue
            except OSError:
                return  # closed
            self.accepted += 1
            if self._refusing:
                client.close()
                continue
            threading.Thread(target=self._serve, args=(client,), name="strata-proxy", daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        try:
            client.settimeout(10.0)
            if self._tls is not None:
                client = self._tls.wrap_socket(client, server_side=True)
            server = socket.create_connection(self._target, 10.0)
        except OSError:
            client.close()
            return
        link = _Link(client, server)
        with self._lock:
            self._links.add(link)
        while not (self._closed or link.closed):
            deaf = link.deaf
            try:
                link.wait()
                self._await_passage(link)
                link.move(self._delay)
            except (OSError, ValueError):  # one side is gone, or was closed while it was waited for
                if deaf or not link.deaf:
                    break
        link.close()
        with self._lock:
            self._links.discard(link)

    def _await_passage(self, link: _Link) -> None:
        if self._stalled:
            with self._lock:
                self._lock.wait_for(lambda: not self._stalled or link.closed or self._closed)


class _Link:
    """One connection, served by one thread, since two may not use one TLS session at a time.

    `deaf` and `closed` go from false to true, set by whoever cuts it.
    """

    def __init__(self, client: socket.socket, server: socket.socket) -> None:
        self.closed = False
        self.deaf = False
        self._ways = (_Way(client, server), _Way(server, client))
        for sock in (client, server):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sock.setblocking(False)

    def wait(self) -> None:
        """Wait for bytes, or until some are due. Raises `OSError` or `ValueError` where a side was closed."""
        poller = select.poll()
        seconds = POLL
        for way in self._heard:
            if not way.ended:
                poller.register(way.source, select.POLLIN)
            seconds = min(seconds, way.due(time.monotonic()))
        poller.poll(max(1.0, seconds * 1000))

    def move(self, delay: float) -> None:
        """Pass on what there is. Raises `OSError` at the end of either side."""
        for way in self._heard:
            way.read(delay)
            if self.deaf:
                way.held.clear()
            way.write()
            if way.ended and not way.held:
                raise OSError("the end")

    @property
    def _heard(self) -> tuple[_Way, ...]:
        return self._ways[:1] if self.deaf else self._ways

    def close(self) -> None:
        """Both sides."""
        self.closed = True
        for way in self._ways:
            _close(way.source)

    def close_server(self) -> None:
        """The server's side; the client's stays open and is answered nothing."""
        _close(self._ways[1].source)


class _Way:
    """One direction: what was read and is not yet written, each piece with the time at which it may go on."""

    def __init__(self, source: socket.socket, sink: socket.socket) -> None:
        self.source = source
        self._sink = sink
        self.held: deque[tuple[float, bytes]] = deque()
        self.ended = False

    def due(self, now: float) -> float:
        """Seconds until something is to be written."""
        return self.held[0][0] - now if self.held else POLL

    def read(self, delay: float) -> None:
        """Take what is there. Raises `OSError` where the connection broke."""
        while not self.ended:
            try:
                data = self.source.recv(CHUNK)
            except (BlockingIOError, ssl.SSLWantReadError):
                return
            self.ended = not data
            if data:
                self.held.append((time.monotonic() + delay, data))

    def write(self) -> None:
        """Pass on what is due, as far as the other side takes it."""
        while self.held and self.held[0][0] <= time.monotonic():
            due, data = self.held.popleft()
            try:
                sent = self._sink.send(data)
            except (BlockingIOError, ssl.SSLWantWriteError):
                sent = 0
            if sent < len(data):
                self.held.appendleft((due if sent else time.monotonic() + FULL, data[sent:]))
                if not sent:
                    return


def _close(sock: socket.socket) -> None:
    with contextlib.suppress(OSError):
        sock.shutdown(socket.SHUT_RDWR)
    sock.close()
