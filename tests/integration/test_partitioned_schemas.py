"""Schemas whose tables are partitioned by month, through the whole store: every write mode, every tier, the fleet."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import psycopg
import pytest

import strata
from strata import UNLOADED, DataStore, Index, MemPolicy, PostgresPolicy, Q, RedisPolicy, Schema, WriteMode
from strata.l3.partition import Month, months_from
from tests.behind import client
from tests.fleet import environment, workers
from tests.stores import MakeStore
from tests.support import wait_until

NOW = datetime.now(UTC).replace(day=10, hour=12, minute=0, second=0, microsecond=0)
NEXT = Month.of(NOW).next().start
PAST = datetime(2001, 2, 3, tzinfo=UTC)
MODES = list(WriteMode)


@dataclass
class Order:
    """Partitioned by a timestamp that its owner sets."""

    id: Annotated[str, strata.PrimaryKey]
    placed: datetime | None
    total: int = 0
    tags: list[str] = field(default_factory=list)
    secret: Annotated[str | None, strata.OmitCache] = None
    created: Annotated[datetime | None, strata.AutoNowAdd] = None


@dataclass
class Log:
    """Partitioned by the stamp of its first insert."""

    id: Annotated[int, strata.PrimaryKey]
    text: str = ""
    at: Annotated[datetime | None, strata.AutoNowAdd] = None


@pytest.fixture(params=MODES, ids=lambda mode: mode.value)
def store(request: pytest.FixtureRequest, make: MakeStore) -> DataStore:
    return shop(make, request.param)


def shop(make: MakeStore, mode: WriteMode) -> DataStore:
    store = make()
    tiers = {"l1": MemPolicy(ttl=60), "l2": RedisPolicy(ttl=600), "write_mode": mode}
    store.register(Schema(Order, name="orders", l3=PostgresPolicy(partition_by="placed"), **tiers))  # type: ignore[arg-type]
    store.register(Schema(Log, name="logs", l3=PostgresPolicy(partition_by="at"), **tiers))  # type: ignore[arg-type]
    store.migrate()
    return store


def places(dsn: str, table: str = "orders") -> dict[Any, str]:
    """The partition of each key; a key that is there twice fails."""
    with psycopg.connect(dsn) as conn:
        rows = conn.execute(f"SELECT id, tableoid::regclass::text FROM {table}").fetchall()
    assert len(dict(rows)) == len(rows), "a key has two rows"
    return dict(rows)


def partition(at: datetime | None, table: str = "orders") -> str:
    made = at is not None and Month.of(at) in months_from(datetime.now(UTC))
    return f"{table}_{Month.of(at).suffix}" if at is not None and made else f"{table}_default"


def test_a_record_is_one_row_whatever_becomes_of_its_timestamp(store: DataStore, dsn: str) -> None:
    for total, at in enumerate([NOW, NEXT, None, PAST, NOW]):
        store.set(Order, "a", Order("a", at, total, ["x"]))
        assert store.get(Order, "a").placed == at
        store.flush_dirty()
        assert places(dsn) == {"a": partition(at)}
        found = store.get(Order, "a", force_l3=True)
        assert (found.placed, found.total, found.tags) == (at, total, ["x"])
    store.delete(Order, "a")
    store.flush_dirty()
    assert places(dsn) == {}
    assert store.get(Order, "a", default=None) is None


def test_what_the_first_insert_stamped_keeps_the_row_in_its_month(store: DataStore, dsn: str) -> None:
    first = store.set(Log, 1, Log(1, "one"))
    store.flush_dirty()
    store.set(Log, 1, Log(1, "two"))
    store.flush_dirty()
    found = store.get(Log, 1, force_l3=True)
    assert (found.text, found.at) == ("two", first.at)
    assert set(places(dsn, "logs")) == {1}


def test_many_records_and_transactions_cross_months(store: DataStore, dsn: str) -> None:
    moments = [NOW, NEXT, None, PAST]
    store.set_many(Order, {f"k{n}": Order(f"k{n}", moments[n % 4], n) for n in range(200)})
    store.set_many(Order, {f"k{n}": Order(f"k{n}", moments[(n + 1) % 4], n) for n in range(100, 300)})
    with store.tx() as tx:
        tx.set(Order, "k0", Order("k0", NEXT, 1000))
        tx.delete(Order, "k1")
        tx.set(Order, "new", Order("new", None))
        tx.set(Log, 7, Log(7))
    store.delete_many(Order, ["k2", "k3", "never"])
    store.flush_dirty()
    found = places(dsn)
    assert set(found) == {f"k{n}" for n in range(300)} - {"k1", "k2", "k3"} | {"new"}
    assert (found["k0"], found["new"]) == (partition(NEXT), "orders_default")
    assert all(found[f"k{n}"] == partition(moments[n % 4]) for n in range(4, 100))
    assert all(found[f"k{n}"] == partition(moments[(n + 1) % 4]) for n in range(100, 300))
    assert len(store.get_many(Order, [f"k{n}" for n in range(300)])) == 297


def test_a_transaction_that_fails_moves_nothing(make: MakeStore, dsn: str) -> None:
    store = shop(make, WriteMode.WRITE_THROUGH)
    store.set(Order, "a", Order("a", NOW, 1))
    with psycopg.connect(dsn) as conn:
        conn.execute("ALTER TABLE orders ADD CONSTRAINT low CHECK (total < 10)")
    with pytest.raises(strata.TxFailedError), store.tx() as tx:
        tx.set(Order, "a", Order("a", NEXT, 2))
        tx.set(Order, "b", Order("b", NEXT, 20))
    assert places(dsn) == {"a": partition(NOW)}
    assert store.get(Order, "a").placed == NOW


def test_searches_and_warming_see_every_partition(store: DataStore) -> None:
    for n, at in enumerate([NOW, NEXT, None, PAST]):
        store.set(Order, f"k{n}", Order(f"k{n}", at, n))
    store.flush_dirty()
    assert [order.id for order in store.search(Order, Q().where("placed >= $1", NOW).order_by("placed"))] == [
        "k0",
        "k1",
    ]
    assert store.count(Order) == 4
    assert sorted(order.id for order in store.search_iter(Order)) == ["k0", "k1", "k2", "k3"]
    assert store.warm_cache(Order) == 4


def test_a_record_that_was_not_loaded_whole_may_change_its_month(store: DataStore, dsn: str) -> None:
    store.set(Order, "a", Order("a", NOW, 5, secret="kept"))
    store.flush_dirty()
    store.invalidate(Order, "a")
    assert store.get(Order, "a").total == 5
    cached = store.get(Order, "a")
    assert cached.secret is UNLOADED
    cached.placed = NEXT
    store.set(Order, "a", cached)
    store.flush_dirty()
    found = store.get(Order, "a", force_l3=True)
    assert (found.placed, found.total, found.secret) == (NEXT, 5, "kept")
    assert places(dsn) == {"a": partition(NEXT)}


def test_two_instances_that_write_one_key_leave_one_row(make: MakeStore, dsn: str) -> None:
    both = [shop(make, WriteMode.WRITE_THROUGH), shop(make, WriteMode.WRITE_THROUGH)]
    moments = [NOW, NEXT, None, PAST]

    def write(number: int) -> None:
        for n in range(30):
            key = f"k{n % 3}"
            both[number % 2].set(Order, key, Order(key, moments[(n + number) % 4], n))

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(write, range(4)))
    assert set(places(dsn)) == {"k0", "k1", "k2"}
    for key in ("k0", "k1", "k2"):
        kept = both[0].get(Order, key, force_l3=True)
        kept.secret = UNLOADED
        for store in both:
            wait_until(lambda key=key, kept=kept, store=store: store.get(Order, key) == kept)  # type: ignore[misc]


def test_deferred_writes_of_two_instances_end_with_the_newest(make: MakeStore, dsn: str) -> None:
    first, second = shop(make, WriteMode.WRITE_BEHIND), shop(make, WriteMode.WRITE_BEHIND)
    for n in range(50):
        first.set(Order, f"k{n}", Order(f"k{n}", NOW, 1))
    first.flush_dirty()
    for n in range(50):
        second.set(Order, f"k{n}", Order(f"k{n}", NEXT, 2))
        if n % 10 == 0:
            second.delete(Order, f"k{n}")
    second.flush_dirty()
    first.flush_dirty()
    assert places(dsn) == {f"k{n}": partition(NEXT) for n in range(50) if n % 10}


def test_unique_columns_are_refused_at_register_with_the_reason(make: MakeStore) -> None:
    with pytest.raises(strata.InvalidModelError, match="partition"):
        make().register(
            Schema(Order, l3=PostgresPolicy(partition_by="placed"), indexes=[Index(["total"], unique=True)])
        )
    with pytest.raises(strata.InvalidModelError, match="datetime column"):
        make().register(Schema(Order, l3=PostgresPolicy(partition_by="total")))


@pytest.mark.slow
def test_a_worker_makes_partitions_ahead_once_an_hour(
    make: MakeStore, dsn: str, redis_addr: str, tmp_path: Path
) -> None:
    shop(make, WriteMode.WRITE_THROUGH)
    last = months_from(datetime.now(UTC))[-1]
    with psycopg.connect(dsn) as conn:
        conn.execute(f"DROP TABLE orders_{last.suffix}")
        conn.execute("INSERT INTO orders (id, placed, total, tags) VALUES ('a', %s, 1, '[]')", [last.start])
    (tmp_path / "monthly_app.py").write_text(
        "from strata import *\nfrom tests.integration.test_partitioned_schemas import Order\n"
        "store = DataStore(Config.from_env())\n"
        "store.register(Schema(Order, name='orders', l3=PostgresPolicy(partition_by='placed')))\n"
    )
    env = environment(dsn, redis_addr, STRATA_APP="monthly_app:store")
    env["PYTHONPATH"] += f":{tmp_path}"
    with workers(env, tmp_path):
        wait_until(lambda: places(dsn) == {"a": f"orders_{last.suffix}"}, timeout=30, what="the partition")
        wait_until(lambda: client(redis_addr).pttl("strata:{chores}:partitions") > 60_000, what="the lease")
    assert shop(make, WriteMode.WRITE_THROUGH).fleet.make_partitions() == 0  # not within the hour
