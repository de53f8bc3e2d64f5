"""`Database`: one PostgreSQL behind a breaker, its connections and transactions as `with` blocks."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Concatenate, NoReturn, ParamSpec, TypeVar

import psycopg
from psycopg.conninfo import conninfo_to_dict

from strata import waits
from strata.errors import InvalidConfigError, L3RefusedError, L3UnavailableError, StrataError, TxFailedError
from strata.l3 import failures
from strata.l3.causes import advice_of, cause_of
from strata.l3.connection import Connection, parse_dsn
from strata.l3.connections import Counts, Pool
from strata.l3.fingerprint import Fingerprint, fingerprint
from strata.l3.sqlstates import Failure, classify
from strata.observe.server_call import ServerCall
from strata.policies import L3PoolConfig
from strata.runtime.breaker import NOBODY, Breaker, Grumbler
from strata.waits.clock import Clock

P = ParamSpec("P")
R = TypeVar("R")


QUIET = 10.0  # seconds without a refusal after which it is thought to refuse nothing any more
# What is raised in a block by our own code, never in the midst of an exchange with the server.
_OURS = (StrataError, GeneratorExit)


class Database:
    """One PostgreSQL. Thread-safe; nothing is connected before the first call, and a closed one connects again.

    Every method raises `L3UnavailableError` where the server does not answer, at once while the breaker is open, and
    otherwise what `strata.l3.failures` makes of the driver's error. Raises `InvalidConfigError` for a DSN that cannot
    be read; the methods of one without a DSN do.
    """

    def __init__(self, dsn: str, config: L3PoolConfig, *, clock: Clock, application_name: str = "strata") -> None:
        self.config = config
        self.clock = clock
        self.breaker = Breaker(clock)
        self.on_call: Callable[[ServerCall], None] | None = None  # is told of each use of a connection; set once
        self.refusing: Grumbler = NOBODY  # is told of statements that nobody can run now; set once
        # Whether it is to be told which database this is, and that; written once each, asking twice being harmless.
        self.telling = False
        self.fingerprint: Fingerprint | None = None
        self._there = bool(dsn)
        conninfo = parse_dsn(dsn, config, application_name) if dsn else ""
        self.address = _address(conninfo)  # to be shown: without any secret
        self._pool = Pool(conninfo, config, clock)

    def connection(self) -> Borrowed:
        """A connection in autocommit mode, for the length of a `with` block: to read by key.

        The error of a connection lost in the block has `outcome_unknown` set, since a write may have happened.
        """
        return Borrowed(self)

    def session(self) -> Borrowed:
        """As `connection`, for statements that depend on settings, as those of users and those that write do.

        Through a pooler it is a transaction, since our settings are good for no longer there.
        """
        return Borrowed(self, settled=True)

    def transaction(self, timeout: float | None = None) -> Transaction:
        """A connection with a transaction open, for the length of a `with` block; leaving it commits or rolls back.

        Raises `TxTimeoutError` where it does not end within `timeout` seconds, which the server enforces too.
        """
        return Transaction(self, timeout)

    def read(self, ask: Callable[Concatenate[Connection, P], R], *args: P.args, **kwargs: P.kwargs) -> R:
        """`ask(conn, ...)`, once more where the connection turns out to be lost: for reads only."""
        try:
            with self.connection() as conn:
                return ask(conn, *args, **kwargs)
        except L3UnavailableError as error:
            if not error.outcome_unknown or isinstance(error.__cause__, failures.WaitTimeout):
                raise
        except L3RefusedError as error:
            if error.sqlstate != "40001":  # a standby's recovery conflict
                raise
        with self.connection() as conn:
            return ask(conn, *args, **kwargs)

    @contextmanager
    def apart(self) -> Iterator[Connection]:
        """A connection of its own, beside those of the pool, and closed afterwards: for whoever holds a lock in it."""
        try:
            conn = self._pool.apart()
        except psycopg.Error as error:
            raise failures.unavailable(error)  # noqa: B904 the cause is set
        try:
            yield conn
        except psycopg.Error as error:
            raise failures.statement_error(error)  # noqa: B904 the cause is set
        finally:
            conn.close()

    def listens(self) -> None:
        """A session is needed that listens, on the way that this DSN leads. Refused at the first use where none can."""
        self._pool.listens()

    def counts(self) -> Counts:
        """The connections there are now."""
        return self._pool.counts()

    def close(self) -> None:
        """Close the connections; those in use when they are given back."""
        self._pool.drop_idle()

    def after_fork(self) -> None:
        """In the child: own connections from now on; the parent's are left as they are."""
        self._pool.abandon()
        self.breaker.reset()

    def take(self, user: object) -> Connection:
        """A connection for `user`, to be given back with `give`, or else with the end of the life of `user`."""
        if not self._there:
            raise InvalidConfigError("there is no database; set postgres_dsn (STRATA_POSTGRES_DSN)")
        if not (self.breaker.closed or self.breaker.allow()):
            raise L3UnavailableError(
                f"PostgreSQL was not asked, and is tried again shortly; a moment ago: {self.breaker.said}"
            )
        began = self.clock.monotonic()
        try:
            conn = self._pool.take(user)
            conn.wanted_at = began
        except psycopg.Error as error:
            cause, advice = cause_of(error), advice_of(error)
            refused = failures.unavailable(error)
            if isinstance(refused, L3UnavailableError):
                self.breaker.failed(refused, cause, advice)
            raise refused  # noqa: B904 the cause is set, and says no more than it may
        if self.telling and self.fingerprint is None:
            with contextlib.suppress(psycopg.Error, InvalidConfigError):  # whoever needs it asks again
                self.fingerprint = fingerprint(conn)
        return conn

    def give(self, user: object, conn: Connection, error: psycopg.Error | None = None) -> bool:
        """Take a connection back; whether the server was lost, going by `error`."""
        if self.on_call is not None:
            self.on_call(ServerCall(self.clock.monotonic() - conn.wanted_at, error=error))
        lost = conn.closed or (error is not None and failures.lost(error))
        if lost:
            self.breaker.failed(failures.loss(error), cause_of(error), advice_of(error))
            conn.close()
        else:
            self.breaker.succeeded(conn.wanted_at, self.clock.monotonic())
            if error is not None and error.sqlstate == "25006":
                self._pool.drop_idle()  # a standby now: connect anew, perhaps to the one that took its place
            if error is not None and classify(error.sqlstate or "0") is Failure.OUTAGE:
                self.refusing.gone(cause_of(error), advice_of(error))
            elif self.refusing.away is not None and error is None:
                self.refusing.fades(QUIET)
        self._pool.give(user, conn)
        return lost

    def discard(self, user: object, conn: Connection) -> None:
        """Take back a connection whose use was broken off, by whatever came from outside: what was asked last may be
        answered only now, and the next one must not read it. It says nothing about the server."""
        conn.close()
        self._pool.give(user, conn)


