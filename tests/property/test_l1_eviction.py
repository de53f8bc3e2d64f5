"""L1 against naive models: whatever is done in whatever order."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from strata.l1.evicted import Evicted, EvictionReason
from strata.l1.store import MemStore
from strata.policies import EvictionPolicy
from strata.waits.clock import ManualClock

KEYS = st.integers(0, 12)
STEPS = st.lists(st.tuples(st.sampled_from(["put", "put", "hit", "hit", "drop", "clear"]), KEYS), max_size=200)


def play(eviction: EvictionPolicy, capacity: int, steps: list[tuple[str, int]]) -> list[Any]:
    """Who was evicted, in order, by a store without expiry; each step a moment later."""
    clock = ManualClock()
    store = MemStore(capacity=capacity, ttl=0, eviction=eviction, clock=clock)
    gone: list[Any] = []
    for step, key in steps:
        clock.advance(0.001)
        entry = store.entries.get(key)
        if step == "put":
            gone += [item.key for item in store.put(key, key, 1)]
        elif step == "hit" and entry is not None:
            entry.used = clock.monotonic()
            entry.hits += 1
        elif step == "drop":
            store.drop(key)
        elif step == "clear" and key == 0:
            store.clear()
    return gone


def model(eviction: EvictionPolicy, capacity: int, steps: list[tuple[str, int]]) -> list[Any]:
    """The same by the book, with work on every hit."""
    order: OrderedDict[int, None] = OrderedDict()
    gone: list[Any] = []
    for step, key in steps:
        if step == "drop":
            order.pop(key, None)
        elif step == "clear":
            if key == 0:
                order.clear()
        elif key in order:
            if eviction is EvictionPolicy.LRU:
                order.move_to_end(key)
        elif step == "put":
            if len(order) == capacity:
                gone.append(order.popitem(last=False)[0])
            order[key] = None
    return gone


@given(STEPS, st.integers(1, 8))
@settings(max_examples=300)
def test_lru_evicts_in_the_order_of_a_cache_that_works_on_every_hit(steps: list[tuple[str, int]], size: int) -> None:
    assert play(EvictionPolicy.LRU, size, steps) == model(EvictionPolicy.LRU, size, steps)


@given(STEPS, st.integers(1, 8))
@settings(max_examples=300)
def test_fifo_evicts_in_the_order_of_arrival(steps: list[tuple[str, int]], size: int) -> None:
    assert play(EvictionPolicy.FIFO, size, steps) == model(EvictionPolicy.FIFO, size, steps)


class Store(RuleBasedStateMachine):
    """Every record is in the store, or its leaving was reported exactly once, or it was removed on request."""

    @initialize(eviction=st.sampled_from(EvictionPolicy), capacity=st.integers(0, 6), ttl=st.sampled_from([0.0, 5.0]))
    def make(self, eviction: EvictionPolicy, capacity: int, ttl: float) -> None:
        self.capacity = capacity
        self.ttl = ttl
        self.clock = ManualClock(1000.0)
        self.store = MemStore(capacity=capacity, ttl=ttl, eviction=eviction, clock=self.clock)
        self.model: dict[int, tuple[int, float]] = {}  # key to version and end
        self.hits = self.evictions = self.expirations = self.version = 0

    @rule(key=KEYS)
    def put(self, key: int) -> None:
        self.version += 1
        now = self.clock.monotonic()
        expired = key in self.model and self.model[key][1] <= now
        gone = self.store.put(key, (key, self.version), self.version)
        assert [item.key for item in gone] == [key] if expired else all(item.key != key for item in gone)
        self.left(gone, now)
        self.model[key] = (self.version, now + self.ttl if self.ttl else float("inf"))

    @rule(key=KEYS)
    def get(self, key: int) -> None:
        now = self.clock.monotonic()
        entry = self.store.live(key, now)
        version, end = self.model.get(key, (0, 0.0))
        assert (entry is not None) is (now < end)
        if entry is not None:
            assert entry.value == (key, version)
            entry.used = now
            entry.hits += 1
            self.hits += 1

    @rule(key=KEYS)
    def drop(self, key: int) -> None:
        assert self.store.drop(key) is (self.model.pop(key, None) is not None)

    @rule(seconds=st.sampled_from([0.0, 0.5, 3.0]))
    def wait(self, seconds: float) -> None:
        self.clock.advance(seconds)

    @rule(budget=st.integers(1, 3))
    def sweep(self, budget: int) -> None:
        now = self.clock.monotonic()
        self.left(self.store.sweep(now, budget), now)
        assert all(end > now for _, end in self.model.values())

    @rule()
    def clear(self) -> None:
        self.store.clear()
        self.model.clear()

    def left(self, gone: list[Evicted], now: float) -> None:
        for item in gone:
            version, end = self.model.pop(item.key)
            assert item.value == (item.key, version)
            assert item.reason is (EvictionReason.EXPIRED if end <= now else EvictionReason.CAPACITY)
            self.expirations += item.reason is EvictionReason.EXPIRED
            self.evictions += item.reason is EvictionReason.CAPACITY

    @invariant()
    def same_content(self) -> None:
        if hasattr(self, "store"):
            assert {key: entry.version for key, entry in self.store.entries.items()} == {
                key: version for key, (version, _) in self.model.items()
            }

    @invariant()
    def bounded(self) -> None:
        if hasattr(self, "store"):
            assert not self.capacity or len(self.store) <= self.capacity
            assert len(self.store._policy) <= 2 * len(self.store) + 64 + self.capacity

    @invariant()
    def counted(self) -> None:
        if hasattr(self, "store"):
            found = (self.store.hits, self.store.evictions, self.store.expirations)
            assert found == (self.hits, self.evictions, self.expirations)


Store.TestCase.settings = settings(max_examples=150, stateful_step_count=60)
TestStore = Store.TestCase
