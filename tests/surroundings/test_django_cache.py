"""`StrataCache` in Django: what Django's own tests of caches, which ./ops/peers runs, do not ask."""

from __future__ import annotations

import asyncio
import pickle
import threading
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from django.core.cache import CacheKeyWarning, caches
from django.core.signals import request_finished
from django.test import override_settings

from strata import Config, DataStore, InvalidConfigError, L2UnavailableError
from strata.aio import here as aio_here
from strata.drop_in import shared
from strata.embedded import EmbeddedValkey
from strata.integrations.django import StrataCache
from strata.testing import inspect
from tests.behind import client
from tests.support import wait_until
from tests.surroundings import django_beside  # noqa: F401 which has set Django up

BACKEND = "strata.integrations.django.StrataCache"
MakeCache = Callable[..., Any]


@pytest.fixture(autouse=True)
def settings() -> Iterator[None]:
    with override_settings(SECRET_KEY="secret", SECRET_KEY_FALLBACKS=[]):
        yield


@pytest.fixture
def make(redis_addr: str) -> Iterator[MakeCache]:
    """Caches on the same Redis, each of a process of its own: with options that nobody else has they share no store."""
    made: list[Any] = []

    def cache(**params: Any) -> Any:
        options = {"MAX_ENTRIES": 10_000 + 256 * len(made)} | params.pop("OPTIONS", {})
        made.append(StrataCache(params.pop("LOCATION", redis_addr), {"OPTIONS": options} | params))
        return made[-1]

    yield cache
    for known in made:
        if known._known is not None:
            known._known.store.close(2)


@pytest.fixture
def both(make: MakeCache) -> tuple[Any, Any]:
    one, other = make(), make()
    for cache in (one, other):
        cache.get("key")
        wait_until(lambda cache=cache: inspect(cache._entries.store).sure)  # type: ignore[misc]
    return one, other


def test_a_hit_is_private_to_who_asked(make: MakeCache) -> None:
    cache = make()
    cache.set("key", [1])
    cache.get("key").append(2)
    assert cache.get("key") == [1]


def test_what_one_process_does_the_other_ones_see(both: tuple[Any, Any]) -> None:
    one, other = both
    for change, seen in [
        (lambda: one.set("key", 1), 1),
        (lambda: one.incr("key"), 2),
        (lambda: one.decr("key", 5), -3),
        (lambda: one.touch("key", 0), None),
        (lambda: one.add("key", "x"), "x"),
        (lambda: one.delete("key"), None),
        (lambda: one.set_many({"key": None}), None),
        (lambda: one.get_or_set("other", lambda: 7), 7),
        (lambda: one.clear(), None),
    ]:
        key = "other" if seen == 7 else "key"
        other.get(key)
        change()  # type: ignore[no-untyped-call]
        assert one.get(key) == seen
        wait_until(lambda: other.get(key) == seen)  # noqa: B023


def test_an_increment_keeps_the_life_and_counts_each_among_threads_and_processes(
    both: tuple[Any, Any], redis_addr: str
) -> None:
    both[0].set("count", 0, 100)
    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(lambda n: both[n % 2].incr("count"), range(100)))
    assert sorted(results) == list(range(1, 101))
    with client(redis_addr) as conn:
        assert 90_000 < conn.pttl("strata:django_cache::1:count") <= 100_000


def test_clear_leaves_another_prefix_and_another_namespace_alone(make: MakeCache) -> None:
    mine, version_2, prefix, namespace = (
        make(), make(VERSION=2), make(KEY_PREFIX="shop:eu"), make(OPTIONS={"namespace": "shop"})
    )  # fmt: skip
    for cache in (mine, version_2, prefix, namespace):
        cache.set("key", 1)
    assert mine.clear()
    wait_until(lambda: version_2.get("key") is None)
    assert [cache.get("key") for cache in (mine, prefix, namespace)] == [None, 1, 1]


