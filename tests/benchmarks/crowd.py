"""Clients of web servers: connections that are kept, one request under way on each, at little cost to the machine.

A request costs some 20 µs here, so that two cores are left to the servers.
"""

from __future__ import annotations

import itertools
import math
import random
import re
import select
import socket
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

from tests.benchmarks.harness import collector_off

HEAD = b"\r\n\r\n"
LENGTH = re.compile(rb"(?i)\r\ncontent-length: *(\d+)")
WHOSE = re.compile(rb'"id": ?(\d+)')
PATIENCE = 30.0  # seconds for an answer


def zipf(count: int, exponent: float, seed: int) -> Iterator[int]:
    """Numbers below `count` for ever, the n-th most frequent one with a weight of 1 / n ** exponent; which ones are
    frequent, and their order, follow from the seed."""
    chance = random.Random(seed)
    numbers = list(range(count))
    chance.shuffle(numbers)
    weights = list(itertools.accumulate(1 / rank**exponent for rank in range(1, count + 1)))
    while True:
        yield from chance.choices(numbers, cum_weights=weights, k=10_000)


@dataclass(frozen=True, slots=True)
class Request:
    """What is sent, and the record that the answer must be about."""

    id: int
    data: bytes

    @classmethod
    def of(cls, method: str, path: str, id: int, query: str = "") -> Request:
        return cls(id, f"{method} {path}{id}{query} HTTP/1.1\r\nHost: shop\r\n\r\n".encode())


@dataclass(slots=True)
class Load:
    """What came of a time of asking: seconds each answer took, and seconds altogether."""

    seconds: float = 0.0
    late: list[float] = field(default_factory=list)

    @property
    def rate(self) -> float:
        """Answers a second."""
        return len(self.late) / self.seconds


class Link:
    """One connection."""

    def __init__(self, port: int) -> None:
        self.sock = socket.create_connection(("127.0.0.1", port), timeout=PATIENCE)
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._asked = Request(0, b"")
        self._got = b""
        self.began = 0.0

    def send(self, request: Request) -> None:
        """Ask."""
        self._asked, self._got, self.began = request, b"", time.perf_counter()
        self.sock.sendall(request.data)

    def receive(self) -> bytes | None:
        """The body, once all of the answer is there, which must be good and about what was asked for."""
        data = self.sock.recv(1 << 16)
        assert data, "the server has closed a connection"
        self._got += data
        head, found, body = self._got.partition(HEAD)
        if not found:
            return None
        length = LENGTH.search(head)
        assert head.startswith(b"HTTP/1.1 200") and length is not None, self._got
        if len(body) < int(length[1]):
            return None
        about = WHOSE.search(body)
        assert about is not None and int(about[1]) == self._asked.id, (self._asked, body)
        return body

    def ask(self, request: Request) -> bytes:
        """Send it and wait for the body."""
        self.send(request)
        while (body := self.receive()) is None:
            pass
        return body


class Crowd:
    """`each` clients of every server, so that all of these have the same to do. Used by one thread."""

    def __init__(self, ports: Sequence[int], each: int) -> None:
        self.links = [Link(port) for _ in range(each) for port in ports]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for link in self.links:
            link.sock.close()

    def drive(self, requests: Iterator[Request], seconds: float = math.inf) -> Load:
        """Each client asks again as soon as it is answered, until the time is up or nothing is left to ask."""
        load = Load()
        links = {link.sock.fileno(): link for link in self.links}
        with collector_off(), select.epoll() as poll:
            began = time.perf_counter()
            until = began + seconds
            under_way = 0
            for number, link in links.items():
                poll.register(number, select.EPOLLIN)
                if (request := next(requests, None)) is not None:
                    link.send(request)
                    under_way += 1
            while under_way:
                ready = poll.poll(PATIENCE)
                assert ready, f"no answer within {PATIENCE:g} s"
                for number, _ in ready:
                    link = links[number]
                    if link.receive() is None:
                        continue
                    now = time.perf_counter()
                    load.late.append(now - link.began)
                    if now < until and (request := next(requests, None)) is not None:
                        link.send(request)
                    else:
                        under_way -= 1
            load.seconds = time.perf_counter() - began
        return load
