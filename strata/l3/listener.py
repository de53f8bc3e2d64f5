"""Hears what the triggers tell of changes made outside: one plain connection of a store, on a thread of its own.

Not one of the pool: it listens for as long as the store lives. Once a second it asks whether repairs are waiting, which
also shows that the server is there: rows in L3 are the truth, notifications only tell of them at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NoReturn, Protocol

import psycopg
from psycopg import errors

from strata.l3 import poolers
from strata.l3.causes import advice_of, cause_of
from strata.l3.compare import untold
from strata.l3.connection import Connection, connect, parse_dsn
from strata.l3.marks import waiting_repairs
from strata.l3.outside import CHANNEL
from strata.l3.table import Table
from strata.observe.causes import network_cause
from strata.observe.log import SafeLogger
from strata.policies import L3PoolConfig
from strata.runtime.breaker import Watcher
from strata.runtime.daemon import Daemon, Pause
from strata.schema import Schema
from strata.waits.clock import Clock
from strata.waits.sockets import Ears

BEAT = 1.0  # seconds between signs of life
PATIENCE = 2.0  # seconds for one of them


class Audience(Protocol):
    """Who is told what the listener hears, in its thread, and is quick."""

    def changed(self, text: str) -> None:
        """A notification."""

    def returned(self) -> None:
        """It begins to listen, at first and after each time in which notifications may have been missed."""

    def tables(self) -> Sequence[tuple[Table, Schema[Any]]]:
        """Those of whose repairs `waiting` is to tell, each with its schema."""
        ...

    def waiting(self) -> None:
        """There are repairs to do."""


class Listener:
    """Starts at the first `start`; thread-safe. `outage` is told when nothing is heard, and when it is again. All state
    is written by the thread only; who stops it reads `_ears`. After fork the child calls `reset`."""

    def __init__(
        self,
        dsn: str,
        config: L3PoolConfig,
        clock: Clock,
        log: SafeLogger,
        audience: Audience,
        outage: Watcher,
    ) -> None:
        self._conninfo = parse_dsn(dsn, config, "strata-listener")
        self._config = config
        self._clock = clock
        self._log = log
        self._audience = audience
        self._outage = outage
        self._said = False  # why nothing is heard is said once
        self.daemon = Daemon("strata-listener", self._step, log, expected=(psycopg.Error,), at_end=self._hang_up)
        self.start = self.daemon.start  # to be called without any lock held
        self.reset()

    def reset(self) -> None:
        """As new: not started, hearing nothing."""
        self.daemon.reset()
        self._conn: Connection | None = None
        self._ears: Ears | None = None
        self._due = 0.0
        self._looked: Sequence[tuple[Table, Schema[Any]]] = ()  # at these tables, over this connection
        self.connected = False  # whether it listens

    def stop(self, timeout: float = 2.0) -> None:
        """End the thread."""
        self.daemon.stop()
        ears = self._ears
        if ears is not None:
            ears.wake()
        self.daemon.join(timeout)

    def _step(self) -> Pause:
        """Connect, or hear what came; then show a sign of life where it is time to. The wait is the daemon's."""
        try:
            conn = self._conn
            if conn is None:
                conn = self._conn = self._connect()
            else:
                conn.pgconn.consume_input()
            while (notice := conn.pgconn.notifies()) is not None:
                self._audience.changed(notice.extra.decode(errors="replace"))
            now = self._clock.monotonic()
            if now >= self._due:
                self._beat(conn)
                self._due = now + BEAT
            self._ears = self._ears or Ears(conn.pgconn.socket)
            return Pause(max(0.0, self._due - now), self._ears.wait)
        except BaseException as error:
            self._hang_up()
            if isinstance(error, psycopg.Error | OSError) and not self.daemon.stopped:
                if isinstance(error, psycopg.Error):
                    self._outage.gone(cause_of(error), advice_of(error))
                else:
                    self._outage.gone(network_cause(error))
            raise

    def _connect(self) -> Connection:
        conn = connect(self._conninfo, self._config, self._clock)
        try:
            conn.patience = PATIENCE
            other = lambda: connect(self._conninfo, self._config, self._clock)  # noqa: E731
            if conn.pooled and poolers.shares_sessions(conn, other):
                self._deaf()
            # Those that come with the answer of a command; those that come while nothing is asked are read by `_step`.
            conn.add_notify_handler(lambda notice: self._audience.changed(notice.payload))
            conn.command(f"LISTEN {CHANNEL}")
            self._audience.returned()
            self.connected = True
            self._outage.back()
        except BaseException:
            conn.close()
            raise
        self._due, self._looked = 0.0, ()
        return conn

    def _hang_up(self) -> None:
        conn, self._conn, self._ears = self._conn, None, None
        self.connected = False
        if conn is not None:
            conn.close()

    def _beat(self, conn: Connection) -> None:
        # Also whether this session is the one that listens: a pooler may have given another one.
        [answer] = conn.results(f"SELECT EXISTS (SELECT FROM pg_listening_channels() c WHERE c = '{CHANNEL}')")
        if answer.get_value(0, 0) != b"t":
            self._deaf()
        tables = self._audience.tables()
        if tables != self._looked:
            self._look(conn, tables)
        try:
            waiting = waiting_repairs(conn, [table.mark for table, _ in tables])
        except errors.UndefinedTable:
            return  # not migrated yet
        if waiting:
            self._audience.waiting()

    def _look(self, conn: Connection, tables: Sequence[tuple[Table, Schema[Any]]]) -> None:
        """Whether they tell of changes, which else nobody would miss."""
        self._looked = tables
        for name, reason in untold(conn, tables):
            self._log.warning("changes made outside may go unseen; run `strata migrate`", table=name, reason=reason)

    def _deaf(self) -> NoReturn:
        if not self._said:
            self._said = True
            self._log.error("changes made outside cannot be heard", reason=poolers.UNHEARD)
        raise psycopg.OperationalError("another session")
