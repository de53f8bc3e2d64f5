"""One soak: servers, a fleet and web processes under load and faults, then under load alone, measured all the while."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import psycopg
import redis

from strata.embedded import THROWAWAY, EmbeddedPostgres, EmbeddedValkey
from tests.fleet import ROOT, Worker, environment, surroundings
from tests.soak import app, figures
from tests.soak.growth import LEAST, Verdict, judge
from tests.soak.load import SPEED
from tests.support import wait_until

WEBS = ("web", "web with a journal")
REPLACED = ("--max-tasks-per-child", "50")  # so that children are replaced all the time
TROUBLED = 0.4  # of the time is over when the last fault is
SETTLED = 0.55  # of the time is over when figures begin to be judged
RESTED = 60.0  # seconds without load after which nothing may be pending
STUCK = 60.0  # seconds that a deferred write may wait while nothing is away


@dataclass
class Found:
    """What a run has shown: the figures of its settled part, and what is wrong, in words."""

    verdicts: list[Verdict] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    operations: int = 0


class Web:
    """A web process, asked by lines."""

    def __init__(self, name: str, env: dict[str, str], log: Path, rate: float, since: float) -> None:
        self.name = name
        words = [sys.executable, "-m", "tests.soak.load", name, str(rate), str(since)]
        with log.open("w") as file:
            self.process = subprocess.Popen(
                words, cwd=ROOT, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=file, text=True
            )
        self._line()

    def ask(self, word: str) -> Any:
        """Its answer to `sample`, `warm` or `rest`."""
        self._say(word)
        return json.loads(self._line())

    def stop(self) -> int:
        """Its exit status, once its store is closed."""
        with contextlib.suppress(BrokenPipeError):
            self._say("stop")
        return self.process.wait(60)

    def _say(self, word: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(f"{word}\n")
        self.process.stdin.flush()

    def _line(self) -> str:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, f"{self.name} has ended; see its log"
        return line


class Soak:
    """The parts of a run, while it lasts."""

    def __init__(self, folder: Path, minutes: float, rate: float, say: Callable[[str], None]) -> None:
        self._folder = folder
        self._seconds = minutes * 60
        self._rate = rate
        self._say = say
        self._found = Found()
        self._samples: list[tuple[float, dict[str, float]]] = []
        self._turns = 0
        self._stuck: set[str] = set()

    def run(self) -> Found:
        """Make it. `AssertionError` where a process ended by itself."""
        durable = {"appendonly": "yes", "appendfsync": "no", "save": ""}
        with EmbeddedPostgres(settings={**THROWAWAY, "autovacuum_naptime": "20s"}) as self._postgres:
            with EmbeddedValkey(durable, password="") as self._valkey, self._application():
                self._loaded()
                self._rest()
            self._left()
        return self._found

    @contextlib.contextmanager
    def _application(self) -> Iterator[None]:
        env = environment(self._postgres.dsn, self._valkey.addr, STRATA_APP="tests.soak.app:store")
        env["TMPDIR"] = str(self._scratch)
        self._env = {**env, "SOAK_ROLE": "worker"}
        with surroundings(env), app.make_store() as store:
            store.migrate()
        with self._sql() as conn:
            conn.execute(app.CHECKS)
        self._worker = Worker(self._env, self._folder / "worker.log", "one", *REPLACED)
        wait_until(self._worker.ready, timeout=90, what="the worker")
        self._since = time.time()
        journal = {"STRATA_JOURNAL_DIR": str(self._folder / "journal")}
        self._webs = [
            Web(name, env | more, self._folder / f"{name}.log", self._rate, self._since)
            for name, more in zip(WEBS, ({}, journal), strict=True)
        ]
        try:
            yield
        finally:
            for web in self._webs:
                web.process.kill()
            self._worker.stop()

    def _loaded(self) -> None:
        every = max(2.0, min(15.0, self._seconds * (1 - SETTLED) / (2 * LEAST)))
        faults = [(0.1, self._cut), (0.15, self._redis), (0.2, self._cut), (0.25, self._database), (0.3, self._kill)]
        due = every
        while (now := time.time() - self._since) < self._seconds:
            with contextlib.suppress(psycopg.Error, redis.RedisError):  # those that we take away
                self._outside(now)
            if faults and now >= faults[0][0] * self._seconds:
                faults.pop(0)[1]()
            if now >= due:
                due += every
                self._sample(now)
            time.sleep(1.0)
        settled = [sample for at, sample in self._samples if at >= SETTLED * self._seconds]
        self._found.verdicts = judge(settled)
        for verdict in self._found.verdicts:
            if verdict.grows:
                self._found.wrong.append(
                    f"{verdict.name} grows: {' → '.join(f'{value:g}' for value in verdict.thirds)}"
                )

    def _outside(self, now: float) -> None:
        """What others do: change rows, and leave in Redis what nobody can read."""
        base = int(now * SPEED)
        with self._sql() as conn:
            insert = "INSERT INTO price (id, cents, label) VALUES (%s, 1, 'o') ON CONFLICT (id) DO UPDATE SET cents = 2"
            conn.execute(insert, [base + self._turns % 100])
            conn.execute("UPDATE price SET cents = cents + 1 WHERE id BETWEEN %s AND %s", [base, base + 5])
            conn.execute("DELETE FROM price WHERE id = %s", [base + 7])
            if self._turns % 40 == 39:
                conn.execute("UPDATE price SET cents = cents + 1 WHERE id BETWEEN %s AND %s", [base, base + 1_200])
        with self._redis_client() as client:
            for name in ("profile", "account", "event", "price"):
                client.set(f"strata:{name}:{base + self._turns % 30}", b"garbage", px=40_000)
        self._turns += 1
        if self._turns % 60 == 0:
            self._webs[0].ask("warm")

    def _sample(self, now: float) -> None:
        sample: dict[str, float] = {}
        for web in self._webs:
            own = web.ask("sample")
            sample[f"{web.name} (objects)"] = own["objects"]
            if own["oldest"] > STUCK and now > TROUBLED * self._seconds + STUCK and web.name not in self._stuck:
                self._stuck.add(web.name)
                self._found.wrong.append(f"a deferred write of {web.name} waits for {own['oldest']:.0f} s: see its log")
        processes = {web.name: psutil.Process(web.process.pid) for web in self._webs}
        processes["worker"] = psutil.Process(self._worker.process.pid)
        sample |= figures.of_processes(processes)
        sample |= figures.of_folder(self._folder / "journal", "journal")
        sample |= figures.of_folder(self._scratch, "temporary files")
        with self._redis_client() as client:
            sample |= figures.of_redis(client)
        sample |= figures.of_postgres(self._postgres.dsn)
        self._samples.append((now, sample))

    def _cut(self) -> None:
        self._say("every client of Redis is cut off")
        with self._redis_client() as client:
            client.client_kill_filter(_type="normal", skipme=True)
            client.client_kill_filter(_type="pubsub", skipme=True)

    def _redis(self) -> None:
        self._say("Redis is restarted")
        self._valkey.restart()

    def _database(self) -> None:
        self._say("PostgreSQL is restarted")
        self._postgres.restart()

    def _kill(self) -> None:
        self._say("the worker is killed, and another one started")
        self._worker.kill()
        self._worker = Worker(self._env, self._folder / "worker-2.log", "two", *REPLACED)
        wait_until(self._worker.ready, timeout=90, what="the second worker")

    def _rest(self) -> None:
        self._say("no more load; everything comes to rest")
        for web in self._webs:
            done = web.ask("rest")["done"]
            self._say(f"{web.name}: {done}")
            self._found.operations += done["operations"]
        deadline = time.monotonic() + RESTED
        pending = self._pending()
        while pending and time.monotonic() < deadline:
            time.sleep(0.5)
            pending = self._pending()
        if pending:
            self._found.wrong.append(f"{pending} deferred writes are pending {RESTED:g} s after the load has ended")
        for web in self._webs:
            if status := web.stop():
                self._found.wrong.append(f"{web.name} ended with {status}")

    def _pending(self) -> int:
        with self._redis_client() as client:
            return sum(client.hlen(name) for name in client.scan_iter("strata:{*}:dirty"))

    def _left(self) -> None:
        """What is there although nobody is any more."""
        with self._sql() as conn:
            others = "backend_type = 'client backend' AND pid <> pg_backend_pid()"
            row = conn.execute(f"SELECT count(*) FROM pg_stat_activity WHERE {others}".encode()).fetchone()
        for what, count in (
            ("connections to PostgreSQL", row[0] if row else 0),
            ("files in the journal's directory", len(list((self._folder / "journal").iterdir()))),
            # A killed process cannot remove the directory of its own that billiard makes, as multiprocessing does.
            ("temporary files", sum(not path.name.startswith("pymp-") for path in self._scratch.iterdir())),
        ):
            if count:
                self._found.wrong.append(f"{count} {what} are left")

    def _sql(self) -> psycopg.Connection[Any]:
        return psycopg.connect(self._postgres.dsn, autocommit=True, application_name="soak")

    def _redis_client(self) -> redis.Redis:
        return redis.Redis(port=self._valkey.port, socket_timeout=10)

    @property
    def _scratch(self) -> Path:
        folder = self._folder / "tmp"
        folder.mkdir(exist_ok=True)
        return folder
