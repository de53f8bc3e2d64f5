"""A checker of histories: processes read and write the same keys while faults are injected, and each tells what it saw.

Every key has one writer, which counts up; so values are ordered, and any process can tell that it was shown an older
one than it had read or written before. Run as a program it is one such process: it prints violations and totals.
"""

from __future__ import annotations

import json
import random
import sys
import threading
import time
from dataclasses import dataclass
from typing import Annotated, Any

import strata
from strata import Config, DataStore, L2PoolConfig, L3PoolConfig, WriteMode
from tests.stores import schema

KEYS = 24
# Seconds after which no read may be older than an acknowledged write. Written behind, the writes of others are seen by
# way of Redis alone until they are persisted, which takes both servers; here both are taken away in turn.
BOUNDS = {WriteMode.WRITE_THROUGH: 3.0, WriteMode.WRITE_BEHIND: 12.0}


@dataclass
class Count:
    """A key's value: how often its writer has written it, and when (monotonic, one clock a machine)."""

    id: Annotated[int, strata.PrimaryKey]
    n: int = 0
    at: float = 0.0


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
    store.register(schema(Count, name="counts", write_mode=mode))
    return store


def slow_some_fills(store: DataStore, rng: random.Random) -> None:
    """Now and then a reader takes its time between what it has read and the fill."""
    l2 = store._wiring._schemas["counts"].l2
    assert l2 is not None
    fill = l2.fill

    def late(*args: Any) -> set[str]:
        if rng.random() < 0.005:
            time.sleep(rng.uniform(0, 0.05))
        return fill(*args)

    l2.fill = late  # type: ignore[method-assign]


class Actor:
    """One process. `_seen` is the newest count this process was shown or wrote, by key; guarded by `_lock`.

    Keys of one's own must never go back. Those of others may, while Redis does not answer and only L3, or what a
    cache was told before, is left to show: by less than the bound. `strict` allows not even that.
    """

    def __init__(self, store: DataStore, number: int, of: int, bound: float, *, strict: bool) -> None:
        self._strict = strict
        self._bound = bound
        self._store = store
        self._own = [key for key in range(KEYS) if key % of == number]
        self._lock = threading.Lock()
        self._seen = dict.fromkeys(range(KEYS), 0)
        self._since = dict.fromkeys(range(KEYS), 0.0)  # when what was seen was written
        self._written = {key: self._read_l3(key) for key in self._own}
        self.operations = 0
        self.unavailable = 0
        self.regressions = 0
        self.violations: list[str] = []

    def write(self, rng: random.Random) -> None:
        """Count an own key up; what is not acknowledged may be there or not, so it is not counted as seen."""
        self._write(rng.choice(self._own))

    def write_all(self) -> None:
        """Count every own key up."""
        for key in self._own:
            self._write(key)

    def _write(self, key: int) -> None:
        count = self._written[key] = self._written[key] + 1
        try:
            self._store.set("counts", key, Count(key, count, time.monotonic()))
        except strata.UnavailableError:
            self.unavailable += 1
            return
        self._saw(key, count, time.monotonic())

    def read(self, rng: random.Random) -> None:
        """Read any key one way or the other, and compare it with what was seen before the call."""
        key = rng.randrange(KEYS)
        with self._lock:
            before, since = self._seen[key], self._since[key]
        try:
            how = rng.random()
            if how < 0.1:
                found = self._store.get_many("counts", [key]).get(key)
            elif how < 0.2:
                found = self._store.get("counts", key, default=None, force_l2=True)
            elif how < 0.22:
                self._store.invalidate("counts", key)
                return
            else:
                found = self._store.get("counts", key, default=None)
        except strata.UnavailableError:
            self.unavailable += 1
            return
        shown, written = (0, 0.0) if found is None else (found.n, found.at)
        if shown < before:
            late = time.monotonic() - since
            if key in self._own or self._strict or late > self._bound:
                self.violations.append(f"key {key}: read {shown} after {before}, {late:.2f} s late ({how:.2f})")
            self.regressions += 1
        self._saw(key, shown, written)

    def run(self, seconds: float, seed: int, writes: float) -> None:
        """Operate until the time is up."""
        rng = random.Random(seed)
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            (self.write if self._own and rng.random() < writes else self.read)(rng)
            self.operations += 1

    def _saw(self, key: int, count: int, written: float) -> None:
        with self._lock:
            if count > self._seen[key]:
                self._seen[key], self._since[key] = count, written

    def _read_l3(self, key: int) -> int:
        found = self._store.get("counts", key, default=None, force_l3=True)
        return 0 if found is None else int(found.n)


def main(dsn: str, redis_addr: str, mode: str, number: str, of: str, seconds: str, strict: str) -> None:
    """One process: a writing thread and two reading ones."""
    store = make_store(dsn, redis_addr, WriteMode[mode])
    actor = Actor(store, int(number), int(of), BOUNDS[WriteMode[mode]], strict=strict == "strict")
    slow_some_fills(store, random.Random(int(number)))
    print("[]", flush=True)  # ready: from now on anything may happen to the servers
    threads = [
        threading.Thread(target=actor.run, args=(float(seconds), int(number) * 10 + turn, writes))
        for turn, writes in enumerate((0.8, 0.0, 0.0))
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    flushed = _flush(store)
    result: dict[str, Any] = {
        "operations": actor.operations,
        "unavailable": actor.unavailable,
        "regressions": actor.regressions,
        "violations": actor.violations[:20],
        "seen": actor._seen,
        "flushed": flushed,
    }
    print(json.dumps(result), flush=True)
    for _ in sys.stdin:  # at rest until told to end, so that all caches can be compared
        actor.write_all()
        print(json.dumps(_flush(store)), flush=True)
    values = {key: store.get("counts", key, default=Count(key)).n for key in range(KEYS)}
    print(json.dumps(values), flush=True)
    store.close()


def _flush(store: DataStore) -> bool:
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        try:
            store.flush_dirty(2)
            return True
        except strata.StrataError:
            time.sleep(0.1)
    return False


if __name__ == "__main__":
    main(*sys.argv[1:])
