"""What every eviction policy promises, and what each promises besides."""

from __future__ import annotations

import random
from collections.abc import Iterable
from typing import Any

from strata.l1.evicted import Evicted, EvictionReason
from strata.l1.eviction.base import LOOKS
from strata.l1.eviction.ghosts import OLD, UNKNOWN, YOUNG, Ghosts
from strata.l1.store import MemStore
from strata.policies import EvictionPolicy
from strata.waits.clock import ManualClock


class Cache:
    """A store of one policy, with a clock that moves at every step, as the engine would use it."""

    def __init__(self, eviction: EvictionPolicy, capacity: int, ttl: float = 0.0) -> None:
        self.clock = ManualClock()
        self.store = MemStore(capacity=capacity, ttl=ttl, eviction=eviction, clock=self.clock)

    def put(self, *keys: Any) -> list[Evicted]:
        gone = []
        for key in keys:
            self.clock.advance(0.001)
            gone += self.store.put(key, f"value of {key}", 1)
        return gone

    def hit(self, *keys: Any) -> None:
        """What a hit does: it stamps and counts, and tells nobody."""
        for key in keys:
            self.clock.advance(0.001)
            entry = self.store.entries[key]
            entry.used = self.clock.monotonic()
            entry.hits += 1

    def has(self, *keys: Any) -> bool:
        return all(key in self.store.entries for key in keys)

    @property
    def queued(self) -> int:
        return len(self.store._policy)


def keys(gone: Iterable[Evicted]) -> list[Any]:
    return [item.key for item in gone]


class Promises:
    """The promises that all policies make."""

    eviction: EvictionPolicy

    def make(self, capacity: int, ttl: float = 0.0) -> Cache:
        return Cache(self.eviction, capacity, ttl)

    def test_a_store_is_never_over_its_capacity(self) -> None:
        cache = self.make(10)
        for number in range(200):
            cache.put(number)
            cache.hit(number)
            assert len(cache.store) == min(number + 1, 10)

    def test_who_leaves_is_named_with_its_value_and_the_reason(self) -> None:
        cache = self.make(2)
        assert cache.put("a", "b") == []
        (gone,) = cache.put("c")
        assert gone.key in ("a", "b")
        assert (gone.value, gone.reason) == (f"value of {gone.key}", EvictionReason.CAPACITY)
        assert not cache.has(gone.key)
        assert (cache.store.evictions, cache.store.expirations) == (1, 0)

    def test_a_new_entry_is_never_its_own_victim(self) -> None:
        for capacity in (1, 2, 3, 7):
            cache = self.make(capacity)
            for number in random.Random(capacity).choices(range(20), k=300):
                cache.put(number)
                assert cache.has(number)
                cache.hit(*cache.store.entries)

    def test_an_unused_entry_leaves_before_a_new_one(self) -> None:
        cache = self.make(3)
        assert keys(cache.put("a", "b", "c", "d")) == ["a"]

    def test_overwriting_evicts_nobody(self) -> None:
        cache = self.make(2)
        assert cache.put("a", "b", "a", "b", "b", "a") == []
        assert cache.has("a", "b")

    def test_overwriting_queues_nothing_new(self) -> None:
        cache = self.make(5)
        cache.put(*range(5))
        for _ in range(1000):
            cache.put(*range(5))
            cache.hit(*range(5))
        assert cache.queued == 5

    def test_dropping_and_putting_again_does_not_pile_up(self) -> None:
        cache = self.make(100)
        for number in range(100):
            cache.put(number)
        for _ in range(50):
            for number in range(100):
                cache.store.drop(number)
                cache.put(number)
            assert cache.queued <= 2 * len(cache.store) + 64
        assert len(cache.store) == 100

    def test_dropping_everything_leaves_next_to_nothing_queued(self) -> None:
        cache = self.make(10_000)
        cache.put(*range(10_000))
        cache.hit(*range(0, 10_000, 3))
        for number in range(10_000):
            cache.store.drop(number)
        assert cache.queued <= 128

    def test_what_leaves_in_the_order_in_which_it_came_is_not_queued_any_more(self) -> None:
        cache = self.make(1000)
        cache.put(*range(1000))
        for key in range(1000):
            cache.store.drop(key)
            assert cache.queued == 999 - key

    def test_a_dropped_key_that_comes_back_is_evicted_once(self) -> None:
        cache = self.make(3)
        cache.put("a", "b")
        cache.store.drop("a")
        cache.put("a")
        gone = cache.put(*"cdefgh")
        assert sorted(keys(gone)) == sorted(set(keys(gone)))
        assert len(cache.store) == 3

    def test_it_makes_room_after_everything_was_dropped(self) -> None:
        cache = self.make(3)
        cache.put("a", "b", "c")
        for key in "abc":
            cache.store.drop(key)
        assert cache.put("d", "e", "f") == []
        assert len(cache.put("g")) == 1

    def test_it_starts_anew_after_clear(self) -> None:
        cache = self.make(3)
        cache.put("a", "b", "c")
        cache.hit("a")
        cache.store.clear()
        assert cache.queued == 0
        assert cache.put("d", "e", "f") == []
        assert len(cache.put("g")) == 1

    def test_an_entry_whose_time_is_up_leaves_as_expired(self) -> None:
        cache = self.make(2, ttl=10)
        cache.put("a")
        cache.hit("a", "a", "a")
        cache.clock.advance(10)
        cache.put("b")
        (gone,) = cache.put("c")
        assert (gone.key, gone.reason) == ("a", EvictionReason.EXPIRED)
        assert (cache.store.evictions, cache.store.expirations) == (0, 1)

    def test_more_used_entries_than_one_eviction_looks_at_do_not_stop_it(self) -> None:
        cache = self.make(4 * LOOKS)
        cache.put(*range(4 * LOOKS))
        for number in range(10):
            cache.hit(*cache.store.entries)
            assert len(cache.put(f"new {number}")) == 1
        assert len(cache.store) == 4 * LOOKS

    def test_a_policy_that_lost_its_entries_is_told_of_them_again(self) -> None:
        cache = self.make(3)
        cache.put("a", "b", "c")
        cache.store._policy.clear()
        assert len(cache.put("d")) == 1
        assert len(cache.put("e", "f", "g")) == 3
        assert len(cache.store) == 3

    def test_an_entry_that_never_reached_the_store_costs_no_other(self) -> None:
        cache = self.make(3)
        cache.put("a", "b")
        stray = cache.store.entries.pop("b")
        assert cache.put("b", "c") == []
        assert cache.store.entries["b"] is not stray
        for key in "defgh":
            assert len(cache.put(key)) == 1
            assert len(cache.store) == 3

    def test_the_hits_of_those_who_left_still_count(self) -> None:
        cache = self.make(2)
        cache.put("a", "b")
        cache.hit("a", "a", "b")
        cache.put("c", "d")
        cache.hit("c") if cache.has("c") else cache.hit("d")
        assert cache.store.hits == 4


