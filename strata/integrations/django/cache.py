"""`StrataCache`: Django's cache in L1 and L2, coherent among processes.

It does what Django's documentation says of a cache backend ("Django's cache framework", 5.2), and Django's own tests of
caches and cached sessions pass on it.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from contextlib import nullcontext, suppress
from functools import wraps
from typing import Any

from asgiref.sync import sync_to_async
from django.conf import settings
from django.core.cache.backends.base import DEFAULT_TIMEOUT, BaseCache

from strata.aio.here import here
from strata.datastore import DataStore
from strata.drop_in.entries import DIGEST, Entries, UnreadableError, digest_of, loaded
from strata.drop_in.shared import entries_of, names_store, secret_of, secrets_of, store_at
from strata.drop_in.values import Pickles
from strata.errors import InvalidConfigError, NotFoundError, UnavailableError
from strata.integrations.django.project import project
from strata.policies import flag

# A key that Django does not warn of, and that stands for itself. So what is found under it needs no look at it.
_PORTABLE = re.compile(f"(?!{DIGEST})[^\0-\x20\x7f\ud800-\udfff]{{1,250}}").fullmatch
_OWN_OPTIONS = ("MAX_ENTRIES", "ignore_outages", "secret_key")  # beside those of `Config`


class StrataCache(BaseCache):  # type: ignore[misc]  # Django has no types
    """The cache backend `strata.integrations.django.StrataCache`. Thread-safe; it may be used in the child of a fork.

    `LOCATION` is the address of a Redis, as `Config.redis_addr` has it, or `package.module:store`; without one it is
    what the environment says. All caches of a process with one `LOCATION` and the same `OPTIONS` share a store, and
    those with the same `KEY_PREFIX` their entries. `OPTIONS` are those of `Config`, such as `namespace`, and

    - `MAX_ENTRIES`: how many entries a process keeps in L1, rounded up to the next 256; 10,240 by default. How many
      Redis keeps is for its `maxmemory` to say; nothing is culled (`CULL_FREQUENCY` is not used).
    - `secret_key`: what signs entries in Redis, in the place of SECRET_KEY and SECRET_KEY_FALLBACKS.
    - `ignore_outages`: whether a Redis that does not answer is as a cache that is empty, and keeps nothing. Otherwise
      calls raise `strata.UnavailableError`, which is also the default.

    An entry that nobody who has the secret has written is no entry, and so is one that cannot be unpickled any more.
    """

    def __init__(self, location: str, params: dict[str, Any]) -> None:
        super().__init__(params)
        options = dict(params.get("OPTIONS", {}))
        options.pop("CULL_FREQUENCY", None)
        self._location = location
        self._secret = options.pop("secret_key", None)
        self._entries_kept = options.pop("MAX_ENTRIES", None)
        self._ignores = flag(options.pop("ignore_outages", False), "ignore_outages")
        self._options = options
        self._known: Entries | None = None
        self._outages = suppress(UnavailableError) if self._ignores else nullcontext()
        self._makes_keys_as_usual = _is_django_s(self, "make_key") and _is_django_s(self, "validate_key")

    @property
    def store(self) -> DataStore:
        """The store that it is in, for `stats`, `health` and the like. Raises `InvalidConfigError`."""
        return self._entries.store

    @property
    def _entries(self) -> Entries:
        """Made at the first use, when the settings are known, and anew where the store was closed."""
        if self._known is None or self._known.store._context.closed:
            self._known = self._made()
        return self._known

    def _made(self) -> Entries:
        if self._secret is None:
            secrets = [secret_of(settings.SECRET_KEY, "SECRET_KEY")]
            secrets += [secret_of(secret, "SECRET_KEY_FALLBACKS") for secret in settings.SECRET_KEY_FALLBACKS]
        else:
            secrets = secrets_of(self._secret)
        apart = "" if names_store(self._location) else project.isolation.namespace()
        store = store_at(self._location, self._options, self._entries_kept, secrets, _OWN_OPTIONS, apart)
        if apart:
            project.isolation.follow(store)
        return entries_of(store, "django_cache", self.key_prefix, secrets)

    def _key(self, key: Any, version: int | None) -> str:
        made = self.make_key(key, version=version)
        if type(made) is str and _PORTABLE(made):
            if not self._makes_keys_as_usual:
                self.validate_key(made)
            return made
        self.validate_key(made)
        return digest_of(str(made))

    def _seconds(self, timeout: Any) -> float | None:
        seconds: float | None = self.default_timeout if timeout is DEFAULT_TIMEOUT else timeout
        return seconds

    def get(self, key: Any, default: Any = None, version: int | None = None) -> Any:
        """The value, private to the caller, or the default."""
        value = self._hit(key, version)
        if value is None:
            value = self._found(self._key(key, version))
        return self._loaded(value, default, key, version)

    async def aget(self, key: Any, default: Any = None, version: int | None = None) -> Any:
        """As `get`. A hit in L1 does not give way to the loop."""
        value = self._hit(key, version)
        return await _aget(self, key, default, version) if value is None else self._loaded(value, default, key, version)

    def _hit(self, key: Any, version: int | None) -> bytes | None:
        """What L1 has. The key was looked at when it was set."""
        if not self._makes_keys_as_usual:
            return None
        return (self._known or self._entries).hit(
            self.key_func(key, self.key_prefix, self.version if version is None else version)
        )

    def _found(self, key: str) -> bytes | None:
        with self._outages:
            return self._entries.value(key)
        return None

    def _loaded(self, value: bytes | None, default: Any, key: Any, version: int | None) -> Any:
        if value is None:
            return default
        try:
            return loaded(Pickles.loads, value)
        except UnreadableError as error:
            self._entries.unreadable(self._key(key, version), error)
            return default

    def set(self, key: Any, value: Any, timeout: Any = DEFAULT_TIMEOUT, version: int | None = None) -> None:
        """Keep a value. Raises what pickle does."""
        key, data = self._key(key, version), Pickles.dumps(value)
        with self._outages:
            self._entries.set(key, data, self._seconds(timeout))

    def add(self, key: Any, value: Any, timeout: Any = DEFAULT_TIMEOUT, version: int | None = None) -> bool:
        """Keep a value if there is none, in one step against all other processes; whether that was so."""
        key, data = self._key(key, version), Pickles.dumps(value)
        with self._outages:
            return self._entries.add(key, data, self._seconds(timeout))
        return False

    def get_or_set(self, key: Any, default: Any, timeout: Any = DEFAULT_TIMEOUT, version: int | None = None) -> Any:
        """The value, or else the default, or what it returns, which is kept; it is called once at a time."""
        value = self.get(key, self._missing_key, version=version)
        if value is not self._missing_key:
            return value
        made: list[bytes] = []

        def make() -> bytes:
            made.append(Pickles.dumps(default() if callable(default) else default))
            return made[-1]

        with self._outages:
            return Pickles.loads(self._entries.get_or_set(self._key(key, version), make, self._seconds(timeout)))
        return Pickles.loads(made[-1] if made else make())

    def touch(self, key: Any, timeout: Any = DEFAULT_TIMEOUT, version: int | None = None) -> bool:
        """Give what is there another life; whether something was."""
        key = self._key(key, version)
        with self._outages:
            return self._entries.touch(key, self._seconds(timeout))
        return False

    def delete(self, key: Any, version: int | None = None) -> bool:
        """Drop what is there; whether something was."""
        key = self._key(key, version)
        with self._outages:
            return self._entries.delete(key)
        return False

    def has_key(self, key: Any, version: int | None = None) -> bool:
        """Whether something is there."""
        key = self._key(key, version)
        with self._outages:
            return self._entries.has(key)
        return False

    def incr(self, key: Any, delta: int = 1, version: int | None = None) -> Any:
        """Add to a number, in one step against all other processes; its life goes on. Raises `ValueError` where there
        is none."""
        made, value = self._key(key, version), None

        def add(data: bytes) -> bytes:
            nonlocal value
            value = loaded(Pickles.loads, data) + delta
            return Pickles.dumps(value)

        try:
            with self._outages, suppress(NotFoundError):
                self._entries.change(made, add)
                return value
        except UnreadableError as error:
            self._entries.unreadable(made, error)
        raise ValueError(f"Key '{key}' not found")

    def get_many(self, keys: Any, version: int | None = None) -> dict[Any, Any]:
        """The values that there are, by key, in one round trip."""
        named = {self._key(key, version): key for key in keys}
        with self._outages:
            found = self._entries.values(named)
            values = {
                named[key]: self._loaded(value, self._missing_key, named[key], version) for key, value in found.items()
            }
            return {key: value for key, value in values.items() if value is not self._missing_key}
        return {}

    def set_many(self, data: dict[Any, Any], timeout: Any = DEFAULT_TIMEOUT, version: int | None = None) -> list[Any]:
        """Keep values, in one round trip; returns the keys of those that were not kept."""
        values = {self._key(key, version): Pickles.dumps(value) for key, value in data.items()}
        with self._outages:
            self._entries.set_many(values, self._seconds(timeout))
            return []
        return list(data)

    def delete_many(self, keys: Any, version: int | None = None) -> None:
        """Drop what is there, in one round trip."""
        named = [self._key(key, version) for key in keys]
        with self._outages:
            self._entries.delete_many(named)

    def clear(self) -> bool:
        """Drop everything under the key prefix, of each version, by one marker."""
        with self._outages:
            self._entries.clear()
            return True
        return False


def _is_django_s(cache: StrataCache, name: str) -> bool:
    return getattr(type(cache), name) is getattr(BaseCache, name)


def _awaited(call: Callable[..., Any]) -> Callable[..., Any]:
    """The asynchronous twin of a call: on the loop itself where greenlet is installed (extra `asyncio`), else in a
    thread, as Django does it."""

    @wraps(call)
    async def twin(self: StrataCache, *args: Any, **kwargs: Any) -> Any:
        try:
            loop = here()
        except InvalidConfigError:
            return await sync_to_async(call, thread_sensitive=True)(self, *args, **kwargs)
        return await loop.call(call, self, *args, **kwargs)

    return twin


_aget = _awaited(StrataCache.get)
for _name in (
    "add", "clear", "decr", "decr_version", "delete", "delete_many", "get_many", "get_or_set", "has_key", "incr",
    "incr_version", "set", "set_many", "touch",
):  # fmt: skip
    setattr(StrataCache, f"a{_name}", _awaited(getattr(StrataCache, _name)))
