"""`get` before, during and after an outage: Redis killed, Redis frozen, PostgreSQL killed.

Every reader asks for a random record of all that there are, at a pace that leaves the machine idle, so that what is
measured is a call's own time. L1 forgets within a second, so that reads reach below it all the time. Time-outs are the
default ones. With `--plot FILE` every call is drawn, as SVG.
"""

from __future__ import annotations

import random
import statistics
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Annotated

from strata import Config, DataStore, MemPolicy, PostgresPolicy, PrimaryKey, RedisPolicy, Schema, UnavailableError
from strata.embedded import THROWAWAY, EmbeddedPostgres, EmbeddedValkey
from tests.benchmarks.harness import Row
from tests.benchmarks.options import Options
from tests.benchmarks.plot import Series, draw
from tests.stores import sure

RECORDS = 5_000
READERS = 4
PAUSE = 0.002  # seconds between the calls of a reader
PHASES = ("before", "during", "after")


@dataclass(frozen=True)
class Item:
    """What is read."""

    id: Annotated[int, PrimaryKey]
    text: str = "x" * 100


@dataclass(frozen=True, slots=True)
class Outage:
    """What is done to a server, and how it is undone."""

    name: str
    begin: Callable[[EmbeddedPostgres, EmbeddedValkey], None]
    end: Callable[[EmbeddedPostgres, EmbeddedValkey], None]


OUTAGES = [
    Outage("Redis dead", lambda postgres, valkey: valkey.kill(), lambda postgres, valkey: valkey.restart()),
    Outage("Redis frozen", lambda postgres, valkey: valkey.freeze(), lambda postgres, valkey: valkey.thaw()),
    Outage("PostgreSQL dead", lambda postgres, valkey: postgres.kill(), lambda postgres, valkey: postgres.restart()),
]


@dataclass(frozen=True, slots=True)
class Call:
    """One `get`: when it began, in seconds of the run, how long it took, and whether it had an answer."""

    at: float
    seconds: float
    answered: bool


def run(options: Options) -> list[Row]:
    phase = 2.0 if options.quick else 10.0
    rows: list[Row] = []
    series: list[Series] = []
    for outage in OUTAGES:
        calls, marks = _observed(outage, phase)
        rows += _rows(outage.name, calls, marks)
        points = [(call.at, call.seconds * 1000, call.answered) for call in calls]
        series.append(Series(outage.name, points, marks))
    if options.plot is not None:
        options.plot.write_text(draw(series, "milliseconds a get", "seconds"))
    return rows


def _observed(outage: Outage, phase: float) -> tuple[list[Call], tuple[float, float]]:
    with EmbeddedPostgres(settings=THROWAWAY) as postgres, EmbeddedValkey(password="") as valkey:
        with DataStore(Config(postgres_dsn=postgres.dsn, redis_addr=valkey.addr)) as store:
            store.register(Schema(Item, name="items", l1=MemPolicy(ttl=1), l2=RedisPolicy(), l3=PostgresPolicy()))
            store.migrate()
            store.set_many("items", {number: Item(number) for number in range(RECORDS)})
            sure(store)
            began = time.monotonic()
            stop = threading.Event()
            taken: list[list[Call]] = [[] for _ in range(READERS)]
            readers = [threading.Thread(target=_read, args=(store, calls, began, stop)) for calls in taken]
            for reader in readers:
                reader.start()
            time.sleep(phase)
            first = time.monotonic() - began
            outage.begin(postgres, valkey)
            time.sleep(phase)
            outage.end(postgres, valkey)
            second = time.monotonic() - began
            time.sleep(phase)
            stop.set()
            for reader in readers:
                reader.join()
            return sorted(chain.from_iterable(taken), key=lambda call: call.at), (first, second)


def _read(store: DataStore, calls: list[Call], began: float, stop: threading.Event) -> None:
    while not stop.is_set():
        key = random.randrange(RECORDS)
        at = time.monotonic()
        try:
            store.get("items", key)
            answered = True
        except UnavailableError:
            answered = False
        calls.append(Call(at - began, time.monotonic() - at, answered))
        time.sleep(PAUSE)


def _rows(name: str, calls: Sequence[Call], marks: tuple[float, float]) -> list[Row]:
    bounds = (0.0, *marks, float("inf"))
    rows = []
    for phase, low, high in zip(PHASES, bounds, bounds[1:], strict=False):
        some = [call for call in calls if low <= call.at < high]
        spent = sorted(call.seconds * 1000 for call in some)
        cuts = statistics.quantiles(spent, n=100, method="inclusive")
        missed = sum(not call.answered for call in some)
        what = f"{name}, {phase} ({len(some)} calls, {missed} failed)"
        rows += [
            _row(what, label, value) for label, value in (("p50", cuts[49]), ("p99", cuts[98]), ("max", spent[-1]))
        ]
    return rows


def _row(what: str, label: str, value: float) -> Row:
    return Row(what, label, value, value, value, unit=" ms")
