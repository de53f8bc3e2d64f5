"""Eviction: hit ratios of the policies beside the optimum (Belady), on made-up streams and on traces given.

A row is the share of the gap between LRU and the optimum that the policy closes. Judge on traces that no policy was
tuned on: `--trace FILE:ENTRIES`, or `FILE:ENTRIES:FORMAT` for numbers that are not big-endian and of 32 bits.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterator, Sequence

from strata.l1.store import MemStore
from strata.policies import EvictionPolicy
from strata.waits.clock import ManualClock
from tests.benchmarks import traces
from tests.benchmarks.harness import Row, Target
from tests.benchmarks.options import Options

MADE_UP: dict[str, tuple[Callable[[], list[int]], int]] = {
    "zipf 0.9": (lambda: traces.zipf(200_000, 50_000, 0.9), 2_000),
    "zipf and scans": (lambda: traces.scanned(150_000, 20_000, 5_000, 2_000), 2_000),
    "loop that does not fit": (lambda: traces.looped(100_000, 3_000), 2_000),
    "drifting zipf": (lambda: traces.drifting(200_000, 20_000, 40_000), 2_000),
    "zipf and a loop": (lambda: traces.mixed(200_000, 20_000, 3_000, 0.4), 2_000),
    "days, nights, batches": (lambda: traces.days(200_000, 20_000, 50_000), 2_000),
    "pages of a list": (lambda: traces.pages(200_000, 20_000, 20), 2_000),
    "keys that live a while": (lambda: traces.lives(200_000, 5_000, 0.8, 20_000), 2_000),
    "recency": (lambda: traces.recency(200_000, 1.0, 300, 0.05), 1_000),
    "recency, far": (lambda: traces.recency(200_000, 2.5, 100, 0.1), 500),
    "sessions": (lambda: traces.sessions(200_000, 300, 10, 50_000), 600),
    "every key twice": (lambda: traces.paired(200_000, 1_000), 2_000),
    "a place that moves on": (lambda: traces.wandering(200_000, 40_000, 700), 800),
}
CLOSED = Target(18, 20, more=True)  # percent
LOST = Target(-0.3, more=True)  # percentage points


def run(options: Options) -> list[Row]:
    rows: list[Row] = []
    real: list[float] = []
    for name, keys, entries in _streams(options):
        best = optimal(keys, entries)
        ratios = {policy: hit_ratio(keys, entries, policy) for policy in EvictionPolicy}
        rows += _rows(f"{name} at {entries:,}", ratios, best)
        if name not in MADE_UP:
            real.append(_share(ratios, best))
    if real:
        rows.append(_line("mean of the traces given, LFU", "gap LRU to optimal", sum(real) / len(real), CLOSED))
    return rows


def hit_ratio(keys: Sequence[int], entries: int, policy: EvictionPolicy) -> float:
    """Hits in percent of a store that is read through, one second a request."""
    clock = ManualClock()
    store = MemStore(capacity=entries, ttl=0, eviction=policy, clock=clock)
    look_up = store.entries.get
    for key in keys:
        clock.advance(1.0)
        entry = look_up(key)
        if entry is None:
            store.put(key, None, 1)
        else:
            entry.used = clock.monotonic()
            entry.hits += 1
    return 100 * store.hits / len(keys)


def optimal(keys: Sequence[int], entries: int) -> float:
    """Hits in percent where the one leaves that is asked for last (Belady, 1966)."""
    never = len(keys)
    upcoming = [never] * never
    later: dict[int, int] = {}
    for position in range(never - 1, -1, -1):
        upcoming[position] = later.get(keys[position], never)
        later[keys[position]] = position
    held: dict[int, int] = {}
    queue: list[tuple[int, int]] = []
    hits = 0
    for position, key in enumerate(keys):
        if key in held:
            hits += 1
        elif len(held) >= entries:
            _evict(held, queue)
        held[key] = upcoming[position]
        heapq.heappush(queue, (-upcoming[position], key))
    return 100 * hits / len(keys)


def _evict(held: dict[int, int], queue: list[tuple[int, int]]) -> None:
    while True:
        when, key = heapq.heappop(queue)
        if held.get(key) == -when:
            del held[key]
            return


def _streams(options: Options) -> Iterator[tuple[str, list[int], int]]:
    for name, (make, entries) in MADE_UP.items():
        yield name, make(), entries
    for trace in options.traces:
        yield trace.path.name.split(".")[0], trace.keys(), trace.entries


def _rows(stream: str, ratios: dict[EvictionPolicy, float], best: float) -> list[Row]:
    lru, lfu = ratios[EvictionPolicy.LRU], ratios[EvictionPolicy.LFU]
    hits = ", ".join(f"{policy.name} {ratio:.1f}" for policy, ratio in ratios.items())
    return [
        _line(f"{stream}: {hits}, optimal {best:.1f}", "gap LRU to optimal", _share(ratios, best)),
        _line(f"{stream}: LFU", "hits of LRU", lfu - lru, LOST, " points"),
    ]


def _share(ratios: dict[EvictionPolicy, float], best: float) -> float:
    lru = ratios[EvictionPolicy.LRU]
    return 100 * (ratios[EvictionPolicy.LFU] - lru) / max(best - lru, 0.01)


def _line(what: str, against: str, value: float, target: Target | None = None, unit: str = " %") -> Row:
    return Row(what, against, value, value, value, target, unit)
