"""`StrataCache` for cachelib and Flask-Caching: what their own tests, which ./ops/peers runs, do not ask."""

from __future__ import annotations

import os
import pickle
import re
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from cachelib.serializers import JSONSerializer
from django.core.cache import caches
from django.test import override_settings
from flask import Flask
from flask_caching import Cache
from prometheus_client import CollectorRegistry

from strata import EncodeError, InvalidConfigError, L2UnavailableError
from strata.embedded import EmbeddedValkey
from strata.integrations.cachelib import StrataCache
from strata.integrations.prometheus import PrometheusRecorder
from strata.testing import inspect
from tests.behind import client
from tests.support import wait_until
from tests.surroundings import django_beside, test_dogpile  # noqa: F401 which set Django up, and name the backend

MakeCache = Callable[..., StrataCache]


@pytest.fixture
def make(redis_addr: str) -> Iterator[MakeCache]:
    """Caches on the same Redis, each of a process of its own: with options that nobody else has they share no store."""
    made: list[StrataCache] = []

    def cache(addr: str = redis_addr, secret_key: str | None = "secret", **options: Any) -> StrataCache:
        made.append(StrataCache(addr, secret_key=secret_key, **{"max_entries": 10_000 + 256 * len(made)} | options))
        return made[-1]

    yield cache
    for known in made:
        if "_store" in vars(known):
            known._store.close(2)


def test_what_one_process_does_the_other_ones_see(make: MakeCache) -> None:
    one, other = make(), make()
    for cache in (one, other):
        cache.get("key")
        wait_until(lambda cache=cache: inspect(cache._store).sure)  # type: ignore[misc]
    steps: list[tuple[Callable[[], object], object]] = [
        (lambda: one.set("key", [1]), [1]),
        (lambda: one.delete("key"), None),
        (lambda: one.inc("key", 3), 3),
        (lambda: one.dec("key", 5), -2),
        (lambda: one.set_many({"key": "x"}), "x"),
        (lambda: one.delete_many("key"), None),
        (lambda: one.add("key", True), True),
        (one.clear, None),
    ]
    for change, seen in steps:
        other.get("key")
        change()
        assert one.get("key") == seen
        wait_until(lambda: other.get("key") == seen)  # noqa: B023


def test_a_counter_begins_at_0_and_counts_each_step_among_threads_and_processes(make: MakeCache) -> None:
    both = make(), make()
    with ThreadPoolExecutor(8) as pool:
        counted = list(pool.map(lambda n: both[n % 2].inc("count"), range(100)))
    assert sorted(counted) == list(range(1, 101))


@pytest.mark.parametrize("timeout", [0.1, timedelta(milliseconds=100)])
def test_a_time_out_may_be_a_fraction_of_a_second_and_0_is_without_end(
    make: MakeCache, timeout: Any, redis_addr: str
) -> None:
    cache = make(default_timeout=timeout)
    cache.set("key", 1)
    cache.add("added", 1, timeout)
    cache.set("kept", 1, 0)
    cache.add("kept too", 1, timedelta())
    wait_until(lambda: cache.get_many("key", "added") == [None, None])
    with client(redis_addr) as conn:
        assert conn.pttl("strata:cachelib:kept") == conn.pttl("strata:cachelib:kept too") == -1


def test_a_prefix_may_be_a_function_and_its_caches_are_cleared_alone(make: MakeCache) -> None:
    tenant = "a"
    cache = make(key_prefix=lambda: tenant)
    cache.set("key", 1)
    tenant = "b"
    assert cache.get("key") is None
    cache.set("key", 2)
    cache.clear()
    tenant = "a"
    assert cache.get("key") == 1


def test_without_a_secret_what_json_has_is_kept_and_nothing_is_unpickled(
    make: MakeCache, monkeypatch: pytest.MonkeyPatch, redis_addr: str
) -> None:
    monkeypatch.delenv("STRATA_SECRET_KEY", raising=False)
    cache = make(secret_key=None)
    cache.set("key", {"a": [1, None, 2.5, "x"]})
    assert cache.get("key") == {"a": [1, None, 2.5, "x"]} and cache.inc("count") == 1
    for value in ((1, 2), {1: 2}, b"x", object()):
        with pytest.raises(EncodeError, match="STRATA_SECRET_KEY"):
            cache.set("key", value)
    make(secret_key="another").set("signed", 1)
    with client(redis_addr) as conn:
        conn.set("strata:cachelib:key", conn.get("strata:cachelib:signed"))
    assert make(secret_key=None).get("key") is None


def test_a_serializer_of_a_user_s_own_makes_the_bytes_and_what_it_will_not_keep_is_not_kept(make: MakeCache) -> None:
    cache = make()
    cache.serializer = JSONSerializer()  # type: ignore[assignment]  # which returns None where it cannot
    assert cache.set("key", {"a": 1}) and cache.get("key") == {"a": 1}
    assert not cache.set("other", object()) and not cache.add("other", object())
    assert cache.set_many({"a": 1, "b": object()}) == ["a"]


class Bomb:
    def __reduce__(self) -> Any:
        return os.mkdir, ("/nowhere/that/could/be",)


