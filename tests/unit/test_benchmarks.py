"""What the benchmarks measure with does what it says; that each of them runs is seen by running it, by hand."""

from __future__ import annotations

import importlib
import itertools
import os
import pkgutil
import random
import socket
import threading
import time
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from pathlib import Path

import pytest

import tests.benchmarks
from tests.benchmarks.crowd import HEAD, Crowd, Load, Request, zipf
from tests.benchmarks.curves import Curves
from tests.benchmarks.harness import Target
from tests.benchmarks.options import Options
from tests.benchmarks.spent import cpu, memory

MODULES = [module.name for module in pkgutil.iter_modules(tests.benchmarks.__path__) if "_scale_" in module.name]


@pytest.mark.parametrize("name", [*MODULES, "bench_applications", "bench_steady"])
def test_a_benchmark_can_be_imported_and_run(name: str) -> None:
    assert callable(importlib.import_module(f"tests.benchmarks.{name}").run)


def test_a_hurried_curve_lacks_its_last_point_and_a_full_one_has_more() -> None:
    assert Options(quick=True).sizes(1, 10, 100, full=[1_000]) == [1, 10]
    assert Options().sizes(1, 10, 100, full=[1_000]) == [1, 10, 100]
    assert Options(full=True).sizes(1, 10, 100, full=[1_000]) == [1, 10, 100, 1_000]


def test_zipf_s_numbers_are_the_same_for_a_seed_and_some_are_much_more_frequent() -> None:
    first, again = (list(itertools.islice(zipf(1_000, 1.0, seed=3), 5_000)) for _ in range(2))
    assert first == again
    counts = sorted((first.count(number) for number in range(1_000)), reverse=True)
    assert counts[0] > 5 * counts[20] > 0
    assert sum(counts[:10]) > 1_500  # 39 % is expected


def test_curves_keep_the_points_of_a_cost_together_and_draw_all(tmp_path: Path) -> None:
    curves, file = Curves("entries"), tmp_path / "curves.svg"
    for size in (10, 100):
        curves.add("hit", size, [1.0, 2.0, 3.0], " ns")
        curves.add("miss", size, [5.0 * size], " ns", target=Target(100))
        curves.add("hit", size, [0.0], against="dict.get")  # a scale of logarithms has no place for it, but the lowest
    rows = curves.save(file)
    assert [row.what for row in rows] == ["hit, 10 entries"] * 2 + ["hit, 100 entries"] * 2 + [
        "miss, 10 entries", "miss, 100 entries",
    ]  # fmt: skip
    assert rows[0].value == 2.0
    drawn = [item.tag.rpartition("}")[2] for item in ET.parse(file).iter()]
    assert drawn.count("circle") == 6


def test_cpu_counts_what_a_process_computes_and_memory_what_it_holds() -> None:
    before, begun = cpu(os.getpid()), time.process_time()
    while time.process_time() - begun < 0.05:
        random.random()
    assert cpu(os.getpid()) - before >= 0.03  # of ticks of 10 ms
    held = memory(os.getpid())
    more = os.urandom(20_000_000)
    assert memory(os.getpid()) - held > 0.9 * len(more)


@pytest.fixture
def servers() -> Iterator[list[socket.socket]]:
    """Two listening sockets, whose connections are answered in pieces by a thread each."""
    found = [socket.create_server(("127.0.0.1", 0)) for _ in range(2)]
    for server in found:
        threading.Thread(target=_serve, args=(server,), daemon=True).start()
    yield found
    for server in found:
        server.close()


def _serve(server: socket.socket) -> None:
    while True:
        try:
            link, _ = server.accept()
        except OSError:
            return
        threading.Thread(target=_answer, args=(link,), daemon=True).start()


def _answer(link: socket.socket) -> None:
    """404 for the number 404, and otherwise the number, in two pieces; what was asked holds one request at a time."""
    link.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    with link:
        while asked := link.recv(1_000):
            assert asked.count(HEAD) == 1
            number = int(asked.split()[1].rpartition(b"/")[2])
            body = b'{"id": %d}' % number
            status = b"404 Not Found" if number == 404 else b"200 OK"
            link.sendall(b"HTTP/1.1 %s\r\nContent-Length: %d\r\n\r\n" % (status, len(body)) + body[:3])
            link.sendall(body[3:])


def test_every_server_of_a_crowd_has_as_many_clients_and_all_requests_are_answered(
    servers: list[socket.socket],
) -> None:
    ports = [server.getsockname()[1] for server in servers]
    with Crowd(ports, each=3) as crowd:
        assert sorted(link.sock.getpeername()[1] for link in crowd.links) == sorted(ports * 3)
        load = crowd.drive(Request.of("GET", "/items/", id) for id in range(100))
        assert len(load.late) == 100
        assert load.rate == pytest.approx(100 / load.seconds)
        timed = crowd.drive((Request.of("GET", "/items/", id) for id in itertools.cycle(range(100))), seconds=0.05)
        assert timed.seconds >= 0.05
        assert timed.late


@pytest.mark.parametrize("id", [404, 7])
def test_an_answer_that_is_bad_or_about_something_else_ends_the_benchmark(
    servers: list[socket.socket], id: int
) -> None:
    with Crowd([servers[0].getsockname()[1]], each=1) as crowd:
        asked = Request.of("GET", "/items/", 404) if id == 404 else Request(8, Request.of("GET", "/items/", id).data)
        with pytest.raises(AssertionError):
            crowd.links[0].ask(asked)


def test_a_load_of_nothing_has_no_rate() -> None:
    assert Load(seconds=1.0).rate == 0.0
