"""pytest fixtures: real servers that are started once a run, each test with a database and a Redis that are empty.

In a `conftest.py`: `pytest_plugins = ["strata.testing.plugin"]`. Needs pytest and the extra `embedded`. Nothing is
started before a test asks for it. With `pytest-xdist` each process has servers of its own.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import pytest
import redis

from strata import Config
from strata.embedded import THROWAWAY, EmbeddedPostgres, EmbeddedValkey

_numbers = itertools.count(1)


@pytest.fixture(scope="session")
def strata_postgres() -> Iterator[EmbeddedPostgres]:
    """A PostgreSQL that all tests of the run share."""
    with EmbeddedPostgres(settings=THROWAWAY) as server:
        yield server


@pytest.fixture(scope="session")
def strata_valkey() -> Iterator[EmbeddedValkey]:
    """A Valkey that all tests of the run share."""
    with EmbeddedValkey() as server:
        yield server


@pytest.fixture
def strata_dsn(strata_postgres: EmbeddedPostgres) -> Iterator[str]:
    """The DSN of a database of the test's own, removed afterwards."""
    name = f"strata_test_{next(_numbers)}"
    yield strata_postgres.create_database(name)
    strata_postgres.drop_database(name)


@pytest.fixture
def strata_redis_addr(strata_valkey: EmbeddedValkey) -> str:
    """The address, with the password, of a Redis without a key in it."""
    with redis.Redis.from_url(strata_valkey.url) as client:
        client.flushall()
    return strata_valkey.url


@pytest.fixture
def strata_config(strata_dsn: str, strata_redis_addr: str) -> Config:
    """The settings of a store on both."""
    return Config(postgres_dsn=strata_dsn, redis_addr=strata_redis_addr)
