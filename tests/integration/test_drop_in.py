"""What drop-in caches promise beyond what the frameworks' own tests ask: coherence, atomic steps, signatures."""

from __future__ import annotations

import os
import pickle
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from strata import DataStore, NotFoundError
from strata.drop_in.entries import Entries, UnreadableError, loaded
from strata.drop_in.mutex import Mutex
from strata.l1.trust import Trust
from strata.testing import inspect
from tests.behind import client
from tests.stores import MakeStore, sure
from tests.support import wait_until

SECRET = [b"secret"]
DAY = 86_400.0


@pytest.fixture
def both(make: MakeStore) -> tuple[Entries, Entries]:
    """One cache, as two processes have it."""
    stores = make(postgres_dsn=""), make(postgres_dsn="")
    caches = Entries(stores[0], "cache", SECRET), Entries(stores[1], "cache", SECRET)
    for store in stores:
        sure(store)
    return caches


@pytest.fixture(params=["L1 and L2", "L1"])
def cache(request: pytest.FixtureRequest, make: MakeStore) -> Entries:
    store = make(postgres_dsn="") if request.param == "L1 and L2" else make(postgres_dsn="", redis_addr="")
    return Entries(store, "cache", SECRET)


def add_one(data: bytes) -> bytes:
    return b"%d" % (int(data) + 1)


def test_every_change_is_seen_in_the_other_process(both: tuple[Entries, Entries]) -> None:
    one, other = both
    steps: list[tuple[Any, bytes | None]] = [
        (lambda: one.set("key", b"1", DAY), b"1"),
        (lambda: one.change("key", add_one), b"2"),
        (lambda: one.delete("key"), None),
        (lambda: one.add("key", b"3", DAY), b"3"),
        (lambda: one.touch("key", 0), None),
        (lambda: one.set_many({"key": b"4", "more": b"5"}, DAY), b"4"),
        (lambda: one.delete_many(["key", "more"]), None),
        (lambda: one.set("key", b"6", None), b"6"),
        (lambda: one.clear(), None),
        (lambda: one.get_or_set("key", lambda: b"7", DAY), b"7"),
    ]
    for number, (change, seen) in enumerate(steps):
        other.value("key")  # so that it has a copy
        change()
        assert one.value("key") == seen, number
        wait_until(lambda: other.value("key") == seen, what=f"step {number}")  # noqa: B023


def test_of_many_that_add_a_key_one_does_in_whichever_process(both: tuple[Entries, Entries]) -> None:
    for round in range(10):
        with ThreadPoolExecutor(8) as pool:
            tries = [pool.submit(both[n % 2].add, f"key{round}", b"%d" % n, DAY) for n in range(8)]
        won = [n for n, tried in enumerate(tries) if tried.result()]
        assert len(won) == 1
        assert both[0].value(f"key{round}") == b"%d" % won[0]


def test_no_step_of_a_counter_is_lost_among_threads_and_processes(both: tuple[Entries, Entries]) -> None:
    both[0].set("count", b"0", DAY)
    with ThreadPoolExecutor(8) as pool:
        for done in [pool.submit(both[n % 2].change, "count", add_one) for n in range(200)]:
            done.result()
    wait_until(lambda: all(cache.value("count") == b"200" for cache in both))


def test_no_write_fails_however_many_write_the_same_key(both: tuple[Entries, Entries]) -> None:
    def write(n: int) -> None:
        cache = both[n % 2]
        cache.set("hot", b"%d" % n, DAY)
        cache.set_many({"hot": b"%d" % n, "other": b"x"}, DAY)
        if n % 5 == 0:
            cache.delete_many(["hot", "other"])

    with ThreadPoolExecutor(16) as pool:
        for done in [pool.submit(write, n) for n in range(600)]:
            done.result()
    for cache in both:
        cache.set("hot", b"last", DAY)
        assert cache.value("hot") == b"last"


