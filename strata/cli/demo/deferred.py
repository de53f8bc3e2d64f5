"""Stage 4: thousands of updates, written behind by a real worker that is killed on the way."""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace

import psycopg
from rich.progress import Progress

from strata.cli.demo.model import Place
from strata.cli.demo.report import Line, duration
from strata.cli.fleet import LocalFleet
from strata.datastore import DataStore
from strata.embedded.process import ServerProcess

PLACES = 6000  # that are updated again and again
ROUNDS = 5
KILLED, REPLACED = 2.5, 3.5  # rounds after which the worker is
RATE = 4500  # updates a second, so that the worker has time to work while they go on
PACE = 50  # updates between looks at the clock
EVERY = 20  # the last round deletes one of so many
STALLED = 3.0  # seconds without progress after which the fleet is not waited for any longer


@dataclass
class Updates:
    """What was written, and what must be in PostgreSQL in the end: the last visits by id, None for deleted."""

    last: dict[int, int | None] = field(default_factory=dict)
    times: list[float] = field(default_factory=list)


def write_behind(
    store: DataStore, found: Mapping[int, Place], fleet: LocalFleet, bars: Progress
) -> tuple[Updates, list[Line]]:
    """Update, kill the worker with its children, go on updating, start another one, wait for it."""
    worker = fleet.start_worker()
    updates = Updates()
    bar = bars.add_task("updating places, written behind", total=PLACES * ROUNDS)
    killing = Line("", "")
    for number, (round_, id) in enumerate(_plan(sorted(found))):
        _update(store, found[id], round_, updates)
        bars.advance(bar)
        if number == KILLED * PLACES:
            killing = _kill(worker, store, updates)
            bars.console.print(f"worker and children killed (SIGKILL): {killing.found}")
        elif number == REPLACED * PLACES:
            fleet.start_worker()
            bars.console.print("another worker started")
    return updates, [
        Line(f"{PLACES * ROUNDS:,} updates of {PLACES:,} places, written behind", _cost(updates.times)),
        killing,
        *_finish(store, bars),
    ]


def _plan(ids: list[int]) -> Iterator[tuple[int, int]]:
    """Rounds and ids, no faster than `RATE`."""
    chosen = random.Random(2).sample(ids, PLACES)  # noqa: S311 a sample of places
    due = time.perf_counter()
    for round_ in range(1, ROUNDS + 1):
        for number, id in enumerate(chosen):
            if number % PACE == 0:
                time.sleep(max(0.0, due - time.perf_counter()))
                due = max(due, time.perf_counter() - 0.1) + PACE / RATE
            yield round_, id


def _update(store: DataStore, place: Place, round_: int, updates: Updates) -> None:
    began = time.perf_counter()
    if round_ == ROUNDS and place.id % EVERY == 0:
        store.delete(Place, place.id)
        updates.last[place.id] = None
    else:
        visits = round_ * 1000 + place.id % 1000
        store.set(Place, place.id, replace(place, visits=visits))
        updates.last[place.id] = visits
    updates.times.append(time.perf_counter() - began)


def _cost(times: list[float]) -> str:
    ordered = sorted(times)
    return f"{duration(statistics.median(ordered))} each, 99 % below {duration(ordered[len(ordered) * 99 // 100])}"


def _kill(worker: ServerProcess, store: DataStore, updates: Updates) -> Line:
    """Kill it while work is under way, and see by plain SQL how far it was."""
    worker.kill()
    with psycopg.connect(store.config.postgres_dsn) as conn:
        rows: dict[int, int] = dict(conn.execute("SELECT id, visits FROM places WHERE visits > 0").fetchall())
    done = sum(rows.get(id) == visits for id, visits in updates.last.items())
    left = len(updates.last) - done
    said = f"{done:,} places were up to date in PostgreSQL, {left:,} not yet"
    return Line("when the worker was killed", said, done > 0 and left > 0)


def _finish(store: DataStore, bars: Progress) -> list[Line]:
    """Wait for the fleet as long as it gets on. What the killed worker had claimed would wait for its lease to end."""
    waiting = left = store.stats().dirty_count
    bar = bars.add_task("waiting for the fleet", total=waiting)
    began = moved = time.perf_counter()
    while left and time.perf_counter() - moved < STALLED:
        time.sleep(0.02)
        if (now := store.stats().dirty_count) != left:
            left, moved = now, time.perf_counter()
            bars.update(bar, completed=waiting - left)
    flushing = time.perf_counter()
    store.flush_dirty()
    flushed = time.perf_counter() - flushing
    bars.update(bar, completed=waiting)
    return [
        Line("after the last update the fleet wrote", f"{waiting - left:,} places in {duration(moved - began)}"),
        Line("flush_dirty wrote what the killed worker had claimed", f"{left:,} places in {duration(flushed)}"),
    ]
