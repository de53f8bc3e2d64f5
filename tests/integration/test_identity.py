"""Node id and Redis's time are there before a process's first stamp, in any thread, and cost later ones nothing."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from typing import Any, ClassVar

import pytest

from strata.coherence.identity import LEASE_SECONDS, Identity
from strata.l2.address import connect
from strata.l2.client import RedisServer
from strata.observe.server_call import ServerCall
from strata.policies import L2PoolConfig
from strata.protocol.versions import NODE_BITS, VersionClock
from strata.testing import Proxy
from strata.waits.clock import ManualClock, SystemClock
from tests.behind import client
from tests.support import wait_until


class Slow(SystemClock):
    """The clock of a machine that is 5 s late."""

    @staticmethod
    def wall() -> float:
        return time.time() - 5


class Set(SystemClock):
    """The clocks of a machine whose wall clock is `off`, and whose others have missed `paused` seconds."""

    off = paused = 0.0

    def wall(self) -> float:
        return time.time() + self.off

    def monotonic(self) -> float:
        return time.monotonic() - self.paused

    def steady(self) -> float:
        return time.monotonic() - self.paused


class Process:
    """What a process has of its own. `asked` counts the commands that it sent."""

    all: ClassVar[list[Process]] = []

    def __init__(self, addr: str, name: str, clock: Any) -> None:
        self.all.append(self)
        self.server = RedisServer(lambda: connect(addr, L2PoolConfig(), password=None, db=0), clock)
        self.asked = 0
        self.server.on_call = self._count
        self.versions = VersionClock(clock)
        self.identity = Identity(lambda: [self.server], self.versions, name, clock)

    def write(self) -> int:
        """The stamp of a write."""
        self.identity.ensure()
        return self.versions.stamp()

    def _count(self, call: ServerCall) -> None:
        self.asked += 1


@pytest.fixture(autouse=True)
def ended() -> Iterator[None]:
    """The processes end with the test: their connections are closed."""
    yield
    while Process.all:
        Process.all.pop().server.close()


@pytest.fixture
def far(redis_addr: str) -> Iterator[Proxy]:
    with Proxy(redis_addr) as proxy:
        yield proxy


def seconds(version: int) -> float:
    return (version >> NODE_BITS) / 1e6


def leased(addr: str, node: int) -> Any:
    return client(addr).get(f"strata:{{node}}:{node}")


def test_a_second_thread_s_first_write_waits_for_the_time_and_the_node_id_too(far: Proxy, redis_addr: str) -> None:
    process = Process(far.addr, "late", Slow())
    stamps: list[int] = []
    began = time.time()
    threads = [threading.Thread(target=lambda: stamps.append(process.write())) for _ in range(8)]
    far.delay(0.05)
    threads[0].start()
    wait_until(lambda: far.accepted)  # it is asking
    for thread in threads[1:]:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(seconds(stamp) >= began - 1 for stamp in stamps)
    assert {stamp & ((1 << NODE_BITS) - 1) for stamp in stamps} == {process.versions.node}
    assert leased(redis_addr, process.versions.node) == b"late"


def test_later_stamps_ask_nobody(redis_addr: str) -> None:
    clock = ManualClock()
    process = Process(redis_addr, "me", clock)
    process.write()
    asked = process.asked
    for _ in range(40):  # the bus beats, and renews the lease
        clock.advance(9.0)
        process.identity.beat()
        renewed = process.asked
        process.write()
        assert process.asked == renewed
    assert asked < process.asked < asked + 40 * 4


def test_without_anybody_who_renews_the_lease_a_stamp_does_before_it_ends(redis_addr: str) -> None:
    clock = ManualClock()
    process = Process(redis_addr, "alone", clock)
    process.write()
    node = process.versions.node
    client(redis_addr).expire(f"strata:{{node}}:{node}", 1)
    clock.advance(LEASE_SECONDS - 5)
    process.write()
    assert process.versions.node == node
    assert client(redis_addr).ttl(f"strata:{{node}}:{node}") > LEASE_SECONDS - 5


def test_a_process_that_was_frozen_for_longer_than_its_lease_takes_another_node_id_first(redis_addr: str) -> None:
    clock = ManualClock()
    process = Process(redis_addr, "frozen", clock)
    process.write()
    node = process.versions.node
    client(redis_addr).set(f"strata:{{node}}:{node}", "another", ex=LEASE_SECONDS)  # the lease had ended meanwhile
    clock.advance(LEASE_SECONDS + 60)
    stamp = process.write()
    assert process.versions.node != node and stamp & ((1 << NODE_BITS) - 1) == process.versions.node
    assert leased(redis_addr, process.versions.node) == b"frozen"
    assert leased(redis_addr, node) == b"another"


def test_where_redis_is_away_the_first_stamp_waits_once_and_a_later_beat_makes_up_for_it(far: Proxy) -> None:
    process = Process(far.addr, "me", Slow())
    far.refuse()
    began = time.time()
    assert seconds(process.write()) < began - 4  # nobody could say that this clock is late
    unleased, asked = process.versions.node, process.asked
    for _ in range(100):
        process.write()
    assert process.asked == asked
    far.resume()

    def made_up() -> int | None:
        process.identity.beat()
        return process.versions.reference_ms()

    wait_until(made_up)
    began = time.time()
    assert seconds(process.write()) >= began - 1
    assert process.versions.node == unleased  # free, so it could be kept


def test_after_a_fork_the_first_stamp_has_a_node_id_of_its_own(redis_addr: str) -> None:
    process = Process(redis_addr, "parent", SystemClock())
    process.write()
    node = process.versions.node
    process.versions.reset()
    process.identity.reset("child")
    process.write()
    assert process.versions.node != node
    assert leased(redis_addr, process.versions.node) == b"child" and leased(redis_addr, node) == b"parent"


def test_before_a_version_is_called_one_of_the_far_future_a_clock_that_is_late_is_corrected(redis_addr: str) -> None:
    class Later(SystemClock):
        @staticmethod
        def wall() -> float:
            return time.time() - 300

    process = Process(redis_addr, "reader", Later())
    now = int(time.time() * 1e6) << NODE_BITS
    assert process.versions.believed(now)
    asked = process.asked
    assert asked == 1
    assert not process.versions.believed(int((time.time() + 120) * 1e6) << NODE_BITS)
    assert process.asked == asked  # it was compared a moment ago


@pytest.mark.parametrize("step", [-86_400.0, -120.0, -2.0, 2.0, 120.0, 86_400.0])
def test_a_clock_that_is_set_and_set_back_makes_no_stamp_of_another_time(redis_addr: str, step: float) -> None:
    clock = Set()
    process = Process(redis_addr, "set", clock)
    stamps = [process.write()]
    for clock.off in (step, 0.0, step, 0.0):
        process.versions.believed(int((time.time() + 120) * 1e6) << NODE_BITS)  # which has the clock compared as well
        stamps.append(process.write())
        assert abs(seconds(stamps[-1]) - time.time()) < 1
    assert stamps == sorted(stamps)


@pytest.mark.parametrize("step", [-86_400.0, -2.0, 2.0, 86_400.0])
def test_a_clock_that_is_set_while_redis_is_silent_makes_no_stamp_of_another_time(far: Proxy, step: float) -> None:
    clock = Set()
    process = Process(far.addr, "set", clock)
    process.write()
    far.refuse()
    clock.off = step
    assert abs(seconds(process.write()) - time.time()) < 1
    far.resume()


def test_a_machine_that_has_slept_while_redis_is_silent_knows_the_time(far: Proxy) -> None:
    class Slept(Set):
        def steady(self) -> float:
            return SystemClock.steady()

    clock = Slept()
    process = Process(far.addr, "slept", clock)
    process.write()
    far.refuse()
    clock.paused = 3600.0
    assert abs(seconds(process.write()) - time.time()) < 1
    far.resume()


def test_where_the_first_redis_is_away_the_time_is_that_of_another(far: Proxy, redis_addr: str) -> None:
    process, other = Process(far.addr, "me", Slow()), Process(redis_addr, "me", Slow())
    identity = Identity(lambda: [process.server, other.server], process.versions, "me", Slow())
    far.refuse()
    began = time.time()
    identity.ensure()
    assert seconds(process.versions.stamp()) >= began - 1


def test_a_clock_that_was_never_compared_refuses_nothing(far: Proxy) -> None:
    process = Process(far.addr, "me", Slow())
    far.refuse()
    assert process.versions.believed(int((time.time() + 3600) * 1e6) << NODE_BITS)
    far.resume()


def test_no_version_is_called_one_of_the_far_future_while_another_thread_has_the_clock_corrected(far: Proxy) -> None:
    clock = Set()
    process = Process(far.addr, "me", clock)
    process.write()
    clock.paused, now = 300.0, int(time.time() * 1e6) << NODE_BITS
    found: list[bool] = []
    far.stall()
    threads = [threading.Thread(target=lambda: found.append(process.versions.believed(now))) for _ in range(2)]
    for thread in threads:
        thread.start()
    wait_until(lambda: found or process.identity._turns._waiting)
    far.resume()
    for thread in threads:
        thread.join()
    assert found == [True, True]
