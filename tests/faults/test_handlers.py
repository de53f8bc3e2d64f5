"""Signal handlers that call the store, at any moment of a call: they are served or refused, and never hang."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable

import pytest

from strata import StrataError, WriteMode
from tests import forked
from tests.models import Note
from tests.stores import MakeStore, schema

pytestmark = pytest.mark.faults

TICK = 0.002  # seconds between two signals
MODES = [WriteMode.WRITE_THROUGH, WriteMode.WRITE_BEHIND]


class Interrupted:
    """Calls `call` again and again, and `handler` in a signal's handler meanwhile, `times` in all."""

    def __init__(self, handler: Callable[[int], object], times: int) -> None:
        self.hits = 0
        self.refusals: list[StrataError] = []
        self._handler = handler
        self._times = times

    def during(self, call: Callable[[int], object]) -> None:
        before = signal.signal(signal.SIGALRM, self._handle)
        try:
            self._arm()
            number = 0
            while self.hits < self._times:
                number += 1
                call(number)
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)

    def _handle(self, *_: object) -> None:
        self.hits += 1
        try:
            self._handler(self.hits)
        except StrataError as error:
            self.refusals.append(error)
        finally:
            self._arm()

    def _arm(self) -> None:
        signal.setitimer(signal.ITIMER_REAL, TICK if self.hits < self._times else 0)


@pytest.mark.parametrize("mode", MODES)
def test_a_handler_that_calls_the_store_is_served_or_refused(make: MakeStore, mode: WriteMode) -> None:
    store = make(write_behind_flush_interval=0.05)
    notes = store.register(schema(Note, name="notes", write_mode=mode))
    store.migrate()
    told = [0]

    def in_handler(hit: int) -> None:
        notes.set(0, Note(0, str(hit)))
        told[0] = hit
        assert notes.get(0).text == str(hit)
        notes.get_many([0, 1, 2])
        notes.get(hit % 5, default=None)
        if not hit % 10:
            store.flush_dirty(timeout=5)
        store.stats()

    def call(number: int) -> None:
        key = 1 + number % 4
        notes.set(key, Note(key, str(number)))
        notes.get_many([1, 2])
        if not number % 20:
            notes.set_many({5: Note(5, str(number))})
        assert notes.get(key).text == str(number)

    interrupted = Interrupted(in_handler, 300)
    interrupted.during(call)
    assert all("signal's handler" in str(error) for error in interrupted.refusals)
    assert len(interrupted.refusals) < 200
    store.flush_dirty(timeout=10)
    assert notes.get(0, force_l3=True).text == str(told[0])
    assert notes.get(0, force_l2=True).text == str(told[0])


CLOSING = """
import os, signal, sys, time
from strata import Config, DataStore, StrataError, WriteMode
from tests.models import Note
from tests.stores import schema

store = DataStore(Config.from_env(write_behind_flush_interval=600))
notes = store.register(schema(Note, name="notes", write_mode=WriteMode.WRITE_BEHIND))
last = 0

def handle(*_):
    for call in (store.flush_dirty, store.close):
        try:
            call(timeout=5)
        except StrataError as error:
            assert "signal's handler" in str(error), error
            signal.setitimer(signal.ITIMER_REAL, 0.0003)
            return
    print(last, flush=True)
    os._exit(0)

notes.set(1, Note(1, "0"))
signal.signal(signal.SIGALRM, handle)
signal.setitimer(signal.ITIMER_REAL, 0.05 + float(sys.argv[1]))
while True:
    notes.set(1, Note(1, str(last + 1)))
    last += 1
"""


def test_a_handler_that_closes_the_store_loses_nothing_and_never_hangs(
    make: MakeStore, dsn: str, redis_addr: str
) -> None:
    store = make()
    notes = store.register(schema(Note, name="notes"))
    store.migrate()
    environment = {"STRATA_POSTGRES_DSN": dsn, "STRATA_REDIS_ADDR": redis_addr}
    for number in range(5):
        ended = forked.run(
            [sys.executable, "-c", CLOSING, str(number * 0.0137)],
            env=os.environ | environment, timeout=40, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        assert ended.returncode == 0
        assert int(notes.get(1, force_l3=True).text) >= int(ended.stdout)
