"""The application of writers and workers: one store from the environment, with `item` written behind."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import strata
from strata import Config, DataStore, Durability, L2PoolConfig, L3PoolConfig, PostgresPolicy, SchemaHooks
from tests.behind import deferred, paced
from tests.faults.chaos.counters import NAME, Hits

CHECK = "ALTER TABLE item ADD CONSTRAINT item_amount_check CHECK (amount >= 0)"
# A lease that ends within a short run, and pauses that end soon after an outage; all else as in production.
PACE = {
    "lease": 8.0, "bell": 2.0, "poll": 0.1, "sweep": 1.0, "overdue": 1.0, "dead": 3.0, "fleet": 5.0, "probe": 1.0,
    "alive": 8.0, "outage_first": 0.2, "outage_longest": 2.0, "order_first": 0.2, "order_longest": 2.0,
    "permanent": 0.1, "exit": 20.0,
}  # fmt: skip


@dataclass
class Item:
    """A key's value: which of its writer's writes it is. An `amount` below 0 is refused by a CHECK."""

    id: Annotated[int, strata.PrimaryKey]
    n: int
    amount: int = 0
    padding: str = ""


def _append(path: str, line: str) -> None:
    # One write of one line: appended whole, and there for good although this process is killed right after it.
    file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        os.write(file, line.encode())
    finally:
        os.close(file)


def report(key: int, error: Exception) -> None:
    """OnWriteError: who was told of which key, and whether it was given up."""
    final = isinstance(error, strata.WriteBehindMaxRetryError) and "dead letter" in str(error)
    _append(os.environ["CHAOS_REPORTS"], f"{os.getpid()} {key} {'final' if final else 'waits'}\n")


def make_store(durability: Durability = Durability.MEMORY) -> DataStore:
    """The store of a writer, or of a worker, by the environment."""
    store = DataStore(
        Config.from_env(
            write_behind_durability=durability,
            journal_dir=Path(os.environ["CHAOS_JOURNAL"]),
            write_behind_flush_interval=0.2,
            write_behind_max_retry=5,
            l2_pool=L2PoolConfig(dial_timeout=0.5, read_timeout=0.5, write_timeout=0.5),
            l3_pool=L3PoolConfig(
                connect_timeout=1,
                acquire_timeout=2,
                statement_timeout=3,
                lock_timeout=2,
                prepared=not os.environ["CHAOS_POOLED"],
            ),
        )
    )
    paced(store, **PACE)
    l3 = PostgresPolicy(watch=not os.environ["CHAOS_POOLED"])  # a pooler passes no notifications on
    store.register(deferred(Item, name="item", l3=l3, hooks=SchemaHooks(on_write_error=report)))
    store.register(deferred(Hits, name=NAME))
    return store


if os.environ.get("CHAOS_ROLE") == "worker":
    store = make_store()
