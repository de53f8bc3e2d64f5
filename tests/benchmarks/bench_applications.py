"""Whole applications: FastAPI and Django, each with Strata, with cache-aside by hand, with the framework's cache and
with none, asked for records by a Zipf law, 95 % of it reads.

Every way has two worker processes of its own, each with a port of its own and the same number of clients, so that
neither has more to do; a database of its own, so that none makes stale what another one has cached; and a share of one
Redis. They take turns in a random order. Before the first turn each worker is asked for the most frequent records once,
which are 80 % of what comes. Afterwards, with nothing under way any more, what is answered is compared with the table.
"""

from __future__ import annotations

import itertools
import json
import os
import random
import statistics
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from functools import partial

import msgspec
import psycopg

from strata import Config
from strata.embedded import THROWAWAY, EmbeddedPostgres, EmbeddedValkey
from tests.benchmarks.crowd import Crowd, Link, Load, Request, zipf
from tests.benchmarks.harness import Row, Target, row
from tests.benchmarks.options import Options
from tests.benchmarks.peers import fastapi_cache
from tests.benchmarks.record import NAME, Record
from tests.benchmarks.spent import cpu
from tests.benchmarks.web_apps import open_store
from tests.fleet import ROOT
from tests.served import UVICORN, Served, served
from tests.support import wait_until

RECORDS = 100_000
EXPONENT = 0.95
READS = 19  # of 20 requests
WORKERS = 2
SECONDS, WARM = 1.0, 0.3  # of a turn, and before it
SEED = 7
NAP = 0.5  # seconds after which every process has heard of the last write

STRATA, HAND, FRAMEWORK, NONE = "strata", "hand", "framework", "none"
TARGET = Target(1.2, 1.5, more=True)
CALLED = {STRATA: "Strata", HAND: "cache-aside by hand", NONE: "no cache"}


@dataclass(frozen=True)
class Framework:
    """How it is served, and what of it is asked for. `{way}` stands in words for the way."""

    name: str
    cache: str  # its own
    words: tuple[str, ...]
    path: str
    live: str
    table: Mapping[str, str]
    clients: int  # a worker
    ways: tuple[str, ...] = (STRATA, HAND, FRAMEWORK, NONE)


FASTAPI = Framework(
    "FastAPI",
    "fastapi-cache2",
    (*UVICORN, "--loop", "uvloop", "--no-access-log", "--timeout-keep-alive", "600", "--factory", "{way}"),
    "/records/",
    "/docs",
    {STRATA: NAME, HAND: "by_hand", FRAMEWORK: "by_hand", NONE: "by_hand"},
    clients=16,
    ways=(STRATA, HAND, *((FRAMEWORK,) if fastapi_cache is not None else ()), NONE),
)
FACTORIES = {
    STRATA: "with_strata", HAND: "by_hand", FRAMEWORK: "by_fastapi_cache", NONE: "without_cache",
}  # fmt: skip
DJANGO = Framework(
    "Django",
    "Django's RedisCache, get_or_set",
    ("-m", "gunicorn", "--bind", "127.0.0.1:{port}", "--workers", "1", "--threads", "4", "--keep-alive", "600",
     "--no-control-socket", "--log-level", "warning", "tests.benchmarks.site.wsgi"),
    "/items/",
    "/items/1",
    dict.fromkeys((STRATA, HAND, FRAMEWORK, NONE), "items"),
    clients=8,
)  # fmt: skip


def run(options: Options) -> list[Row]:
    rows: list[Row] = []
    for framework in (FASTAPI, DJANGO):
        with _sites(framework) as (servers, sites):
            for site in sites.values():
                site.check()
                site.warm(5_000 if options.quick else 20_000)
            _take_turns(servers, sites, options.rounds(20))
            rows += _rows(framework, sites)
    return rows


# -- asking -----------------------------------------------------------------------------------------------------------


