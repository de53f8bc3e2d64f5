"""The fault-injecting proxy, between a real client and a real server."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from strata.errors import StrataError
from strata.testing import Proxy
from tests.support import wait_until


@pytest.fixture
def link(redis_addr: str) -> Iterator[Proxy]:
    with Proxy(redis_addr.rpartition("@")[2].removeprefix("redis://").partition("/")[0]) as proxy:
        yield proxy


def client(link: Proxy, timeout: float = 5.0) -> redis.Redis:
    return redis.Redis(port=link.port, socket_timeout=timeout, retry=Retry(NoBackoff(), 0))


def test_it_passes_large_and_small_things_on(link: Proxy) -> None:
    with client(link) as conn:
        big = b"x" * 5_000_000
        pipe = conn.pipeline(transaction=False)
        for number in range(10):
            pipe.set(f"big:{number}", big).get(f"big:{number}")
        assert pipe.execute() == [True, big] * 10
        assert link.connections == 1


def test_a_cut_ends_connections_and_lets_new_ones_through(link: Proxy) -> None:
    with client(link) as conn:
        conn.ping()
        assert link.cut() == 1
        wait_until(lambda: link.connections == 0)
        assert conn.ping()
        assert link.accepted == 2


def test_what_is_stalled_arrives_when_it_is_resumed(link: Proxy) -> None:
    with client(link, 0.2) as conn:
        conn.ping()
        link.stall()
        with pytest.raises(redis.TimeoutError):
            conn.set("late", "1")
        with pytest.raises(redis.TimeoutError):
            client(link, 0.2).ping()
        link.resume()
        wait_until(lambda: client(link).get("late") == b"1")


def test_refused_connections_are_closed_until_it_is_resumed(link: Proxy) -> None:
    with client(link) as conn:
        conn.ping()
        link.refuse()
        for _ in range(2):
            with pytest.raises(redis.ConnectionError):
                conn.ping()
        link.resume()
        assert conn.ping()


def test_a_delayed_answer_is_late_and_not_lost(link: Proxy) -> None:
    with client(link, 0.2) as conn:
        conn.ping()
        link.delay(0.3)
        with pytest.raises(redis.TimeoutError):
            conn.ping()
        link.delay(0.01)
        assert conn.ping()


def test_a_half_open_connection_is_silent_and_stays_open(link: Proxy) -> None:
    with client(link, 0.2) as conn:
        conn.ping()
        assert link.half_open() == 1
        with pytest.raises(redis.TimeoutError):
            conn.ping()
        assert conn.ping()  # over a new connection


def test_it_is_addressed_as_its_target_is() -> None:
    for target, before, after in (
        ("127.0.0.1:6379", "", ""),
        ("redis://:p%2Fw@127.0.0.1:6379/3?a=b", "redis://:p%2Fw@", "/3?a=b"),
        ("postgresql://me:secret@[::1]:5432/app", "postgresql://me:secret@", "/app"),
    ):
        with Proxy(target) as link:
            assert link.addr == f"{before}127.0.0.1:{link.port}{after}"
    with pytest.raises(StrataError, match="host:port") as caught:
        Proxy("redis://:secret@nowhere")
    assert "secret" not in str(caught.value)
