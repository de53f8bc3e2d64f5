"""Exceptions from outside, at any moment (a soft time limit, an alarm, Ctrl-C): the store stays whole, and right."""

from __future__ import annotations

import gc
import random
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from typing import Any

import pytest

from strata import Collection, DataStore, L2PoolConfig, L3PoolConfig, StrataError, WriteMode
from strata.l3.pool import Database
from strata.testing import inspect
from tests.models import Note
from tests.stores import MakeStore, schema, wires_of
from tests.support import wait_until

pytestmark = [
    pytest.mark.faults,
    # An alarm may come while a `__del__` runs, from which no exception comes out: Python says so, and goes on.
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

KEYS = 20


class SoftLimit(Exception):
    """As `celery.exceptions.SoftTimeLimitExceeded`, which is an Exception too."""


class Alarm:
    """Raises in the main thread, once, at a moment within `call`."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)
        self._armed = False
        self.hits = 0

    def handle(self, *_: Any) -> None:
        if self._armed:
            self._armed = False
            raise SoftLimit

    def during(self, call: Callable[[], object], longest: float) -> None:
        try:
            self._armed = True
            try:
                signal.setitimer(signal.ITIMER_REAL, self._random.uniform(0.00002, longest))
                call()
            finally:
                self._armed = False
                signal.setitimer(signal.ITIMER_REAL, 0)
        except SoftLimit:
            self.hits += 1


@pytest.fixture
def alarm(monkeypatch: pytest.MonkeyPatch) -> Iterator[Alarm]:
    made = Alarm(11)
    # Not pytest's, which makes texts of what it is given: an alarm there is one of its own failures.
    monkeypatch.setattr(sys, "unraisablehook", lambda _: None)
    before = signal.signal(signal.SIGALRM, made.handle)
    yield made
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, before)


def own_record(record: Note | None, key: int) -> bool:
    """Whether it is a record of that key: of no other call's answer."""
    return record is None or (record.id == key and record.text.startswith(f"{key}:"))


def unused(database: Database) -> bool:
    return database.counts().open == database.counts().idle


def whole(store: DataStore) -> None:
    """Nobody uses the store: nothing is held, counted or waited for."""
    gc.collect()
    for database in inspect(store).databases.values():
        wait_until(partial(unused, database), 5, "no seat is taken")
        assert database.counts().open <= database.config.max_conns
    server = inspect(store).redis
    wait_until(lambda: not wires_of(server)._seats.used, 5, "no wire is used")
    for bound in inspect(store).schemas.values():
        claims = bound.l1.claims
        claims._sweep()
        assert not claims._flights and not claims._claims and not claims._calls
        asks = threading.Thread(target=claims.release, daemon=True)  # another thread gets the lock
        asks.start()
        asks.join(5)
        assert not asks.is_alive()


def mixed(plain: Collection[Note], behind: Collection[Note], store: DataStore, chance: random.Random) -> Any:
    key = chance.randrange(KEYS)
    record = Note(key, f"{key}:{chance.random()}")

    def tx() -> None:
        with store.tx() as batch:
            batch.set("plain", key, record)
            batch.delete("plain", KEYS + key)

    def read(notes: Collection[Note], **how: Any) -> None:
        assert own_record(notes.get(key, default=None, **how), key)

    def many() -> None:
        assert all(own_record(found, id) for id, found in plain.get_many(range(KEYS)).items())

    calls: list[Callable[[], object]] = [
        lambda: read(plain),
        lambda: read(plain, force_l2=True),
        lambda: read(plain, force_l3=True),
        lambda: read(behind, force_l2=True),
        lambda: plain.set(key, record),
        lambda: behind.set(key, record),
        lambda: plain.invalidate(key),
        lambda: plain.set_many({key: record}),
        many,
        tx,
        lambda: store.flush_dirty(timeout=5),
    ]
    return chance.choice(calls)


@pytest.mark.parametrize("calls", [500, pytest.param(20_000, marks=pytest.mark.long)])
def test_a_store_is_whole_after_interrupts_at_any_moment(make: MakeStore, alarm: Alarm, calls: int) -> None:
    store = make(l3_pool=L3PoolConfig(max_conns=3), l2_pool=L2PoolConfig(pool_size=4), write_behind_flush_interval=0.05)
    plain = store.register(schema(Note, name="plain"))
    behind = store.register(schema(Note, name="behind", write_mode=WriteMode.WRITE_BEHIND))
    store.migrate()
    plain.set(0, Note(0, "0:first"))
    behind.set(0, Note(0, "0:first"))
    chance = random.Random(7)
    done = threading.Event()
    wrong: list[object] = []

    def beside() -> None:  # the interrupted calls share flights, pools and locks with it
        mine = random.Random(8)
        while not done.is_set():
            key = mine.randrange(KEYS)
            try:
                if not own_record(plain.get(key, default=None, force_l2=True), key):
                    wrong.append(key)
            except StrataError:
                pass
            except BaseException as error:
                wrong.append(error)
                raise

    other = threading.Thread(target=beside)
    other.start()
    try:
        for _ in range(calls):
            call = mixed(plain, behind, store, chance)
            with suppress(StrataError):
                alarm.during(call, 0.002)
    finally:
        done.set()
        other.join(30)
    assert not other.is_alive() and not wrong
    assert alarm.hits > calls / 5
    whole(store)

    # And it works as if nothing had been: at once, since no interrupt has opened a breaker for long.
    wait_until(lambda: all(d.breaker.closed or d.breaker.allow() for d in inspect(store).databases.values()), 5)
    wait_until(lambda: _answers(store, plain), 5)
    for key in range(KEYS):
        plain.set(key, Note(key, f"{key}:last"))
        behind.set(key, Note(key, f"{key}:last"))
    store.flush_dirty(timeout=20)
    assert store.stats().dirty_count == 0
    for notes in (plain, behind):
        assert all(notes.get(key, force_l3=True).text == f"{key}:last" for key in range(KEYS))
        assert all(notes.get(key, force_l2=True).text == f"{key}:last" for key in range(KEYS))
    store.close(timeout=10)
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("strata-")]


