"""Failovers, resharding and replicas that lag, under load: nothing acknowledged is lost, and nothing stays stale."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from strata import L2PoolConfig, L3PoolConfig, WriteMode
from strata.embedded import EmbeddedCluster, EmbeddedSentinel
from strata.testing import Count, observe
from tests.stores import MakeStore, schema, stores, sure

pytestmark = [pytest.mark.faults, pytest.mark.slow, pytest.mark.timeout(300)]

SHORT: dict[str, Any] = {
    "l2_pool": L2PoolConfig(dial_timeout=0.3, read_timeout=0.3, write_timeout=0.3),
    "l3_pool": L3PoolConfig(connect_timeout=1, acquire_timeout=1, statement_timeout=2, lock_timeout=1),
    "write_behind_flush_interval": 0.05,
}
SECONDS = 8.0
MODES = [WriteMode.WRITE_THROUGH, WriteMode.WRITE_BEHIND]


@pytest.fixture
def cluster() -> Iterator[EmbeddedCluster]:
    with EmbeddedCluster(password="secret") as servers:
        yield servers


@pytest.fixture
def sentinel() -> Iterator[EmbeddedSentinel]:
    with EmbeddedSentinel(password="secret") as servers:
        yield servers


@pytest.fixture
def make(dsn: str) -> Iterator[MakeStore]:
    with stores(dsn, "") as factory:
        yield lambda **options: factory(**(SHORT | options))


def load(make: MakeStore, mode: WriteMode, disturb: Callable[[], None], **options: Any) -> None:
    """Two stores at work while something is done to their servers."""
    pair = [make(**options) for _ in range(2)]
    for store in pair:
        store.register(schema(Count, name="counts", write_mode=mode))
    pair[0].migrate()
    for store in pair:
        sure(store)
    report = observe(pair, SECONDS, disturb, mode=mode)
    print(report)
    assert report.violations == []
    assert report.operations > 100


@pytest.mark.parametrize("mode", MODES, ids=lambda mode: mode.value)
def test_a_failover_of_sentinels_master_under_load(make: MakeStore, sentinel: EmbeddedSentinel, mode: WriteMode) -> None:
    def fail_over() -> None:
        time.sleep(1)
        master = sentinel.master()
        master.kill()
        sentinel.wait_failed_over(master)

    load(make, mode, fail_over, redis_addr=sentinel.url)


@pytest.mark.parametrize("mode", MODES, ids=lambda mode: mode.value)
def test_a_failover_of_a_clusters_master_under_load(
    make: MakeStore, cluster: EmbeddedCluster, mode: WriteMode, redis_addr: str
) -> None:
    def fail_over() -> None:
        time.sleep(1)
        master = cluster.owner_of("strata:counts:1")
        master.kill()
        cluster.wait_failed_over(master)

    load(make, mode, fail_over, redis_addr=cluster.url, broker_url=f"redis://{redis_addr}")


@pytest.mark.parametrize("mode", MODES, ids=lambda mode: mode.value)
def test_slots_that_move_under_load(
    make: MakeStore, cluster: EmbeddedCluster, mode: WriteMode, redis_addr: str
) -> None:
    def reshard() -> None:
        time.sleep(1)
        for key in range(0, 24, 2):
            name = f"strata:counts:{key}"
            owner = cluster.owner_of(name)
            cluster.move_slot(name, next(node for node in cluster.nodes[:3] if node is not owner))

    load(make, mode, reshard, redis_addr=cluster.url, broker_url=f"redis://{redis_addr}")
