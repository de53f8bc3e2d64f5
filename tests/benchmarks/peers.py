"""Other caches with a time to live, as one would use them from threads; those that are not installed are left out."""

from __future__ import annotations

import datetime
import importlib
import importlib.util
import threading
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import cachetools


def _optional(name: str) -> Any:
    return importlib.import_module(name) if importlib.util.find_spec(name.split(".", maxsplit=1)[0]) else None


dogpile = _optional("dogpile.cache")
theine = _optional("theine")
cashews = _optional("cashews")
cachebox = _optional("cachebox")
fastapi_cache = _optional("fastapi_cache")
for _part in ("decorator", "backends.redis") if fastapi_cache is not None else ():
    importlib.import_module(f"fastapi_cache.{_part}")

CAPACITY = 100_000
TTL = 3600.0

RUST = "cachebox.TTLCache"  # which is Rust throughout, and hands out what it was given

LookUp = Callable[[Any], Any]
Function = Callable[[str], Any]


def peers(keys: Sequence[str], record: Any) -> dict[str, LookUp]:
    """A look-up for each, over a cache that holds `record` under all keys."""
    found = {"cachetools.TTLCache + Lock": _cachetools(keys, record)}
    if dogpile is not None:
        found["dogpile memory"] = _dogpile(keys, record)
    if theine is not None:
        found["theine"] = _theine(keys, record)
    if cachebox is not None:
        found[RUST] = _cachebox(keys, record)
    return found


def memoized(function: Function) -> dict[str, Function]:
    """The function as each has it that keeps results of functions."""
    found = {"cachetools.cached + TTLCache + Lock": _cachetools_cached(function)}
    if dogpile is not None:
        region = dogpile.make_region().configure("dogpile.cache.memory", expiration_time=TTL)
        found["dogpile cache_on_arguments"] = region.cache_on_arguments()(function)
    if cachebox is not None:
        found["cachebox.cached"] = cachebox.cached(cachebox.TTLCache(CAPACITY, TTL))(function)
    if theine is not None:
        found["theine.Memoize"] = theine.Memoize(CAPACITY, datetime.timedelta(seconds=TTL))(function)
    return found


def memoized_coroutine(function: Callable[[str], Awaitable[Any]]) -> dict[str, Callable[[str], Awaitable[Any]]]:
    """The same for a coroutine function."""
    if cashews is None:
        return {}
    cache = cashews.Cache()
    cache.setup("mem://", size=CAPACITY)
    return {"cashews mem": cache(ttl=TTL)(function)}


def _cachetools_cached(function: Function) -> Function:
    kept: Function = cachetools.cached(cachetools.TTLCache(CAPACITY, TTL), lock=threading.Lock())(function)
    return kept


def _cachetools(keys: Sequence[str], record: Any) -> LookUp:
    cache: Any = cachetools.TTLCache(CAPACITY, TTL)
    cache.update(dict.fromkeys(keys, record))
    lock = threading.Lock()

    def get(key: str) -> Any:
        with lock:
            return cache.get(key)

    return get


def _dogpile(keys: Sequence[str], record: Any) -> LookUp:
    region = dogpile.make_region().configure("dogpile.cache.memory", expiration_time=TTL)
    region.set_multi(dict.fromkeys(keys, record))
    look_up: LookUp = region.get
    return look_up


def _cachebox(keys: Sequence[str], record: Any) -> LookUp:
    cache = cachebox.TTLCache(CAPACITY, TTL)
    cache.update(dict.fromkeys(keys, record))
    look_up: LookUp = cache.get
    return look_up


def _theine(keys: Sequence[str], record: Any) -> LookUp:
    cache = theine.Cache(CAPACITY)
    for key in keys:
        cache.set(key, record, datetime.timedelta(seconds=TTL))
    look_up: LookUp = cache.get
    return look_up
