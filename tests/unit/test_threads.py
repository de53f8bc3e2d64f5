"""The life of a background thread: nothing ends it but its owner, and what happens to it is said and counted."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import threading
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from strata.errors import L2UnavailableError
from strata.observe import log
from strata.observe.log import SafeLogger
from strata.runtime import daemon as threads
from strata.runtime.daemon import Daemon, Pause
from tests.lines import Log
from tests.support import wait_until

DEADLINE = 15.0  # seconds

Answer = Pause | float | None


class Owner:
    """A part with a thread. `does` is what each step does; without it steps are counted only."""

    def __init__(self, does: Callable[[], Answer] | None = None, **options: Any) -> None:
        self.does = does
        self.steps = 0
        self.ended = 0
        self.log = Log()
        self.safe = SafeLogger(self.log)
        self.daemon = Daemon("strata-test", self.step, self.safe, at_end=self.end, **options)

    def step(self) -> Answer:
        self.steps += 1
        return self.does() if self.does is not None else None

    def end(self) -> None:
        self.ended += 1


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Pauses after failures that no test waits for; and nothing is left running."""
    monkeypatch.setattr(threads, "PAUSES", (0.001, 0.002))
    yield
    gc.collect()
    wait_until(lambda: not [thread for thread in threading.enumerate() if thread.name == "strata-test"])


def stopped(owner: Owner) -> bool:
    owner.daemon.stop()
    return owner.daemon.join(DEADLINE)


