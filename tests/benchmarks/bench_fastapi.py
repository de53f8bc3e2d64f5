"""FastAPI on uvicorn under 200 clients: the same endpoints by Strata, and by hand with redis.asyncio and psycopg.

Each application has a process, the clients another one, and they take turns. By hand is what a cache in front of a
table usually is: GET, or SELECT and SET, as JSON; an UPDATE and a SET; and a view counted by an upsert.
"""

from __future__ import annotations

import asyncio
import os
import random
import re
import statistics
import time
from asyncio import StreamReader, StreamWriter, open_connection
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass

import psycopg
import uvloop

from strata import Config
from strata.embedded import THROWAWAY, EmbeddedPostgres, EmbeddedValkey
from tests.benchmarks.harness import Row, Target, collector_off, row
from tests.benchmarks.options import Options
from tests.benchmarks.record import NAME, Record
from tests.benchmarks.web_apps import FLAT, open_store
from tests.fleet import ROOT
from tests.served import UVICORN, served

CLIENTS = 200
RECORDS = 1_000
HOT = 20  # of them
SECONDS = 0.6  # of a measurement
OURS, HAND = "with_strata", "by_hand"
WORDS = (*UVICORN, "--loop", "uvloop", "--no-access-log", "--timeout-keep-alive", "600", "--factory")
LENGTH = re.compile(rb"content-length: (\d+)")
TABLES = f"""
CREATE TABLE by_hand (LIKE {NAME} INCLUDING ALL);
INSERT INTO by_hand SELECT * FROM {NAME};
CREATE TABLE views_by_hand (id bigint PRIMARY KEY, count bigint NOT NULL);
"""

Ask = Callable[[], bytes]


def asking(method: str, path: str, among: int = RECORDS, query: str = "") -> Ask:
    """A request for one of so many records."""
    return lambda: f"{method} /{path}/{random.randrange(among)}{query} HTTP/1.1\r\nHost: shop\r\n\r\n".encode()


read, update = asking("GET", "records"), asking("PUT", "records", query="?level=8")
WORK: dict[str, tuple[Ask, str, Target]] = {
    "read, in L1": (read, "GET, decode", Target(1.2, more=True)),
    "read, in L2": (asking("GET", "flat"), "GET, decode", Target(1.0, more=True)),
    "19 reads, 1 update": (lambda: random.choices((read, update), (19, 1))[0](), "the same", Target(1.2, more=True)),
    f"count views of {HOT}": (asking("POST", "views", HOT), "upsert", Target(1.2, more=True)),
    f"count views of {RECORDS}": (asking("POST", "views"), "upsert", Target(1.0, more=True)),
}


def run(options: Options) -> list[Row]:
    rounds = options.rounds(20)
    with ExitStack() as stack:
        postgres = stack.enter_context(EmbeddedPostgres(settings=THROWAWAY))
        valkey = stack.enter_context(EmbeddedValkey(password=""))
        env = os.environ | {"STRATA_POSTGRES_DSN": postgres.dsn, "STRATA_REDIS_ADDR": valkey.addr}
        _fill(Config(postgres_dsn=postgres.dsn, redis_addr=valkey.addr))
        ports = {}
        for name in (OURS, HAND):
            words = (*WORDS, f"tests.benchmarks.web_apps:{name}")
            ports[name] = stack.enter_context(served(words, env, ROOT, "/docs")).port
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            return runner.run(_measure(ports, rounds))


def _fill(config: Config) -> None:
    """The same records for both."""
    with open_store(config).sync as store:
        store.migrate()
        for name in (NAME, FLAT):
            store.set_many(name, {id: Record(id) for id in range(RECORDS)})
    with psycopg.connect(config.postgres_dsn) as conn:
        conn.execute(TABLES)


@dataclass(frozen=True, slots=True)
class Client:
    """One connection that is kept."""

    reader: StreamReader
    writer: StreamWriter

    async def ask(self, request: bytes) -> None:
        """Wait for the whole answer, which must be good."""
        self.writer.write(request)
        head = await self.reader.readuntil(b"\r\n\r\n")
        length = LENGTH.search(head)
        assert head.startswith(b"HTTP/1.1 200") and length is not None, head
        await self.reader.readexactly(int(length[1]))


async def _crowd(port: int) -> list[Client]:
    return [Client(*await open_connection("127.0.0.1", port)) for _ in range(CLIENTS)]


async def _measure(ports: dict[str, int], rounds: int) -> list[Row]:
    crowds = {
        name: [Client(*await open_connection("127.0.0.1", ports[name])) for _ in range(CLIENTS)] for name in ports
    }
    rows: list[Row] = []
    for what, (ask, hand, target) in WORK.items():
        rates: dict[str, list[float]] = {name: [] for name in crowds}
        late: dict[str, list[float]] = {name: [] for name in crowds}
        for crowd in crowds.values():
            await _together(crowd, ask, [])
        for _ in range(rounds):
            for name in random.sample(list(crowds), len(crowds)):
                rates[name].append(await _together(crowds[name], ask, late[name]))
        ratios = [ours / other for ours, other in zip(rates[OURS], rates[HAND], strict=True)]
        rows.append(row(what, hand, ratios, target))
        for name, taken in late.items():
            cuts = statistics.quantiles(taken, n=100, method="inclusive")
            rows.append(row(f"  {name}: requests/s", "", rates[name]))
            rows.append(Row(f"  {name}: p50, p99", "", cuts[49] * 1e3, cuts[49] * 1e3, cuts[98] * 1e3, None, " ms"))
    for client in (client for crowd in crowds.values() for client in crowd):
        client.writer.close()
    return rows


async def _together(crowd: list[Client], ask: Ask, late: list[float]) -> float:
    """Answers a second, where each client asks again as soon as it is answered."""
    until = time.perf_counter() + SECONDS

    async def one(client: Client) -> int:
        count = 0
        while (began := time.perf_counter()) < until:
            await client.ask(ask())
            late.append(time.perf_counter() - began)
            count += 1
        return count

    with collector_off():
        began = time.perf_counter()
        answered = sum(await asyncio.gather(*map(one, crowd)))
        return answered / (time.perf_counter() - began)
