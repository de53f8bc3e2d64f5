"""Servers for the tests: from the wheels, or those that the environment names.

The Redis has no password, since tests reach it in every way that there is, also by its port alone.
"""

from __future__ import annotations

import gc
import os
import signal
from collections.abc import Iterable, Iterator
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path

import pytest
import redis
from hypothesis import settings

import strata
from strata import DataStore
from strata._compiled.parts import PARTS
from strata.embedded import EmbeddedPostgres, EmbeddedValkey
from strata.waits import hub
from tests import databases
from tests.databases import ThrowawayPostgres
from tests.faces import AwaitedStore
from tests.hubs import OneThread
from tests.stores import MakeStore, stores
from tests.turns import is_today

gc.disable()  # until all tests are collected, of which none is garbage: it is a third of the time
settings.register_profile("tests", deadline=None)  # on a machine however busy
settings.load_profile("tests")


BOTH_FACES, ASYNCIO = "both_faces", "asyncio"
TURNS = 6
TESTS = Path(__file__).parent
SOURCES = [TESTS.parent / name for name in ("strata/_compiled", *PARTS.values())]
WITH_SERVERS = {"integration", "faults", "surroundings"}


def pytest_configure(config: pytest.Config) -> None:
    """Tests in parallel have servers each; they cannot share one that all of them flush."""
    if strata.compiled and _newest(SOURCES) > _newest(SOURCES[:1], f"*{EXTENSION_SUFFIXES[0]}"):
        raise pytest.UsageError("the compiled part is older than its sources; `source ops/environment` builds it anew")
    if os.environ.get("STRATA_REDIS_ADDR") and config.getoption("numprocesses", default=None):
        raise pytest.UsageError("unset STRATA_REDIS_ADDR, or run without -n: tests in parallel need a Redis each")
    if config.getoption("numprocesses", default=None) and not hasattr(config, "workerinput"):
        gc.enable()  # here none is collected
    for number in (signal.SIGINT, signal.SIGHUP):  # a shell's background jobs, and what they start, ignore them
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)


def _newest(places: Iterable[Path], pattern: str = "*.p[yx]*") -> float:
    files = [file for place in places for file in (place.glob(pattern) if place.is_dir() else [place])]
    return max(file.stat().st_mtime for file in files)


def pytest_collection_finish() -> None:
    """The collector looks from now on at what the tests themselves make."""
    gc.freeze()
    gc.enable()


def pytest_itemcollected(item: pytest.Item) -> None:
    """Where no test is named, that is all of them, some are seen one day in six: whole applications, each with servers
    and processes, and of a test with servers every variant but its first."""
    if not _all_are_meant(item.config) or is_today(item.nodeid, TURNS):
        return
    variant = any(item.callspec.indices.values()) if hasattr(item, "callspec") else False
    served = item.path.relative_to(TESTS).parts[0] in WITH_SERVERS
    if item.get_closest_marker("in_turn") is not None or (variant and served):
        item.add_marker(pytest.mark.long)


def _all_are_meant(config: pytest.Config) -> bool:
    return not config.option.keyword and {Path(config.rootpath, place) for place in config.args} == {TESTS}


@pytest.hookimpl(trylast=True)  # when it is known which tests are to run
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """What takes long comes first, so that at the end of a parallel run all have something to do: each process gets a
    piece of the list, and of these its share."""
    processes = int(getattr(config, "workerinput", {}).get("workercount", 1))
    slow = [item for item in items if item.get_closest_marker("slow") is not None]
    others = [item for item in items if item.get_closest_marker("slow") is None]
    left = len(items)
    items.clear()
    for number in range(processes):
        first = slow[number::processes]
        size = left // (processes - number)
        rest = max(0, size - len(first))
        items += first + others[:rest]
        del others[:rest]
        left -= size


@pytest.fixture(scope="session")
def postgres_dsn() -> str:
    """A server that all tests of this process share."""
    return databases.server()


@pytest.fixture
def dsn() -> Iterator[str]:
    """An empty database."""
    with databases.fresh() as made:
        yield made


@pytest.fixture(scope="session")
def redis_server() -> Iterator[str]:
    """A server that all tests of this process share. One that is given must be empty, since each test flushes it."""
    given = os.environ.get("STRATA_REDIS_ADDR")
    if not given:
        with EmbeddedValkey(password="") as server:
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
    with ThrowawayPostgres() as server:
        yield server


@pytest.fixture
def own_valkey() -> Iterator[EmbeddedValkey]:
    """A server of the test's own, to be killed or frozen."""
    with EmbeddedValkey(password="") as server:
        yield server


FACES = {"threads": DataStore, ASYNCIO: AwaitedStore}


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """The tests of the contract go through both faces, and so do those that are marked so."""
    named = metafunc.module.__name__.rpartition(".")[2].startswith("test_contract_")
    if "face" in metafunc.fixturenames and (named or metafunc.definition.get_closest_marker(BOTH_FACES)):
        metafunc.parametrize("face", FACES, indirect=True)


@pytest.fixture
def face(request: pytest.FixtureRequest) -> type[DataStore]:
    """The face through which a store is called."""
    return FACES[getattr(request, "param", "threads")]


@pytest.fixture
def make(dsn: str, redis_addr: str, face: type[DataStore]) -> Iterator[MakeStore]:
    """A factory of stores on the servers that the tests share; they are closed afterwards."""
    with stores(dsn, redis_addr, face) as factory:
        yield factory


@pytest.fixture
def one_thread(monkeypatch: pytest.MonkeyPatch) -> OneThread:
    """A hub by which operations that it runs share a thread."""
    monkeypatch.setattr(hub, "current", hub.current)  # put back at the end
    made = OneThread()
    hub.find_by(made.found)
    return made