@dataclass
class Site:
    """One way of one framework: its processes, who asks them, and what came of it."""

    framework: Framework
    way: str
    dsn: str
    servers: list[Served]
    crowd: Crowd
    loads: list[Load] = field(default_factory=list)
    cpu: dict[str, float] = field(default_factory=dict)

    @property
    def pids(self) -> list[int]:
        return [server.process.pid for server in self.servers]

    def read(self, id: int) -> Request:
        return Request.of("GET", self.framework.path, id)

    def write(self, id: int, level: int) -> Request:
        return Request.of("PUT", self.framework.path, id, f"?level={level}")

    def mixed(self, numbers: Iterator[int]) -> Iterator[Request]:
        """Reads, and now and then a write."""
        for id in numbers:
            if random.random() * (READS + 1) < READS:
                yield self.read(id)
            else:
                yield self.write(id, random.randrange(1_000_000))

    def check(self) -> None:
        """Every worker answers with the row, before and after it was written through another one."""
        first, *others = self.crowd.links[:WORKERS]
        id = RECORDS - 1
        for level in (1, 2, 3):
            assert json.loads(first.ask(self.write(id, level)))["level"] == level
            for link in (first, *others):
                wait_until(partial(self._has, link, Record(id, level=level)))

    def _has(self, link: Link, record: Record) -> bool:
        return _same(link.ask(self.read(record.id)), record)

    def warm(self, count: int) -> None:
        """Ask every worker for the most frequent records once, as if it had served for a while."""
        for server in self.servers:
            with Crowd([server.port], self.framework.clients) as crowd:
                crowd.drive(map(self.read, _most_frequent(count)))

    def stale(self, count: int) -> int:
        """How many answers to reads of so many records are not what the table has, in every worker."""
        ids = _most_frequent(count)
        with psycopg.connect(self.dsn) as conn:
            sql = f"SELECT id, level FROM {self.framework.table[self.way]} WHERE id = ANY(%s)"
            levels: dict[int, int] = dict(conn.execute(sql, [ids]).fetchall())
        links = self.crowd.links[:WORKERS]
        return sum(json.loads(link.ask(self.read(id)))["level"] != levels[id] for id in ids for link in links)


def _most_frequent(count: int) -> list[int]:
    """As a part of the stream shows it."""
    met = Counter(itertools.islice(zipf(RECORDS, EXPONENT, SEED), 10 * RECORDS))
    return [id for id, _ in met.most_common(count)]


def _same(body: bytes, record: Record) -> bool:
    """Whether the answer is the record; Django's times end with the milliseconds."""
    return _millis(msgspec.json.decode(body, type=Record)) == _millis(record)


