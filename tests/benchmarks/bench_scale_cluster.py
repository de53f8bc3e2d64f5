"""A Redis Cluster of three masters beside a single server: what leaves the process, and write-behind.

All servers are on the machine of the client, so that a Cluster can show what it costs, and not what it gives.
"""

from __future__ import annotations

import itertools
import random
import time
from contextlib import ExitStack
from functools import partial
from typing import Any

import redis
from redis.cluster import RedisCluster

from strata import Config, DataStore, WriteMode
from strata.embedded import THROWAWAY, EmbeddedCluster, EmbeddedPostgres, EmbeddedValkey
from tests.benchmarks.harness import Row, calling, measure, row
from tests.benchmarks.options import Options
from tests.benchmarks.record import NAME, Record, record_schema
from tests.stores import sure
from tests.support import wait_until

KEYS = 100
IN_L2, BEHIND = "in_l2", "behind"
CLUSTER, SINGLE = "Cluster of three masters", "a single server"

_ids = itertools.count(1)


def run(options: Options) -> list[Row]:
    with ExitStack() as stack:
        cluster = stack.enter_context(EmbeddedCluster(3, 0, password=""))
        valkey = stack.enter_context(EmbeddedValkey(password=""))
        broker = stack.enter_context(EmbeddedValkey(password=""))
        stores: dict[str, DataStore] = {}
        for name, addr in ((CLUSTER, cluster.url), (SINGLE, valkey.addr)):
            postgres = stack.enter_context(EmbeddedPostgres(settings=THROWAWAY))
            stores[name] = stack.enter_context(_store(postgres.dsn, addr, broker.addr))
        nodes = {node.addr for node in cluster.nodes}
        host, _, port = min(nodes).rpartition(":")
        clients: dict[str, Any] = {
            CLUSTER: stack.enter_context(RedisCluster(host, int(port))),
            SINGLE: stack.enter_context(redis.Redis(port=valkey.port)),
        }
        return [*_calls(stores, clients, options.rounds(100)), *_written_behind(stores, options)]


def _store(dsn: str, addr: str, broker: str) -> DataStore:
    """No worker is there: who writes persists, in a thread of its own."""
    config = Config(
        postgres_dsn=dsn, redis_addr=addr, broker_url=f"redis://{broker}/0", write_behind_flush_interval=0.05,
        write_behind_max_dirty=10**6,
    )  # fmt: skip
    store = DataStore(config)
    store.register(record_schema(WriteMode.WRITE_THROUGH, name=IN_L2, l1=False, l3=False))
    store.register(record_schema(WriteMode.WRITE_THROUGH))
    store.register(record_schema(WriteMode.WRITE_BEHIND, name=BEHIND))
    store.migrate()
    store.set_many(IN_L2, {id: Record(id) for id in range(KEYS)})
    store.set(NAME, 0, Record(0))
    sure(store)
    return store


def _calls(stores: dict[str, DataStore], clients: dict[str, Any], rounds: int) -> list[Row]:
    """Each beside itself on a single server, and reads beside redis-py's on the same servers."""
    raw = dict.fromkeys(map(str, range(KEYS)), b"x" * 300)
    for client in clients.values():
        for key, value in raw.items():
            client.set(key, value)
    paths: dict[str, Any] = {
        "get, L2": lambda store, _: store.get(IN_L2, random.randrange(KEYS)),
        f"get_many of {KEYS}, L2": lambda store, _: store.get_many(IN_L2, range(KEYS)),
        "set, L2 alone": lambda store, _: store.set(IN_L2, 1, Record(1)),
        "set, write-through": lambda store, _: store.set(NAME, 1, Record(1)),
        "redis-py GET": lambda _, client: client.get("7"),
    }
    rows: list[Row] = []
    for what, path in paths.items():
        passes = {name: calling(partial(_call, path, stores[name], clients[name])) for name in stores}
        timings = measure(passes, range(10), rounds)
        rows.append(row(f"{what}, {CLUSTER}", SINGLE, timings[CLUSTER].over(timings[SINGLE])))
        rows += [row(f"  {what}, {name}", "", [v / 1e3 for v in timings[name].rounds], unit=" µs") for name in stores]
    return rows


def _call(path: Any, store: DataStore, client: Any, _: int) -> None:
    path(store, client)


def _clean(store: DataStore) -> bool:
    return store.stats().dirty_count == 0


def _written_behind(stores: dict[str, DataStore], options: Options) -> list[Row]:
    """Records a second, from the first `set` until PostgreSQL has all."""
    count = 2_000 if options.quick else 10_000
    rates: dict[str, list[float]] = {name: [] for name in stores}
    for _ in range(2 if options.quick else 5):
        for name in random.sample(list(stores), len(stores)):
            store = stores[name]
            began = time.perf_counter()
            for id in itertools.islice(_ids, count):
                store.set(BEHIND, id, Record(id))
            wait_until(partial(_clean, store), timeout=120)
            rates[name].append(count / (time.perf_counter() - began))
    ratios = [own / other for own, other in zip(rates[CLUSTER], rates[SINGLE], strict=True)]
    return [
        row(f"write-behind, {CLUSTER}", f"{SINGLE}, times as many", ratios),
        *(row(f"  write-behind, {name}", "", values, unit=" records/s") for name, values in rates.items()),
    ]
