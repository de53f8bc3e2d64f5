"""One connection to PostgreSQL: how it is opened, how long it waits, and what it holds prepared."""

from __future__ import annotations

import math
import os
import random
from collections.abc import Mapping
from datetime import timedelta
from typing import Any, Self, TypeVar

import psycopg
from psycopg import errors, generators, pq
from psycopg.abc import PQGen, PQGenConn, Transformer
from psycopg.adapt import AdaptersMap, Dumper
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from strata.clock import Clock
from strata.errors import InvalidConfigError
from strata.l3 import greenlets
from strata.policies import Duration, L3PoolConfig
from strata.silence import Ear

RV = TypeVar("RV")

JSONB = 3802  # the type's OID, as in pg_type.dat
GRACE = 1.0  # seconds that the server may need, beyond its own time-out, to say that a statement was given up
IDLE_IN_TRANSACTION = 10.0  # seconds; below the lease of the write-behind ledger
PREPARED = 500  # statements kept prepared


class JsonText(str):
    """JSON as text; the key under which its dumper is registered."""


class _JsonTextDumper(Dumper):
    """Sends JSON text as JSONB: its binary format is a version byte (1) and the text."""

    format = pq.Format.BINARY
    oid = JSONB

    def dump(self, obj: str) -> bytes:
        return b"\x01" + obj.encode()


ADAPTERS = AdaptersMap(psycopg.adapters)
ADAPTERS.register_dumper(JsonText, _JsonTextDumper)


