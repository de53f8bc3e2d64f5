"""The memory store: what is in it, until when, and what is counted."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from typing import Any

import pytest

from strata.l1.entry import FOREVER, GONE
from strata.l1.evicted import EvictionReason
from strata.l1.store import MemStore
from strata.policies import EvictionPolicy
from strata.waits.clock import ManualClock


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def store(clock: ManualClock) -> MemStore:
    return MemStore(capacity=100, ttl=60, eviction=EvictionPolicy.LRU, clock=clock)


class Intruder:
    """A lock that lets something happen just before it is taken for the nth time."""

    def __init__(self, at: int, act: Callable[[], object]) -> None:
        self._lock = threading.RLock()
        self._at = at
        self._act = act

    def acquire(self) -> bool:
        self._at -= 1
        if self._at == 0:
            self._act()
        return self._lock.acquire()

    def release(self) -> None:
        self._lock.release()

    def __enter__(self) -> bool:
        return self.acquire()

    def __exit__(self, *_: object) -> None:
        self.release()


def test_what_was_put_last_is_there(store: MemStore, clock: ManualClock) -> None:
    store.put("a", "old", 1, pending=True)
    store.put("a", "new", 2)
    entry = store.live("a", clock.monotonic())
    assert entry is not None
    assert (entry.value, entry.version, entry.pending, entry.loaded) == ("new", 2, False, clock.monotonic())
    assert len(store) == 1


def test_what_was_never_put_is_not_there(store: MemStore, clock: ManualClock) -> None:
    assert store.live("a", clock.monotonic()) is None
    assert not store.drop("a")


def test_the_dict_of_entries_is_one_for_the_life_of_the_store(store: MemStore) -> None:
    entries = store.entries
    store.put("a", 1, 1)
    store.clear()
    store.put("b", 1, 1)
    assert store.entries is entries
    assert list(entries) == ["b"]


def test_an_entry_lives_until_its_time_is_up(store: MemStore, clock: ManualClock) -> None:
    store.put("a", 1, 1)
    clock.advance(59.9)
    assert store.live("a", clock.monotonic()) is not None
    clock.advance(0.1)
    assert store.live("a", clock.monotonic()) is None


def test_time_counts_from_the_reading_below(store: MemStore, clock: ManualClock) -> None:
    store.put("a", 1, 1, loaded=clock.monotonic() - 50)
    clock.advance(10)
    assert store.live("a", clock.monotonic()) is None


def test_zero_is_for_ever(clock: ManualClock) -> None:
    store = MemStore(capacity=0, ttl=0, eviction=EvictionPolicy.LRU, clock=clock)
    store.put("a", 1, 1)
    assert store.entries["a"].expires == FOREVER


def test_one_entry_may_have_a_time_of_its_own(store: MemStore, clock: ManualClock) -> None:
    store.put("short", 1, 1, ttl=5)
    store.put("long", 1, 1, ttl=0)
    clock.advance(59)
    assert store.live("short", clock.monotonic()) is None
    assert store.entries["long"].expires == FOREVER


def test_overwriting_begins_a_new_life(store: MemStore, clock: ManualClock) -> None:
    store.put("a", 1, 1)
    clock.advance(59)
    assert store.put("a", 2, 2) == []
    clock.advance(59)
    assert store.live("a", clock.monotonic()) is not None


def test_what_had_expired_is_reported_when_it_is_overwritten(store: MemStore, clock: ManualClock) -> None:
    store.put("a", "old", 1)
    clock.advance(60)
    (gone,) = store.put("a", "new", 2)
    assert (gone.key, gone.value, gone.reason) == ("a", "old", EvictionReason.EXPIRED)
    assert (store.expirations, store.evictions) == (1, 0)
    assert store.live("a", clock.monotonic()) is not None


def test_dropping_is_no_eviction(store: MemStore, clock: ManualClock) -> None:
    store.put("a", 1, 1)
    assert store.drop("a")
    assert not store.drop("a")
    assert store.live("a", clock.monotonic()) is None
    assert (store.evictions, store.expirations) == (0, 0)


def test_a_thread_that_holds_a_removed_entry_finds_its_time_up(store: MemStore) -> None:
    for remove in (lambda: store.drop("a"), store.clear, lambda: store.sweep(FOREVER)):
        store.put("a", 1, 1)
        held = store.entries["a"]
        remove()
        assert held.expires == GONE


def test_a_sweep_removes_what_expired_and_nothing_else(store: MemStore, clock: ManualClock) -> None:
    for number in range(10):
        store.put(number, f"value {number}", 1, ttl=number + 1)
    clock.advance(5)
    gone = store.sweep(clock.monotonic(), budget=2)
    assert [(item.key, item.value, item.reason) for item in gone] == [
        (number, f"value {number}", EvictionReason.EXPIRED) for number in range(5)
    ]
    assert sorted(store.entries) == [5, 6, 7, 8, 9]
    assert store.expirations == 5
    assert store.sweep(clock.monotonic()) == []


@pytest.mark.parametrize("happens", ["renewed", "replaced", "dropped", "cleared"])
def test_a_sweep_spares_what_changed_since_it_looked(clock: ManualClock, happens: str) -> None:
    store = MemStore(capacity=10, ttl=60, eviction=EvictionPolicy.LRU, clock=clock)

    def act() -> None:
        if happens in ("dropped", "replaced"):
            store.drop("a")
        if happens in ("renewed", "replaced"):
            store.put("a", "new", 2)
        if happens == "cleared":
            store.clear()

    store.put("a", "old", 1)
    clock.advance(60)
    lock: Any = Intruder(2, act)
    store.lock = lock
    assert store.sweep(clock.monotonic()) == []
    assert ("a" in store.entries) is (happens in ("renewed", "replaced"))


def test_hits_are_those_of_the_living_and_of_the_departed(store: MemStore, clock: ManualClock) -> None:
    for key in "abcd":
        store.put(key, 1, 1)
        store.entries[key].hits += 1
    store.drop("a")
    assert store.hits == 4
    clock.advance(60)
    store.put("b", 2, 2)
    assert store.hits == 4
    store.sweep(clock.monotonic())
    assert store.hits == 4
    store.clear()
    assert store.hits == 4


def test_the_caller_may_hold_the_lock_around_several_calls(clock: ManualClock) -> None:
    lock = threading.RLock()
    store = MemStore(capacity=1, ttl=0, eviction=EvictionPolicy.LRU, clock=clock, lock=lock)
    with lock:
        store.put("a", 1, 1)
        store.put("b", 1, 1)
        store.drop("b")
        store.clear()
    assert store.lock is lock


def test_the_lock_is_free_again_when_a_put_fails(store: MemStore) -> None:
    with pytest.raises(TypeError):
        store.put([], 1, 1)  # type: ignore[arg-type]
    taken = threading.Thread(target=lambda: store.put("a", 1, 1))
    taken.start()
    taken.join(10)
    assert "a" in store.entries


def test_a_new_lock_takes_effect_at_once(store: MemStore) -> None:
    with store.lock:  # as a thread of the parent's may have at a fork
        store.lock = threading.RLock()
        put = threading.Thread(target=lambda: store.put("a", 1, 1))
        put.start()
        put.join(10)
    assert "a" in store.entries


def watcher(store: MemStore, calls: list[int]) -> Callable[[], bool]:
    """Notes how many entries there were each time it was told, and takes it."""

    def told() -> bool:
        calls.append(len(store))
        return True

    return told


def test_the_watcher_is_told_when_there_is_something_to_sweep(store: MemStore) -> None:
    calls: list[int] = []
    store.watch(watcher(store, calls))
    store.put("for ever", 1, 1, ttl=0)
    assert calls == []
    store.put("a", 1, 1)
    store.put("b", 1, 1)
    assert calls == [2]
    store.clear()
    store.put("c", 1, 1)
    assert calls == [2, 1]


def test_a_watcher_that_comes_late_is_told_at_once(store: MemStore) -> None:
    calls: list[int] = []
    store.put("a", 1, 1)
    store.watch(watcher(store, calls))
    assert calls == [1]


def test_readers_without_a_lock_see_whole_entries_while_others_write(clock: ManualClock) -> None:
    store = MemStore(capacity=50, ttl=60, eviction=EvictionPolicy.LFU, clock=clock)
    wrong: list[object] = []
    done = threading.Event()

    def read() -> None:
        try:
            while not done.is_set():
                for key in range(100):
                    entry = store.live(key, clock.monotonic())
                    if entry is not None and entry.value[0] != key:
                        wrong.append(entry)
        except Exception as error:
            wrong.append(error)

    def write(seed: int) -> None:
        try:
            for step in range(3000):
                key = (step * 7 + seed * 13) % 100
                store.put(key, (key, step), step)
                if step % 5 == seed:
                    store.drop(key)
                if len(store) > 50:
                    wrong.append(len(store))
                if step % 1000 == 999:
                    store.clear()
        except Exception as error:
            wrong.append(error)

    readers = [threading.Thread(target=read) for _ in range(2)]
    writers = [threading.Thread(target=write, args=(seed,)) for seed in range(3)]
    for thread in readers + writers:
        thread.start()
    for thread in writers:
        thread.join()
    done.set()
    for thread in readers:
        thread.join()
    assert wrong == []


@pytest.mark.skipif(
    not getattr(sys, "_is_gil_enabled", lambda: True)(), reason="without the GIL a count may be lost, as Entry says"
)
def test_no_hit_is_lost_between_threads(store: MemStore, clock: ManualClock) -> None:
    store.put("a", 1, 1)
    entry, monotonic = store.entries["a"], clock.monotonic

    def hit() -> None:
        for _ in range(20_000):
            now = monotonic()
            entry.used = now
            entry.hits += 1

    threads = [threading.Thread(target=hit) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert store.hits == 80_000