def _millis(record: Record) -> Record:
    times = {name: getattr(record, name) for name in ("created", "updated")}
    cut = {name: at.replace(microsecond=at.microsecond // 1000 * 1000) for name, at in times.items()}
    return replace(record, **cut)


@dataclass(frozen=True)
class Servers:
    """The two that all share."""

    postgres: EmbeddedPostgres
    valkey: EmbeddedValkey

    def cpu(self, site: Site) -> dict[str, float]:
        """Seconds so far."""
        return {"workers": cpu(*site.pids), "PostgreSQL": cpu(self.postgres.pid), "Redis": cpu(self.valkey.pid)}


def _take_turns(servers: Servers, sites: Mapping[str, Site], rounds: int) -> None:
    """All sites are asked for the same records."""
    for number in range(rounds):
        for way in random.sample(list(sites), len(sites)):
            site = sites[way]
            numbers = _numbers(number)
            site.crowd.drive(site.mixed(numbers), WARM)
            before = servers.cpu(site)
            site.loads.append(site.crowd.drive(site.mixed(numbers), SECONDS))
            for what, seconds in servers.cpu(site).items():
                site.cpu[what] = site.cpu.get(what, 0.0) + seconds - before[what]


def _numbers(number: int) -> Iterator[int]:
    """The same ones are frequent in every round, which begins at another place of the stream."""
    return itertools.islice(zipf(RECORDS, EXPONENT, SEED), number * 9_973, None)


def _rows(framework: Framework, sites: Mapping[str, Site]) -> list[Row]:
    rows: list[Row] = []
    hand = sites[HAND]
    called = {**CALLED, FRAMEWORK: framework.cache}
    for way, site in sites.items():
        if way != HAND:
            ratios = [own.rate / other.rate for own, other in zip(site.loads, hand.loads, strict=True)]
            target = TARGET if way == STRATA else None
            rows.append(row(f"{framework.name}, {called[way]}: requests", called[HAND], ratios, target))
            ratio = _cpu(site, "workers") / _cpu(hand, "workers")
            rows.append(row(f"{framework.name}, {called[way]}: CPU of the workers", called[HAND], [ratio]))
    time.sleep(NAP)
    for way, site in sites.items():
        cuts = statistics.quantiles([1e3 * late for load in site.loads for late in load.late], n=100)
        label = f"  {framework.name}, {called[way]}"
        rows.append(row(f"{label}: requests/s", "", [load.rate for load in site.loads]))
        rows.append(Row(f"{label}: p50, p99", "", cuts[49], cuts[49], cuts[98], None, " ms"))
        rows += [row(f"{label}: CPU a request", what, [1e6 * _cpu(site, what)], unit=" µs") for what in site.cpu]
        count = 500
        rows.append(row(f"{label}: stale answers", f"of {WORKERS * count}, after the load", [site.stale(count)]))
    return rows


def _cpu(site: Site, what: str) -> float:
    """Seconds a request."""
    return site.cpu[what] / sum(len(load.late) for load in site.loads)


# -- servers ----------------------------------------------------------------------------------------------------------


@contextmanager
def _sites(framework: Framework) -> Iterator[tuple[Servers, dict[str, Site]]]:
    with ExitStack() as stack:
        postgres = stack.enter_context(EmbeddedPostgres(settings=THROWAWAY))
        valkey = stack.enter_context(EmbeddedValkey(password=""))
        fill = _fill_fastapi if framework is FASTAPI else _fill_django
        databases = fill(framework, postgres, valkey)
        sites: dict[str, Site] = {}
        for way in framework.ways:
            env = _environment(databases[way], valkey.addr, way)
            words = [word.format(way=f"tests.benchmarks.web_apps:{FACTORIES[way]}", port="{port}")
                     for word in framework.words]  # fmt: skip
            started = [stack.enter_context(served(words, env, ROOT, framework.live)) for _ in range(WORKERS)]
            crowd = stack.enter_context(Crowd([server.port for server in started], framework.clients))
            sites[way] = Site(framework, way, databases[way], started, crowd)
        yield Servers(postgres, valkey), sites


def _environment(dsn: str, redis_addr: str, way: str) -> dict[str, str]:
    return {
        **os.environ,
        "STRATA_POSTGRES_DSN": dsn,
        "STRATA_REDIS_ADDR": redis_addr,
        "SITE": way,
        "DJANGO_SETTINGS_MODULE": "tests.benchmarks.site.settings",
        "PYTHONPATH": str(ROOT),
    }


def _fill_fastapi(framework: Framework, postgres: EmbeddedPostgres, valkey: EmbeddedValkey) -> dict[str, str]:
    """Strata's database; the others are copies of it, with the same rows in a table without Strata's column."""
    with open_store(Config(postgres_dsn=postgres.dsn, redis_addr=valkey.addr)).sync as store:
        store.migrate()
        for start in range(0, RECORDS, 10_000):
            store.set_many(NAME, {id: Record(id) for id in range(start, start + 10_000)})
    with psycopg.connect(postgres.dsn, autocommit=True) as conn:
        conn.execute(f"CREATE TABLE by_hand (LIKE {NAME} INCLUDING ALL)")
        conn.execute(f"INSERT INTO by_hand SELECT * FROM {NAME}")
        conn.execute("ALTER TABLE by_hand DROP COLUMN _strata_version")
        conn.execute("VACUUM ANALYZE")
    return {STRATA: postgres.dsn} | _copies(framework, postgres)


def _fill_django(framework: Framework, postgres: EmbeddedPostgres, valkey: EmbeddedValkey) -> dict[str, str]:
    """The copies are made before the migration that Strata needs."""

    def migrate(*words: str) -> None:
        command = [sys.executable, "-m", "django", "migrate", "--skip-checks", "--verbosity", "0", "site", *words]
        subprocess.run(command, cwd=ROOT, env=_environment(postgres.dsn, valkey.addr, NONE), check=True)

    migrate("0001")
    row = Record(0)
    with psycopg.connect(postgres.dsn, autocommit=True) as conn:
        conn.execute(
            "INSERT INTO items SELECT id, %s, %s, %s, %s, %s, %s, %s, %s, %s::jsonb FROM generate_series(0, %s) AS id",
            [row.name, row.email, row.level, row.score, row.active, row.region, row.created, row.updated,
             json.dumps(row.extra), RECORDS - 1],
        )  # fmt: skip
        conn.execute("VACUUM ANALYZE")
    copies = _copies(framework, postgres)
    migrate()
    return {STRATA: postgres.dsn} | copies


def _copies(framework: Framework, postgres: EmbeddedPostgres) -> dict[str, str]:
    """A database each for the other ways."""
    others = [way for way in framework.ways if way != STRATA]
    with psycopg.connect(postgres.dsn_of("template1"), autocommit=True) as conn:
        for way in others:
            conn.execute(f'CREATE DATABASE "{way}" TEMPLATE postgres')
    return {way: postgres.dsn_of(way) for way in others}