def _answers(store: DataStore, notes: Collection[Note]) -> bool:
    try:
        notes.set(0, Note(0, "0:again"))
        return notes.get(0, force_l3=True).text == "0:again"
    except StrataError:
        return False


def test_an_interrupted_loader_does_not_fail_those_who_wait_for_it(make: MakeStore, alarm: Alarm) -> None:
    store = make()
    notes = store.register(schema(Note, name="notes", l1=None, l2=None))
    store.migrate()
    notes.set(1, Note(1, "1:there"))
    done = threading.Event()
    errors: list[BaseException] = []

    def beside() -> None:
        while not done.is_set():
            try:
                notes.get(1)
            except BaseException as error:
                errors.append(error)

    others = [threading.Thread(target=beside) for _ in range(3)]
    for other in others:
        other.start()
    for _ in range(200):
        alarm.during(lambda: notes.get(1), 0.001)
    done.set()
    for other in others:
        other.join(20)
    assert alarm.hits > 20
    assert not errors


def test_an_interrupted_write_leaves_no_older_value_to_be_filled(make: MakeStore, alarm: Alarm) -> None:
    store, other = make(), make()
    notes = store.register(schema(Note, name="notes"))
    seen = other.register(schema(Note, name="notes", l1=None))
    store.migrate()
    for number in range(80):
        notes.set(1, Note(1, f"1:{number}a"))
        alarm.during(lambda number=number: notes.set(1, Note(1, f"1:{number}b")), 0.003)  # type: ignore[misc]
        seen.get(1)  # fills L2, where that may be
        wait_until(lambda: seen.get(1).text == notes.get(1, force_l3=True).text, 5)
        assert notes.get(1).text == notes.get(1, force_l3=True).text
    assert alarm.hits > 10


PACKING = """
import signal
from strata.l2.wire import packed

class SoftLimit(Exception): ...

def handle(*_):
    raise SoftLimit

signal.signal(signal.SIGALRM, handle)
hits = 0
while hits < 1000:
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.00003)
        while True:
            packed(("PX", 1000, 2000, 3.5, "text", b"bytes"))
    except SoftLimit:
        hits += 1
"""


def test_packing_a_command_survives_interrupts() -> None:
    assert subprocess.run([sys.executable, "-c", PACKING], timeout=60, check=False).returncode == 0
