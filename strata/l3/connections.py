"""`Pool`: connections that are kept for reuse, opened by those who need them.

Not psycopg_pool: that one connects in threads of its own, so that with the server down each caller waits out the
whole time-out although the refusal is known at once; its threads neither survive a fork nor may be started at exit.
"""

from __future__ import annotations

import contextlib
from collections import deque
from typing import NamedTuple

import psycopg

from strata import waits
from strata.errors import L3UnavailableError
from strata.l3 import poolers
from strata.l3.connection import Connection, connect
from strata.policies import L3PoolConfig
from strata.waits.clock import Clock
from strata.waits.seats import Seats


class Counts(NamedTuple):
    """How many connections there are, and how many of them are idle."""

    open: int
    idle: int


class Pool:
    """Connections kept for reuse, the last one returned first.

    A connection is opened by the caller that finds none idle, so that its failure reaches that caller. Thread-safe:
    `_idle` is a deque, whose ends are atomic; `_seats` counts those that are in use or being opened, each by whoever
    uses it, so that none is counted of which the use was broken off. `_fit` is written by those who connect first and
    by `listens`, which sets `_listens`: to lose a race costs a second look at the pooler. `_generation` is raised by
    any thread; where two do so at once, what was opened in between may stay, and is found out at its next use. After
    fork: `abandon`.
    """

    def __init__(self, conninfo: str, config: L3PoolConfig, clock: Clock) -> None:
        self._conninfo = conninfo
        self._config = config
        self._clock = clock
        self._patience = config.acquire_timeout
        self._longest_idle = config.max_conn_idle_time
        self._generation = 0
        self._listens = False
        self._fit = False  # whether what a pooler can do was looked at
        self._reset()

    def _reset(self) -> None:
        self._seats = Seats(self._config.max_conns)
        self._idle: deque[Connection] = deque()

    def take(self, user: object) -> Connection:
        """A connection that was alive a moment ago, for `user`, an object that lives for as long as its use.

        Raises `psycopg.Error` where none can be opened, `L3UnavailableError` where all stay in use,
        `InvalidConfigError` for a pooler in between that cannot do what we need.
        """
        try:
            if not self._seats.take(user, self._patience):
                raise L3UnavailableError(
                    f"none of {self._config.max_conns} connections became free within {self._patience:g} s; raise "
                    "L3PoolConfig.max_conns, or shorten what holds them"
                )
            while True:
                try:
                    conn = self._idle.pop()
                except IndexError:
                    return self._connect()
                if self._clock.monotonic() < conn.expires_at and conn.silent():
                    conn.user = waits.thread_ident()
                    return conn
                conn.close()
        except BaseException:
            self._seats.leave(user)
            raise

    def give(self, user: object, conn: Connection) -> None:
        """Take a connection back; one that is broken, old, or in the middle of something is closed."""
        try:
            now = conn.idle_since = self._clock.monotonic()
            if conn.in_transaction or conn.generation != self._generation or now >= conn.expires_at or conn.full:
                conn.close()
            else:
                conn.deadline = None
                conn.staged = []
                self._keep(conn)
                if len(self._idle) > 1:
                    self._thin_out(now)
        finally:
            self._seats.leave(user)

    def drop_idle(self) -> None:
        """Close what is idle, and what is in use when it is given back: the server is another one now."""
        self._generation += 1
        with contextlib.suppress(IndexError):
            while True:
                self._idle.pop().close()

    def abandon(self) -> None:
        """In the child of a fork: forget the parent's connections. One that is given back yet is closed."""
        self._generation += 1
        self._reset()

    def listens(self) -> None:
        """Somebody needs a session that is its alone, over the same way: from now on a pooler must give one."""
        self._listens, self._fit = True, False

    def apart(self) -> Connection:
        """A connection that is not counted, and the caller's to close. Raises as `take` does."""
        conn = connect(self._conninfo, self._config, self._clock)
        try:
            self._check(conn)
        except BaseException:
            conn.close()
            raise
        return conn

    def counts(self) -> Counts:
        """The connections there are now."""
        idle = len(self._idle)
        return Counts(self._seats.used + idle, idle)

    def _keep(self, conn: Connection) -> None:
        conn.user = None
        self._idle.append(conn)

    def _thin_out(self, now: float) -> None:
        """Close the connection that was idle longest, where it was for too long: one a call."""
        try:
            unused = now - self._idle[0].idle_since >= self._longest_idle
            if unused and self.counts().open > self._config.min_conns:
                self._idle.popleft().close()
        except IndexError:
            pass  # others have taken them

    def _connect(self) -> Connection:
        """Open the caller's connection, and those that are to be there at least."""
        conn = self._new()
        while self.counts().open < self._config.min_conns and self._open_spare():
            pass
        return conn

    def _open_spare(self) -> bool:
        user = _Opening()
        try:
            if not self._seats.sit(user):
                return False
            spare = self._new()
            spare.idle_since = self._clock.monotonic()
            self._keep(spare)
        except psycopg.Error:
            return False  # the caller has one
        finally:
            self._seats.leave(user)
        return True

    def _new(self) -> Connection:
        generation = self._generation
        conn = self.apart()
        conn.generation = generation
        return conn

    def _check(self, conn: Connection) -> None:
        if conn.pooled and not self._fit:
            other = lambda: connect(self._conninfo, self._config, self._clock)  # noqa: E731
            poolers.check(conn, other, listens=self._listens)
        self._fit = True


class _Opening:
    """Whose seat a connection has that is opened to be idle."""

    __slots__ = ("__weakref__",)
