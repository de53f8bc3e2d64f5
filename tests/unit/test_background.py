"""The threads for loads that nobody waits for: few, bounded, and gone when there is nothing to do."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from strata.engine import background
from strata.engine.background import Background
from strata.observe.log import SafeLogger
from tests.support import wait_until


@pytest.fixture
def pool() -> Iterator[Background]:
    pool = Background(2, SafeLogger(None))
    yield pool
    pool.stop()


def threads(pool: Background) -> int:
    return sum(daemon.started for daemon in pool.daemons)


class Gate:
    """Jobs that wait until told to go on."""

    def __init__(self) -> None:
        self.open = threading.Event()
        self.begun: list[int] = []
        self.ended: list[int] = []

    def job(self, number: int) -> background.Job:
        def run() -> None:
            self.begun.append(number)
            self.open.wait(20)
            self.ended.append(number)

        return run


def test_no_more_jobs_run_at_once_than_there_are_threads_and_all_run(pool: Background) -> None:
    gate = Gate()
    assert all(pool.submit(n, gate.job(n)) for n in range(10))
    wait_until(lambda: len(gate.begun) == 2)
    assert threads(pool) == 2
    gate.open.set()
    wait_until(lambda: sorted(gate.ended) == list(range(10)))


def test_a_thread_that_is_busy_does_not_keep_a_job_from_another(pool: Background) -> None:
    gate, done = Gate(), threading.Event()
    assert pool.submit("slow", gate.job(0))
    wait_until(lambda: gate.begun)
    assert pool.submit("quick", done.set)
    assert done.wait(15)
    gate.open.set()


def test_what_is_under_way_is_not_begun_twice(pool: Background) -> None:
    gate = Gate()
    assert pool.submit("same", gate.job(0))
    assert not pool.submit("same", gate.job(1))
    gate.open.set()
    wait_until(lambda: not pool._keys)
    assert pool.submit("same", gate.job(2))
    wait_until(lambda: gate.ended == [0, 2])


def test_too_many_jobs_are_refused(pool: Background, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(background, "QUEUED", 3)
    gate = Gate()
    for n in range(2):
        assert pool.submit(n, gate.job(n))
    wait_until(lambda: len(gate.begun) == 2)
    assert [pool.submit(n, gate.job(n)) for n in range(2, 6)] == [True, True, True, False]
    assert pool.full
    gate.open.set()
    wait_until(lambda: len(gate.ended) == 5)


def test_a_job_that_fails_harms_no_other(pool: Background) -> None:
    def fail() -> None:
        raise KeyboardInterrupt

    done = threading.Event()
    for n in range(4):
        assert pool.submit(n, fail)
    assert pool.submit("good", done.set)
    assert done.wait(15)


def test_threads_end_when_there_is_nothing_to_do(pool: Background, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(background, "IDLE", 0.01)
    done = threading.Event()
    assert pool.submit(1, done.set)
    wait_until(lambda: not threads(pool))
    done.clear()
    assert pool.submit(1, done.set)
    assert done.wait(15)


def test_a_stopped_pool_runs_what_waits_and_takes_no_more(pool: Background) -> None:
    gate = Gate()
    for n in range(4):
        assert pool.submit(n, gate.job(n))
    gate.open.set()
    pool.stop()
    wait_until(lambda: len(gate.ended) == 4 and not threads(pool))
    assert not pool.submit(9, gate.job(9))


def test_one_job_after_the_other_is_run_by_one_thread(pool: Background) -> None:
    for n in range(10):
        done = threading.Event()
        assert pool.submit(n, done.set)
        assert done.wait(15)
        wait_until(lambda: len(pool._free) == 2)
    assert threads(pool) == 1


def test_a_job_is_refused_where_no_thread_can_be_had_and_the_next_one_runs(
    pool: Background, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    done = threading.Event()
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        assert not pool.submit("key", done.set)
    assert pool.submit("key", done.set)
    assert done.wait(15)


def test_a_job_that_waits_is_run_by_those_who_work_where_no_other_thread_can_be_had(
    pool: Background, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    gate, done = Gate(), threading.Event()
    assert pool.submit("slow", gate.job(0))
    wait_until(lambda: gate.begun)
    monkeypatch.setattr(threading.Thread, "start", refuse)
    assert pool.submit("waits", done.set)
    gate.open.set()
    assert done.wait(15)
