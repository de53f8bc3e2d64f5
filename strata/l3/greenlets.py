"""Waiting for PostgreSQL under gevent and eventlet: so that other greenlets go on meanwhile.

psycopg waits in C, and decides when it is imported whether it may: for gevent only, and not where the patching comes
later, as with `gunicorn -k gevent --preload`. Here it is decided at each wait, by the `select` that there is.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import Any, TypeVar

from psycopg import errors, waiting
from psycopg.abc import PQGen, PQGenConn

from strata import waits
from strata.waits.sockets import able

RV = TypeVar("RV")


def wait(gen: PQGen[RV], fileno: int, interval: float, timeout: float | None) -> RV:
    """As psycopg's `waiting.wait`."""
    return waiting.wait_select(gen, fileno, interval, timeout)


def connecting(gen: PQGenConn[RV], timeout: float) -> PQGenConn[RV]:
    """The generator that opens a connection, with all its waits done when it is first asked for one."""
    deadline = waits.monotonic() + timeout
    try:
        fileno, wanted = next(gen)
        while True:
            left = deadline - waits.monotonic()
            if left <= 0:
                raise errors._WaitTimeout("wait timeout expired")
            fileno, wanted = gen.send(_ready(fileno, wanted, left))
    except StopIteration as end:
        opened: RV = end.value
        return opened
    yield from _nothing()


def _ready(fileno: int, wanted: int, timeout: float) -> Any:
    reading, writing = wanted & waiting.WAIT_R, wanted & waiting.WAIT_W
    able_to_read, able_to_write = able(fileno, bool(reading), bool(writing), timeout)
    return bool(able_to_read) * waiting.READY_R | bool(able_to_write) * waiting.READY_W


def _nothing() -> Generator[Any, Any, None]:
    yield from ()
