"""Waiting for a socket: whatever its number, and until somebody else says so."""

from __future__ import annotations

import fcntl
import os
import resource
import socket
import threading
from collections.abc import Iterator
from contextlib import closing

import pytest

from strata.waits.sockets import Ears

HIGH = 2000  # a number that select.select cannot take
DEADLINE = 30.0  # seconds


@pytest.fixture(params=["low", "high"])
def pair(request: pytest.FixtureRequest) -> Iterator[tuple[int, socket.socket]]:
    """A socket's number, and the other end of it."""
    here, there = socket.socketpair()
    with closing(here), closing(there):
        if request.param == "low":
            yield here.fileno(), there
            return
        limits = resource.getrlimit(resource.RLIMIT_NOFILE)
        if limits[1] <= HIGH:
            pytest.skip(f"no process may have more than {limits[1]} descriptors here")
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(limits[0], HIGH + 1), limits[1]))
        fileno = fcntl.fcntl(here.fileno(), fcntl.F_DUPFD, HIGH)
        try:
            yield fileno, there
        finally:
            os.close(fileno)
            resource.setrlimit(resource.RLIMIT_NOFILE, limits)


def waits(ears: Ears) -> threading.Thread:
    thread = threading.Thread(target=ears.wait, args=(DEADLINE,))
    thread.start()
    return thread


def test_what_comes_ends_the_wait(pair: tuple[int, socket.socket]) -> None:
    fileno, other = pair
    thread = waits(Ears(fileno))
    other.send(b"x")
    thread.join(DEADLINE / 2)
    assert not thread.is_alive()


def test_whoever_wakes_ends_the_wait_or_the_next_one(pair: tuple[int, socket.socket]) -> None:
    ears = Ears(pair[0])
    thread = waits(ears)
    ears.wake()
    thread.join(DEADLINE / 2)
    assert not thread.is_alive()
    later = Ears(pair[0])
    later.wake()
    later.wait(DEADLINE)


def test_nothing_that_comes_is_waited_for_no_longer_than_said(pair: tuple[int, socket.socket]) -> None:
    Ears(pair[0]).wait(0.01)


def test_its_pipe_ends_with_it(pair: tuple[int, socket.socket]) -> None:
    ears = Ears(pair[0])
    pipe = ears._pipe
    del ears
    for fileno in pipe:
        with pytest.raises(OSError):
            os.fstat(fileno)
