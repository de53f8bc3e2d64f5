"""A web process of the soak: every operation, over a window of keys that moves on. Asked and told by lines:
`sample` is answered with what only the process itself knows, `rest` ends the load, `stop` closes the store."""

from __future__ import annotations

import argparse
import gc
import json
import random
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

from strata import DataStore, Q, StrataError
from tests.soak.app import Account, Event, Price, Profile, Session, make_store

SPEED = 15  # keys a second by which the window moves
WINDOW = 1_500
THREADS = 3


class Abandoned(Exception):
    """A transaction that is given up by its caller."""


class Load:
    """Operations of one thread, drawn by their weights."""

    def __init__(self, store: DataStore, name: str, seed: int, since: float) -> None:
        self._store = store
        self._name = name
        self._random = random.Random(seed)
        self._since = since
        self._sessions = 0
        self.done: Counter[str] = Counter()
        self._weights: dict[Callable[[], object], float] = {
            self.get: 36, self.get_many: 5, self.write_through: 8, self.write_behind: 13, self.session: 8,
            self.delete: 5, self.set_many: 1, self.transact: 2, self.search: 3, self.search_cached: 4, self.count: 1,
            self.invalidate: 2, self.exists: 2, self.change: 4, self.miss: 3, self.project: 1.5,
            self.collide: 0.5, self.refused: 0.5, self.refused_later: 0.1,
        }  # fmt: skip

    def one(self) -> None:
        """An operation; errors of the library are counted, others end the process."""
        (operation,) = self._random.choices(list(self._weights), list(self._weights.values()))
        try:
            operation()
            self.done["operations"] += 1
        except (StrataError, Abandoned) as error:
            self.done[type(error).__name__] += 1

    def get(self) -> None:
        options: Any = self._random.choice([{}, {}, {}, {}, {"force_l2": True}, {"force_l3": True}])
        self._store.get(self._model(), self._key(), default=None, **options)

    def get_many(self) -> None:
        self._store.get_many(self._model(), [self._key() for _ in range(12)])

    def write_through(self) -> None:
        self._set(self._random.choice((Profile, Price)))

    def write_behind(self) -> None:
        self._set(self._random.choice((Account, Event)))

    def session(self) -> None:
        self._sessions += 1
        ids = [f"{self._name}-{max(1, self._sessions - back)}" for back in (0, self._random.randrange(50), 5)]
        self._store.set(Session, ids[0], Session(ids[0], self._sessions, {"a": self._sessions}))
        self._store.get(Session, ids[1], default=None)
        if self._random.random() < 0.05:
            self._store.delete(Session, ids[2])

    def delete(self) -> None:
        self._store.delete(self._model(), self._key())

    def set_many(self) -> None:
        model = self._model()
        self._store.set_many(model, {key: self._record(model, key) for key in {self._key() for _ in range(15)}})

    def transact(self) -> None:
        key = self._key()
        with self._store.tx(timeout=5) as tx:
            tx.set(Profile, key, self._record(Profile, key))
            tx.set(Price, key, self._record(Price, key))
            if self._random.random() < 0.3:
                tx.delete(Event, key)
            if self._random.random() < 0.1:
                raise Abandoned

    def search(self) -> None:
        self._store.search(self._model(), self._some().limit(self._random.randrange(1, 40)))

    def search_cached(self) -> None:
        query = self._some().limit(20)
        if self._random.random() < 0.3:  # one that nobody asks again
            start = self._base()
            query = Q().where("id >= $1 AND id < $2 AND id <> $3", start, start + 20, self._random.randrange(10**9))
        self._store.search_cached(self._model(), query)

    def count(self) -> None:
        self._store.count(self._model(), Q().where("id >= $1", self._base()))

    def invalidate(self) -> None:
        self._store.invalidate(self._model(), self._key())

    def exists(self) -> None:
        self._store.exists(self._model(), self._key())

    def change(self) -> None:
        """Read, change, write back: columns that no cache holds stay UNLOADED."""
        account = self._store.get(Account, self._key(), default=None)
        if account is not None:
            account.level = self._random.randrange(100)
            self._store.set(Account, account.id, account)

    def miss(self) -> None:
        self._store.get(Profile, -self._key() - self._random.randrange(100_000), default=None)

    def collide(self) -> None:
        """A name that another row has, perhaps."""
        key = self._key()
        self._store.set(Profile, key, Profile(key, f"n{key + 1}", 1))

    def refused_later(self) -> None:
        """What PostgreSQL refuses once the worker comes to it."""
        key = self._key()
        self._store.set(Account, key, Account(key, level=5_000))
        self._store.set(Event, key, Event(key, "poison"))

    def refused(self) -> None:
        key = self._key()
        self._store.set(Event, key, Event(key, "nul\0"))

    def project(self) -> None:
        self._store.search(Account, Q().fields("id", "level").where("id >= $1", self._base()).limit(10))

    def _set(self, model: type) -> None:
        key = self._key()
        self._store.set(model, key, self._record(model, key))

    def _record(self, model: type, key: int) -> Any:
        some = self._random.randrange(100)
        made: dict[type, Callable[[], Any]] = {
            Profile: lambda: Profile(key, f"n{key}", some),
            Account: lambda: Account(key, f"e{key}@example", "note", ["a"], some),
            Event: lambda: Event(key, "abc"[some % 3], some),
            Price: lambda: Price(key, some, "w"),
        }
        return made[model]()

    def _some(self) -> Q:
        start = self._base()
        return Q().where("id >= $1 AND id < $2", start, start + self._random.randrange(40))

    def _model(self) -> Any:
        return self._random.choice((Profile, Account, Event, Price))

    def _base(self) -> int:
        return int((time.time() - self._since) * SPEED)

    def _key(self) -> int:
        return self._base() + int(self._random.random() ** 2 * WINDOW)  # its beginning is hot


def work(load: Load, pause: float, rest: threading.Event) -> None:
    """One operation after the other, about so many seconds apart."""
    due = time.monotonic()
    while not rest.is_set():
        load.one()
        due = max(due + pause, time.monotonic() - 1.0)
        rest.wait(max(0.0, due - time.monotonic()))


def sample(store: DataStore, loads: list[Load]) -> dict[str, Any]:
    """What only the process itself knows; `oldest`: seconds that its oldest deferred write has waited."""
    gc.collect()
    done: Counter[str] = sum((load.done for load in loads), Counter())
    return {"objects": len(gc.get_objects()), "oldest": store.stats().dirty_age, "done": done}


def main() -> None:
    """Work until told to stop."""
    parser = argparse.ArgumentParser()
    parser.add_argument("name")
    parser.add_argument("rate", type=float)
    parser.add_argument("since", type=float)
    given = parser.parse_args()
    store, rest = make_store(), threading.Event()
    loads = [Load(store, f"{given.name}-{n}", len(given.name) * 100 + n, given.since) for n in range(THREADS)]
    threads = [threading.Thread(target=work, args=(load, THREADS / given.rate, rest)) for load in loads]
    for thread in threads:
        thread.start()
    print("ready", flush=True)
    for line in sys.stdin:
        if line == "rest\n":
            rest.set()
            for thread in threads:
                thread.join()
            store.flush_dirty(60)
        elif line == "warm\n":
            store.warm_cache(Profile, 500)
        elif line == "stop\n":
            break
        print(json.dumps(sample(store, loads)), flush=True)
    rest.set()
    store.close()


if __name__ == "__main__":
    main()
