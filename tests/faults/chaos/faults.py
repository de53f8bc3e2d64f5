"""The faults: what is killed, frozen, cut and restarted. Threads inject, so that faults of servers, faults of processes
and garbage (`planting.py`) meet."""

from __future__ import annotations

import contextlib
import random
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence

import psycopg
import redis

from strata.embedded import EmbeddedPostgres, EmbeddedValkey
from tests.faults.chaos.processes import Workers, Writers, send
from tests.surroundings.pgbouncer import Bouncer

Fault = Callable[[random.Random], None]


class ServerFaults:
    """Faults of PostgreSQL, of the Redis servers, and of the connections to them."""

    def __init__(
        self,
        postgres: EmbeddedPostgres,
        valkeys: Sequence[EmbeddedValkey],
        pooler: Bouncer | None = None,
        *,
        losing: bool = False,
    ) -> None:
        self._postgres = postgres
        self._pooler = pooler
        self._valkeys = valkeys
        self._losing = losing

    def all(self) -> list[Fault]:
        losses: list[Fault] = [self.ledger_lost] * 3 if self._losing else []
        poolers: list[Fault] = [self.pooler_restarted] * 2 if self._pooler else []
        return [
            *losses, *poolers,
            self.connections_cut, self.connections_cut, self.subscriptions_cut, self.doorbells_lost,
            self.redis_frozen, self.redis_restarted, self.postgres_frozen, self.postgres_restarted,
            self.backends_ended,
        ]  # fmt: skip

    def connections_cut(self, rng: random.Random) -> None:
        for client in self._clients():
            client.client_kill_filter(_type="normal", skipme=True)

    def subscriptions_cut(self, rng: random.Random) -> None:
        for client in self._clients():
            client.client_kill_filter(_type="pubsub")

    def doorbells_lost(self, rng: random.Random) -> None:
        """Every Celery message is gone."""
        for client in self._clients():
            keys = client.keys("*strata:{celery}:*")
            if keys:
                client.delete(*keys)

    def ledger_lost(self, rng: random.Random) -> None:
        """Redis is empty from now on; who wrote must live."""
        self._clients()[-1].flushall()

    def redis_frozen(self, rng: random.Random) -> None:
        valkey = rng.choice(self._valkeys)
        valkey.freeze()
        time.sleep(rng.choice([0.3, 1.0, 3.0]))
        valkey.thaw()

    def redis_restarted(self, rng: random.Random) -> None:
        valkey = rng.choice(self._valkeys)
        valkey.kill()
        time.sleep(rng.uniform(0, 1.5))
        valkey.restart()

    def postgres_frozen(self, rng: random.Random) -> None:
        self._postgres.freeze()
        time.sleep(rng.choice([0.3, 1.0, 4.0]))
        self._postgres.thaw()

    def postgres_restarted(self, rng: random.Random) -> None:
        self._postgres.kill()
        time.sleep(rng.uniform(0, 2.0))
        self._postgres.restart()

    def pooler_restarted(self, rng: random.Random) -> None:
        assert self._pooler is not None
        self._pooler.kill()
        time.sleep(rng.uniform(0, 1.5))
        self._pooler.start()

    def backends_ended(self, rng: random.Random) -> None:
        with psycopg.connect(self._postgres.dsn, autocommit=True, connect_timeout=2) as conn:
            conn.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                "WHERE pid <> pg_backend_pid() AND backend_type = 'client backend'"
            )

    def _clients(self) -> list[redis.Redis]:
        return [redis.Redis(port=valkey.port, socket_timeout=2) for valkey in self._valkeys]


class ProcessFaults:
    """Faults of writers and workers."""

    def __init__(self, writers: Writers, workers: Workers, *, losing: bool = False) -> None:
        self._writers = writers
        self._workers = workers
        self._losing = losing

    def all(self) -> list[Fault]:
        ends: list[Fault] = [self.writer_killed, self.writer_killed, self.writer_frozen_and_killed]
        return [
            *([] if self._losing else ends),
            self.child_killed, self.child_frozen_and_killed, self.worker_killed, self.worker_frozen_and_killed,
            self.worker_frozen, self.worker_replaced, self.writer_frozen,
        ]  # fmt: skip

    def child_killed(self, rng: random.Random) -> None:
        child = self._child(rng)
        if child:
            send(child, signal.SIGKILL)

    def child_frozen_and_killed(self, rng: random.Random) -> None:
        child = self._child(rng)
        if child:
            send(child, signal.SIGSTOP)
            time.sleep(rng.uniform(0.1, 1.0))
            send(child, signal.SIGKILL)

    def worker_killed(self, rng: random.Random) -> None:
        self._workers.replace(self._place(rng), orderly=False)

    def worker_frozen_and_killed(self, rng: random.Random) -> None:
        place = self._place(rng)
        for pid in self._workers.family(place):
            send(pid, signal.SIGSTOP)
        time.sleep(rng.uniform(0.1, 1.0))
        self._workers.replace(place, orderly=False)

    def worker_frozen(self, rng: random.Random) -> None:
        """It goes on where it stopped, sometimes with claims that others have taken since."""
        family = self._workers.family(self._place(rng))
        for pid in family:
            send(pid, signal.SIGSTOP)
        time.sleep(rng.choice([0.5, 2.0, 9.0]))
        for pid in family:
            send(pid, signal.SIGCONT)

    def worker_replaced(self, rng: random.Random) -> None:
        self._workers.replace(self._place(rng), orderly=True)

    def writer_killed(self, rng: random.Random) -> None:
        self._writers.kill(rng.choice(list(self._writers.current)))

    def writer_frozen_and_killed(self, rng: random.Random) -> None:
        number = rng.choice(list(self._writers.current))
        send(self._writers.current[number].process.pid, signal.SIGSTOP)
        time.sleep(rng.uniform(0.1, 2.0))
        self._writers.kill(number)

    def writer_frozen(self, rng: random.Random) -> None:
        pid = self._writers.current[rng.choice(list(self._writers.current))].process.pid
        send(pid, signal.SIGSTOP)
        time.sleep(rng.uniform(0.1, 4.0))
        send(pid, signal.SIGCONT)

    def _place(self, rng: random.Random) -> int:
        return rng.randrange(len(self._workers.current))

    def _child(self, rng: random.Random) -> int:
        return rng.choice(self._workers.family(self._place(rng))[1:] or [0])


class Injector(threading.Thread):
    """Injects faults, one after another, until the time is up. `counts` is read once it has ended."""

    def __init__(self, faults: Sequence[Fault], seed: int, seconds: float, pause: tuple[float, float]) -> None:
        super().__init__()
        self._faults = faults
        self._rng = random.Random(seed)
        self._seconds = seconds
        self._pause = pause
        self.counts: Counter[str] = Counter()
        self.error: BaseException | None = None

    def run(self) -> None:
        """Every kind of fault comes before any comes again, in an order that the seed decides."""
        end = time.monotonic() + self._seconds
        waiting: list[Fault] = []
        while True:
            time.sleep(self._rng.uniform(*self._pause))
            if time.monotonic() >= end:
                return
            if not waiting:
                waiting = self._rng.sample(self._faults, len(self._faults))
            fault = waiting.pop()
            # The server that a connection was to be cut on may be the one that was just frozen by nobody but us.
            with contextlib.suppress(redis.RedisError, psycopg.Error):
                try:
                    fault(self._rng)
                except (redis.RedisError, psycopg.Error):
                    raise
                except BaseException as error:
                    self.error = error
                    return
                self.counts[fault.__name__.replace("_", " ")] += 1
