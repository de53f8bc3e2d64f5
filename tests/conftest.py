"""Servers for the tests: from the wheels, or those that the environment names."""

from __future__ import annotations

import itertools
import os
import signal
from collections.abc import Iterator

import psycopg
import pytest
import redis
from psycopg import sql

from strata.embedded import THROWAWAY, EmbeddedPostgres, EmbeddedValkey
from tests.stores import MakeStore, stores

QUICK = {**THROWAWAY, "max_connections": "200"}
_numbers = itertools.count()


def pytest_configure(config: pytest.Config) -> None:
    """Tests in parallel have servers each; they cannot share one that all of them flush."""
    if os.environ.get("STRATA_REDIS_ADDR") and config.getoption("numprocesses", default=None):
        raise pytest.UsageError("unset STRATA_REDIS_ADDR, or run without -n: tests in parallel need a Redis each")
    for number in (signal.SIGINT, signal.SIGHUP):  # a shell's background jobs, and what they start, ignore them
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)


@pytest.fixture(scope="session")
def postgres_dsn() -> Iterator[str]:
    """A server that all tests of this process share."""
    given = os.environ.get("STRATA_POSTGRES_DSN")
    if given:
        yield given
        return
    with EmbeddedPostgres(settings=QUICK) as server:
        yield server.dsn


@pytest.fixture
def dsn(postgres_dsn: str) -> Iterator[str]:
    """A fresh database."""
    name = f"test_{os.getpid()}_{next(_numbers)}"
    with psycopg.connect(postgres_dsn, autocommit=True) as conn:
        conn.execute(sql.SQL("CREATE DATABASE {} TEMPLATE template0").format(sql.Identifier(name)))
    yield psycopg.conninfo.make_conninfo(postgres_dsn, dbname=name)
    with psycopg.connect(postgres_dsn, autocommit=True) as conn:
        conn.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name)))


@pytest.fixture(scope="session")
def redis_server() -> Iterator[str]:
    """A server that all tests of this process share. One that is given must be empty, since each test flushes it."""
    given = os.environ.get("STRATA_REDIS_ADDR")
    if not given:
        with EmbeddedValkey() as server:
            yield server.addr
        return
    with _client(given) as client:
        if client.info("keyspace"):
            pytest.exit("the Redis of STRATA_REDIS_ADDR holds keys, which the tests would remove; name an empty one", 4)
        yield given
        client.flushall()


@pytest.fixture
def redis_addr(redis_server: str) -> str:
    """A server without a key in it."""
    with _client(redis_server) as client:
        client.flushall()
        client.script_flush()
    return redis_server


def _client(addr: str) -> redis.Redis:
    return redis.Redis.from_url(addr if "://" in addr else f"redis://{addr}")


@pytest.fixture
def own_postgres() -> Iterator[EmbeddedPostgres]:
    """A server of the test's own, to be killed or frozen."""
    with EmbeddedPostgres(settings=QUICK) as server:
        yield server


@pytest.fixture
def own_valkey() -> Iterator[EmbeddedValkey]:
    """A server of the test's own, to be killed or frozen."""
    with EmbeddedValkey() as server:
        yield server


@pytest.fixture
def make(dsn: str, redis_addr: str) -> Iterator[MakeStore]:
    """A factory of stores on the servers that the tests share; they are closed afterwards."""
    with stores(dsn, redis_addr) as factory:
        yield factory