def test_an_entry_is_of_its_namespace_too(make: MakeStore, redis_addr: str) -> None:
    one, other = (Entries(make(postgres_dsn="", namespace=name), "cache", SECRET) for name in ("a", "b"))
    one.set("key", b"of a", None)
    with client(redis_addr) as conn:
        conn.set("b:strata:cache:key", conn.get("a:strata:cache:key"))
    assert other.value("key") is None


def test_a_change_keeps_what_is_left_of_a_life(both: tuple[Entries, Entries], redis_addr: str) -> None:
    both[0].set("key", b"1", 100)
    both[0].set("kept", b"1", None)
    for cache in both:
        cache.change("key", add_one)
        cache.change("kept", add_one)
    with client(redis_addr) as conn:
        assert 90_000 < conn.pttl("strata:cache:key") <= 100_000
        assert conn.pttl("strata:cache:kept") == -1


def test_what_is_over_is_absent_and_counts_as_absent(cache: Entries) -> None:
    for life in (0, -1, -0.5):
        cache.set("key", b"1", None)
        cache.set("key", b"2", life)
        assert cache.value("key") is None
        assert cache.add("key", b"3", life) and cache.value("key") is None
        cache.set("key", b"4", None)
        assert not cache.add("key", b"5", life)
        cache.set_many({"key": b"6"}, life)
        assert not cache.has("key")
        cache.set("key", b"7", None)
        assert cache.touch("key", life) and not cache.touch("key", life)
        assert cache.get_or_set("key", lambda: b"8", life) == b"8"
        assert cache.value("key") is None
    cache.set("key", b"9", 0.05)
    wait_until(lambda: cache.value("key") is None)
    assert not cache.delete("key")
    with pytest.raises(NotFoundError):
        cache.change("key", add_one)
    cache.set("key", b"1", 1e300)  # longer than anybody waits, which is for ever
    assert cache.value("key") == b"1"


def test_what_was_there_is_said_of_a_deletion_and_one_may_be_of_a_value_only(cache: Entries) -> None:
    assert not cache.delete("key")
    cache.set("key", b"1", DAY)
    assert not cache.delete("key", b"2") and cache.value("key") == b"1"
    assert cache.delete("key", b"1") and not cache.delete("key", b"1")
    assert cache.add("key", b"2", DAY)


def test_clearing_is_one_marker_and_leaves_other_caches_alone(make: MakeStore, redis_addr: str) -> None:
    store, other = make(postgres_dsn=""), make(postgres_dsn="")
    caches = [Entries(store, "cache", SECRET), Entries(store, "cache_b", SECRET), Entries(other, "cache", SECRET)]
    for cache in caches[:2]:
        cache.set_many({f"key{n}": b"1" for n in range(100)}, None)
    assert caches[2].value("key7") == b"1"
    sure(other)
    with client(redis_addr) as conn:
        before = int(conn.info("commandstats").get("cmdstat_del", {}).get("calls", 0))
        caches[0].clear()
        assert int(conn.info("commandstats").get("cmdstat_del", {}).get("calls", 0)) == before
    assert caches[0].values([f"key{n}" for n in range(100)]) == {}
    assert not caches[0].has("key1") and not caches[0].delete("key2") and caches[0].add("key3", b"new", None)
    assert len(caches[1].values([f"key{n}" for n in range(100)])) == 100
    wait_until(lambda: caches[2].values(["key3", "key4"]) == {"key3": b"new"})


class Bomb:
    """Runs code where it is unpickled."""

    def __reduce__(self) -> Any:
        return os.mkdir, ("/nowhere/that/could/be",)


FIRST_WRITES: dict[str, Callable[[Entries], Any]] = {
    "set": lambda cache: cache.set("key", b"1", DAY),
    "add": lambda cache: cache.add("key", b"1", DAY),
    "set_many": lambda cache: cache.set_many({"key": b"1"}, DAY),
    "get_or_set": lambda cache: cache.get_or_set("key", lambda: b"1", DAY),
}


