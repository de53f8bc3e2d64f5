"""`Pool`: connections that are kept for reuse, opened by those who need them.

Not psycopg_pool: that one connects in threads of its own, so that with the server down each caller waits out the
whole time-out although the refusal is known at once; its threads neither survive a fork nor may be started at exit.
"""

from __future__ import annotations

import threading
import time
from typing import NamedTuple

import psycopg

from strata.clock import Clock
from strata.errors import L3UnavailableError
from strata.l3 import poolers
from strata.l3.connection import Connection, connect, in_seconds
from strata.policies import L3PoolConfig


class Counts(NamedTuple):
    """How many connections there are, and how many of them are idle."""

    open: int
    idle: int


class Pool:
    """Connections kept for reuse, the last one returned first. Thread-safe: `_changed` guards every field below it.

    A connection is opened by the caller that finds none idle, so that its failure reaches that caller. `_open` counts
    the connections that there are, those being opened included. `_fit`, written by those who connect first and by
    `listens`, is outside of the lock: to lose a race costs a second look at the pooler.
    """

    def __init__(self, conninfo: str, config: L3PoolConfig, clock: Clock) -> None:
        self._conninfo = conninfo
        self._config = config
        self._clock = clock
        self._patience = in_seconds(config.acquire_timeout)
        self._longest_idle = in_seconds(config.max_conn_idle_time)
        self._generation = 0
        self._listens = False
        self._fit = False  # whether what a pooler can do was looked at
        self._abandoned: list[Connection] = []
        self._reset()

    def _reset(self) -> None:
        self._changed = threading.Condition(threading.Lock())
        self._idle: list[Connection] = []
        self._open = 0
        self._waiting = 0

    def take(self) -> Connection:
        """A connection that was alive a moment ago.

        Raises `psycopg.Error` where none can be opened, `L3UnavailableError` where all stay in use,
        `InvalidConfigError` for a pooler in between that cannot do what we need.
        """
        deadline: float | None = None
        while True:
            with self._changed:
                if self._idle:
                    conn = self._idle.pop()
                elif self._open < self._config.max_conns:
                    self._open += 1
                    break
                else:
                    deadline = self._wait(deadline)
                    continue
            if self._clock.monotonic() < conn.expires_at and conn.silent():
                return conn
            self._discard(conn)
        return self._connect()

    def give(self, conn: Connection) -> None:
        """Take a connection back; one that is broken, old, or in the middle of something is closed."""
        now = conn.idle_since = self._clock.monotonic()
        if conn.in_transaction or conn.generation != self._generation or now >= conn.expires_at or conn.full:
            self._discard(conn)
            return
        conn.deadline = None
        conn.staged = []
        unused = None
        with self._changed:
            self._idle.append(conn)
            if self._waiting:
                self._changed.notify()
            elif now - self._idle[0].idle_since >= self._longest_idle and self._open > self._config.min_conns:
                unused = self._idle.pop(0)  # one a call, the one that was idle longest
        if unused is not None:
            self._discard(unused)

    def drop_idle(self) -> None:
        """Close what is idle, and what is in use when it is given back: the server is another one now."""
        with self._changed:
            self._generation += 1
            idle, self._idle = self._idle, []
        for conn in idle:
            self._discard(conn)

    def abandon(self) -> None:
        """In the child of a fork: forget the parent's connections, without a word on their sockets."""
        self._abandoned += self._idle
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
        with self._changed:
            return Counts(self._open, len(self._idle))

    def _wait(self, deadline: float | None) -> float:
        # Under the lock. By the system's clock, not the store's: it is a thread that waits here.
        now = time.monotonic()
        deadline = now + self._patience if deadline is None else deadline
        self._waiting += 1
        try:
            if now >= deadline or not self._changed.wait(deadline - now):
                raise L3UnavailableError(
                    f"none of {self._config.max_conns} connections became free within {self._patience:g} s; raise "
                    "L3PoolConfig.max_conns, or shorten what holds them"
                )
        finally:
            self._waiting -= 1
        return deadline

    def _connect(self) -> Connection:
        """Open the connection that was counted already, and those that are to be there at least."""
        conn = self._new()
        while self._reserve_spare():
            try:
                spare = self._new()
            except psycopg.Error:
                break  # the caller has one
            spare.idle_since = self._clock.monotonic()
            with self._changed:
                self._idle.append(spare)
        return conn

    def _reserve_spare(self) -> bool:
        with self._changed:
            wanted = self._open < self._config.min_conns
            self._open += wanted
            return wanted

    def _new(self) -> Connection:
        generation = self._generation
        try:
            conn = self.apart()
        except BaseException:
            self._release()
            raise
        conn.generation = generation
        return conn

    def _check(self, conn: Connection) -> None:
        if conn.pooled and not self._fit:
            other = lambda: connect(self._conninfo, self._config, self._clock)  # noqa: E731
            poolers.check(conn, other, listens=self._listens)
        self._fit = True

    def _discard(self, conn: Connection) -> None:
        if not conn.own:
            self._abandoned.append(conn)  # taken before a fork, given back in the child, which never counted it
            return
        conn.close()
        self._release()

    def _release(self) -> None:
        with self._changed:
            self._open -= 1
            self._changed.notify()