def test_the_end_of_a_request_costs_nothing_and_leaves_the_cache_usable_for_all_threads(redis_addr: str) -> None:
    with override_settings(CACHES={"default": {"BACKEND": BACKEND, "LOCATION": redis_addr}}):
        caches["default"].set("key", 1)
        store = caches["default"]._entries.store
        ended = threading.Event()

        def ask() -> bool:
            while not ended.is_set():
                if caches["default"].get("key") != 1 or caches["default"]._entries.store is not store:
                    return False
                caches["default"].close()
            return True

        with ThreadPoolExecutor(4) as pool:
            asking = [pool.submit(ask) for _ in range(4)]
            for _ in range(300):
                request_finished.send(None)
            ended.set()
        assert all(asked.result() for asked in asking)
        store.close(2)


@pytest.fixture
def broken() -> Iterator[EmbeddedValkey]:
    with EmbeddedValkey(password="") as server:
        yield server


def test_in_an_outage_of_redis_calls_raise(make: MakeCache, broken: EmbeddedValkey) -> None:
    cache = make(LOCATION=broken.addr)
    cache.set("key", 1)
    broken.kill()
    calls: list[Callable[[], Any]] = [
        lambda: cache.get("absent"), lambda: cache.set("key", 2), lambda: cache.add("new", 2),
        lambda: cache.delete("key"), lambda: cache.touch("key"), lambda: cache.incr("key"),
        lambda: cache.get_many(["a", "b"]), lambda: cache.set_many({"a": 1}), lambda: cache.delete_many(["a"]),
        cache.clear, lambda: cache.has_key("absent"), lambda: cache.get_or_set("new", 1),
    ]  # fmt: skip
    for call in calls:
        with pytest.raises(L2UnavailableError):
            call()


def test_in_an_outage_that_is_ignored_the_cache_is_empty_and_keeps_nothing(
    make: MakeCache, broken: EmbeddedValkey
) -> None:
    cache = make(LOCATION=broken.addr, OPTIONS={"ignore_outages": True})
    cache.set("key", 1)
    assert cache.get("key") == 1
    broken.kill()
    wait_until(lambda: cache.get("key", "absent") == "absent")
    cache.set("key", 2)
    cache.delete_many(["a"])
    assert [cache.add("new", 2), cache.delete("key"), cache.touch("key"), cache.clear()] == [False] * 4
    assert (cache.get_many(["key"]), "key" in cache, cache.set_many({"a": 1, "b": 2})) == ({}, False, ["a", "b"])
    assert [cache.get_or_set("new", lambda: 7), cache.get_or_set("new", 7)] == [7, 7]
    with pytest.raises(ValueError, match="key"):
        cache.incr("key")


def test_entries_that_were_signed_with_an_earlier_key_are_read_as_long_as_it_is_a_fallback(make: MakeCache) -> None:
    make().set("key", 1)
    with override_settings(SECRET_KEY="newer", SECRET_KEY_FALLBACKS=["secret"]):
        assert make().get("key") == 1
    with override_settings(SECRET_KEY="newer"):
        assert make().get("key") is None
    assert make(OPTIONS={"secret_key": "another"}).get("key") is None


class Gone:
    """A class of an earlier release."""