class Connection(psycopg.Connection[tuple[Any, ...]]):
    """A connection that never waits for ever, used by one thread at a time.

    `patience` is the seconds one wait for the server may take; None is without end. Past it the connection is of no
    use any more, and the wait raises `failures.WaitTimeout`. `deadline` (monotonic) shortens it further.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.patience: float | None = None
        self.deadline: float | None = None
        self.clock: Clock | None = None
        self.settings = ""  # the statements that make the session what it is
        self.owner = os.getpid()
        self.generation = 0
        self.expires_at = math.inf
        self.idle_since = 0.0
        self.wanted_at = 0.0  # perf_counter() when its borrower came
        self.prepared: dict[Any, tuple[bytes, Transformer]] = {}
        self.staged: set[str] = set()  # staging tables that the transaction has filled
        self._prepared_number = 0
        self._ear: Ear | None = None

    def __del__(self, *_: Any) -> None:
        """Nothing: psycopg warns here of an open connection, but those of a parent process are left so on purpose."""

    def wait(self, gen: PQGen[RV], interval: float = 0.1, timeout: float | None = None) -> RV:
        """As in psycopg, but with an end."""
        if timeout is None:
            timeout = self.patience
            if self.deadline is not None and self.clock is not None:
                left = max(self.deadline - self.clock.monotonic(), 0.0) + GRACE
                timeout = left if timeout is None else min(timeout, left)
        if greenlets.patched():
            return greenlets.wait(gen, self.pgconn.socket, interval, timeout)
        return super().wait(gen, interval, timeout)

    @classmethod
    def _connect_gen(cls, conninfo: str = "") -> PQGenConn[Self]:
        gen = super()._connect_gen(conninfo)
        if greenlets.patched():
            return greenlets.connecting(gen, float(conninfo_to_dict(conninfo).get("connect_timeout") or math.inf))
        return gen

    def command(self, sql: str) -> str:
        """Run statements without parameters and results; returns the tag of the last."""
        self.pgconn.send_query(sql.encode())
        results = self.wait(generators.execute(self.pgconn))
        for result in results:
            if result.status not in (pq.ExecStatus.COMMAND_OK, pq.ExecStatus.TUPLES_OK):
                raise errors.error_from_result(result, "utf-8")
        return (results[-1].command_status or b"").decode() if results else ""

    def name_statement(self) -> bytes:
        """A name that no prepared statement of this connection has had; the oldest statements make room."""
        while len(self.prepared) >= PREPARED:
            name, _ = self.prepared.pop(next(iter(self.prepared)))
            self.command(f"DEALLOCATE {name.decode()}")
        self._prepared_number += 1
        return b"strata_%d" % self._prepared_number

    @property
    def in_transaction(self) -> bool:
        """Whether a transaction is open, failed or not."""
        return self.pgconn.transaction_status != pq.TransactionStatus.IDLE

    @property
    def own(self) -> bool:
        """Whether this process opened it."""
        return self.owner == os.getpid()

    def silent(self) -> bool:
        """Whether the idle connection can be used, for all that is known without a round trip.

        A server that went away has left its farewell, or the end of the stream, to be read.
        """
        if self.closed or self.in_transaction:
            return False
        if self._ear is None:
            self._ear = Ear(self.pgconn.socket)
        return self._ear.silent()


def parse_dsn(dsn: str, config: L3PoolConfig, application_name: str) -> str:
    """The connection string for libpq: what the DSN says, and defaults for what it does not.

    Raises `InvalidConfigError` for one that libpq could not use, without repeating any of it: it holds a password.
    """
    given: Mapping[str, Any] = {}
    try:
        given = conninfo_to_dict(dsn)
        ports = str(given.get("port", "")).split(",")
        usable = bool(dsn.strip()) and all(not port or 0 < int(port) < 65_536 for port in ports)
    except (psycopg.Error, ValueError):
        usable = False
    if not usable:
        raise InvalidConfigError(
            "postgres_dsn (or read_replica) cannot be read; write postgres://user:password@host:5432/database, with "
            "special characters percent-encoded, or host=... dbname=... user=... password=..."
        )
    defaults: dict[str, str | int] = {
        "application_name": application_name,
        "connect_timeout": math.ceil(in_seconds(config.connect_timeout)),
        "client_encoding": "utf8",
        "keepalives_idle": 30,
        "keepalives_interval": 10,
        "keepalives_count": 3,
        "tcp_user_timeout": _milliseconds(config.statement_timeout),
    }
    return make_conninfo(dsn, **{name: value for name, value in defaults.items() if name not in given})


def connect(conninfo: str, config: L3PoolConfig, clock: Clock) -> Connection:
    """Open a connection in autocommit mode. Raises `psycopg.Error`."""
    try:
        conn = Connection.connect(conninfo, autocommit=True, context=_Context(), cursor_factory=psycopg.RawCursor)
    except psycopg.ProgrammingError as error:
        # The DSN was read before. What psycopg takes for a bad value in it is an exception from outside.
        raise error.__context__ or error  # noqa: B904
    conn.clock = clock
    conn.patience = in_seconds(config.statement_timeout) + GRACE
    conn.settings = _settings(config)
    try:
        conn.command(conn.settings)
    except BaseException:
        conn.close()
        raise
    lifetime = in_seconds(config.max_conn_lifetime)
    conn.expires_at = clock.monotonic() + lifetime * random.uniform(0.9, 1.0)  # noqa: S311 jitter
    return conn


def _settings(config: L3PoolConfig) -> str:
    # By SET and not as start-up options, which connection poolers refuse. The isolation level is part of the protocol
    # of locks and versions: each statement must see what was committed before it.
    return (
        f"SET statement_timeout = {_milliseconds(config.statement_timeout)};"
        f"SET lock_timeout = {_milliseconds(config.lock_timeout)};"
        f"SET idle_in_transaction_session_timeout = {_milliseconds(IDLE_IN_TRANSACTION)};"
        "SET default_transaction_isolation = 'read committed';"
        "SET client_min_messages = warning;"
        "SET TimeZone = 'UTC'"
    )


def in_seconds(duration: Duration) -> float:
    """A duration of the settings, which are seconds after construction, as far as the type checker knows."""
    return duration.total_seconds() if isinstance(duration, timedelta) else float(duration)


def _milliseconds(duration: Duration) -> int:
    return max(1, round(in_seconds(duration) * 1000))


class _Context:
    """What a new connection takes its adapters from (psycopg's AdaptContext)."""

    adapters = ADAPTERS
    connection = None
