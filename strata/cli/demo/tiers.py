"""Stage 2: one hit in each tier, timed, and told apart by the store's own counters."""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from rich.progress import Progress

from strata.cli.demo.model import Place
from strata.cli.demo.report import Line, duration
from strata.datastore import DataStore

SAMPLE = 500  # places
REPEATS = 20  # L1 hits of one place that are timed together, so that the timer costs little
SURE = 5.0  # seconds to wait until the store vouches for its L1

Read = Callable[[int], Place]


def time_tiers(store: DataStore, found: Mapping[int, Place], bars: Progress) -> list[Line]:
    """Read the same places from PostgreSQL, then from Redis, then from memory."""
    ids = random.Random(1).sample(sorted(found), SAMPLE)  # noqa: S311 a sample of places
    bar = bars.add_task("reading through each tier", total=3 * SAMPLE)
    _wait_until_sure(store, ids[0])
    for id in ids:
        store.invalidate(Place, id)
    lines, same = [], True
    for what, counter, repeats, read in _reads(store):
        hits = getattr(store.stats(), counter)
        median, got = _timed(ids, read, repeats)
        hits = getattr(store.stats(), counter) - hits
        lines.append(Line(what, f"{duration(median)} (median of {SAMPLE})", hits == SAMPLE * repeats))
        same = same and all(_bare(got[id]) == found[id] for id in ids)
        bars.advance(bar, SAMPLE)
    return [*reversed(lines), Line("each tier gives the same records", f"{SAMPLE} places, field by field", same)]


def _reads(store: DataStore) -> Sequence[tuple[str, str, int, Read]]:
    return (
        ("an L3 hit: PostgreSQL, filling both caches", "l3_hits", 1, lambda id: store.get(Place, id)),
        ("an L2 hit: Redis", "l2_hits", 1, lambda id: store.get(Place, id, force_l2=True)),
        ("an L1 hit: memory, a private copy", "l1_hits", REPEATS, lambda id: store.get(Place, id)),
    )


def _timed(ids: Sequence[int], read: Read, repeats: int) -> tuple[float, dict[int, Place]]:
    """The median time of one read in seconds, and what was read."""
    times, got = [], {}
    for id in ids:
        began = time.perf_counter()
        for _ in range(repeats):
            got[id] = read(id)
        times.append((time.perf_counter() - began) / repeats)
    return statistics.median(times), got


def _bare(place: Place) -> Place:
    return replace(place, created_at=None, updated_at=None)


def _wait_until_sure(store: DataStore, id: int) -> None:
    # L1 is not served before the invalidation channel is known to be heard.
    deadline = time.monotonic() + SURE
    hits = store.stats().l1_hits
    while store.stats().l1_hits < hits + 3 and time.monotonic() < deadline:
        store.get(Place, id)
        time.sleep(0.1)
