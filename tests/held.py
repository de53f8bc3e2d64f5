"""Reads held up between PostgreSQL and the fill, so that something else can happen first."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import psycopg

from strata import DataStore
from strata.testing import inspect


class Held:
    """The reads of one table of one store, each real; `pause` lets one wait, with its row in hand, until `go`."""

    def __init__(self, store: DataStore, name: str = "notes") -> None:
        self.count = 0
        table: Any = inspect(store).schemas[name].rows.table
        for read in ("get", "get_many", "search", "page"):
            setattr(table, read, self._holding(getattr(table, read)))
        self._gate: threading.Event | None = None
        self.arrived = threading.Event()

    def pause(self) -> None:
        """The next read stops after it has asked PostgreSQL."""
        self.arrived.clear()
        self._gate = threading.Event()

    def go(self) -> None:
        """What waits goes on."""
        gate, self._gate = self._gate, None
        assert gate is not None
        gate.set()

    def _holding(self, read: Callable[..., Any]) -> Callable[..., Any]:
        def held(*asked: Any) -> Any:
            self.count += 1
            gate = self._gate
            found = read(*asked)
            if gate is not None and not self.arrived.is_set():
                self.arrived.set()
                assert gate.wait(30)
            return found

        return held


class Locked:
    """What the transaction of `conn` has locked; `waiting` counts those who wait for it."""

    def __init__(self, conn: psycopg.Connection[Any], watch: psycopg.Connection[Any]) -> None:
        self.conn = conn
        self._watch = watch

    def waiting(self) -> int:
        """Sessions that wait for the lock."""
        row = self._watch.execute(
            "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
        ).fetchone()
        assert row is not None
        return int(row[0])

    def terminate(self) -> None:
        """End the sessions that wait."""
        self._watch.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            "WHERE wait_event_type = 'Lock' AND datname = current_database()"
        )

    def release(self) -> None:
        """Let them go on."""
        self.conn.rollback()


@contextmanager
def locked(dsn: str, table: str = "notes") -> Iterator[Locked]:
    """The table locked, also for reads, until `release` or the end of the block."""
    with changing(dsn, f"LOCK TABLE {table} IN ACCESS EXCLUSIVE MODE") as held:
        yield held


@contextmanager
def changing(dsn: str, sql: str) -> Iterator[Locked]:
    """A transaction of this statement, which is committed at the end of the block."""
    with psycopg.connect(dsn) as conn, psycopg.connect(dsn, autocommit=True) as watch:
        conn.execute(sql.encode())
        yield Locked(conn, watch)


def execute(dsn: str, sql: str, *args: Any) -> Any:
    """Run a statement behind Strata's back; the first row, if it returns any."""
    with psycopg.connect(dsn, autocommit=True) as conn:
        cursor = conn.execute(sql, args)
        return cursor.fetchone() if cursor.description else None