def _address(conninfo: str) -> str:
    given = conninfo_to_dict(conninfo)
    hosts = str(given.get("host") or given.get("hostaddr") or "localhost").split(",")
    ports = str(given.get("port") or "5432").split(",")
    places = [f"{host}:{ports[at] if at < len(ports) else ports[-1]}" for at, host in enumerate(hosts)]
    return f"{','.join(places)}/{given.get('dbname') or ''}".rstrip("/")


class Borrowed:
    """What `Database.connection` and `Database.session` return."""

    __slots__ = ("__weakref__", "_conn", "_database", "_open", "_settled")

    def __init__(self, database: Database, *, settled: bool = False) -> None:
        self._database = database
        self._settled = settled
        self._open = False  # a transaction

    def __enter__(self) -> Connection:
        conn = self._conn = self._database.take(self)
        if self._settled and conn.shared:
            self._ask(conn.begin)
            self._open = True
        return conn

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if isinstance(error, psycopg.Error):
            self._fail(error)
        elif error is None or isinstance(error, _OURS):
            if self._open:
                self._ask("COMMIT" if error is None else "ROLLBACK")
            self._database.give(self, self._conn)
        else:
            self._database.discard(self, self._conn)

    def _ask(self, command: str) -> None:
        try:
            self._conn.command(command)
        except psycopg.Error as error:
            self._fail(error)
        except BaseException:
            self._database.discard(self, self._conn)
            raise

    def _fail(self, error: psycopg.Error) -> NoReturn:
        if self._open:
            _roll_back(self._database, self, self._conn)
        lost = self._database.give(self, self._conn, error)
        raise failures.statement_error(error, outcome_unknown=lost)