class TestLru(Promises):
    """The least recently used leaves."""

    eviction = EvictionPolicy.LRU

    def test_a_hit_saves_an_entry(self) -> None:
        cache = self.make(3)
        cache.put("a", "b", "c")
        cache.hit("a")
        assert keys(cache.put("d", "e", "f")) == ["b", "c", "a"]

    def test_a_write_is_a_use(self) -> None:
        cache = self.make(2)
        cache.put("a", "b", "a")
        assert keys(cache.put("c")) == ["b"]

    def test_the_order_is_that_of_the_last_hits(self) -> None:
        cache = self.make(4)
        cache.put(*"abcd")
        cache.hit(*"dbacb")
        assert keys(cache.put(*"wxyz")) == ["d", "a", "c", "b"]

    def test_hits_after_an_eviction_count_again(self) -> None:
        cache = self.make(3)
        cache.put("a", "b", "c")
        cache.hit("a", "b")
        assert keys(cache.put("d")) == ["c"]
        cache.hit("a")
        assert keys(cache.put("e", "f", "g")) == ["b", "d", "a"]

    def test_of_many_used_entries_one_of_the_oldest_leaves(self) -> None:
        cache = self.make(3 * LOOKS)
        cache.put(*range(3 * LOOKS))
        cache.hit(*range(3 * LOOKS))
        assert keys(cache.put("a", "b", "c")) == [0, 1, 2]


