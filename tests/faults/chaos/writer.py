"""One writer: sets, overwrites and deletes its own keys, adds to counters that all share, keeps a diary, and at the end
flushes and reads all back."""

from __future__ import annotations

import os
import random
import sys
import time
from collections import Counter
from pathlib import Path

import strata
from strata import DataStore, Durability
from strata.testing import inspect
from tests.faults.chaos.app import Item, make_store
from tests.faults.chaos.counters import COUNT, NAME, counted, key_in_diary, one_of
from tests.faults.chaos.diary import Diary

STRIDE = 1_000_000  # keys of writer k: from k * STRIDE on; those of records that L3 refuses: from POISON further on
POISON = 500_000
POISONED = float(os.environ.get("CHAOS_POISON", "0.005"))  # the share of such records
HOT = 40  # keys that are written all the time
PATIENCE = 90.0  # seconds for everything to be in L3 at the end


class Writer:
    """One incarnation of a writer. Not thread-safe."""

    def __init__(self, store: DataStore, diary: Diary, number: int, incarnation: int, keys: int, place: int) -> None:
        self._store = store
        self._diary = diary
        self._base = number * STRIDE
        self._keys = keys
        self._n = incarnation * 100_000_000
        self._poison = self._base + POISON + incarnation * 1_000
        self._rng = random.Random(number * 1_000 + incarnation)
        self._wrote: dict[int, int | None] = {}  # by key what it must read; None where that is not known
        self._place = place
        self._added: Counter[int] = Counter()  # by counter how often it has added, what failed being among it
        self._failed: Counter[int] = Counter()

    def run(self, stop: Path) -> None:
        """Operate until there is a file `stop`, or nobody who would make it."""
        marked, parent = 0.0, os.getppid()
        while not stop.exists() and os.getppid() == parent:
            for _ in range(self._rng.randrange(1, 60)):
                self._step()
            if time.monotonic() > marked + 0.1:
                self._mark()
                marked = time.monotonic()
            time.sleep(self._rng.uniform(0, 0.08))

    def end(self) -> str:
        """Flush, and compare every key with what was written; how it went."""
        deadline = time.monotonic() + PATIENCE
        while True:
            try:
                self._store.flush_dirty(3)
                break
            except strata.StrataError as error:
                if time.monotonic() > deadline:
                    return f"not flushed: {error}"
                time.sleep(0.2)
        for key in self._wrote:
            self._check(key)
        for counter in self._added:
            self._check_counter(counter)
        return "flushed"

    def _step(self) -> None:
        chance = self._rng.random()
        if chance < POISONED:
            self._poison += 1
            self._set(self._poison, -1)
            return
        if chance > 0.9:
            self._count(self._rng.randrange(COUNT))
            return
        hot = self._rng.random() < 0.3
        key = self._base + self._rng.randrange(HOT if hot else self._keys)
        if chance < 0.12:
            self._do(key, 0)
        else:
            self._set(key, 0)
        if chance > 0.85:
            self._check(key)

    def _set(self, key: int, amount: int) -> None:
        self._n += 1
        self._do(key, self._n, amount)

    def _do(self, key: int, n: int, amount: int = 0) -> None:
        seq = self._diary.begins(key, n)
        try:
            if n:
                self._store.set("item", key, Item(key, n, amount, "x" * 80))
            else:
                self._store.delete("item", key)
        except (strata.UnavailableError, strata.WriteBehindFullError, strata.ConstraintError):
            self._wrote[key] = None
            return
        self._diary.acknowledged(seq)
        if not amount:
            self._wrote[key] = n

    def _check(self, key: int) -> None:
        """A process reads what it wrote."""
        wanted = self._wrote.get(key)
        if wanted is None:
            return
        try:
            found = self._store.get("item", key, default=None)
        except strata.UnavailableError:
            return
        if (found.n if found else 0) != wanted:
            self._diary.wrong(f"key {key}: read {found.n if found else None} after writing {wanted or None}")

    def _count(self, counter: int) -> None:
        seq = self._diary.begins(key_in_diary(NAME, counter), 1)
        self._added[counter] += 1
        try:
            self._store.increment(NAME, counter, n=one_of(self._place))
        except (strata.UnavailableError, strata.WriteBehindFullError):
            self._failed[counter] += 1
            return
        self._diary.acknowledged(seq)
        if self._rng.random() < 0.3:
            self._check_counter(counter)

    def _check_counter(self, counter: int) -> None:
        """A process reads what it has added, once each."""
        try:
            found = self._store.get(NAME, counter, default=None)
        except strata.UnavailableError:
            return
        count, most = counted(found.n, self._place) if found else -1, self._added[counter]
        if not most - self._failed[counter] <= count <= most:
            self._diary.wrong(f"counter {counter}: read {count} of {most} own increments")

    def _mark(self) -> None:
        buffer = inspect(self._store).buffer
        if buffer.unsent < 500:
            self._diary.handed_off(key_in_diary(slot.schema, slot.key) for slot, _ in buffer.take(sys.maxsize))


def main(diary: str, stop: str, level: str, number: str, incarnation: str, keys: str, place: str) -> None:
    """A process of the run."""
    store = make_store(Durability[level])
    page = Diary(Path(diary))
    writer = Writer(store, page, int(number), int(incarnation), int(keys), int(place))
    writer.run(Path(stop))
    said = writer.end()
    store.close()
    page.ended(said)


if __name__ == "__main__":
    main(*sys.argv[1:])
