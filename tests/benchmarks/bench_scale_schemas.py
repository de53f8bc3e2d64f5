"""A store as its schemas become many: registering and migrating them, what a hit costs, threads, connections, memory.

Each number of schemas has a process of its own.
"""

from __future__ import annotations

import dataclasses
import json
import os
import statistics
import subprocess
import sys
import threading
import time
from typing import Annotated, Any

import psycopg
import redis

from strata import Config, DataStore, MemPolicy, PostgresPolicy, PrimaryKey, RedisPolicy, Schema, WriteMode
from strata.embedded import THROWAWAY, EmbeddedPostgres, EmbeddedValkey
from tests.benchmarks.curves import Curves
from tests.benchmarks.harness import Row, calling, measure
from tests.benchmarks.options import Options
from tests.benchmarks.spent import cpu, memory
from tests.stores import sure

FIELDS = [("name", str, "andrew"), ("level", int, 7), ("score", float, 1.5), ("active", bool, True)]
IDLE = 3.0  # seconds for which a store with nothing to do is watched
CALLS = 1_000  # a pass
UNITS = {
    "register": " ms", "migrate, all new": " ms", "migrate, nothing to do": " ms", "first write of each": " ms",
    "memory a schema": " kB", "threads": "", "connections to PostgreSQL": "", "connections to Redis": "",
    "CPU while idle": " % of a core", "hit, a schema after the other": " ns",
}  # fmt: skip


def run(options: Options) -> list[Row]:
    curves = Curves("schemas")
    for count in options.sizes(10, 100, 1_000):
        with EmbeddedPostgres(settings=THROWAWAY) as postgres, EmbeddedValkey(password="") as valkey:
            words = [sys.executable, "-m", __name__, postgres.dsn, valkey.addr, str(count)]
            found = json.loads(subprocess.run(words, stdout=subprocess.PIPE, check=True).stdout)
        for what, value in found.items():
            curves.add(what, count, [value], UNITS[what])
    return curves.save(options.plot)


def _measure(dsn: str, redis_addr: str, count: int) -> dict[str, float]:
    """One tenth of the schemas is written behind."""
    schemas = [_schema(number) for number in range(count)]
    config = Config(postgres_dsn=dsn, redis_addr=redis_addr)
    before = memory(os.getpid())
    with DataStore(config) as store, psycopg.connect(dsn, autocommit=True) as conn:
        found = {"register": _millis(lambda: [store.register(schema) for schema in schemas])}
        found["migrate, all new"] = _millis(store.migrate)
        found["migrate, nothing to do"] = _millis(lambda: _anew(config, schemas))
        names = [schema.name for schema in schemas]
        found["first write of each"] = _millis(lambda: [store.set(s.name, 1, s.model(1)) for s in schemas])
        store.flush_dirty(60)
        sure(store)
        found["memory a schema"] = (memory(os.getpid()) - before) / count / 1e3
        found["hit, a schema after the other"] = _hit(store, names)
        found["threads"] = threading.active_count()
        sql = "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()"
        (found["connections to PostgreSQL"],) = conn.execute(sql).fetchone() or (0,)
        host, _, port = redis_addr.rpartition(":")
        with redis.Redis(host, int(port)) as client:
            found["connections to Redis"] = len(client.client_list()) - 1
        time.sleep(IDLE)  # until what was written is all told of
        began = cpu(os.getpid())
        time.sleep(IDLE)
        found["CPU while idle"] = 100 * (cpu(os.getpid()) - began) / IDLE
    return found


def _anew(config: Config, schemas: list[Schema[Any]]) -> None:
    """What every process does that starts once the tables are there."""
    with DataStore(config) as store:
        for schema in schemas:
            store.register(schema)
        store.migrate()


def _hit(store: DataStore, names: list[str]) -> float:
    for name in names:
        store.get(name, 1)
    timings = measure({"hit": calling(lambda name: store.get(name, 1))}, (names * CALLS)[:CALLS], 40)
    return statistics.median(timings["hit"].rounds)


def _schema(number: int) -> Schema[Any]:
    fields: Any = [("id", Annotated[int, PrimaryKey]), *FIELDS]
    model = dataclasses.make_dataclass(f"Model{number}", fields)
    mode = WriteMode.WRITE_THROUGH if number % 10 else WriteMode.WRITE_BEHIND
    return Schema(model, name=f"model_{number}", l1=MemPolicy(), l2=RedisPolicy(), l3=PostgresPolicy(), write_mode=mode)


def _millis(function: Any) -> float:
    began = time.perf_counter()
    function()
    return 1e3 * (time.perf_counter() - began)


if __name__ == "__main__":
    print(json.dumps(_measure(sys.argv[1], sys.argv[2], int(sys.argv[3]))))
