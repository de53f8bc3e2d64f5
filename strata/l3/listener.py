"""Hears what the triggers tell of changes made outside: one plain connection of a store, on a thread of its own.

Not one of the pool: it listens for as long as the store lives. Once a second it asks whether repairs are waiting, which
also shows that the server is there: rows in L3 are the truth, notifications only tell of them at once.
"""

from __future__ import annotations

import os
import random
import select
import threading
from collections.abc import Callable

import psycopg
from psycopg import errors

from strata.clock import Clock
from strata.interrupts import Nudge
from strata.l3 import poolers
from strata.l3.connection import Connection, connect, parse_dsn
from strata.l3.layout import REPAIRS
from strata.l3.outside import CHANNEL
from strata.observe.log import SafeLogger
from strata.policies import L3PoolConfig
from strata.threads import OwnThread

BEAT = 1.0  # seconds between signs of life
PATIENCE = 2.0  # seconds for one of them
PAUSES = (0.05, 0.2, 0.5, 1.0, 2.0)  # seconds before connecting again


class Listener:
    """Starts at the first `start`; thread-safe. The callbacks are called in its thread, and must be quick.

    `on_change` gets the text of a notification. `on_return` is called when it begins to listen, at first and after
    each time in which notifications may have been missed; `on_waiting` when there are repairs to do. `_wake` is a pipe
    that ends the thread's wait; `_abandoned` keeps a parent's connection, which is not the child's to close. After
    fork: `reset`. At exit the daemon thread just ends.
    """

    def __init__(
        self,
        dsn: str,
        config: L3PoolConfig,
        clock: Clock,
        log: SafeLogger,
        on_change: Callable[[str], None],
        on_return: Callable[[], None],
        on_waiting: Callable[[], None],
    ) -> None:
        self._conninfo = parse_dsn(dsn, config, "strata-listener")
        self._config = config
        self._clock = clock
        self._log = log
        self._on_change = on_change
        self._on_return = on_return
        self._on_waiting = on_waiting
        self._abandoned: list[Connection] = []
        self._conn: Connection | None = None
        self.reset()

    def reset(self) -> None:
        """As new: not started, hearing nothing."""
        if self._conn is not None:
            self._abandoned.append(self._conn)
        self._conn = None
        self._own = OwnThread("strata-listener", self._run)
        self._end = Nudge()
        self._said = False  # written by the thread only: why nothing is heard is said once
        self._wake: tuple[int, int] | None = None
        self.connected = threading.Event()  # written by the thread, and waited for by no call of the user's

    @property
    def begun(self) -> bool:
        """Whether the thread was started."""
        return self._own.started

    def start(self) -> None:
        """Start the thread, once. To be called without any lock held."""
        self._own.start()

    def stop(self, timeout: float = 2.0) -> None:
        """End the thread."""
        self._own.stop()
        self._end.give()
        wake = self._wake
        if wake is not None:
            os.write(wake[1], b"x")
        if self._own.join(timeout) and wake is not None:
            self._wake = None
            for end in wake:
                os.close(end)

    def _run(self) -> None:
        failures = 0
        self._wake = os.pipe()
        while self._own.goes_on:
            try:
                self._session()
            except (psycopg.Error, OSError) as error:
                self._log.debug("changes made outside are not heard of", error=type(error).__name__)
            except Exception as error:  # noqa: BLE001 the thread must outlive a mistake in one message
                self._log.error("the listener failed", error=type(error).__name__)
            failures = 0 if self.connected.is_set() else failures + 1
            self.connected.clear()
            pause = PAUSES[min(failures, len(PAUSES) - 1)] * random.uniform(0.8, 1.2)  # noqa: S311 jitter
            self._end.wait(pause)

    def _session(self) -> None:
        conn = self._conn = connect(self._conninfo, self._config, self._clock)
        try:
            conn.patience = PATIENCE
            if conn.pooled and poolers.shares_sessions(
                conn, lambda: connect(self._conninfo, self._config, self._clock)
            ):
                self._say_deaf()
                return
            # Those that come with the answer of a command; those that come while nothing is asked are read below.
            conn.add_notify_handler(lambda notice: self._on_change(notice.payload))
            conn.command(f"LISTEN {CHANNEL}")
            self._on_return()
            self.connected.set()
            self._listen(conn)
        finally:
            conn.close()
            self._conn = None

    def _listen(self, conn: Connection) -> None:
        assert self._wake is not None
        due = self._clock.monotonic()
        while self._own.goes_on:
            now = self._clock.monotonic()
            if now >= due:
                self._beat(conn)
                due = now + BEAT
            select.select([conn.pgconn.socket, self._wake[0]], [], [], max(0.0, due - now))
            conn.pgconn.consume_input()
            while (notice := conn.pgconn.notifies()) is not None:
                self._on_change(notice.extra.decode(errors="replace"))

    def _beat(self, conn: Connection) -> None:
        # Also whether this session is the one that listens: a pooler may have given another one.
        here = f"SELECT EXISTS (SELECT FROM pg_listening_channels() c WHERE c = '{CHANNEL}')"
        try:
            answer = conn.results(f"{here}; SELECT EXISTS (SELECT FROM {REPAIRS})")
        except errors.UndefinedTable:
            return  # not migrated yet
        if answer[0].get_value(0, 0) != b"t":
            self._say_deaf()
            raise psycopg.OperationalError("another session")
        if answer[1].get_value(0, 0) == b"t":
            self._on_waiting()

    def _say_deaf(self) -> None:
        if not self._said:
            self._said = True
            self._log.error(poolers.UNHEARD)
