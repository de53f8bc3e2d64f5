"""How many hits LFU brings, beside LRU and the optimum, on streams made up for the one and for the other.

Nothing here depends on time or chance: a change of a number is a change of the policy.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest

from strata.policies import EvictionPolicy
from tests.benchmarks import traces
from tests.benchmarks.bench_eviction import hit_ratio, optimal

REQUESTS = 60_000


@pytest.mark.parametrize(
    ("make", "entries", "closed"),
    [
        pytest.param(lambda: traces.zipf(REQUESTS, 20_000, 0.9), 800, 38, id="skewed"),
        pytest.param(lambda: traces.scanned(REQUESTS, 10_000, 3_000, 1_500), 800, 35, id="scanned"),
        pytest.param(lambda: traces.looped(REQUESTS, 3_000), 300, 70, id="a loop"),
        pytest.param(lambda: traces.mixed(REQUESTS, 8_000, 1_500, 0.4), 800, 14, id="skewed, and a loop"),
        pytest.param(lambda: traces.drifting(REQUESTS, 10_000, 12_000), 500, 15, id="drifting"),
        pytest.param(lambda: traces.pages(REQUESTS, 10_000, 20), 800, 36, id="pages"),
    ],
)
def test_lfu_closes_a_part_of_the_gap_between_lru_and_the_optimum(
    make: Callable[[], list[int]], entries: int, closed: int
) -> None:
    keys = make()
    lru = hit_ratio(keys, entries, EvictionPolicy.LRU)
    gained = hit_ratio(keys, entries, EvictionPolicy.LFU) - lru
    assert 100 * gained / (optimal(keys, entries) - lru) >= closed


@pytest.mark.parametrize(
    ("make", "entries"),
    [
        pytest.param(lambda: traces.recency(REQUESTS, 1.0, 100, 0.05), 300, id="what was used last is used next"),
        pytest.param(lambda: traces.recency(REQUESTS, 2.5, 50, 0.1), 200, id="the same, with far reaches"),
        pytest.param(lambda: traces.sessions(REQUESTS, 100, 10, 20_000), 200, id="sessions"),
        pytest.param(lambda: traces.paired(2 * REQUESTS, 300), 600, id="every key twice"),
        pytest.param(lambda: traces.wandering(REQUESTS, 12_000, 200), 250, id="a place that moves on"),
        pytest.param(lambda: traces.lives(REQUESTS, 2_000, 1.0, 1_500), 400, id="short lives"),
    ],
)
def test_lfu_is_as_good_as_lru_where_lru_is_hard_to_beat(make: Callable[[], list[int]], entries: int) -> None:
    keys = make()
    lru, lfu = (hit_ratio(keys, entries, policy) for policy in (EvictionPolicy.LRU, EvictionPolicy.LFU))
    assert lfu >= lru - 0.3