class TestFifo(Promises):
    """The oldest leaves."""

    eviction = EvictionPolicy.FIFO

    def test_hits_and_writes_save_nobody(self) -> None:
        cache = self.make(3)
        cache.put("a", "b", "c", "a")
        cache.hit("a", "a")
        assert keys(cache.put("d", "e", "f")) == ["a", "b", "c"]

    def test_a_dropped_key_comes_in_anew(self) -> None:
        cache = self.make(2)
        cache.put("a", "b")
        cache.store.drop("a")
        cache.put("a")
        assert keys(cache.put("c")) == ["b"]


class TestLfu(Promises):
    """The least frequently used leaves, by counts that age."""

    eviction = EvictionPolicy.LFU

    def test_what_is_used_more_outlives_what_is_used_less(self) -> None:
        cache = self.make(100)
        cache.put(*range(100))
        for key, uses in ("often", 4), ("seldom", 1), ("never", 0):
            cache.put(key)
            cache.hit(*[key] * uses)
        cache.put(*range(1000, 1100))
        assert cache.has("often")
        assert not cache.has("seldom")
        assert not cache.has("never")

    def test_a_write_is_a_use(self) -> None:
        cache = self.make(3)
        cache.put("a", "b", "c", "a")
        assert keys(cache.put("d")) == ["b"]

    def test_a_scan_does_not_sweep_out_what_is_popular(self) -> None:
        cache = self.make(100)
        cache.put(*range(100))
        for _ in range(3):
            cache.hit(*range(50))
        cache.put(*range(1000, 3000))
        assert cache.has(*range(50))

    def test_what_was_popular_once_does_not_stay(self) -> None:
        cache = self.make(20)
        cache.put(*range(20))
        for _ in range(100):
            cache.hit(*range(20))
        for round in range(100):
            fresh = [f"{round}-{number}" for number in range(20)]
            cache.put(*fresh)
            for _ in range(3):
                cache.hit(*(key for key in fresh if cache.has(key)))
        assert not any(cache.has(number) for number in range(20))

    def test_what_comes_back_soon_is_established(self) -> None:
        cache = self.make(100)
        again = 100  # a number: what texts hash to differs from run to run, and ghosts are remembered by that
        cache.put(*range(100), again, *range(200, 300))
        assert not cache.has(again)
        cache.put(again, *range(1000, 1100))
        assert cache.has(again)

    def test_a_used_key_that_was_invalidated_need_not_prove_itself_again(self) -> None:
        cache = self.make(100)
        cache.put(*range(100))
        cache.hit("popular") if cache.has("popular") else cache.put("popular")
        cache.hit("popular")
        cache.store.drop("popular")
        cache.put("popular", *range(1000, 1500))
        assert cache.has("popular")


class TestUnbounded:
    """A store without a capacity never has to choose."""

    def test_nothing_ever_leaves(self) -> None:
        cache = Cache(EvictionPolicy.LRU, 0)
        assert cache.put(*range(5000)) == []
        cache.store.drop(1)
        cache.store.clear()
        assert cache.put(*range(10)) == []
        assert cache.queued == 0


class TestGhosts:
    """A table of keys that fade."""

    def test_a_key_is_remembered_until_another_takes_its_slot(self) -> None:
        ghosts = Ghosts(1)
        assert ghosts.recall("a") == UNKNOWN
        ghosts.remember("a", 3)
        assert ghosts.recall("a") == 3
        assert ghosts.swap("b", "a") == UNKNOWN
        assert ghosts.recall("b") == 0

    def test_a_key_grows_old(self) -> None:
        ghosts = Ghosts(1)
        ghosts.remember("a", 3)
        for _ in range(YOUNG):
            ghosts.age()
        assert ghosts.recall("a") == 3
        ghosts.age()
        assert ghosts.recall("a") == 3 + OLD
        ghosts.remember("a", 4)
        assert ghosts.recall("a") == 4

    def test_keys_that_are_multiples_do_not_crowd_in_one_slot(self) -> None:
        ghosts = Ghosts(1024)
        for number in range(512):
            ghosts.remember(number * 1024, 0)
        assert sum(ghosts.recall(number * 1024) == 0 for number in range(512)) > 256

    def test_no_more_keys_are_remembered_than_there_are_slots(self) -> None:
        ghosts = Ghosts(10)
        for number in range(1000):
            ghosts.swap(number, "new")
        assert sum(ghosts.recall(number) == 0 for number in range(1000)) <= 10