@pytest.mark.parametrize("write", FIRST_WRITES)
def test_the_first_write_of_a_process_that_came_after_a_clear_is_kept(make: MakeStore, write: str) -> None:
    earlier, process, other = (Entries(make(postgres_dsn=""), "cache", SECRET) for _ in range(3))
    earlier.clear()
    FIRST_WRITES[write](process)
    assert process.value("key") == other.value("key") == b"1"
    assert not other.add("key", b"2", DAY)


def test_what_is_written_after_a_clear_that_nobody_heard_of_is_kept(make: MakeStore, monkeypatch: Any) -> None:
    """Its bus is down, and it has looked a moment before."""
    process, other = (Entries(make(postgres_dsn=""), "cache", SECRET) for _ in range(2))
    monkeypatch.setattr(Trust, "sure", lambda trust, now: False)
    other.set("key", b"0", DAY)
    assert process.value("key") == b"0"
    other.clear()
    process.set("key", b"1", DAY)
    assert other.value("key") == b"1"


@pytest.mark.parametrize("write", ["set", "set_many"])
def test_what_is_written_before_the_news_of_a_clear_has_come_is_kept(
    both: tuple[Entries, Entries], monkeypatch: Any, write: str
) -> None:
    """The bus is sure, and the message on its way."""
    one, other = both
    other.set("key", b"0", DAY)
    wait_until(lambda: one.value("key") == b"0")
    with monkeypatch.context() as patch:
        patch.setattr(inspect(one.store).markers, "schema", lambda *_: False)
        other.clear()
    FIRST_WRITES[write](one)
    assert other.value("key") == one.value("key") == b"1"


def test_a_change_of_what_was_cleared_meanwhile_does_not_bring_it_back(both: tuple[Entries, Entries]) -> None:
    one, other = both
    one.set("count", b"1", DAY)

    def clears(data: bytes) -> bytes:
        other.clear()
        wait_until(lambda: inspect(one.store).markers.schemas)
        return add_one(data)

    with pytest.raises(NotFoundError):
        one.change("count", clears)
    new = Entries(DataStore(one.store.config), "cache", SECRET)
    assert [cache.value("count") for cache in (one, other, new)] == [None] * 3
    new.store.close()


def test_after_redis_has_lost_its_markers_all_come_to_see_the_same(
    both: tuple[Entries, Entries], redis_addr: str
) -> None:
    one, other = both
    one.clear()
    one.set("before", b"1", DAY)
    wait_until(lambda: other.value("before") == b"1")
    for round in range(4):
        client(redis_addr).delete("strata:{markers}:tags", "strata:{markers}:schemas")
        keys = [f"{round} {number}" for number in range(20)]
        for key in keys:
            one.add(key, b"1", DAY)
            time.sleep(0.05)  # so that it is found out between two of them
        wait_until(lambda: [one.value(key) for key in keys] == [other.value(key) for key in keys])  # noqa: B023


def test_what_somebody_else_has_written_to_redis_is_no_entry(make: MakeStore, redis_addr: str) -> None:
    mine = Entries(make(postgres_dsn=""), "cache", SECRET)
    theirs = Entries(make(postgres_dsn=""), "cache", [b"another secret"])
    unsigned = Entries(make(postgres_dsn=""), "cache", [])
    other = Entries(mine.store, "cache_b", SECRET)
    mine.set("one", b"1", None)
    other.set("two", b"2", None)
    theirs.set("three", pickle.dumps(Bomb()), None)
    unsigned.set("four", pickle.dumps(Bomb()), None)
    with client(redis_addr) as conn:
        raw = conn.get("strata:cache:one")
        conn.set("strata:cache:swapped", raw)  # an entry of the very cache, under another key
        conn.set("strata:cache:two", conn.get("strata:cache_b:two"))  # of another cache, under its key
        conn.set("strata:cache:cut", raw[:40])
        conn.set("strata:cache:six", raw[:25] + pickle.dumps(Bomb()))
        conn.set("strata:cache:seven", b"L1:a lease of nobody's, for ever")
    reader = Entries(make(postgres_dsn=""), "cache", SECRET)
    keys = ["swapped", "two", "three", "four", "cut", "six", "seven"]
    assert [reader.value(key) for key in keys] == [None] * 7
    assert reader.values([*keys, "one"]) == {"one": b"1"}
    assert inspect(reader.store).schemas["cache"].counters.corrupt >= 6
    for key in keys:  # which can be written and added as any that is absent
        assert not reader.has(key) and reader.add(key, b"new", None), key
    assert reader.values(keys) == dict.fromkeys(keys, b"new")


