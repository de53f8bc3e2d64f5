"""A cache for cachelib, and so for Flask-Caching, in L1 and L2, coherent among processes (extra `cachelib`).

    app.config["CACHE_TYPE"] = "strata.integrations.cachelib.StrataCache"
    app.config["CACHE_OPTIONS"] = {"redis_addr": "redis://127.0.0.1:6379/0", "secret_key": app.secret_key}

It does what cachelib's documentation says of a cache, and the tests of both pass on it.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext, suppress
from datetime import timedelta
from functools import cached_property
from typing import Any

from cachelib.base import BaseCache

from strata.drop_in.entries import FOREVER, Entries, UnreadableError, key_of, loaded
from strata.drop_in.shared import entries_of, secrets_of, store_at
from strata.drop_in.values import Pickles, Serializer, serializer_of
from strata.durations import seconds
from strata.errors import NotFoundError, UnavailableError
from strata.exports import export
from strata.policies import flag

__all__ = ["StrataCache"]


class StrataCache(BaseCache):
    """A cache of cachelib's kind. Thread-safe; it may be used in the child of a fork.

    Time-outs are seconds or a `timedelta`, and 0 is without end, as everywhere in cachelib. `serializer`, of the class
    or of an instance, makes bytes of values: pickles, or without a secret JSON; that is signed with the secret.
    """

    serializer: Serializer = Pickles()

    def __init__(
        self,
        redis_addr: Any = "",
        key_prefix: str | Callable[[], str] | None = None,
        default_timeout: float | timedelta = 300,
        secret_key: str | bytes | None = None,
        ignore_delete_many_errors: bool = True,
        *,
        ignore_outages: bool = False,
        max_entries: int | None = None,
        **options: Any,
    ) -> None:
        """Raises `InvalidConfigError`; Redis is not asked before the first use.

        Args:
            redis_addr: The address of a Redis, as `Config.redis_addr` has it, `package.module:store`, or a store. By
                default what the environment says.
            key_prefix: Caches of one prefix share their entries, and are cleared together; or a function that gives it.
            default_timeout: Where `set` does not say.
            secret_key: What signs values in Redis; by default STRATA_SECRET_KEY. Without one only what JSON has can be
                kept.
            ignore_delete_many_errors: Otherwise `delete_many` raises a `RuntimeError` where Redis cannot be told.
            ignore_outages: Whether a Redis that does not answer is as a cache that is empty, and keeps nothing.
                Otherwise calls raise `UnavailableError`.
            max_entries: How many entries a process keeps in L1, rounded up to the next 256; 10,240 by default.
            options: Those of `Config`, such as `namespace`.
        """
        flag(ignore_outages, "ignore_outages")
        super().__init__(ignore_delete_many_errors=ignore_delete_many_errors)
        self.default_timeout = default_timeout  # type: ignore[assignment]  # which may have a fraction
        seconds(default_timeout, "default_timeout")
        self.key_prefix = key_prefix or ""
        self._secrets = secrets_of(secret_key)
        if not self._secrets and self.serializer is StrataCache.serializer:
            self.serializer = serializer_of(self._secrets)
        self._outages = suppress(UnavailableError) if ignore_outages else nullcontext()
        self._place = (redis_addr, options, max_entries)
        # Of one prefix, unless it is a function. Threads write it without a lock: two that are made at once are alike.
        self._by_prefix: dict[str, Entries] = {}

    @cached_property
    def _store(self) -> Any:
        return store_at(*self._place, self._secrets)

    @property
    def _entries(self) -> Entries:
        prefix = self.key_prefix if isinstance(self.key_prefix, str) else self.key_prefix()
        known = self._by_prefix.get(prefix)
        if known is None:
            known = self._by_prefix[prefix] = entries_of(self._store, "cachelib", prefix, self._secrets)
        return known

    def _seconds(self, timeout: Any) -> float | None:
        given = self.default_timeout if timeout is None else timeout
        if isinstance(given, int | float) and (given == -1 or given >= FOREVER):
            return None  # which -1 is in cachelib's own, too
        return seconds(given, "timeout") or None

    def _loaded(self, entries: Entries, key: Any, value: bytes | None) -> Any:
        if value is None:
            return None
        try:
            return loaded(self.serializer.loads, value)
        except UnreadableError as error:
            entries.unreadable(key_of(key), error)
            return None

    def get(self, key: Any) -> Any:
        """The value, private to the caller, or None."""
        entries = self._entries
        value = entries.hit(key)
        if value is None:
            with self._outages:
                value = entries.value(key_of(key))
        return self._loaded(entries, key, value)

    def set(self, key: Any, value: Any, timeout: Any = None) -> bool:
        """Keep a value; whether it is kept. Raises what the serializer does."""
        data = self.serializer.dumps(value)
        if data is None:
            return False  # a serializer's word for what it cannot
        with self._outages:
            self._entries.set(key_of(key), data, self._seconds(timeout))
            return True
        return False

    def add(self, key: Any, value: Any, timeout: Any = None) -> bool:
        """Keep a value if there is none, in one step against all other processes; whether that was so."""
        data = self.serializer.dumps(value)
        with self._outages:
            return data is not None and self._entries.add(key_of(key), data, self._seconds(timeout))
        return False

    def delete(self, key: Any) -> bool:
        """Drop what is there; whether something was."""
        with self._outages:
            return self._entries.delete(key_of(key))
        return False

    def get_many(self, *keys: Any) -> list[Any]:
        """The values, in the order of the keys, None for those that are not there; in one round trip."""
        entries, named = self._entries, [key_of(key) for key in keys]
        found: dict[str, bytes] = {}
        with self._outages:
            found = entries.values(named)
        return [self._loaded(entries, key, found.get(name)) for key, name in zip(keys, named, strict=True)]

    def set_many(self, mapping: dict[Any, Any], timeout: Any = None) -> list[Any]:
        """Keep values, in one round trip; returns the keys of those that are kept."""
        dumped = {key: self.serializer.dumps(value) for key, value in mapping.items()}
        kept = {key: data for key, data in dumped.items() if data is not None}
        with self._outages:
            self._entries.set_many({key_of(key): data for key, data in kept.items()}, self._seconds(timeout))
            return list(kept)
        return []

    def delete_many(self, *keys: Any) -> list[Any]:
        """Drop what is there, in one round trip; returns the keys that are gone, also those that were not there."""
        try:
            self._entries.delete_many(map(key_of, keys))
        except UnavailableError as error:
            if not self.ignore_delete_many_errors:
                raise RuntimeError(f"failed to delete {len(keys)} keys") from error
            return []
        return list(keys)

    def has(self, key: Any) -> bool:
        """Whether something is there."""
        with self._outages:
            return self._entries.has(key_of(key))
        return False

    def clear(self) -> bool:
        """Drop everything under the prefix, by one marker."""
        with self._outages:
            self._entries.clear()
            return True
        return False

    def inc(self, key: Any, delta: int = 1) -> Any:
        """Add to a number, or to 0, in one step against all other processes; its life goes on. None in an outage."""
        name, entries, value = key_of(key), self._entries, None

        def add(data: bytes) -> bytes:
            nonlocal value
            value = loaded(self.serializer.loads, data) + delta
            return self.serializer.dumps(value)

        with self._outages:
            while True:
                try:
                    entries.change(name, add)
                    return value
                except NotFoundError:
                    pass
                except UnreadableError as error:
                    entries.unreadable(name, error)
                if entries.add(name, self.serializer.dumps(delta), self._seconds(None)):
                    return delta
        return None

    def dec(self, key: Any, delta: int = 1) -> Any:
        """As `inc`, the other way."""
        return self.inc(key, -delta)


__dir__ = export(globals())
