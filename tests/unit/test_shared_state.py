"""State that threads share: built once, and read whole while others write it."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import make_dataclass
from types import ModuleType
from typing import Annotated, Any

import pytest
from prometheus_client import CollectorRegistry

import strata
from strata import Config, DataStore, MemPolicy, PostgresPolicy, Schema
from strata.integrations import prometheus
from strata.integrations.prometheus import PrometheusRecorder
from strata.l2 import client
from strata.l2.address import connect
from strata.l2.client import RedisServer
from strata.l3 import pool
from strata.policies import L2PoolConfig
from strata.testing import inspect
from strata.waits.clock import SystemClock
from strata.writebehind import endings, service

CROWD = 8


@pytest.fixture(autouse=True)
def often() -> Iterator[None]:
    """Threads take turns as often as they can."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(interval)


def at_once(call: Callable[[], object]) -> None:
    """Have a crowd of threads call, all at the same time."""
    ready = threading.Barrier(CROWD)

    def come() -> None:
        ready.wait(15)
        call()

    crowd = [threading.Thread(target=come) for _ in range(CROWD)]
    for one in crowd:
        one.start()
    for one in crowd:
        one.join()


class Repeated:
    """Calls in threads of their own, again and again; `seen` is what they raised that is no `StrataError`."""

    def __init__(self, *calls: Callable[[], object]) -> None:
        self.seen: list[Exception] = []
        self._end = threading.Event()
        self._threads = [threading.Thread(target=self._run, args=(call,)) for call in calls]

    def _run(self, call: Callable[[], object]) -> None:
        while not self._end.is_set():
            try:
                call()
            except strata.StrataError:
                pass
            except Exception as error:
                self.seen.append(error)

    def __enter__(self) -> Repeated:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        for thread in self._threads:
            thread.join()


PARTS: dict[str, tuple[ModuleType, str, Callable[[DataStore], object]]] = {
    "database": (pool, "Database", lambda store: store._wiring.database("postgresql://u@127.0.0.1:1/x")),
    "ledger": (client, "RedisServer", lambda store: store._wiring.ledger()),
    "write-behind": (service, "WriteBehind", lambda store: store._wiring.writebehind()),
}


@pytest.mark.parametrize("part", PARTS)
def test_each_part_is_built_once_however_many_ask_for_it_at_once(part: str, monkeypatch: pytest.MonkeyPatch) -> None:
    module, name, ask = PARTS[part]
    store = DataStore(Config(redis_addr="127.0.0.1:1", ledger_addr="127.0.0.1:2"))
    if part == "write-behind":
        store._wiring.ledger()
    real: Any = getattr(module, name)
    made: list[object] = []
    slow = threading.Event()

    class Counted(real):  # type: ignore[misc]
        def __init__(self, *args: Any, **options: Any) -> None:
            made.append(self)
            slow.wait(0.01)  # for the others to come
            super().__init__(*args, **options)

    monkeypatch.setattr(module, name, Counted)
    found: list[object] = []
    at_once(lambda: found.append(ask(store)))
    assert len(made) == 1
    assert found == made * CROWD


def test_schemas_may_be_registered_while_others_go_through_them() -> None:
    store = DataStore(Config())
    model = make_dataclass("Model", [("id", Annotated[str, strata.PrimaryKey])])

    def unknown() -> None:
        store.get("nobody's", "1")

    with Repeated(unknown, store.rotate_keys, store.stats, lambda: repr(store)) as readers:
        for number in range(300):
            store.register(Schema(model, name=f"s{number}", l1=MemPolicy()))
    assert readers.seen == []


def test_a_server_may_be_closed_while_it_is_asked(redis_addr: str) -> None:
    server = RedisServer(lambda: connect(redis_addr, L2PoolConfig()), SystemClock())

    def ask() -> None:
        server.execute("PING")

    with Repeated(ask, ask, lambda: server.address) as users:
        for _ in range(500):
            server.close()
    assert users.seen == []
    server.close()


class Unfinished:
    """What a process is to flush at its end."""

    flushes_on_sigterm = False

    def flush_at_exit(self, *, last: bool) -> None:
        pass

    def go_on(self) -> None:
        pass


def test_a_process_may_flush_at_its_end_while_others_still_begin_to_write() -> None:
    kept = []
    with Repeated(*[lambda: endings._flush_all(lambda behind: False, last=False)] * 3) as ends:
        for _ in range(4_000):
            kept.append(Unfinished())
            endings.watch(kept[-1]).cancel()
    assert ends.seen == []


def test_what_keeps_the_listener_from_hearing_is_asked_while_databases_are_added() -> None:
    nowhere = "postgresql://u@127.0.0.1:1/x"
    store = DataStore(Config(postgres_dsn=nowhere))
    store.register(
        Schema(
            make_dataclass("Model", [("id", Annotated[str, strata.PrimaryKey])]),
            name="s",
            l3=PostgresPolicy(watch=True),
        )
    )
    listener = inspect(store).listener
    outage: Any = listener._outage
    with Repeated(outage._because) as asked:
        for number in range(300):
            store._wiring.database(f"{nowhere}{number}")
    assert asked.seen == []


def test_a_fork_while_another_thread_makes_a_metric_leaves_no_lock_held() -> None:
    recorder = PrometheusRecorder(CollectorRegistry())
    with prometheus._lock:  # as that thread holds it
        pid = os.fork()
        if pid == 0:
            counts = threading.Thread(target=lambda: recorder.count("strata_one"), daemon=True)
            counts.start()
            counts.join(15)
            os._exit(int(counts.is_alive()))
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