def test_one_at_a_time_makes_what_is_absent(both: tuple[Entries, Entries]) -> None:
    calls: list[int] = []
    gate = threading.Barrier(6)

    def make() -> bytes:
        calls.append(1)
        return b"made"

    def ask(n: int) -> bytes:
        gate.wait(20)
        return both[n % 2].get_or_set("key", make, DAY)

    with ThreadPoolExecutor(6) as pool:
        assert list(pool.map(ask, range(6))) == [b"made"] * 6
    assert len(calls) <= 2  # one in each process


def test_what_a_factory_raises_reaches_who_asked_and_nothing_is_kept(cache: Entries) -> None:
    def fail() -> bytes:
        raise KeyError("mine")

    with pytest.raises(KeyError):
        cache.get_or_set("key", fail, DAY)
    with pytest.raises(ZeroDivisionError):
        cache.set("number", b"0", DAY)
        cache.change("number", lambda data: b"%d" % (1 // int(data)))
    assert (cache.value("key"), cache.value("number")) == (None, b"0")


def test_the_child_of_a_fork_goes_on_with_the_cache_of_its_parent(both: tuple[Entries, Entries]) -> None:
    one, other = both
    one.set("parent", b"1", DAY)
    child = os.fork()
    if not child:
        try:
            one.set("child", b"%s!" % (one.value("parent") or b""), DAY)
            os._exit(0)
        finally:
            os._exit(1)
    assert os.waitpid(child, 0)[1] == 0
    wait_until(lambda: other.value("child") == b"1!")
    assert one.value("child") == b"1!"


@pytest.fixture
def mutexes(both: tuple[Entries, Entries]) -> Iterator[tuple[Mutex, Mutex]]:
    yield Mutex(both[0], "key", 60, 0.01), Mutex(both[1], "key", 60, 0.01)


def test_a_mutex_is_held_by_one_in_whichever_process_and_released_by_nobody_else(
    mutexes: tuple[Mutex, Mutex], both: tuple[Entries, Entries]
) -> None:
    one, other = mutexes
    assert one.acquire() and not one.acquire(False) and not other.acquire(False)
    other.release()  # which it does not hold
    assert one.locked() and other.locked() and not other.acquire(False)
    waiting = threading.Thread(target=other.acquire)
    waiting.start()
    one.release()
    waiting.join(20)
    assert not one.acquire(False)
    releasing = threading.Thread(target=other.release)
    releasing.start()
    releasing.join(20)
    assert not Mutex(both[0], "key", 60, 0.01).locked() and one.acquire(False)
    assert Mutex(both[1], "other key", 60, 0.01).acquire(False)


def test_a_mutex_of_who_was_killed_ends_by_itself(both: tuple[Entries, Entries]) -> None:
    dead, living = Mutex(both[0], "key", 0.2, 0.01), Mutex(both[1], "key", 60, 0.01)
    assert dead.acquire() and not living.acquire(False)
    assert living.acquire()
    dead.release()  # too late: it is another's by now
    assert living.locked() and not dead.acquire(False)


def test_an_entry_that_cannot_be_read_any_more_is_counted_and_said(make: MakeStore) -> None:
    store: DataStore = make(postgres_dsn="")
    cache = Entries(store, "cache", SECRET)
    cache.set("key", b"1", None)
    with pytest.raises(UnreadableError) as caught:
        loaded(lambda value: 1 // 0, b"1")
    cache.unreadable("key", UnreadableError(b"another"))  # which is there no more
    assert cache.value("key") == b"1"
    cache.unreadable("key", caught.value)
    assert cache.value("key") is None and cache.add("key", b"2", None)
    assert store.stats().by_schema["cache"]["corrupt"] == 2
