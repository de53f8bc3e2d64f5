"""Which store, and which entries of it, a cache works on: one store a process and place, one set of entries a name."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from hashlib import sha256
from typing import Any

from strata._wiring.tiers import SHARDS
from strata.aio.store import plain
from strata.application import is_named, load_store
from strata.config import CONFIG_FIELDS, Config
from strata.datastore import DataStore
from strata.drop_in.entries import Entries
from strata.errors import InvalidConfigError
from strata.policies import L1PoolConfig, count
from strata.protocol.keyspace import MAX_NAMESPACE
from strata.waits.locks import once_lock

KEPT = 10_000  # entries of a cache in L1, where nobody says
_NAME = re.compile("[A-Za-z0-9]{1,32}").fullmatch

# By place and options, for as long as the process lives. Written under `_lock`, which the child of a fork has anew; the
# stores themselves go on in it.
_lock = once_lock()
_stores: dict[str, DataStore] = {}


def _after_fork() -> None:
    global _lock
    _lock = once_lock()


os.register_at_fork(after_in_child=_after_fork)


def store_at(
    place: Any,
    options: Mapping[str, Any],
    max_entries: int | None = None,
    secrets: Sequence[bytes] = (),
    others: Sequence[str] = (),
    apart: str = "",
) -> DataStore:
    """The store of a place: an address of Redis, with `options` as those of `Config`; `package.module:store`, or a
    store, which have their settings; or, where it is "", what the environment says.

    `max_entries`: so many entries of each cache are in L1, rounded up to the next 256. Caches with other `secrets` have
    another store. `others` are options that a cache has beside those. `apart` is added to the namespace. Raises
    `InvalidConfigError` for what is no place, and no option, and where no Redis is named.
    """
    place = plain(place)
    if isinstance(place, DataStore) or names_store(place):
        told = [*options] if max_entries is None else [*options, "max_entries"]
        if told:
            raise InvalidConfigError(
                f"{', '.join(sorted(told))} would be set for a cache of a store that has its settings already; set "
                "them where the store is made"
            )
        return place if isinstance(place, DataStore) else load_store(place)
    for name in options:
        if name not in CONFIG_FIELDS:
            raise InvalidConfigError(
                f"a cache has no option {name!r}; it has {', '.join([*others, *sorted(CONFIG_FIELDS)])}"
            )
    wanted = (
        f"{place} {apart} {max_entries} {sorted(options.items())!r} {sha256(repr(list(secrets)).encode()).hexdigest()}"
    )
    with _lock:
        store = _stores.get(wanted)
        if store is None or store._context.closed:
            most = count(KEPT if max_entries is None else max_entries, "max_entries", 1)
            given = {"l1_pool": L1PoolConfig(-(-most // SHARDS)), **options}
            made = Config(redis_addr=place, **given) if place else Config.from_env(**given)
            if not (made.redis_addr or made.redis_client):
                raise InvalidConfigError(
                    "a cache names no Redis, so that each process would have one of its own; give its address, as "
                    "redis://127.0.0.1:6379/0, or set STRATA_REDIS_ADDR"
                )
            if apart:
                made = replace(made, namespace=added(made.namespace, apart))
            store = _stores[wanted] = DataStore(made)
        return store


def added(namespace: str, apart: str) -> str:
    """A namespace that begins as another one, as long as one may be."""
    return f"{namespace[: MAX_NAMESPACE - len(apart)]}{apart}"


def forget(store: DataStore) -> None:
    """It is not asked for again; whoever does gets another one."""
    with _lock:
        for wanted in [wanted for wanted, known in _stores.items() if known is store]:
            del _stores[wanted]


def entries_of(store: DataStore, kind: str, prefix: str, secrets: Sequence[bytes]) -> Entries:
    """The entries of a key prefix, which is part of their name, so that clearing them clears no other's."""
    if not prefix:
        return Entries(store, kind, secrets)
    mark = prefix if _NAME(prefix) else f"_{sha256(prefix.encode()).hexdigest()[:32]}"  # which no plain one is
    return Entries(store, f"{kind}_{mark}", secrets)


def secret_of(given: Any, what: str = "secret_key") -> bytes:
    """A secret as bytes. Raises `InvalidConfigError`, which does not show it."""
    if not isinstance(given, str | bytes) or not given:
        raise InvalidConfigError(
            f"{what} is {'empty' if given in ('', b'') else 'a ' + type(given).__name__}; it must be a secret text"
        )
    return given.encode() if isinstance(given, str) else given


def secrets_of(given: Any) -> list[bytes]:
    """The secret that was given, or that of STRATA_SECRET_KEY, if there is one. Raises as `secret_of` does."""
    if given is None:
        given = os.environ.get("STRATA_SECRET_KEY") or None
    return [] if given is None else [secret_of(given)]


def names_store(place: Any) -> bool:
    """Whether it is `package.module:store`, and no address. Raises `InvalidConfigError` for what is no text."""
    if not isinstance(place, str):
        raise InvalidConfigError(
            f"a cache is at a {type(place).__name__}; it must be the address of one Redis, or package.module:store"
        )
    return "://" not in place and is_named(place) and not place.rpartition(":")[2].isdigit()
