"""A hit of the drop-in caches, beside what each framework has: a cache in memory, and one in Redis without L1."""

from __future__ import annotations

import asyncio
import random
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from dogpile.cache import make_region, register_backend

from strata.embedded import EmbeddedValkey
from strata.testing import inspect
from tests.benchmarks.harness import Pass, Row, Target, calling, collector_off, measure, row
from tests.benchmarks.options import Options
from tests.support import wait_until
from tests.surroundings import django_beside  # noqa: F401 which sets Django up

KEYS = [f"player:{number}" for number in range(256)]
VALUES: Mapping[str, Any] = {"a text": "value", "a dict": {"id": 7, "name": "andrew", "tags": ["a", "b"], "score": 1.5}}
OURS = "strata"
TARGETS = {"LocMemCache": Target(0.3), "RedisCache": Target(0.02)}  # of Django's

register_backend(OURS, "strata.integrations.dogpile", "StrataBackend")  # type: ignore[no-untyped-call]


def run(options: Options) -> list[Row]:
    rows: list[Row] = []
    with EmbeddedValkey(password="") as server:
        for framework, caches in {"Django": _django, "cachelib": _cachelib, "dogpile": _dogpile}.items():
            with caches(server.addr) as (setters, getters):
                rows += _framework(framework, setters, getters, options)
        with _django(server.addr) as (setters, _):
            rows += asyncio.run(_awaited(server.addr, options.rounds(20)))
    return rows


Calls = Mapping[str, Callable[..., Any]]


def _framework(framework: str, setters: Calls, getters: Calls, options: Options) -> list[Row]:
    rows: list[Row] = []
    items = KEYS * 4
    random.shuffle(items)
    for what, value in VALUES.items():
        for setter in setters.values():
            for key in KEYS:
                setter(key, value)
        in_memory = {name: get for name, get in getters.items() if "Redis" not in name}
        timings = measure({name: calling(get) for name, get in in_memory.items()}, items, options.rounds(100))
        slow = measure({name: calling(get) for name, get in getters.items()}, KEYS[:64], options.rounds(10))
        label = f"{framework}: hit, {what}"
        for name in getters:
            if name == OURS:
                rows.append(row(label, "", timings[OURS].rounds, unit=" ns"))
                continue
            source = timings if name in timings else slow
            rows.append(row(label, name, source[OURS].over(source[name]), TARGETS.get(name)))
    written = measure({name: _setting(s) for name, s in setters.items()}, KEYS[:64], 10)
    rows += [
        row(f"{framework}: set", name, written[OURS].over(timing))
        for name, timing in written.items()
        if name != OURS and "Redis" in name
    ]
    return rows


def _setting(setter: Callable[..., Any]) -> Pass:
    return calling(lambda key: setter(key, "value"))


@contextmanager
def _django(addr: str) -> Iterator[tuple[Calls, Calls]]:
    from django.core.cache.backends.locmem import LocMemCache
    from django.core.cache.backends.redis import RedisCache

    from strata.integrations.django import StrataCache

    ours = StrataCache(addr, {})
    caches = {
        OURS: ours,
        "LocMemCache": LocMemCache("x", {"OPTIONS": {"MAX_ENTRIES": 10_000}}),
        "RedisCache": RedisCache(f"redis://{addr}", {}),
    }
    with _sure(ours, lambda: ours._entries.store):
        yield {name: cache.set for name, cache in caches.items()}, {name: cache.get for name, cache in caches.items()}


@contextmanager
def _cachelib(addr: str) -> Iterator[tuple[Calls, Calls]]:
    from cachelib import RedisCache, SimpleCache

    from strata.integrations.cachelib import StrataCache

    host, _, port = addr.rpartition(":")
    ours = StrataCache(addr, secret_key="secret")
    caches = {OURS: ours, "SimpleCache": SimpleCache(), "RedisCache": RedisCache(host, int(port))}
    with _sure(ours, lambda: ours._store):
        yield {name: cache.set for name, cache in caches.items()}, {name: cache.get for name, cache in caches.items()}


@contextmanager
def _dogpile(addr: str) -> Iterator[tuple[Calls, Calls]]:
    made = {
        OURS: ("strata", {"redis_addr": addr, "secret_key": "secret"}),
        "memory_pickle": ("dogpile.cache.memory_pickle", {}),
        "Redis": ("dogpile.cache.redis", {"url": f"redis://{addr}"}),
    }
    regions = {name: make_region().configure(backend, arguments=given) for name, (backend, given) in made.items()}
    with _sure(regions[OURS], lambda: regions[OURS].backend._store):
        yield {name: each.set for name, each in regions.items()}, {name: each.get for name, each in regions.items()}


@contextmanager
def _sure(cache: Any, store: Callable[[], Any]) -> Iterator[None]:
    """Its L1 answers, until the store is closed."""
    cache.get("key")
    wait_until(lambda: inspect(store()).sure)
    try:
        yield
    finally:
        store().close(2)


async def _awaited(addr: str, rounds: int) -> list[Row]:
    """`aget` of Django's."""
    from django.core.cache.backends.locmem import LocMemCache

    from strata.integrations.django import StrataCache

    caches = {OURS: StrataCache(addr, {}), "LocMemCache": LocMemCache("y", {})}
    taken: dict[str, list[float]] = {name: [] for name in caches}
    for cache in caches.values():
        await cache.aset("key", "value")
        await cache.aget("key")
    with collector_off():
        for _ in range(rounds):
            for name in random.sample(list(caches), len(caches)):
                began = time.perf_counter_ns()
                for _ in range(200):
                    await caches[name].aget("key")
                taken[name].append((time.perf_counter_ns() - began) / 200)
    ratios = [own / other for own, other in zip(taken[OURS], taken["LocMemCache"], strict=True)]
    middle = statistics.median(taken[OURS])
    return [
        row("Django: await hit", "LocMemCache", ratios),
        Row("Django: await hit", "", middle, min(taken[OURS]), max(taken[OURS]), None, " ns"),
    ]