class Refusals:
    """The system has no thread to give, a number of times."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, times: int, reason: str = "can't start new thread") -> None:
        self.left = times
        real = threading.Thread.start

        def start(thread: threading.Thread) -> None:
            if self.left > 0:
                self.left -= 1
                raise RuntimeError(reason)
            real(thread)

        monkeypatch.setattr(threading.Thread, "start", start)


def test_it_starts_when_it_is_wanted_and_steps_when_it_is_woken() -> None:
    owner = Owner()
    assert not owner.daemon.started
    assert owner.daemon.start() and owner.daemon.start()
    wait_until(lambda: owner.steps == 1)
    owner.daemon.wake()
    wait_until(lambda: owner.steps >= 2)
    assert stopped(owner)


def test_it_steps_again_after_the_time_that_the_step_says() -> None:
    owner = Owner(lambda: 0.0)
    owner.daemon.start()
    wait_until(lambda: owner.steps > 3)
    assert stopped(owner)


def test_a_waking_during_a_step_is_not_lost() -> None:
    begun, go_on = threading.Event(), threading.Event()

    def step() -> None:
        begun.set()
        go_on.wait(DEADLINE)

    owner = Owner(step)
    owner.daemon.wake()
    assert begun.wait(DEADLINE)
    owner.daemon.wake()
    go_on.set()
    wait_until(lambda: owner.steps >= 2)
    assert stopped(owner)


def test_it_may_wait_for_something_else_than_a_waking() -> None:
    came = threading.Semaphore(0)
    waits: list[float] = []

    def wait(seconds: float) -> None:
        waits.append(seconds)
        came.acquire(timeout=DEADLINE)

    owner = Owner(lambda: Pause(3.0, wait))
    owner.daemon.start()
    wait_until(lambda: len(waits) == 1)
    came.release()
    wait_until(lambda: owner.steps == 2)
    assert waits[0] == 3.0
    owner.daemon.stop()
    came.release()
    assert owner.daemon.join(DEADLINE)


def test_stop_ends_it_for_good_and_tells_its_owner_in_its_own_thread() -> None:
    owner = Owner()
    owner.daemon.start()
    wait_until(lambda: owner.steps >= 1)
    assert stopped(owner)
    assert owner.ended == 1
    assert not owner.daemon.start() and not owner.daemon.wake()
    assert owner.daemon.stopped and not owner.daemon.started
    assert owner.steps == 1


def test_a_step_may_stop_it() -> None:
    owner = Owner()
    owner.does = lambda: owner.daemon.stop()
    owner.daemon.start()
    wait_until(lambda: owner.ended == 1)
    assert owner.daemon.join(DEADLINE)


def test_one_that_was_never_started_is_stopped_and_joined_too() -> None:
    owner = Owner()
    assert stopped(owner)
    assert owner.ended == 0


MISTAKES = [ValueError, RecursionError, MemoryError, SystemExit, KeyboardInterrupt, GeneratorExit, StopIteration]


@pytest.mark.parametrize("kind", MISTAKES)
def test_whatever_a_step_raises_is_counted_and_the_thread_goes_on(kind: type[BaseException]) -> None:
    owner = Owner()

    def step() -> Answer:
        if owner.steps < 4:
            raise kind("about a secret")
        return None

    owner.does = step
    owner.daemon.start()
    wait_until(lambda: owner.steps >= 4)
    assert stopped(owner)
    assert owner.daemon.failures == 3
    (said,) = owner.log.errors
    assert said["thread"] == "strata-test" and said["error"] == kind.__name__
    assert said["where"].startswith(f"{__name__}:")
    assert "secret" not in str(said)


def fails() -> Answer:
    raise KeyError("nothing")


def deep(level: int = 0) -> int:
    return deep(level + 1) + 1


def test_a_recursion_without_end_costs_one_step() -> None:
    owner = Owner()
    owner.does = lambda: deep() if owner.steps == 1 else None
    owner.daemon.start()
    owner.daemon.wake()
    wait_until(lambda: owner.steps >= 2)
    assert stopped(owner)
    assert owner.daemon.failures == 1


def test_a_failure_that_goes_on_is_said_once_a_minute_with_its_number(monkeypatch: pytest.MonkeyPatch) -> None:
    owner = Owner(fails)
    owner.daemon.start()
    wait_until(lambda: owner.daemon.failures > 5)
    assert len(owner.log.errors) == 1
    monkeypatch.setattr(log, "AGAIN", 0.0)
    wait_until(lambda: len(owner.log.errors) > 1)
    assert stopped(owner)
    assert sum(said.get("times", 1) for said in owner.log.errors) == owner.daemon.failures


def test_pauses_after_failures_grow_and_begin_anew_when_all_is_well(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads, "PAUSES", (1.0, 2.0, 4.0))
    owner, mistake = Owner(), ValueError()
    pauses = [owner.daemon._failed(mistake) for _ in range(5)]
    for pause, about in zip(pauses, (1.0, 2.0, 4.0, 4.0, 4.0), strict=True):
        assert 0.8 * about <= pause <= 1.2 * about
    owner.daemon.start()
    wait_until(lambda: owner.daemon._row == 0)
    assert stopped(owner)


def test_pauses_grow_on_while_steps_succeed_and_all_is_not_well() -> None:
    owner = Owner()

    def step() -> Answer:
        if owner.steps % 2:
            return Pause(0.0, well=False)
        raise OSError

    owner.does = step
    owner.daemon.start()
    wait_until(lambda: owner.daemon._row > 3)
    assert stopped(owner)


def test_a_waking_does_not_shorten_the_pause_after_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads, "PAUSES", (3600.0,))
    owner = Owner(fails)
    owner.daemon.start()
    wait_until(lambda: owner.daemon.failures == 1)
    for _ in range(50):
        owner.daemon.wake()
    assert owner.steps == 1
    assert stopped(owner)


@pytest.mark.parametrize("error", [L2UnavailableError("away"), ConnectionResetError(), BufferError()])
def test_an_outage_is_the_steps_own_to_tell_of(error: Exception) -> None:
    owner = Owner(expected=(BufferError,))

    def step() -> None:
        raise error

    owner.does = step
    owner.daemon.start()
    wait_until(lambda: owner.steps > 3)
    assert stopped(owner)
    assert owner.log.errors == [] and owner.daemon.failures == 0


def test_a_refused_thread_is_said_and_counted_and_had_at_the_next_call(monkeypatch: pytest.MonkeyPatch) -> None:
    Refusals(monkeypatch, 2)
    owner = Owner()
    assert not owner.daemon.start() and not owner.daemon.wake()
    assert not owner.daemon.started and owner.daemon.refusals == 2
    assert owner.daemon.wake()
    wait_until(lambda: owner.steps >= 1)
    assert stopped(owner)
    (said,) = owner.log.errors
    assert said["reason"] == "can't start new thread" and said["thread"] == "strata-test"


def test_a_thread_that_the_ending_interpreter_refuses_is_not_spoken_of(monkeypatch: pytest.MonkeyPatch) -> None:
    Refusals(monkeypatch, 1, "can't create new thread at interpreter shutdown")
    owner = Owner()
    assert not owner.daemon.wake()
    assert owner.log.errors == [] and owner.daemon.refusals == 1


def test_a_thread_that_was_ended_from_outside_is_started_by_the_next_call() -> None:
    class GreenletExit(BaseException):
        """As gevent throws it."""

    owner = Owner()

    def step() -> None:
        if owner.steps == 1:
            raise GreenletExit

    owner.does = step
    quiet = threading.excepthook
    threading.excepthook = lambda args: None
    try:
        owner.daemon.start()
        wait_until(lambda: not owner.daemon.started)
    finally:
        threading.excepthook = quiet
    assert owner.daemon.wake()
    wait_until(lambda: owner.steps >= 2)
    assert stopped(owner)


def test_of_many_who_start_it_at_once_one_does() -> None:
    seen = set()
    owner = Owner()

    def step() -> float:
        seen.add(threading.current_thread())
        return 0.0

    owner.does = step
    crowd = [threading.Thread(target=owner.daemon.start) for _ in range(20)]
    for one in crowd:
        one.start()
    for one in crowd:
        one.join()
    wait_until(lambda: owner.steps > 20)
    assert stopped(owner)
    assert len(seen) == 1


def dropped(does: Callable[[], Answer]) -> tuple[Daemon, weakref.ref[Owner]]:
    """The thread of an owner that nobody holds any more, after its first step."""
    owner = Owner(does)
    owner.daemon.start()
    wait_until(lambda: owner.steps > 0)
    return owner.daemon, weakref.ref(owner)


@pytest.mark.parametrize("pause", [None, 3600.0])
def test_it_ends_with_its_owner_whatever_it_waits_for(pause: float | None) -> None:
    daemon, owner = dropped(lambda: pause)
    wait_until(lambda: gc.collect() >= 0 and owner() is None)
    assert daemon.join(DEADLINE)


def test_a_failure_does_not_keep_its_owner_alive(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads, "PAUSES", (0.3,))
    _, owner = dropped(fails)
    wait_until(lambda: gc.collect() >= 0 and owner() is None)


def test_a_function_without_an_owner_goes_on_until_it_is_stopped() -> None:
    steps: list[int] = []

    def step() -> Answer:
        steps.append(1)
        return 0.0

    daemon = Daemon("strata-test", step, Log())
    daemon.start()
    wait_until(lambda: len(steps) > 3)
    daemon.stop()
    assert daemon.join(DEADLINE)


def test_one_that_lingers_ends_without_work_and_comes_again_with_some() -> None:
    owner = Owner(linger=0.001)
    for turn in range(1, 4):
        assert owner.daemon.wake()
        wait_until(lambda: not owner.daemon.started)
        assert owner.steps >= turn
    assert owner.ended == 0 and owner.daemon.failures == 0


def test_a_waking_at_the_very_end_of_lingering_is_not_lost() -> None:
    owner = Owner(linger=0.0)
    for turn in range(1, 300):
        owner.daemon.wake()
        wait_until(lambda turn=turn: owner.steps >= turn)  # type: ignore[misc]
    assert stopped(owner)


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_child_has_its_own_thread_when_it_needs_one_and_none_of_what_was_stopped() -> None:
    owner, other = Owner(), Owner()
    owner.daemon.start()
    assert stopped(other)
    wait_until(lambda: owner.steps == 1)
    child = os.fork()
    if child == 0:
        status = 1
        try:
            for one in (owner, other):
                one.daemon.reset()
                assert not one.daemon.started
            assert owner.daemon.start() and not other.daemon.start()
            wait_until(lambda: owner.steps == 2)
            status = 0
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert owner.steps == 1
    assert stopped(owner)


AT_THE_VERY_END = """
from dataclasses import dataclass
from typing import Annotated
import strata

@dataclass
class Item:
    id: Annotated[int, strata.PrimaryKey]

items = strata.DataStore(strata.Config()).register(strata.Schema(Item, l1=strata.MemPolicy(ttl=60)))

class Last:
    def __del__(self):
        items.set(1, Item(1))
        print(items.get(1))

last = Last()
"""


def test_an_object_that_uses_a_cache_when_the_interpreter_ends_holds_nothing_up() -> None:
    done = subprocess.run([sys.executable, "-c", AT_THE_VERY_END], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (0, "Item(id=1)\n", "")
