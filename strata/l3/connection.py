"""One connection to PostgreSQL: how it is opened, how long it waits, what it holds prepared, and what its settings are.

A connection pooler may stand between. Then the session on its other side is shared with other clients, of other
applications too, and may be another one in each transaction: nothing of ours may be left in it, and nothing that was
left there may reach us. What each thing that we use belongs to:

| what | belongs to |
|---|---|
| settings (`_settings`) | the session where it is ours alone, else each transaction (`Connection.begin`) |
| advisory locks, notes of the triggers (`set_config(..., true)`), cursors, savepoints | the transaction |
| prepared statements | the session, under names that no other connection can have; none with `prepared=False` |
| LISTEN | the session: not through a pooler that shares it (`strata.l3.poolers`) |

Statements that read by key are run as they are, outside a transaction: no setting changes their answer.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Self, TypeVar

import psycopg
from psycopg import capabilities, errors, generators, pq
from psycopg.abc import PQGen, PQGenConn, Transformer
from psycopg.adapt import AdaptersMap, Dumper, Loader
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from psycopg.types.datetime import IntervalBinaryLoader

from strata import waits
from strata.endpoints.postgres import read_dsn
from strata.forks.inherited import abandon_in_child
from strata.l3 import greenlets
from strata.policies import L3PoolConfig
from strata.waits import hub
from strata.waits.clock import Clock
from strata.waits.sockets import Ear, patched

RV = TypeVar("RV")

JSONB, _TIMESTAMPTZ = 3802, 1184  # OIDs, as in pg_type.dat
_IDLE = pq.TransactionStatus.IDLE
GRACE = 1.0  # seconds that the server may need, beyond its own time-out, to say that a statement was given up
IDLE_IN_TRANSACTION = 10.0  # seconds; below the lease of the write-behind ledger
INTERVAL = 0.1  # seconds after which psycopg, waiting in C, looks for signals; its own default
PREPARED = 500  # statements that a connection holds prepared before another one takes its place


class JsonText(str):
    """JSON as text; the key under which its dumper is registered."""


class _JsonTextDumper(Dumper):
    """Sends JSON text as JSONB: its binary format is a version byte (1) and the text."""

    format = pq.Format.BINARY
    oid = JSONB

    def dump(self, obj: str) -> bytes:
        return b"\x01" + obj.encode()


class _UtcLoader:
    """Makes psycopg's own loader, but without the session, so that times are in UTC whatever its TimeZone is."""

    format = pq.Format.BINARY

    def __new__(cls, oid: int, _context: object = None) -> Loader:  # type: ignore[misc]  # psycopg's own is final
        loader: Loader = _READS_TIMES(oid, None)
        return loader


class _IntervalLoader(IntervalBinaryLoader):
    """Psycopg's own, in Python: what it has in C counts days in 32 bits, so that 178,000,000 years come as others."""


ADAPTERS = AdaptersMap(psycopg.adapters)
ADAPTERS.register_loader("interval", _IntervalLoader)
ADAPTERS.register_dumper(JsonText, _JsonTextDumper)
_READS_TIMES: Any = ADAPTERS.get_loader(_TIMESTAMPTZ, pq.Format.BINARY)
ADAPTERS.register_loader(_TIMESTAMPTZ, _UtcLoader)  # type: ignore[arg-type]  # it is called, and asked for its format


