"""`Entries`: one cache of bytes in L1 and L2, by text keys, as drop-in caches need it.

It is a schema without L3, whose records are made again: so all that `strata` promises of records holds of entries, such
as coherence among processes, and that no fill brings back what was overwritten.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from hashlib import sha256
from typing import Annotated, Any

from strata.collection import Collection
from strata.datastore import DataStore
from strata.drop_in.seal import Seal
from strata.engine.hot import MISS
from strata.errors import (
    AlreadyExistsError,
    InvalidConfigError,
    NotFoundError,
    SchemaDuplicateError,
    UnavailableError,
)
from strata.model import PrimaryKey
from strata.policies import MemPolicy, RedisPolicy, WriteMode
from strata.schema import Schema

DIGEST = "~"  # what begins so is the digest of a key
# What stands for itself: Redis and Strata take it as a key, and it is not the digest of another.
_PLAIN = re.compile(f"(?!{DIGEST})[^\0\ud800-\udfff]{{1,512}}").fullmatch
FOREVER = 100 * 365 * 86_400.0  # seconds from which a life is without end


@dataclass(frozen=True, slots=True)
class CacheEntry:
    """What is kept under a key."""

    id: Annotated[str, PrimaryKey]
    value: bytes


class Entries:
    """One cache. Thread-safe, and fork-safe, as its store is.

    Keys are what `key_of` gives. `seconds` is how long an entry lives, None for ever; 0 and less: it is over at once,
    so that what is set is deleted.

    The calls raise what those of a `Collection` do, such as `L2UnavailableError`.
    """

    def __init__(self, store: DataStore, name: str, secrets: Sequence[bytes]) -> None:
        """Raises `InvalidConfigError` where the store has a cache of this name with other secrets, or a schema."""
        self.store = store
        self._entries = _registered(store, name, Seal(f"{store.config.namespace}:{name}", secrets))
        self._hot = self._entries._hot

    def hit(self, key: Any) -> bytes | None:
        """What L1 holds under the key, which may be anything: what is no plain key of ours is not there."""
        if type(key) is not str or key[:1] == DIGEST:
            return None
        entry = self._hot.hit(key)
        return None if entry is MISS else entry.value

    def value(self, key: str) -> bytes | None:
        """What is kept under the key."""
        entry: CacheEntry | None = self._entries.get(key, default=None)
        return None if entry is None else entry.value

    def values(self, keys: Iterable[str]) -> dict[str, bytes]:
        """What is kept under these keys, in one round trip."""
        return {key: entry.value for key, entry in self._entries.get_many(keys).items()}

    def has(self, key: str) -> bool:
        """Whether something is kept under the key."""
        return self._entries.exists(key)

    def set(self, key: str, value: bytes, seconds: float | None) -> None:
        """Keep it, whatever is there."""
        if _is_over(seconds):
            self._entries.delete(key)
        else:
            self._entries.set(key, CacheEntry(key, value), ttl=_life(seconds))

    def set_many(self, values: Mapping[str, bytes], seconds: float | None) -> None:
        """Keep all of them, in one round trip."""
        if _is_over(seconds):
            self._entries.delete_many(values)
        else:
            self._entries.set_many({key: CacheEntry(key, value) for key, value in values.items()}, ttl=_life(seconds))

    def add(self, key: str, value: bytes, seconds: float | None) -> bool:
        """Keep it if nothing is there, in one step against all others; whether that was so."""
        if _is_over(seconds):
            return not self.has(key)
        try:
            self._entries.insert(CacheEntry(key, value), ttl=_life(seconds))
        except AlreadyExistsError:
            return False
        return True

    def get_or_set(self, key: str, factory: Callable[[], bytes], seconds: float | None) -> bytes:
        """What is there, or else what the factory makes, which is kept; it is called once at a time."""
        if _is_over(seconds):
            found = self.value(key)
            return factory() if found is None else found
        return self._entries.get_or_set(key, lambda: CacheEntry(key, factory()), ttl=_life(seconds)).value

    def change(self, key: str, function: Callable[[bytes], bytes]) -> None:
        """Keep what the function makes of what is there, in one step against all others, for as long as that has left.
        The function may be called more than once. Raises `NotFoundError`, and what the function raises."""
        self._entries.modify(key, lambda entry: CacheEntry(key, function(entry.value)))

    def touch(self, key: str, seconds: float | None) -> bool:
        """Give what is there another life; whether something was."""
        if _is_over(seconds):
            return self.delete(key)
        try:
            self._entries.touch(key, _life(seconds))
        except NotFoundError:
            return False
        return True

    def delete(self, key: str, value: bytes | None = None) -> bool:
        """Drop what is there, or only if it is that; whether something was dropped."""
        fits = (lambda entry: True) if value is None else (lambda entry: entry.value == value)
        return self.store._remove(self._entries.name, key, fits)

    def delete_many(self, keys: Iterable[str]) -> None:
        """Drop what is there, in one round trip."""
        self._entries.delete_many(keys)

    def unreadable(self, key: str, error: UnreadableError) -> None:
        """No value could be made of what is kept: that is counted, and said, and what is there is dropped."""
        bound = self._hot.bound
        bound.counters.corrupt += 1
        said = type(error.__cause__).__name__
        bound.log.warning("values of a cache cannot be read; they count as absent", schema=bound.name, error=said)
        with suppress(UnavailableError):
            self.delete(key, error.value)

    def clear(self) -> None:
        """Drop everything, by one marker, however much there is."""
        self._entries.invalidate_all()


def _registered(store: DataStore, name: str, seal: Seal) -> Collection[CacheEntry, str]:
    l2 = RedisPolicy() if store._has_redis else None
    try:
        return store._register(
            Schema(CacheEntry, name=name, l1=MemPolicy(), l2=l2, write_mode=WriteMode.WRITE_THROUGH),
            remade=True,
            codec=seal,
        )
    except SchemaDuplicateError:
        there = store._schemas[name]
    if there.schema.model is not CacheEntry:
        raise InvalidConfigError(
            f"the store has a schema {name!r}, and a cache would be kept under this name; rename it"
        )
    if there.codec != seal:
        raise InvalidConfigError(
            f"two caches would be kept as {name!r}, with different secret keys; give them the same, or other prefixes"
        )
    return Collection(store, name, CacheEntry, store._hot[name])


class UnreadableError(Exception):
    """No value can be made of these bytes; the cause says why."""

    def __init__(self, value: bytes) -> None:
        super().__init__("a value of a cache cannot be read")
        self.value = value


def loaded(loads: Callable[[bytes], Any], value: bytes) -> Any:
    """The value of the bytes. Raises `UnreadableError`: a pickle may raise anything, as where a class was renamed."""
    try:
        return loads(value)
    except Exception as error:
        raise UnreadableError(value) from error


def key_of(given: object) -> str:
    """A key of a framework as one of Strata's: itself, or, where that could be none, its digest."""
    text = given if type(given) is str else str(given)
    return text if _PLAIN(text) else digest_of(text)


def digest_of(text: str) -> str:
    """What stands for a key that cannot, or should not, stand for itself."""
    return DIGEST + sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def _is_over(seconds: float | None) -> bool:
    return seconds is not None and seconds <= 0


def _life(seconds: float | None) -> float:
    """As `ttl` has it."""
    return 0 if seconds is None or seconds >= FOREVER else seconds
