"""Failovers, resharding and replicas that lag, under load: nothing acknowledged is lost, and nothing stays stale."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import pytest
import redis

from strata import (
    DataStore,
    L2PoolConfig,
    L3PoolConfig,
    L3UnavailableError,
    MigrationError,
    PostgresPolicy,
    Q,
    UnavailableError,
    WriteMode,
)
from strata.embedded import EmbeddedCluster, EmbeddedPostgres, EmbeddedSentinel, EmbeddedStandby, EmbeddedValkey
from strata.testing import Count, observe
from tests.databases import NEWEST, ThrowawayPostgres
from tests.models import Note
from tests.stores import MakeStore, schema, stores, sure
from tests.support import wait_until

pytestmark = [pytest.mark.faults, pytest.mark.slow, pytest.mark.timeout(300)]

SHORT: dict[str, Any] = {
    "l2_pool": L2PoolConfig(dial_timeout=0.3, read_timeout=0.3, write_timeout=0.3),
    "l3_pool": L3PoolConfig(connect_timeout=1, acquire_timeout=1, statement_timeout=2, lock_timeout=1),
    "write_behind_flush_interval": 0.05,
}
SECONDS = 5.0
MODES = [
    pytest.param(WriteMode.WRITE_THROUGH, id="write_through", marks=pytest.mark.long),
    pytest.param(WriteMode.WRITE_BEHIND, id="write_behind"),
]


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


@pytest.mark.in_turn
@pytest.mark.parametrize("mode", MODES)
def test_a_failover_of_sentinels_master_under_load(
    make: MakeStore, sentinel: EmbeddedSentinel, mode: WriteMode
) -> None:
    def fail_over() -> None:
        time.sleep(1)
        master = sentinel.master()
        master.kill()
        sentinel.wait_failed_over(master)

    load(make, mode, fail_over, redis_addr=sentinel.url)


@pytest.mark.parametrize("mode", MODES)
def test_a_failover_of_a_clusters_master_under_load(
    make: MakeStore, cluster: EmbeddedCluster, mode: WriteMode, redis_addr: str
) -> None:
    def fail_over() -> None:
        time.sleep(1)
        master = cluster.owner_of("strata:counts:1")
        master.kill()
        cluster.wait_failed_over(master)

    load(make, mode, fail_over, redis_addr=cluster.url, broker_url=f"redis://{redis_addr}")


@pytest.mark.in_turn
@pytest.mark.parametrize("mode", MODES)
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


@pytest.mark.in_turn
def test_what_sentinels_new_master_had_not_copied_is_not_shown_old(make: MakeStore, sentinel: EmbeddedSentinel) -> None:
    writer, reader = pair_with_notes(make, redis_addr=sentinel.url)
    master = sentinel.master()
    replica = next(server for server in sentinel.servers if server is not master)
    with behind(master, replica):
        change(writer)
        master.kill()
    sentinel.wait_failed_over(master)
    all_see_the_change(writer, reader)


def test_what_a_clusters_new_master_had_not_copied_is_not_shown_old(
    make: MakeStore, cluster: EmbeddedCluster, redis_addr: str
) -> None:
    writer, reader = pair_with_notes(make, redis_addr=cluster.url)
    masters = {cluster.owner_of(f"strata:notes:{n}") for n in (1, 2, 3)}
    for master in masters:
        (replica,) = cluster.replicas_of(master)
        with behind(master, replica):
            change(writer)
            master.kill()
        cluster.wait_failed_over(master)
        all_see_the_change(writer, reader)
        master.restart()
        wait_until(partial(cluster.replicas_of, replica), timeout=30)
        writer.set_many("notes", {n: Note(n, "old") for n in (1, 2, 3)})


def test_without_any_node_of_the_cluster_all_goes_on_from_postgres(
    make: MakeStore, cluster: EmbeddedCluster, redis_addr: str
) -> None:
    store, late = make(redis_addr=cluster.url), make(redis_addr=cluster.url)
    for each in (store, late):
        each.register(schema(Note, name="notes"))
    store.migrate()
    store.set("notes", 1, Note(1, "before"))
    for node in cluster.nodes:
        node.kill()
    for each in (store, late):  # one that had connections, and one that never had
        each.set("notes", 1, Note(1, "during"))
        assert each.get("notes", 1).text == "during"
        assert each.get("notes", 1, force_l2=True).text == "during"
    for node in cluster.nodes:
        node.restart()
    for each in (store, late):
        wait_until(partial(hits_l2, each), timeout=40, what="reads from the cluster")
        assert each.get("notes", 1, force_l2=True).text == "during"


def hits_l2(store: DataStore) -> bool:
    before = store.stats().l2_hits
    store.get("notes", 1, force_l2=True)
    return store.stats().l2_hits > before


def pair_with_notes(make: MakeStore, **options: Any) -> tuple[DataStore, DataStore]:
    pair = make(**options), make(**options)
    for store in pair:
        store.register(schema(Note, name="notes"))
    pair[0].migrate()
    for store in pair:
        sure(store)
    pair[0].set_many("notes", {n: Note(n, "old") for n in (1, 2, 3)})
    return pair


@contextmanager
def behind(master: EmbeddedValkey, replica: EmbeddedValkey) -> Iterator[None]:
    """Cut a replica off once it has all that its master has, for the length of the block."""
    with redis.Redis(port=master.port, password="secret") as client:
        assert client.wait(1, 10_000) == 1
        replica.freeze()
        client.client_kill_filter(_type="replica")
    try:
        yield
    finally:
        replica.thaw()


def change(store: DataStore) -> None:
    store.set("notes", 1, Note(1, "new"))
    store.delete("notes", 2)
    store.set_many("notes", {3: Note(3, "new")})


def all_see_the_change(*pair: DataStore) -> None:
    for store in pair:
        sees_the_change(store)


def sees_the_change(store: DataStore) -> None:
    sure(store)
    wait_until(lambda: store.get("notes", 1, force_l2=True).text == "new")
    wait_until(lambda: store.get("notes", 2, force_l2=True, default=None) is None)
    wait_until(lambda: store.get("notes", 3, force_l2=True).text == "new")
    wait_until(lambda: store.get("notes", 1).text == "new")


# A replica of PostgreSQL.


@pytest.fixture(params=NEWEST)
def lagging(request: pytest.FixtureRequest) -> Iterator[tuple[EmbeddedPostgres, EmbeddedStandby]]:
    with ThrowawayPostgres(request.param) as primary, EmbeddedStandby(primary) as standby:
        yield primary, standby


def test_a_replica_that_lags_answers_queries_and_puts_nothing_old_over_what_is_new(
    lagging: tuple[EmbeddedPostgres, EmbeddedStandby], redis_addr: str
) -> None:
    primary, standby = lagging
    with stores(primary.dsn, redis_addr) as make:
        store, other = make(), make()
        for each in (store, other):
            each.register(schema(Note, name="notes", l3=PostgresPolicy(read_replica=standby.dsn)))
        store.migrate()
        query = Q().where("id < $1", 100).order_by("id")
        store.set_many("notes", {n: Note(n, "old") for n in range(10)})
        wait_until(lambda: counted(store) == 10, what="the replica's copy")
        standby.lag(3600)
        store.set("notes", 1, Note(1, "new"))
        store.delete("notes", 2)
        store.set("notes", 10, Note(10, "new"))
        for each in (store, other):
            found = {note.id: note.text for note in each.search("notes", query)}
            assert found == dict.fromkeys(range(10), "old")  # the replica's, and as late
            assert each.count("notes") == 10
            assert [note.text for note in each.search_cached("notes", query)] == ["old"] * 10
            for options in ({}, {"force_l2": True}, {"force_l3": True}):
                assert each.get("notes", 1, **options).text == "new"
                assert each.get("notes", 2, default=None, **options) is None
                assert each.get("notes", 10, **options).text == "new"
            assert each.get_many("notes", [1, 2, 10]) == {1: Note(1, "new"), 10: Note(10, "new")}
            assert each.warm_cache("notes") == 10
            assert each.get("notes", 1).text == "new"
        standby.lag(0)
        wait_until(lambda: {note.text for note in store.search("notes", Q().where("id = 1"))} == {"new"})
        wait_until(lambda: store.count("notes") == 10 and store.search("notes", Q().where("id = 2")) == [])


def test_without_its_replica_queries_say_so_and_records_are_read_on(
    lagging: tuple[EmbeddedPostgres, EmbeddedStandby], redis_addr: str
) -> None:
    primary, standby = lagging
    with stores(primary.dsn, redis_addr) as make:
        store = make(**SHORT)
        store.register(schema(Note, name="notes", l3=PostgresPolicy(read_replica=standby.dsn)))
        store.migrate()
        store.set("notes", 1, Note(1, "kept"))
        wait_until(lambda: counted(store) == 1)
        standby.kill()
        with pytest.raises(L3UnavailableError):
            store.count("notes")
        assert store.get("notes", 1, force_l3=True).text == "kept"
        standby.restart()
        wait_until(lambda: counted(store) == 1)


def counted(store: DataStore) -> int:
    try:
        return store.count("notes")
    except (UnavailableError, MigrationError):  # the replica may not even have the table yet
        return -1