class Connection(psycopg.Connection[tuple[Any, ...]]):
    """A connection that never waits for ever, used by one thread at a time.

    `patience` is the seconds one wait for the server may take; None is without end. Past it the connection is of no
    use any more, and the wait raises `failures.WaitTimeout`. `deadline` (monotonic) shortens it further. `pooled`: a
    pooler answered, not the server itself; `shared`: the session may be another client's in the next transaction.
    `begin` opens a transaction with our settings.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.patience: float | None = None
        self.deadline: float | None = None
        self.clock: Clock | None = None
        self.pooled = False
        self.shared = False
        self.named = True  # whether statements may be prepared
        self.begin = "BEGIN"
        self.generation = 0
        self.expires_at = math.inf
        self.idle_since = 0.0
        self.wanted_at = 0.0  # by the monotonic clock, when its borrower came
        self.committing = False  # whether what is under way is seen to its end, whoever is cancelled
        self.given_up = False  # whether the server was asked to give a statement up, be it the next one's
        self.prepared: dict[Any, tuple[bytes, Transformer]] = {}
        self.asked: dict[Any, int] = {}  # how often each query of a user's was, before it was prepared
        self.staged: list[bytes] = []  # what the transaction has put on its stage (`strata.l3.stage`)
        # Random, so that no other connection has it, of whatever process: two clients of a pooler that share a session
        # would run each other's statements. Each connection draws its own; none is used on both sides of a fork.
        self._token = waits.token(8)
        self._prepared_number = 0
        self._ear: Ear | None = None
        self.user: int | None = waits.thread_ident()  # the thread that uses it; None while it is idle
        abandon_in_child(self)

    def __del__(self, *_: Any) -> None:
        """Nothing: psycopg warns here of an open connection, but those of a dropped store, or a parent, are left so."""

    def abandon(self) -> None:
        """In the child of a fork: let go of the parent's socket without a word.

        /dev/null takes the descriptor's place, so that whoever still uses the connection only fails, and closing it
        frees the descriptor. Where that would be a thread that the child does not have, it is closed at once; not by
        libpq, which that thread may have been in the midst of. psycopg's destructor leaves it to the parent.
        """
        try:
            fileno = self.pgconn.socket
        except psycopg.Error:
            return  # closed, or lost
        null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
        os.dup2(null, fileno, inheritable=False)
        os.close(null)
        if self.user is None:
            self.close()
        elif self.user != waits.thread_ident() and not patched():
            os.close(fileno)

    def wait(self, gen: PQGen[RV], interval: float = 0.1, timeout: float | None = None) -> RV:
        """As in psycopg, but with an end."""
        if timeout is None:
            timeout = self.patience
            if self.deadline is not None and self.clock is not None:
                left = max(self.deadline - self.clock.monotonic(), 0.0) + GRACE
                timeout = left if timeout is None else min(timeout, left)
        if hub.current is hub.threads:  # who blocks, as all do
            return self.block(gen, timeout)
        result: RV = hub.current().query(self, gen, timeout)
        return result

    def block(self, gen: PQGen[RV], timeout: float | None) -> RV:
        """As `wait`, in a thread of the system, which stands still meanwhile."""
        if patched():
            return greenlets.wait(gen, self.pgconn.socket, INTERVAL, timeout)
        return super().wait(gen, INTERVAL, timeout)

    @classmethod
    def _connect_gen(cls, conninfo: str = "") -> PQGenConn[Self]:
        gen = super()._connect_gen(conninfo)
        if patched():
            return greenlets.connecting(gen, float(conninfo_to_dict(conninfo).get("connect_timeout") or math.inf))
        return gen

    def giving_up(self) -> Callable[[], None]:
        """What has the server give up the statement under way, if called in any thread: it waits for an answer. The
        connection is not used again, since the server may get to it when that has ended."""
        self.given_up = True
        if capabilities.has_cancel_safe():
            return self.pgconn.cancel_conn().blocking
        return self.pgconn.get_cancel().cancel

    def commit_now(self) -> str:
        """As `command`, COMMIT, which is seen to its end."""
        try:
            self.committing = True
            return self.command("COMMIT")
        finally:
            self.committing = False

    def command(self, sql: str) -> str:
        """Run statements without parameters and results; returns the tag of the last."""
        results = self.results(sql)
        return (results[-1].command_status or b"").decode() if results else ""

    @contextmanager
    def settled(self) -> Iterator[None]:
        """What is run in it has our settings: where the session is shared, in a transaction."""
        alone = self.shared and not self.in_transaction
        if alone:
            self.command(self.begin)
        yield
        if alone:
            self.command("COMMIT")

    def results(self, sql: str) -> list[pq.abc.PGresult]:
        """Run statements without parameters; their results."""
        self.pgconn.send_query(sql.encode())
        return self._ended()

    def single(self, sql: str) -> None:
        """Run one statement without parameters; several are refused by the server, whatever we took for their ends."""
        self.pgconn.send_query_params(sql.encode(), None)
        self._ended()

    def _ended(self) -> list[pq.abc.PGresult]:
        results: list[pq.abc.PGresult] = self.wait(generators.execute(self.pgconn))
        for result in results:
            if result.status not in (pq.ExecStatus.COMMAND_OK, pq.ExecStatus.TUPLES_OK):
                raise errors.error_from_result(result, "utf-8")
        return results

    def prepare(self, name: str, sql: str, types: Sequence[int] = ()) -> None:
        """Prepare a statement. Raises `psycopg.Error`; a name that the session has already is an error."""
        self.pgconn.send_prepare(name.encode(), sql.encode(), types)
        result = self.wait(generators.execute(self.pgconn))[-1]
        if result.status != pq.ExecStatus.COMMAND_OK:
            raise errors.error_from_result(result, "utf-8")

    def backend(self) -> int:
        """The process of the server that answers just now."""
        return int(self.results("SELECT pg_backend_pid()")[-1].get_value(0, 0) or 0)

    def name_statement(self) -> str:
        """A name that no prepared statement has had, on this connection or any other; empty: not to be prepared."""
        self._prepared_number += 1
        return f"strata_{self._token}_{self._prepared_number}" if self.named else ""

    @property
    def full(self) -> bool:
        """Whether it holds enough prepared statements, or is to be closed rather than kept for another reason.

        To close single statements takes a message of the protocol that libpq has from 17 on, or DEALLOCATE, which does
        not know the names that a pooler gives.
        """
        return len(self.prepared) >= PREPARED or self.given_up

    @property
    def in_transaction(self) -> bool:
        """Whether a transaction is open, failed or not."""
        return self.pgconn.transaction_status != _IDLE

    def silent(self) -> bool:
        """Whether the idle connection can be used, for all that is known without a round trip.

        A server that went away has left its farewell, or the end of the stream, to be read.
        """
        if self.pgconn.transaction_status != _IDLE:  # nor is it where the connection is closed, or lost
            return False
        if self._ear is None:
            self._ear = Ear(self.pgconn.socket)
        return self._ear.silent()


def parse_dsn(dsn: str, config: L3PoolConfig, application_name: str) -> str:
    """The connection string for libpq: what the DSN says, and defaults for what it does not.

    Raises `InvalidConfigError` for one that libpq could not use, without repeating any of it: it holds a password.
    """
    given = read_dsn(dsn, "postgres_dsn")
    defaults: dict[str, str | int] = {
        "application_name": application_name,
        "connect_timeout": math.ceil(config.connect_timeout),
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
        # Unprepared: psycopg's own names are those of every other client, and it deallocates all that the session has.
        conn = waits.call(
            lambda: Connection.connect(
                conninfo, autocommit=True, context=_Context(), cursor_factory=psycopg.RawCursor, prepare_threshold=None
            )
        )
    except psycopg.ProgrammingError as error:
        # The DSN was read before. What psycopg takes for a bad value in it is an exception from outside.
        raise error.__context__ or error  # noqa: B904
    conn.user = waits.thread_ident()  # another one may have connected
    conn.clock = clock
    conn.patience = config.statement_timeout + GRACE
    conn.named = config.prepared
    try:
        _settle(conn, config)
    except BaseException:
        conn.close()
        raise
    lifetime = config.max_conn_lifetime
    conn.expires_at = clock.monotonic() + lifetime * waits.uniform(0.9, 1.0)
    return conn


def _settle(conn: Connection, config: L3PoolConfig) -> None:
    """Make the settings the session's where the server itself answers, else have each transaction begin with them.

    Poolers give clients keys of their own to cancel by, with other process ids than those of the servers. Not by
    start-up options, which poolers refuse.
    """
    settings = _settings(config, conn.pgconn.server_version)
    ours = "false"
    if config.prepared:
        made = " AND ".join(f"set_config('{name}', '{value}', false) IS NOT NULL" for name, value in settings.items())
        # "Read only" is how some mark what must not be written to by mistake; a standby says so by itself.
        made += " AND set_config('default_transaction_read_only', 'off', false) IS NOT NULL"
        made += " AND set_config('default_transaction_isolation', 'read committed', false) IS NOT NULL"
        ours = f"CASE WHEN pg_backend_pid() = {conn.pgconn.backend_pid} THEN {made} ELSE false END"
    read_only = "current_setting('default_transaction_read_only')::bool AND NOT pg_is_in_recovery()"
    answer = conn.results(f"SELECT {ours}, {read_only}, pg_backend_pid() <> {conn.pgconn.backend_pid}")[-1]
    own, writes, pooled = (answer.get_value(0, place) == b"t" for place in range(3))
    conn.pooled, conn.shared = pooled, not own
    if conn.shared:
        mode = "ISOLATION LEVEL READ COMMITTED" + (", READ WRITE" if writes else "")
        conn.begin = f"BEGIN {mode}" + "".join(f"; SET LOCAL {name} = '{value}'" for name, value in settings.items())


def _settings(config: L3PoolConfig, version: int) -> dict[str, str]:
    """What our statements rely on, whatever the role, the database or another client of a pooler have set."""
    settings = {
        "statement_timeout": str(_milliseconds(config.statement_timeout)),
        "lock_timeout": str(_milliseconds(config.lock_timeout)),
        "idle_in_transaction_session_timeout": str(_milliseconds(IDLE_IN_TRANSACTION)),
        "client_min_messages": "warning",
        "TimeZone": "UTC",
        "DateStyle": "ISO, YMD",
        "IntervalStyle": "postgres",
        "extra_float_digits": "1",  # a float's text is the float
        "standard_conforming_strings": "on",
        "quote_all_identifiers": "off",  # by which definitions in the catalogue would read otherwise
    }
    if version >= 170_000:
        settings["transaction_timeout"] = "0"
    return settings


def _milliseconds(seconds: float) -> int:
    return max(1, round(seconds * 1000))


class _Context:
    """What a new connection takes its adapters from (psycopg's AdaptContext)."""

    adapters = ADAPTERS
    connection = None
