"""`increment`: numbers are added to, in every mode, and none of it is lost or counted twice."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Annotated, Any

import pytest

import strata
from strata import (
    DataStore,
    EncodeError,
    MemPolicy,
    NotFoundError,
    PostgresPolicy,
    RedisPolicy,
    Schema,
    WriteMode,
)
from tests.faces import AwaitedStore
from tests.stores import MakeStore, stores, sure

L1, L2, L3 = MemPolicy(ttl=60), RedisPolicy(ttl=600), PostgresPolicy()
BEHIND = WriteMode.WRITE_BEHIND
TIERS: dict[str, dict[str, Any]] = {
    "through": {"l1": L1, "l2": L2, "l3": L3},
    "through, L1 later": {"l1": L1, "l2": L2, "l3": L3, "write_mode": WriteMode.WRITE_THROUGH_L1_ASYNC},
    "behind": {"l1": L1, "l2": L2, "l3": L3, "write_mode": BEHIND},
    "behind, no L1": {"l1": None, "l2": L2, "l3": L3, "write_mode": BEHIND},
    "behind, no L2": {"l1": L1, "l2": None, "l3": L3, "write_mode": BEHIND},
    "L1+L2": {"l1": L1, "l2": L2, "l3": None},
    "L2": {"l1": None, "l2": L2, "l3": None},
    "L1": {"l1": L1, "l2": None, "l3": None},
}


@dataclass
class Counter:
    id: Annotated[int, strata.PrimaryKey]
    hits: int = 0
    weight: float = 0.0
    money: Decimal = Decimal(0)
    seen: int | None = None
    title: str = ""
    changed: Annotated[datetime | None, strata.AutoNow] = None


@pytest.fixture(params=[DataStore, AwaitedStore], ids=["sync", "awaited"])
def make(request: pytest.FixtureRequest, dsn: str, redis_addr: str) -> Any:
    with stores(dsn, redis_addr, request.param) as factory:
        yield factory


@pytest.fixture(params=TIERS)
def store(request: pytest.FixtureRequest, make: MakeStore) -> DataStore:
    return store_of(make, TIERS[request.param])


def store_of(make: MakeStore, tiers: dict[str, Any], **options: Any) -> DataStore:
    store = make()
    store.register(Schema(Counter, name="counters", **(tiers | options)))
    store.migrate()
    if any(tiers[name] is not None for name in ("l2", "l3")):
        sure(store)
    return store


def flushed(store: DataStore) -> Any:
    """The record, once everything deferred is in L3."""
    store.flush_dirty()
    return store.get(Counter, 1)


def test_what_is_added_is_returned_read_and_kept(store: DataStore) -> None:
    store.set(Counter, 1, Counter(1, hits=10, title="kept"))
    assert store.increment(Counter, 1, hits=5).hits == 15
    found = store.increment(Counter, 1, hits=-2, weight=1.5, money=Decimal("0.10"))
    assert (found.hits, found.weight, found.money) == (13, 1.5, Decimal("0.10"))
    assert store.get(Counter, 1).hits == 13
    kept = flushed(store)
    assert (kept.hits, kept.weight, kept.money, kept.title) == (13, 1.5, Decimal("0.10"), "kept")
    assert store.get_many(Counter, [1])[1].hits == 13


def test_a_record_that_is_not_there_is_not_made(store: DataStore) -> None:
    with pytest.raises(NotFoundError):
        store.increment(Counter, 1, hits=5)
    assert store.get(Counter, 1, default=None) is None


def test_with_a_default_it_is_made_and_added_to(store: DataStore) -> None:
    assert store.increment(Counter, 1, hits=5, default=Counter(1, hits=100, title="new")).hits == 105
    assert store.increment(Counter, 1, hits=5, default=Counter(1, hits=100)).hits == 110
    kept = flushed(store)
    assert (kept.hits, kept.title) == (110, "new")


def test_a_set_takes_the_place_of_what_was_added_before_it_and_not_after(store: DataStore) -> None:
    store.set(Counter, 1, Counter(1))
    store.increment(Counter, 1, hits=5)
    store.set(Counter, 1, Counter(1, hits=1000))
    assert store.increment(Counter, 1, hits=7).hits == 1007
    assert flushed(store).hits == 1007


def test_after_a_deletion_it_begins_anew(store: DataStore) -> None:
    store.set(Counter, 1, Counter(1))
    store.increment(Counter, 1, hits=5)
    store.delete(Counter, 1)
    with pytest.raises(NotFoundError):
        store.increment(Counter, 1, hits=1)
    assert store.increment(Counter, 1, hits=2, default=Counter(1, hits=10)).hits == 12
    assert store.get(Counter, 1).hits == 12
    assert flushed(store).hits == 12


def test_fields_that_are_none_count_from_zero(store: DataStore) -> None:
    store.set(Counter, 1, Counter(1))
    assert store.increment(Counter, 1, seen=3).seen == 3
    assert flushed(store).seen == 3


def test_auto_now_is_stamped(store: DataStore) -> None:
    before = store.set(Counter, 1, Counter(1)).changed
    after = store.increment(Counter, 1, hits=1).changed
    assert before is not None and after is not None and after > before
    assert flushed(store).changed == after


def test_what_a_caller_changes_of_the_record_changes_nothing(store: DataStore) -> None:
    store.set(Counter, 1, Counter(1))
    store.increment(Counter, 1, hits=1).hits = 100
    assert store.increment(Counter, 1, hits=1).hits == 2
    assert flushed(store).hits == 2


@pytest.mark.parametrize(
    ("deltas", "told"),
    [
        ({}, "no field"),
        ({"nothing": 1}, "no number 'nothing'"),
        ({"id": 1}, "no number 'id'"),
        ({"title": 1}, "no number 'title'"),
        ({"hits": 1.5}, "float cannot be added"),
        ({"hits": True}, "bool cannot be added"),
        ({"hits": "1"}, "str cannot be added"),
        ({"hits": 1 << 63}, "BIGINT"),
        ({"weight": float("nan")}, "not finite"),
        ({"weight": 10**400}, "below 1.8e308"),
        ({"money": 0.1}, "float cannot be added"),
        ({"money": Decimal("Infinity")}, "not finite"),
    ],
)
def test_what_cannot_be_added_is_refused_and_nothing_is_written(
    make: MakeStore, deltas: dict[str, Any], told: str
) -> None:
    store = store_of(make, TIERS["behind"])
    store.set(Counter, 1, Counter(1))
    with pytest.raises(EncodeError, match=told):
        store.increment(Counter, 1, **deltas)
    assert flushed(store) == store.get(Counter, 1, force_l3=True)
    assert store.get(Counter, 1).hits == 0


def test_threads_that_add_at_once_are_all_counted(store: DataStore) -> None:
    store.set(Counter, 1, Counter(1))
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda number: store.increment(Counter, 1, hits=1).hits, range(80)))
    assert store.get(Counter, 1).hits == 80
    assert flushed(store).hits == 80
    assert sorted(found) == list(range(1, 81))
