"""Other caches with a time to live, as one would use them from threads; those that are not installed are left out."""

from __future__ import annotations

import datetime
import importlib
import importlib.util
import threading
from collections.abc import Callable, Sequence
from typing import Any

import cachetools


def _optional(name: str) -> Any:
    return importlib.import_module(name) if importlib.util.find_spec(name.split(".", maxsplit=1)[0]) else None


dogpile = _optional("dogpile.cache")
theine = _optional("theine")

CAPACITY = 100_000
TTL = 3600.0

LookUp = Callable[[Any], Any]


def peers(keys: Sequence[str], record: Any) -> dict[str, LookUp]:
    """A look-up for each, over a cache that holds `record` under all keys."""
    found = {"cachetools.TTLCache + Lock": _cachetools(keys, record)}
    if dogpile is not None:
        found["dogpile memory"] = _dogpile(keys, record)
    if theine is not None:
        found["theine"] = _theine(keys, record)
    return found


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


def _theine(keys: Sequence[str], record: Any) -> LookUp:
    cache = theine.Cache(CAPACITY)
    for key in keys:
        cache.set(key, record, datetime.timedelta(seconds=TTL))
    look_up: LookUp = cache.get
    return look_up
