"""One run from its servers to its verdict."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import psycopg
import redis

from strata import DataStore, Durability
from strata.embedded import THROWAWAY, EmbeddedPostgres, EmbeddedValkey
from strata.testing import inspect
from strata.writebehind.dirty.directory import aside
from strata.writebehind.fleet.broker import celery_app
from tests.behind import rows
from tests.faults.chaos import app
from tests.faults.chaos.counters import COUNT, NAME, OFFSET, Hits, key_in_diary
from tests.faults.chaos.diary import read
from tests.faults.chaos.faults import Fault, Injector, ProcessFaults, ServerFaults
from tests.faults.chaos.planting import OWN, GarbageFaults, Seen, is_planted
from tests.faults.chaos.planting import judge as judge_planted
from tests.faults.chaos.processes import Workers, Writers
from tests.faults.chaos.verdict import Found, Page, Verdict, judge
from tests.faults.chaos.writer import POISON, STRIDE
from tests.fleet import environment, surroundings
from tests.support import wait_until
from tests.surroundings.pgbouncer import Bouncer, bouncer

# What Redis has answered to survives SIGKILL of it: written to the file before the answer, and synced by nobody.
AOF = {"appendonly": "yes", "appendfsync": "no", "maxmemory-policy": "noeviction"}
MANY = 1_000_000
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
    planted: Counter[str]
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
            broker = celery_app(store.config)
            store.migrate()
            store.set_many(NAME, {id: Hits(id) for id in range(COUNT)})
            with psycopg.connect(postgres.dsn, autocommit=True) as conn:
                conn.execute(app.CHECK)
        writers = Writers(env, folder, plan.per_level, plan.keys)
        workers = Workers(env, folder, plan.workers)
        try:
            wait_until(workers.ready, timeout=90, what="the workers")
            writers.start()
            say(f"faults for {plan.seconds:g} s, seed {plan.seed}")
            garbage = GarbageFaults(
                postgres.dsn, valkeys, broker, plan.namespace, folder / "journal", writers.keys_of_all
            )
            faults, planted = inject(
                plan,
                [
                    ServerFaults(postgres, valkeys, pooler, losing=plan.losing).all(),
                    ProcessFaults(writers, workers, losing=plan.losing).all(),
                ],
                garbage.all(),
            )
            wrong = writers.ended_by_themselves()
            say("no more faults; everything drains")
            began = time.monotonic()
            writers.finish(DRAIN)
            incarnations = [one for some in writers.all.values() for one in some]
            pages = [Page(one.level, one.killed, read(one.diary), one.place) for one in incarnations]
            kills = sum(count for name, count in faults.items() if "killed" in name)
            with surroundings(env):
                items = {key for page in pages for key in page.told.writes if key < OFFSET}
                found, seen, stuck, rested = settle(folder, postgres.dsn, valkeys[-1], items)
            drain = rested - began
            wrong += workers.ended_by_themselves()
            say("comparing")
            verdict = judge(pages, found, kills)
            verdict.wrong += wrong + stuck + judge_planted(garbage.planted, seen, lost=plan.losing)
            return Outcome(verdict, faults, planted, drain)
        finally:
            writers.abort()
            workers.kill_all()


def inject(plan: Plan, faults: Sequence[Sequence[Fault]], garbage: Sequence[Fault]) -> list[Counter[str]]:
    """Faults of servers and of processes, and garbage, at the same time, until the time is up; how many there were of
    each, and of each kind of garbage."""
    injectors = [
        Injector(some, plan.seed * 3 + turn, plan.seconds, plan.pause) for turn, some in enumerate([garbage, *faults])
    ]
    for injector in injectors:
        injector.start()
    for injector in injectors:
        injector.join()
        if injector.error is not None:
            raise injector.error
    planted, *others = (injector.counts for injector in injectors)
    return [sum(others, Counter()), planted]


def settle(folder: Path, dsn: str, valkey: EmbeddedValkey, keys: Iterable[int]) -> tuple[Found, Seen, list[str], float]:
    """What there is once nothing is pending any more, what was seen of the garbage, what did not come to rest, and when
    the rest had."""
    seen = Seen()
    with app.make_store(Durability.JOURNAL) as store, redis.Redis(port=valkey.port) as client:

        def pending() -> dict[str, int]:
            """What is still under way, by kind: orphaned journals are taken over by this very store. What waits for a
            newer release is discarded, as an operator would."""
            for letter in store.dead_letters.waiting(limit=MANY):
                seen.waiting += [letter] * store.dead_letters.discard(letter.id)
            names: list[bytes] = [name for of in ("item", NAME) for name in client.keys(f"*strata:{{{of}:*}}:dirty")]
            orphans = list((folder / "journal").glob("*.journal"))
            return {
                "ledger": sum(client.hlen(name) if client.type(name) == b"hash" else 1 for name in names),
                "buffer": store.stats().dirty_count,
                "journals": sum(not path.name.startswith(f"strata-{source(store)}-") for path in orphans),
            }

        deadline = time.monotonic() + DRAIN
        while any(pending().values()) and time.monotonic() < deadline:
            time.sleep(0.2)
        left, rested = pending(), time.monotonic()

        def letters() -> list[int]:
            letters = store.dead_letters.list(limit=MANY)
            return [key_in_diary(letter.schema, letter.key) for letter in letters if not is_planted(letter)]

        # A report that its process claimed and did not live to make never comes, so these are not waited for as long.
        while len(letters()) > len(set(told(folder))) and time.monotonic() < rested + 30:
            time.sleep(0.2)
        # Another process that was never told anything of these keys: its L1 is empty.
        with app.make_store() as reader:
            ordered = sorted(keys)
            read = {}
            for at in range(0, len(ordered), 500):
                read.update({key: item.n for key, item in reader.get_many("item", ordered[at : at + 500]).items()})
            sums = {id: hits.n for id, hits in reader.get_many(NAME, range(COUNT)).items()}
        found = Found(
            dict(rows(dsn, "SELECT id, n FROM item")),
            read,
            dict(rows(dsn, f"SELECT id, n FROM {NAME}")),
            sums,
            letters(),
            told(folder),
        )
        seen.rows = {key for key in found.rows if key >= OWN}
        seen.aside = [name for name in aside(folder / "journal") if "planted" in name]
        seen.letters = [letter for letter in store.dead_letters.list(limit=MANY) if is_planted(letter)]
        seen.left = len(seen.letters) - store.dead_letters.discard(*(letter.id for letter in seen.letters))
        stuck = [f"{count} of {kind} did not come to rest" for kind, count in left.items() if count]
        return found, seen, stuck, rested


def source(store: DataStore) -> str:
    """The instance's name in its files."""
    return inspect(store).instance


def told(folder: Path) -> list[int]:
    """The keys of the records that L3 refuses of which OnWriteError was told that they are given up, once for each
    call. It may be told of one before that an outage outlasts the retries."""
    path = folder / "reports"
    lines = [line.split() for line in path.read_text().splitlines()] if path.exists() else []
    return [int(key) for _, key, end in lines if end == "final" and int(key) % STRIDE >= POISON]


@contextmanager
def servers(plan: Plan) -> Iterator[tuple[EmbeddedPostgres, list[EmbeddedValkey], Bouncer | None]]:
    """PostgreSQL, one Redis or two, and a pooler where there is to be one."""
    with ExitStack() as stack:
        postgres = stack.enter_context(EmbeddedPostgres(settings={**THROWAWAY, "max_connections": "200"}))
        ledger = stack.enter_context(EmbeddedValkey(AOF, password=""))
        cache = stack.enter_context(EmbeddedValkey(password="")) if plan.apart else ledger
        pooler = stack.enter_context(bouncer(postgres.dsn, "transaction", size=10)) if plan.pooler else None
        yield postgres, [cache, ledger] if plan.apart else [ledger], pooler
