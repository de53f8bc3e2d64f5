"""PostgreSQL and a Redis-compatible server for one command: those that the environment names, else from pip wheels."""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Iterator
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlsplit, urlunsplit

import psycopg
import redis
from psycopg import sql
from psycopg.conninfo import make_conninfo

from strata.cli.signals import undisturbed
from strata.embedded import EmbeddedPostgres, EmbeddedValkey
from strata.errors import InvalidConfigError, L2UnavailableError, L3UnavailableError
from strata.l2.address import connect
from strata.policies import L2PoolConfig

DSN, ADDR, DB, PASSWORD = "STRATA_POSTGRES_DSN", "STRATA_REDIS_ADDR", "STRATA_REDIS_DB", "STRATA_REDIS_PASSWORD"
# What goes with an address, and must not be combined with another one.
OF_REDIS = (PASSWORD, DB, "STRATA_LEDGER_ADDR", "STRATA_BROKER_URL")
DATABASES = range(15, 0, -1)  # logical databases of a given Redis, in the order they are tried


class Servers:
    """Starts what the environment does not name; a context manager, which ends what it started.

    `private`: of a server that is given, take a new database and an empty logical database, and remove both at the
    end. Raises `InvalidConfigError` where the wheels are not installed, or there is no empty database.
    """

    def __init__(self, *, private: bool = False) -> None:
        self._private = private
        self._stack = contextlib.ExitStack()
        self.environment: dict[str, str] = {}
        self.given: list[str] = []

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as starting:
            starting.push(self._stack)
            self.environment = {DSN: self._postgres(), **self._redis()}
            starting.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with undisturbed():
            self._stack.close()

    def inherited(self) -> dict[str, str]:
        """The environment of a process that uses these servers."""
        return {**{name: value for name, value in os.environ.items() if self._keeps(name)}, **self.environment}

    def _keeps(self, name: str) -> bool:
        if self._private and name.startswith("STRATA_"):
            return name == PASSWORD and ADDR in self.given
        return ADDR in self.given or name not in OF_REDIS

    def _postgres(self) -> str:
        dsn = os.environ.get(DSN, "")
        if not dsn:
            return self._stack.enter_context(EmbeddedPostgres()).dsn
        self.given.append(DSN)
        return self._stack.enter_context(_database(dsn)) if self._private else dsn

    def _redis(self) -> dict[str, str]:
        addr = os.environ.get(ADDR, "")
        if not addr:
            return {ADDR: self._stack.enter_context(EmbeddedValkey({"appendonly": "yes"})).url}
        self.given.append(ADDR)
        if not self._private:
            return {ADDR: addr}
        bare = _without_database(addr)
        return {ADDR: bare, DB: self._stack.enter_context(_logical(bare))}


@contextlib.contextmanager
def _database(dsn: str) -> Iterator[str]:
    name = sql.Identifier(f"strata_demo_{secrets.token_hex(4)}")
    try:
        with psycopg.connect(dsn, autocommit=True) as conn:
            conn.execute(sql.SQL("CREATE DATABASE {} TEMPLATE template0").format(name))
    except psycopg.OperationalError as error:
        raise L3UnavailableError(f"PostgreSQL did not answer; check {DSN}") from error
    except psycopg.Error as error:
        raise InvalidConfigError(f"no database can be made on the server of {DSN}; unset it to use another") from error
    try:
        yield make_conninfo(dsn, dbname=name.as_string().strip('"'))
    finally:
        with psycopg.connect(dsn, autocommit=True) as conn:
            conn.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(name))


def _without_database(addr: str) -> str:
    url = urlsplit(addr)
    return urlunsplit(url._replace(path="")) if url.scheme in ("redis", "rediss") and "://" in addr else addr


@contextlib.contextmanager
def _logical(addr: str) -> Iterator[str]:
    password = os.environ.get(PASSWORD) or None
    try:
        number, client = next(_empty(addr, password))
    except StopIteration:
        said = f"the Redis of {ADDR} has no empty logical database; unset it to use another"
        raise InvalidConfigError(said) from None
    except redis.RedisError as error:
        raise L2UnavailableError(f"Redis did not answer ({type(error).__name__}); check {ADDR}") from error
    try:
        yield str(number)
    finally:
        client.flushdb()
        client.close()


def _empty(addr: str, password: str | None) -> Iterator[tuple[int, Any]]:
    for number in DATABASES:
        client = connect(addr, L2PoolConfig(), password=password, db=number)
        if client.dbsize() == 0:
            yield number, client
        client.close()