class Transaction:
    """What `Database.transaction` returns."""

    __slots__ = ("__weakref__", "_conn", "_database", "_timeout")

    def __init__(self, database: Database, timeout: float | None) -> None:
        self._database = database
        self._timeout = timeout

    def __enter__(self) -> Connection:
        conn = self._conn = self._database.take(self)
        try:
            conn.command(conn.begin if self._timeout is None else self._begin_with_deadline(conn, self._timeout))
        except psycopg.Error as error:
            self._fail(error, sent=False)
        except BaseException:
            self._database.discard(self, conn)
            raise
        return conn

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if isinstance(error, psycopg.Error):
            self._fail(error, sent=False)
        elif error is None:
            self._commit()
        elif isinstance(error, _OURS):
            _roll_back(self._database, self, self._conn)
            self._database.give(self, self._conn)
        else:
            self._database.discard(self, self._conn)

    def _begin_with_deadline(self, conn: Connection, timeout: float) -> str:
        conn.deadline = self._database.clock.monotonic() + timeout
        limit = max(1, round(timeout * 1000))
        statement = min(limit, round(self._database.config.statement_timeout * 1000))
        begin = f"{conn.begin}; SET LOCAL statement_timeout = {statement}; SET LOCAL lock_timeout = {statement}"
        if conn.pgconn.server_version >= 170_000:
            # It ends the connection, so the gentler one shall fire first.
            begin += f"; SET LOCAL transaction_timeout = {limit + 100}"
        return begin

    def _commit(self) -> None:
        if self._late():
            _roll_back(self._database, self, self._conn)
            self._database.give(self, self._conn)
            raise failures.deadline_error(self._timeout or 0.0)
        try:
            with waits.shield():
                tag = self._conn.commit_now()
        except psycopg.Error as error:
            self._fail(error, sent=True)
        except BaseException:
            self._database.discard(self, self._conn)
            raise
        self._database.give(self, self._conn)
        if tag == "ROLLBACK":
            raise TxFailedError("the transaction was rolled back, since one of its statements had failed")

    def _fail(self, error: psycopg.Error, *, sent: bool) -> NoReturn:
        """Roll back and raise. `sent`: COMMIT is on its way, so that losing the server leaves the outcome open."""
        lost = self._conn.closed or failures.lost(error)
        late = self._late() and (lost or classify(error.sqlstate or "") is Failure.TIMEOUT)
        if not lost:
            _roll_back(self._database, self, self._conn)
        self._database.give(self, self._conn, error)
        if late and not (lost and sent):
            failures.diagnose(error)
            raise failures.deadline_error(self._timeout or 0.0, error)
        raise failures.statement_error(error, outcome_unknown=lost and sent)

    def _late(self) -> bool:
        return self._conn.deadline is not None and self._database.clock.monotonic() >= self._conn.deadline


def _roll_back(database: Database, user: object, conn: Connection) -> None:
    """End the transaction, if one is open; a connection where that fails is closed."""
    try:
        if conn.in_transaction and not conn.closed:
            conn.command("ROLLBACK")
    except psycopg.Error:
        conn.close()
    except BaseException:
        database.discard(user, conn)
        raise
