"""One run from its servers to its verdict."""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import psycopg
import redis

from strata import DataStore, Durability
from strata.embedded import THROWAWAY, EmbeddedPostgres, EmbeddedValkey
from tests.behind import rows
from tests.faults.chaos import app
from tests.faults.chaos.diary import read
from tests.faults.chaos.faults import Injector, ProcessFaults, ServerFaults
from tests.faults.chaos.processes import Workers, Writers
from tests.faults.chaos.verdict import Found, Page, Verdict, judge
from tests.faults.chaos.writer import POISON, STRIDE
from tests.fleet import environment
from tests.support import wait_until
from tests.surroundings.pgbouncer import Bouncer, bouncer

# What Redis has answered to survives SIGKILL of it: written to the file before the answer, and synced by nobody.
AOF = {"appendonly": "yes", "appendfsync": "no", "maxmemory-policy": "noeviction"}
DRAIN = 120.0  # seconds for everything to be in L3, and told, after the last fault


@dataclass(frozen=True)
class Plan:
    """What a run is made of; `pause`: seconds between faults, of each of two injectors."""

    seconds: float
    seed: int
    per_level: int = 2
    workers: int = 2
    keys: int = 3_000
    apart: bool = False  # cache and ledger on servers of their own
    pooler: bool = False  # PostgreSQL through a PgBouncer in transaction mode, which is killed as well
    namespace: str = ""
    losing: bool = False  # Redis is emptied time and again; no writer is killed then, and none writes what L3 refuses
    pause: tuple[float, float] = (0.2, 1.5)


@dataclass(frozen=True)
class Outcome:
    """How it went."""

    verdict: Verdict
    faults: Counter[str]
    drain: float


def run(plan: Plan, folder: Path, say: Callable[[str], None] = lambda text: None) -> Outcome:
    """Make a run in an empty folder."""
    with servers(plan) as (postgres, valkeys, pooler):
        env = environment(
            pooler.dsn if pooler else postgres.dsn,
            valkeys[0].addr,
            STRATA_LEDGER_ADDR=valkeys[-1].addr,
            STRATA_APP="tests.faults.chaos.app:store",
            CHAOS_JOURNAL=str(folder / "journal"),
            CHAOS_REPORTS=str(folder / "reports"),
            STRATA_NAMESPACE=plan.namespace,
            CHAOS_POOLED="yes" if pooler else "",
            CHAOS_POISON="0" if plan.losing else "0.005",
        )
        with surroundings(env), app.make_store() as store:
            store.migrate()
            with psycopg.connect(postgres.dsn, autocommit=True) as conn:
                conn.execute(app.CHECK)
        writers = Writers(env, folder, plan.per_level, plan.keys)
        workers = Workers(env, folder, plan.workers)
        try:
            wait_until(workers.ready, timeout=90, what="the workers")
            writers.start()
            say(f"faults for {plan.seconds:g} s, seed {plan.seed}")
            faults = inject(
                plan,
                ServerFaults(postgres, valkeys, pooler, losing=plan.losing),
                ProcessFaults(writers, workers, losing=plan.losing),
            )
            wrong = writers.ended_by_themselves()
            say("no more faults; everything drains")
            began = time.monotonic()
            writers.finish(DRAIN)
            pages = [Page(one.level, one.killed, read(one.diary)) for some in writers.all.values() for one in some]
            kills = sum(count for name, count in faults.items() if "killed" in name)
            with surroundings(env):
                found, stuck, rested = settle(
                    folder, postgres.dsn, valkeys[-1], {key for page in pages for key in page.told.writes}
                )
            drain = rested - began
            say("comparing")
            verdict = judge(pages, found, kills)
            verdict.wrong += wrong + stuck
            return Outcome(verdict, faults, drain)
        finally:
            writers.abort()
            workers.kill_all()


def inject(plan: Plan, servers: ServerFaults, processes: ProcessFaults) -> Counter[str]:
    """Faults of servers and of processes at the same time, until the time is up."""
    injectors = [
        Injector(faults, plan.seed * 2 + turn, plan.seconds, plan.pause)
        for turn, faults in enumerate((servers.all(), processes.all()))
    ]
    for injector in injectors:
        injector.start()
    for injector in injectors:
        injector.join()
        if injector.error is not None:
            raise injector.error
    return injectors[0].counts + injectors[1].counts


def settle(folder: Path, dsn: str, valkey: EmbeddedValkey, keys: Iterable[int]) -> tuple[Found, list[str], float]:
    """What there is once nothing is pending any more, what did not come to rest, and when the rest had."""
    with app.make_store(Durability.JOURNAL) as store, redis.Redis(port=valkey.port) as client:

        def pending() -> dict[str, int]:
            """What is still under way, by kind: orphaned journals are taken over by this very store."""
            names: list[bytes] = client.keys("*strata:{item:*}:dirty")
            orphans = list((folder / "journal").glob("*.journal"))
            return {
                "ledger": sum(client.hlen(name) for name in names),
                "buffer": store.stats().dirty_count,
                "journals": sum(not path.name.startswith(f"strata-{source(store)}-") for path in orphans),
            }

        deadline = time.monotonic() + DRAIN
        while any(pending().values()) and time.monotonic() < deadline:
            time.sleep(0.2)
        left, rested = pending(), time.monotonic()
        # A report that its process claimed and did not live to make never comes, so these are not waited for as long.
        while len(store.dead_letters.list(limit=1_000_000)) > len(set(told(folder))) and time.monotonic() < rested + 30:
            time.sleep(0.2)
        letters = [int(letter.key) for letter in store.dead_letters.list(limit=1_000_000)]
        # Another process that was never told anything of these keys: its L1 is empty.
        with app.make_store() as reader:
            ordered = sorted(keys)
            read = {}
            for at in range(0, len(ordered), 500):
                read.update({key: item.n for key, item in reader.get_many("item", ordered[at : at + 500]).items()})
        found = Found(dict(rows(dsn, "SELECT id, n FROM item")), read, letters, told(folder))
        stuck = [f"{count} of {kind} did not come to rest" for kind, count in left.items() if count]
        return found, stuck, rested


def source(store: DataStore) -> str:
    """The instance's name in its files."""
    return store._wiring.writebehind()._parts._source()


def told(folder: Path) -> list[int]:
    """The keys of the records that L3 refuses for which OnWriteError was called, once for each call."""
    path = folder / "reports"
    keys = [int(line.split()[1]) for line in path.read_text().splitlines()] if path.exists() else []
    return [key for key in keys if key % STRIDE >= POISON]


@contextmanager
def servers(plan: Plan) -> Iterator[tuple[EmbeddedPostgres, list[EmbeddedValkey], Bouncer | None]]:
    """PostgreSQL, one Redis or two, and a pooler where there is to be one."""
    with ExitStack() as stack:
        postgres = stack.enter_context(EmbeddedPostgres(settings={**THROWAWAY, "max_connections": "200"}))
        ledger = stack.enter_context(EmbeddedValkey(AOF))
        cache = stack.enter_context(EmbeddedValkey()) if plan.apart else ledger
        pooler = stack.enter_context(bouncer(postgres.dsn, "transaction", size=10)) if plan.pooler else None
        yield postgres, [cache, ledger] if plan.apart else [ledger], pooler


@contextmanager
def surroundings(env: Mapping[str, str]) -> Iterator[None]:
    """This process as one of the application, for a while."""
    before = dict(os.environ)
    os.environ.update(env)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)
