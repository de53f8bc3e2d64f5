"""One process of a run of the checker: it prints violations and totals, and at rest what it shows."""

from __future__ import annotations

import dataclasses
import json
import random
import sys
import time
from collections.abc import Sequence

from strata import Config, DataStore, L2PoolConfig, L3PoolConfig, StrataError, WriteMode
from strata.l2.content import Found
from strata.l2.values import Put
from strata.testing import inspect
from strata.testing.history import BOUNDS, Actor, Count, flush
from tests.stores import schema


def make_store(dsn: str, redis_addr: str, mode: WriteMode) -> DataStore:
    """The store of every process of a run."""
    store = DataStore(
        Config(
            postgres_dsn=dsn,
            redis_addr=redis_addr,
            write_behind_flush_interval=0.05,
            l2_pool=L2PoolConfig(dial_timeout=0.3, read_timeout=0.3, write_timeout=0.3),
            l3_pool=L3PoolConfig(connect_timeout=1, acquire_timeout=1, statement_timeout=2, lock_timeout=1),
        )
    )
    register(store, mode)
    return store


def register(store: DataStore, mode: WriteMode) -> None:
    """The schema of every process of a run."""
    store.register(schema(Count, name="counts", write_mode=mode))


def slow_some_fills(store: DataStore, rng: random.Random) -> None:
    """Now and then a reader takes its time between what it has read and the fill."""
    l2 = inspect(store).schemas["counts"].l2
    assert l2 is not None
    fill, refresh = l2.fill, l2.refresh

    def late(token: str, puts: Sequence[Put]) -> set[str]:
        if rng.random() < 0.005:
            time.sleep(rng.uniform(0, 0.05))
        return fill(token, puts)

    def late_refresh(found: dict[str, Found], puts: Sequence[Put]) -> set[str]:
        if rng.random() < 0.05:
            time.sleep(rng.uniform(0, 0.05))
        return refresh(found, puts)

    l2.fill = late  # type: ignore[method-assign]
    l2.refresh = late_refresh  # type: ignore[method-assign]


def main(dsn: str, redis_addr: str, mode: str, number: str, of: str, seconds: str, strict: str) -> None:
    """Work, flush, and wait to be told that all others have, too."""
    store = make_store(dsn, redis_addr, WriteMode[mode])
    actor = Actor(store, int(number), int(of), bound=BOUNDS[WriteMode[mode]], strict=strict == "strict")
    slow_some_fills(store, random.Random(int(number)))
    print("[]", flush=True)  # ready: from now on anything may happen to the servers
    actor.run(float(seconds), int(number))
    flushed = _flushed(store)
    print(json.dumps({**dataclasses.asdict(actor.report), "seen": actor.seen, "flushed": flushed}), flush=True)
    for command in sys.stdin:  # at rest until told to end, so that all caches can be compared
        if command == "write\n":
            actor.write_all()
        else:
            actor.at_rest()
        print(json.dumps(_flushed(store)), flush=True)
    print(json.dumps(actor.at_rest()), flush=True)
    store.close()


def _flushed(store: DataStore) -> bool:
    try:
        flush(store)
        return True
    except StrataError:
        return False


if __name__ == "__main__":
    main(*sys.argv[1:])
