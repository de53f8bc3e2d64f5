"""The sweeper: starts late, stops at once, survives fork and a callback that raises."""

from __future__ import annotations

import gc
import os
import threading
import weakref
from collections.abc import Iterator, Sequence
from typing import Any

import pytest

from strata.l1.evicted import Evicted
from strata.l1.store import MemStore
from strata.l1.sweeper import Sweeper
from strata.observe.log import SafeLogger
from strata.policies import EvictionPolicy
from strata.waits.clock import ManualClock
from strata.waits.hub import Thread
from tests.lines import Log

DEADLINE = 10.0  # seconds


class Reports:
    """Collects what was reported, and says when."""

    def __init__(self) -> None:
        self.keys: list[Any] = []
        self.came = threading.Event()

    def __call__(self, gone: Sequence[Evicted]) -> None:
        self.keys += [item.key for item in gone]
        self.came.set()


def make_store(clock: ManualClock, ttl: float = 60) -> MemStore:
    return MemStore(capacity=0, ttl=ttl, eviction=EvictionPolicy.LRU, clock=clock)


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def sweeper() -> Iterator[Sweeper]:
    """One that never comes round by itself."""
    sweeper = Sweeper(interval=3600)
    yield sweeper
    sweeper.stop()


def thread_of(sweeper: Sweeper) -> Thread | None:
    return sweeper.daemon._thread


def test_what_expired_is_removed_and_reported(sweeper: Sweeper, clock: ManualClock) -> None:
    store, reports = make_store(clock), Reports()
    sweeper.register(store, reports)
    store.put("a", 1, 1)
    store.put("b", 1, 1, ttl=100)
    sweeper.sweep()
    assert reports.keys == []
    clock.advance(60)
    sweeper.sweep()
    assert reports.keys == ["a"]
    assert list(store.entries) == ["b"]


def test_the_thread_comes_round_by_itself(clock: ManualClock) -> None:
    sweeper, store, reports = Sweeper(interval=0.001), make_store(clock), Reports()
    sweeper.register(store, reports)
    store.put("a", 1, 1)
    clock.advance(60)
    assert reports.came.wait(DEADLINE)
    assert reports.keys == ["a"]
    sweeper.stop()


def test_no_thread_starts_before_there_is_something_to_expire(sweeper: Sweeper, clock: ManualClock) -> None:
    store = make_store(clock, ttl=0)
    sweeper.register(store, Reports())
    store.put("for ever", 1, 1)
    assert thread_of(sweeper) is None
    store.put("not for ever", 1, 1, ttl=5)
    assert thread_of(sweeper) is not None


def test_one_thread_serves_all_stores(sweeper: Sweeper, clock: ManualClock) -> None:
    threads = set()
    for _ in range(3):
        store = make_store(clock)
        store.put("a", 1, 1)
        sweeper.register(store, Reports())
        threads.add(thread_of(sweeper))
    assert len(threads) == 1


def test_a_callback_that_raises_is_logged_and_stops_nobody(clock: ManualClock) -> None:
    def fail(gone: Sequence[Evicted]) -> None:
        raise ValueError(f"about {gone[0].value}")

    log, reports = Log(), Reports()
    sweeper = Sweeper(interval=3600, log=SafeLogger(log))
    for report in (fail, reports):
        store = make_store(clock)
        sweeper.register(store, report)
        store.put("a", "a secret", 1)
    clock.advance(60)
    sweeper.sweep()
    sweeper.stop()
    assert reports.keys == ["a"]
    assert log.errors == [{"msg": "sweeping failed", "error": "ValueError"}]


def test_stop_ends_the_thread_and_may_be_called_again(sweeper: Sweeper, clock: ManualClock) -> None:
    store = make_store(clock)
    sweeper.register(store, Reports())
    store.put("a", 1, 1)
    thread = thread_of(sweeper)
    assert thread is not None
    sweeper.stop()
    sweeper.stop()
    assert not thread.is_alive()


def test_after_stop_nothing_starts_it(sweeper: Sweeper, clock: ManualClock) -> None:
    store = make_store(clock)
    sweeper.register(store, Reports())
    sweeper.stop()
    store.put("a", 1, 1)
    assert thread_of(sweeper) is None


def test_a_callback_may_stop_it(clock: ManualClock) -> None:
    stopped = threading.Event()
    sweeper, store = Sweeper(interval=0.001), make_store(clock)

    def stop(_: Sequence[Evicted]) -> None:
        sweeper.stop()
        stopped.set()

    sweeper.register(store, stop)
    store.put("a", 1, 1)
    clock.advance(60)
    assert stopped.wait(DEADLINE)
    assert sweeper.daemon.join(DEADLINE)


def test_a_callback_may_use_the_store(sweeper: Sweeper, clock: ManualClock) -> None:
    store = make_store(clock)

    def report(gone: Sequence[Evicted]) -> None:
        store.put(gone[0].key, "again", 2)

    sweeper.register(store, report)
    store.put("a", 1, 1)
    clock.advance(60)
    sweeper.sweep()
    assert store.entries["a"].value == "again"


def test_the_thread_of_a_sweeper_that_nobody_holds_ends(clock: ManualClock) -> None:
    sweeper, store = Sweeper(interval=0.001), make_store(clock)
    sweeper.register(store, Reports())
    store.put("a", 1, 1)
    thread, gone = thread_of(sweeper), weakref.ref(sweeper)
    assert thread is not None
    del sweeper, store
    while gone() is not None:
        gc.collect()
    thread.join(DEADLINE)
    assert not thread.is_alive()


def test_a_thread_that_cannot_start_is_no_error(
    sweeper: Sweeper, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_: threading.Thread) -> None:
        raise RuntimeError("can't create new thread at interpreter shutdown")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    store = make_store(clock)
    sweeper.register(store, Reports())
    store.put("a", 1, 1)
    assert thread_of(sweeper) is None
    assert "a" in store.entries


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_child_has_its_own_thread_when_it_needs_one(clock: ManualClock) -> None:
    sweeper, store, reports = Sweeper(interval=0.001), make_store(clock), Reports()
    sweeper.register(store, reports)
    store.put("the parent's", 1, 1)
    store.lock.acquire()  # as some thread of the parent's may just hold it
    child = os.fork()
    if child == 0:
        os._exit(_in_the_child(sweeper, store, reports, clock))
    store.lock.release()
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert list(store.entries) == ["the parent's"]
    sweeper.stop()


def _in_the_child(sweeper: Sweeper, store: MemStore, reports: Reports, clock: ManualClock) -> int:
    try:
        sweeper.after_fork()
        store.lock = threading.RLock()
        store.clear()
        if thread_of(sweeper) is not None:
            return 2
        store.put("the child's", 1, 1)
        clock.advance(60)
        if not reports.came.wait(DEADLINE):
            return 3
        return 0 if reports.keys == ["the child's"] else 4
    except BaseException:
        return 5
