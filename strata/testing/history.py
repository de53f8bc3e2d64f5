"""A checker of histories: stores read and write the same keys while faults are injected, and each tells what it saw.

Every key has one writer, which counts up; so values are ordered, and any store can tell that it was shown an older
one than it had read or written before. `observe` does it with threads in this process; an `Actor` is one store's
part, for processes of their own.
"""

from __future__ import annotations

import bisect
import random
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any

from strata import DataStore, PrimaryKey, StrataError, UnavailableError, WriteMode
from strata.aio.store import AsyncDataStore, plain
from strata.durations import seconds as seconds_of
from strata.errors import shown

KEYS = 24
SCHEMA = "counts"
# Seconds after which no read may be older than an acknowledged write. Written behind, the writes of others are seen by
# way of Redis alone until they are persisted, which takes both servers; both may be taken away in turn.
BOUNDS = {WriteMode.WRITE_THROUGH: 3.0, WriteMode.WRITE_THROUGH_L1_ASYNC: 3.0, WriteMode.WRITE_BEHIND: 12.0}
READERS = 2  # threads a store that only read, beside the one that mostly writes
SHOWN = 20  # violations that are kept


@dataclass
class Count:
    """A key's value.

    Attributes:
        id: The key.
        n: How often its writer has written it.
        at: When it did so last: seconds of the monotonic clock, which all processes of a machine share.
    """

    id: Annotated[int, PrimaryKey]
    n: int = 0
    at: float = 0.0


@dataclass
class Report:
    """What `observe` saw.

    Attributes:
        operations: Reads and writes.
        unavailable: Those that failed for want of a server.
        regressions: Reads that showed an older value than the same store had seen, within what is allowed.
        violations: What was wrong, in words; it must be empty.
    """

    operations: int = 0
    unavailable: int = 0
    regressions: int = 0
    violations: list[str] = field(default_factory=list)