def test_a_pickle_that_somebody_else_wrote_is_not_run(make: MakeCache, redis_addr: str) -> None:
    make(secret_key="another").set("key", Bomb())
    with client(redis_addr) as conn:
        conn.set("strata:cachelib:raw", pickle.dumps(Bomb()))
    cache = make()
    assert cache.get_many("key", "raw") == [None, None]


def test_a_recorder_among_the_options_is_told_of_hits_by_kind_and_prefix_of_the_cache(make: MakeCache) -> None:
    registry = CollectorRegistry()
    cache = make(metrics=PrometheusRecorder(registry), key_prefix="shop")
    cache.set("key", 1)
    assert [cache.get("key"), cache.get("key"), cache.get("none")] == [1, 1, None]
    inspect(cache._store).feed.publish()

    def told(name: str, **tier: str) -> float:
        return registry.get_sample_value(f"strata_{name}_total", {"schema": "cachelib_shop", **tier}) or 0

    assert told("hits", tier="l1") + told("hits", tier="l2") == 2
    assert (told("gets"), told("misses")) == (3, 1)


def test_in_an_outage_calls_raise_unless_it_is_ignored(make: MakeCache) -> None:
    with EmbeddedValkey(password="") as server:
        raising, ignoring = make(server.addr), make(server.addr, ignore_outages=True)
        strict = make(server.addr, ignore_delete_many_errors=False)
        raising.set("key", 1)
    for call in (raising.get, raising.inc, raising.delete, raising.has, lambda key: raising.set(key, 1)):
        with pytest.raises(L2UnavailableError):
            call("new")
    assert [ignoring.get("key"), ignoring.inc("key"), ignoring.get_many("a", "b")] == [None, None, [None, None]]
    assert [ignoring.set("a", 1), ignoring.add("a", 1), ignoring.delete("a"), ignoring.has("a")] == [False] * 4
    assert [ignoring.set_many({"a": 1}), ignoring.delete_many("a"), ignoring.clear()] == [[], [], False]
    with pytest.raises(RuntimeError, match="2 keys"):
        strict.delete_many("a", "b")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"default_timeout": -1}, "default_timeout"),
        ({"secret_key": 7}, "secret_key"),
        ({"ignore_outages": 1}, "ignore_outages"),
    ],
)
def test_settings_that_cannot_be_are_refused_when_the_cache_is_made(options: dict[str, Any], said: str) -> None:
    with pytest.raises(InvalidConfigError, match=said):
        StrataCache("127.0.0.1:1", **options)


def test_flask_caching_takes_it_by_its_name_with_options(redis_addr: str) -> None:
    app = Flask(__name__)
    app.config["CACHE_TYPE"] = "strata.integrations.cachelib.StrataCache"
    app.config["CACHE_OPTIONS"] = {"redis_addr": redis_addr, "secret_key": "secret", "namespace": "flask"}
    cache, calls = Cache(app), []

    @app.get("/<int:number>")
    @cache.cached(timeout=60)
    def double(number: int) -> str:
        calls.append(number)
        return str(2 * number)

    asked = app.test_client()
    assert [asked.get("/7").data for _ in range(3)] == [b"14"] * 3 and calls == [7]
    store = app.extensions["cache"][cache]._store
    done = threading.Thread(target=lambda: asked.get("/7"))
    done.start()
    done.join(20)
    assert calls == [7]
    cache.clear()
    assert asked.get("/7").data == b"14" and calls == [7, 7]
    store.close(2)


PAGE = Path("docs/drop-in-caches.md").read_text()
SHOWN = re.findall(r"^```python\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)


def test_the_settings_of_the_page_on_drop_in_caches_work_as_they_stand(redis_addr: str) -> None:
    django, flask, _, dogpile = (text.replace("redis://127.0.0.1:6379/0", redis_addr) for text in SHOWN)
    made: dict[str, Any] = {"__name__": __name__}
    for text in (django, flask, dogpile):
        exec(text, made)  # noqa: S102 the page itself
    with override_settings(CACHES=made["CACHES"]):
        caches["default"].set("key", {"a": (1, 2)})
        assert caches["default"].get("key") == {"a": (1, 2)}
        caches["default"]._entries.store.close(2)
    with made["app"].app_context():
        made["cache"].set("key", {"a": (1, 2)})
        assert made["cache"].get("key") == {"a": (1, 2)}
    assert made["region"].get_or_create("key", lambda: (1, 2)) == (1, 2)
    made["region"].backend._store.close(2)
    made["app"].extensions["cache"][made["cache"]]._store.close(2)


def test_tests_of_an_application_that_take_another_cache_take_other_options_too() -> None:
    _, flask, simple, _ = SHOWN
    made: dict[str, Any] = {"__name__": __name__}
    imports, _, settings = flask.partition("\napp = ")
    exec(f"{imports}\n{simple}", made)  # noqa: S102 the page itself
    with made["app"].app_context():
        made["cache"].set("key", 1)
        assert made["cache"].get("key") == 1
    wrong = f"{imports}\napp = {settings}".replace("strata.integrations.cachelib.StrataCache", "SimpleCache")
    with pytest.raises(TypeError, match="unexpected keyword argument 'redis_addr'"):
        exec(wrong, made)  # noqa: S102
