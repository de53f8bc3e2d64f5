"""A backend for dogpile.cache in L1 and L2, coherent among processes (extra `dogpile`).

    region = make_region().configure("strata", arguments={"redis_addr": "redis://127.0.0.1:6379/0", "secret_key": ...})

dogpile's own tests of backends, serializers and mutexes pass on it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from typing import Any

from dogpile.cache.api import NO_VALUE, BytesBackend, CantDeserializeException

from strata.config import CONFIG_FIELDS
from strata.drop_in.entries import Entries, UnreadableError, key_of, loaded
from strata.drop_in.mutex import Mutex
from strata.drop_in.shared import entries_of, secrets_of, store_at
from strata.drop_in.values import serializer_of
from strata.durations import seconds
from strata.errors import InvalidConfigError
from strata.exports import export

__all__ = ["StrataBackend"]

_OPTIONS = CONFIG_FIELDS - {"redis_addr"}


class StrataBackend(BytesBackend):
    """The backend `strata`. Thread-safe; it may be used in the child of a fork.

    Its `arguments`; others are ignored, and the dict is left as it is:

    - `redis_addr`, the address of a Redis as `Config.redis_addr` has it, or `store`, a store or `package.module:store`;
      by default what the environment says. What else `Config` has, such as `namespace`.
    - `secret_key`: what signs values in Redis; by default STRATA_SECRET_KEY. Without one only what JSON has can be
      kept, unless the region has a serializer of its own.
    - `redis_expiration_time`: seconds after which a value is gone; by default never. It should be more than the
      region's `expiration_time`.
    - `key_prefix`: backends of one prefix share their values. Default: none.
    - `distributed_lock`: whether the lock of a key is among all processes, not the threads of one; False by default.
      Such a lock ends after `lock_timeout` seconds, 60 by default, and is looked at every `lock_sleep`, 0.1.
    - `max_entries`: how many values a process keeps in L1, rounded up to the next 256; 10,240 by default.

    Calls raise `UnavailableError` where Redis does not answer.
    """

    def __init__(self, arguments: Mapping[str, Any]) -> None:
        """Raises `InvalidConfigError`; Redis is not asked before the first use."""
        self._secrets = secrets_of(arguments.get("secret_key"))
        values = serializer_of(self._secrets)
        self.serializer = values.dumps
        self.deserializer = lambda data: _loaded(values.loads, data)
        self._prefix = arguments.get("key_prefix") or ""
        self._life = seconds(arguments.get("redis_expiration_time"), "redis_expiration_time") or None
        self._locks = bool(arguments.get("distributed_lock"))
        self._lock_timeout = seconds(arguments.get("lock_timeout"), "lock_timeout") or 60.0
        self._lock_sleep = seconds(arguments.get("lock_sleep"), "lock_sleep") or 0.1
        options = {name: value for name, value in arguments.items() if name in _OPTIONS}
        self._place = (
            arguments.get("store") or arguments.get("redis_addr") or "",
            options,
            arguments.get("max_entries"),
        )

    @cached_property
    def _store(self) -> Any:
        store = store_at(*self._place, self._secrets)
        if self._locks and not store._has_redis:
            raise InvalidConfigError("distributed_lock is among processes, and the store has no Redis; give it one")
        return store

    @cached_property
    def _entries(self) -> Entries:
        return entries_of(self._store, "dogpile", self._prefix, self._secrets)

    @cached_property
    def _mutexes(self) -> Entries:
        return entries_of(self._store, "locks_of_dogpile", self._prefix, self._secrets)

    def has_lock_timeout(self) -> bool:
        """Whether a lock may end before it is released."""
        return self._locks

    def get_mutex(self, key: str) -> Any:
        """The lock of a key, where it is among processes."""
        return Mutex(self._mutexes, key_of(key), self._lock_timeout, self._lock_sleep) if self._locks else None

    def get_serialized(self, key: str) -> Any:
        """The bytes, or `NO_VALUE`."""
        value = self._entries.hit(key)
        if value is None:
            value = self._entries.value(key_of(key))
        return NO_VALUE if value is None else value

    def get_serialized_multi(self, keys: Iterable[str]) -> Sequence[Any]:
        """The bytes, in the order of the keys, in one round trip."""
        named = [key_of(key) for key in keys]
        found = self._entries.values(named)
        return [found.get(key, NO_VALUE) for key in named]

    def set_serialized(self, key: str, value: bytes) -> None:
        """Keep bytes."""
        self._entries.set(key_of(key), value, self._life)

    def set_serialized_multi(self, mapping: Mapping[str, bytes]) -> None:
        """Keep bytes, in one round trip."""
        self._entries.set_many({key_of(key): value for key, value in mapping.items()}, self._life)

    def delete(self, key: str) -> None:
        """Drop what is there."""
        self.delete_multi([key])

    def delete_multi(self, keys: Iterable[str]) -> None:
        """Drop what is there, in one round trip."""
        self._entries.delete_many(map(key_of, keys))


def _loaded(loads: Any, data: bytes) -> Any:
    try:
        return loaded(loads, data)
    except UnreadableError as error:
        raise CantDeserializeException from error.__cause__  # as where a class was renamed since: it is made anew


__dir__ = export(globals())