def test_a_value_whose_class_is_gone_is_absent(make: MakeCache, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = make()
    cache.set_many({"key": Gone(), "other": 1})
    monkeypatch.delattr(f"{__name__}.Gone")
    assert cache.get("key", "absent") == "absent"
    assert cache.get_many(["key", "other"]) == {"other": 1}
    assert cache.get_or_set("key", 2) == 2


@pytest.mark.parametrize("key", ["", "x" * 10_000, "a b\n", "nul\0", "lone \ud800", "~tilde", "ключ", 7, ("a", 1)])
def test_any_key_works_in_each_call(make: MakeCache, key: Any) -> None:
    cache = make(KEY_FUNCTION=lambda key, prefix, version: key if isinstance(key, str) else f"{key}{version}")
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        assert cache.add(key, 1) and cache.incr(key) == 2 and cache.get(key) == 2 and key in cache
        cache.set_many({key: 3})
        assert cache.get_many([key]) == {key: 3}
        assert cache.touch(key) and cache.get_or_set(key, 9) == 3 and cache.delete(key) and not cache.delete(key)
    warns = key not in ("", "~tilde", "ключ", 7, "lone \ud800"[5:])
    assert [issubclass(item.category, CacheKeyWarning) for item in warned] == [True] * (10 * warns)


def test_what_cannot_be_pickled_reaches_who_would_keep_it_and_nothing_is_kept(make: MakeCache) -> None:
    cache = make()
    for keep in (cache.set, cache.add, lambda key, value: cache.set_many({key: value}), cache.get_or_set):
        with pytest.raises((pickle.PickleError, TypeError)):
            keep("key", threading.Lock())
    assert cache.get("key") is None


async def every_twin(cache: Any) -> None:
    assert await cache.aadd("key", 1) is True and await cache.aadd("key", 2) is False
    assert await cache.aget("key") == 1 and await cache.aincr("key", 4) == 5 and await cache.adecr("key") == 4
    assert await cache.aset("key", 7) is None and await cache.atouch("key", 50) is True
    assert await cache.ahas_key("key") and await cache.aget_or_set("made", lambda: 8) == 8
    assert await cache.aset_many({"a": 1, "b": 2}) == [] and await cache.aget_many(["a", "c"]) == {"a": 1}
    assert await cache.aincr_version("key") == 2 and await cache.aget("key", version=2) == 7
    assert await cache.adecr_version("key", version=2) == 1 and await cache.aget("key") == 7
    assert await cache.adelete("key") is True and await cache.adelete("key") is False
    await cache.adelete_many(["a", "b"])
    assert await cache.aget("a", "absent") == "absent"
    assert await cache.aclear() and await cache.aget("made") is None
    await cache.aclose()
    with pytest.raises(ValueError, match="absent"):
        await cache.aincr("absent")


def others() -> set[threading.Thread]:
    """Threads that are not the store's."""
    return {thread for thread in threading.enumerate() if not thread.name.startswith("strata-")}


def test_each_call_can_be_awaited_and_none_takes_a_thread(make: MakeCache) -> None:
    cache = make()
    cache.get("key")
    before: set[threading.Thread] = set()

    async def main() -> None:
        await cache.aset("key", 0)
        await cache.adelete("key")
        before.update(others())
        await every_twin(cache)
        assert others() <= before

    asyncio.run(main())


def test_without_greenlet_calls_are_awaited_in_a_thread(make: MakeCache, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> Any:
        raise InvalidConfigError("asyncio takes greenlet; install strata[asyncio]")

    monkeypatch.setattr(aio_here, "_find", refuse)
    asyncio.run(every_twin(make()))


store = DataStore(Config())  # which a test names


def test_a_cache_in_a_store_of_the_application_takes_no_settings_of_its_own() -> None:
    cache = StrataCache(f"{__name__}:store", {})
    cache.set("key", [1])
    assert cache.get("key") == [1] and cache._entries.store is store
    with pytest.raises(InvalidConfigError, match="max_entries"):
        StrataCache(f"{__name__}:store", {"OPTIONS": {"MAX_ENTRIES": 300}}).get("key")


@pytest.mark.parametrize(
    ("params", "said"),
    [
        ({"LOCATION": "redis://a:1,redis://b:2"}, "redis_addr"),
        ({"LOCATION": ["redis://a:1", "redis://b:2"]}, "one Redis"),
        ({"OPTIONS": {"db": 3}}, "no option 'db'"),
        ({"OPTIONS": {"ignore_outages": "yes"}}, "ignore_outages"),
        ({"OPTIONS": {"secret_key": ""}}, "secret_key is empty"),
        ({"OPTIONS": {"MAX_ENTRIES": "x"}}, "max_entries"),
    ],
)
def test_settings_that_cannot_be_are_refused_and_the_error_says_which(params: dict[str, Any], said: str) -> None:
    params = {"LOCATION": "127.0.0.1:1"} | params
    with pytest.raises(InvalidConfigError, match=said):
        StrataCache(params.pop("LOCATION"), params).get("key")


def test_no_error_shows_a_secret(make: MakeCache) -> None:
    make(OPTIONS={"secret_key": "hunter2-a"}).get("key")
    one = shared.entries_of(store, "shown", "", [b"hunter2-a"])
    assert one is not None
    with pytest.raises(InvalidConfigError) as caught:
        shared.entries_of(store, "shown", "", [b"hunter2-b"])
    assert "hunter2" not in f"{caught.value!r}"