class Board:
    """Which counts were acknowledged when, by whatever store; thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._times: dict[int, list[float]] = {key: [] for key in range(KEYS)}
        self._counts: dict[int, list[int]] = {key: [] for key in range(KEYS)}

    def acknowledged(self, key: int, count: int) -> None:
        """Now."""
        with self._lock:
            self._times[key].append(time.monotonic())
            self._counts[key].append(count)

    def due(self, key: int, when: float) -> int:
        """The newest count that was acknowledged before that time."""
        with self._lock:
            place = bisect.bisect_left(self._times[key], when)
            return self._counts[key][place - 1] if place else 0


class Actor:
    """One store's part in a run, writer of every key that is `number` modulo `of`. Thread-safe.

    `_seen` is the newest count that this store was shown or wrote, by key; `_lock` guards it and the counters. Keys of
    one's own must never go back. Those of others may, while Redis does not answer and only L3, or what a cache was told
    before, is left to show: by less than `bound` seconds. `strict` allows not even that. With a `board` that all share,
    no read may be older than what anybody had acknowledged `bound` seconds before.
    """

    def __init__(
        self,
        store: DataStore,
        number: int,
        of: int,
        *,
        schema: str = SCHEMA,
        bound: float = BOUNDS[WriteMode.WRITE_THROUGH],
        strict: bool = False,
        board: Board | None = None,
    ) -> None:
        self._strict = strict
        self._bound = bound
        self._board = board or Board()
        self._store = store
        self._schema = schema
        self._own = [key for key in range(KEYS) if key % of == number]
        self._lock = threading.Lock()
        self.seen = dict.fromkeys(range(KEYS), 0)
        self._since = dict.fromkeys(range(KEYS), 0.0)  # when what was seen was written
        self._written = {key: self._read_l3(key) for key in self._own}
        self.report = Report()

    def write(self, rng: random.Random) -> None:
        """Count an own key up; what is not acknowledged may be there or not, so it is not counted as seen."""
        self._write(rng.choice(self._own))

    def write_all(self) -> None:
        """Count every own key up once more."""
        for key in self._own:
            self._write(key)

    def _write(self, key: int) -> None:
        count = self._written[key] = self._written[key] + 1
        try:
            self._store.set(self._schema, key, Count(key, count, time.monotonic()))
        except UnavailableError:
            self._unavailable()
            return
        self._board.acknowledged(key, count)
        self._saw(key, count, time.monotonic())

    def read(self, rng: random.Random) -> None:
        """Read any key one way or the other, and compare it with what was seen before the call."""
        key = rng.randrange(KEYS)
        with self._lock:
            before, since = self.seen[key], self._since[key]
        due = self._board.due(key, time.monotonic() - self._bound)
        how = rng.random()
        try:
            if how < 0.1:
                found = self._store.get_many(self._schema, [key]).get(key)
            elif how < 0.2:
                found = self._store.get(self._schema, key, default=None, force_l2=True)
            elif how < 0.22:
                self._store.invalidate(self._schema, key)
                return
            else:
                found = self._store.get(self._schema, key, default=None)
        except UnavailableError:
            self._unavailable()
            return
        shown, written = (0, 0.0) if found is None else (found.n, found.at)
        if shown < due:
            self._violated(f"key {key}: read {shown}, {due} was acknowledged {self._bound:.0f} s before ({how:.2f})")
        if shown < before:
            late = time.monotonic() - since
            if key in self._own or self._strict or late > self._bound:
                self._violated(f"key {key}: read {shown} after {before}, {late:.2f} s late ({how:.2f})")
            with self._lock:
                self.report.regressions += 1
        self._saw(key, shown, written)

    def run(self, seconds: float, seed: int) -> None:
        """Operate in threads of its own until the time is up."""
        shares = [0.8, *[0.0] * READERS]
        threads = [
            threading.Thread(target=self._work, args=(seconds, seed * 10 + turn, writes), daemon=True)
            for turn, writes in enumerate(shares)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    def at_rest(self) -> dict[int, int]:
        """What the store shows of every key, each read both ways."""
        values = {}
        for key in range(KEYS):
            values[key] = self._store.get(self._schema, key, default=Count(key)).n
            below = self._store.get(self._schema, key, default=Count(key), force_l2=True).n
            if below != values[key]:
                self._violated(f"key {key}: L1 shows {values[key]} and what is below it {below}, at rest")
        return values

    def _work(self, seconds: float, seed: int, writes: float) -> None:
        rng = random.Random(seed)  # noqa: S311 to be repeated
        end = time.monotonic() + seconds
        done = 0
        try:
            while time.monotonic() < end:
                (self.write if self._own and rng.random() < writes else self.read)(rng)
                done += 1
        except Exception as error:
            self._violated(f"an operation raised {type(error).__name__}")
            raise
        finally:
            with self._lock:
                self.report.operations += done

    def _saw(self, key: int, count: int, written: float) -> None:
        with self._lock:
            if count > self.seen[key]:
                self.seen[key], self._since[key] = count, written

    def _unavailable(self) -> None:
        with self._lock:
            self.report.unavailable += 1

    def _violated(self, what: str) -> None:
        with self._lock:
            if len(self.report.violations) < SHOWN:
                self.report.violations.append(what)

    def _read_l3(self, key: int) -> int:
        found = self._store.get(self._schema, key, default=None, force_l3=True)
        return 0 if found is None else int(found.n)


def observe(
    stores: Sequence[DataStore | AsyncDataStore],
    seconds: float,
    disturb: Callable[[], Any] | None = None,
    *,
    schema: str = SCHEMA,
    mode: WriteMode = WriteMode.WRITE_THROUGH,
    strict: bool = False,
) -> Report:
    """Let all stores work on the same keys for some seconds, call `disturb` meanwhile, and tell what was wrong.

    In all `stores` a `schema` of `Count`, written in this `mode`, is registered, and migrated. Their servers must
    answer again when `disturb` has returned. Afterwards all is flushed, and every store must show what L3
    holds. Raises what `disturb` raises, and `StrataError` where servers stay away, or there are no stores.
    """
    all_of = list(map(plain, stores)) if isinstance(stores, Sequence) else []
    if not all_of or not all(isinstance(store, DataStore) for store in all_of):
        raise StrataError(f"stores is {shown(stores)}; it must be a list of one or more DataStores")
    duration = seconds_of(seconds, "seconds") or 0.0
    board = Board()
    bound = BOUNDS[mode]
    actors = [
        Actor(store, number, len(stores), schema=schema, bound=bound, strict=strict, board=board)
        for number, store in enumerate(all_of)
    ]
    threads = [
        threading.Thread(target=actor.run, args=(duration, number), daemon=True) for number, actor in enumerate(actors)
    ]
    for thread in threads:
        thread.start()
    if disturb is not None:
        disturb()
    for thread in threads:
        thread.join()
    for store in all_of:
        flush(store)
    time.sleep(BOUNDS[WriteMode.WRITE_THROUGH])
    truth = {key: all_of[0].get(schema, key, default=Count(key), force_l3=True).n for key in range(KEYS)}
    at_rest = [actor.at_rest() for actor in actors]
    report = Report(
        sum(actor.report.operations for actor in actors),
        sum(actor.report.unavailable for actor in actors),
        sum(actor.report.regressions for actor in actors),
        [violation for actor in actors for violation in actor.report.violations],
    )
    report.violations += disagreements(truth, [actor.seen for actor in actors], at_rest)
    return report


def disagreements(
    truth: dict[int, int], seen: Sequence[dict[int, int]], at_rest: Sequence[dict[int, int]]
) -> list[str]:
    """What is wrong when nothing is written any more: writes that L3 does not have, and stores that show others."""
    found = []
    for key in range(KEYS):
        newest = max(one[key] for one in seen)
        if truth[key] < newest:
            found.append(f"key {key}: {newest} was acknowledged, and L3 holds {truth[key]}")
        found += [
            f"key {key}: a store shows {one[key]} at rest, and L3 holds {truth[key]}"
            for one in at_rest
            if one[key] != truth[key]
        ]
    return found


def flush(store: DataStore, timeout: float = 30.0) -> None:
    """Have everything in L3, however often it takes. Raises `StrataError` where it is not there in time."""
    deadline = time.monotonic() + timeout
    while True:
        try:
            store.flush_dirty(2)
            return
        except StrataError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.1)
