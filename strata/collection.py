"""`Collection`: one schema of a store, with the store's calls without `schema`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from time import monotonic
from typing import TYPE_CHECKING, Any, Generic, Literal, TypeVar, overload

from strata.engine.hot import Hot
from strata.engine.jobs import Job
from strata.query import Q, Query

if TYPE_CHECKING:  # the store makes collections; only its type is needed here
    from strata.datastore import DataStore

T = TypeVar("T")
D = TypeVar("D")

RAISE: Any = type("Raise", (), {"__repr__": lambda self: "<raise NotFoundError>", "__slots__": ()})()
"""The default of `default`: a missing record raises."""


class Collection(Generic[T]):
    """The handle that `DataStore.register` returns; thread-safe, and as long-lived as its store."""

    __slots__ = ("_hot", "_store", "model", "name")

    def __init__(self, store: DataStore, name: str, model: type[T], hot: Hot) -> None:
        self._store = store
        self._hot = hot
        self.name = name
        self.model = model

    @overload
    def get(self, id: Any, *, force_l2: bool = ..., force_l3: bool = ...) -> T: ...
    @overload
    def get(self, id: Any, *, default: D, force_l2: bool = ..., force_l3: bool = ...) -> T | D: ...
    def get(self, id: Any, *, default: Any = RAISE, force_l2: bool = False, force_l3: bool = False) -> Any:
        """See `DataStore.get`."""
        hot = self._hot  # the hit path once more, for the sake of its one frame
        try:
            entry = hot.lookup(id)
        except TypeError:
            entry = None
        if entry is not None and not (force_l2 or force_l3) and (hot.exact is None or type(id) is hot.exact):
            now = monotonic()
            if now < entry.expires and now < hot.certainty.until:
                entry.used = now
                entry.hits += 1
                thaw = hot.thaw
                return entry.value if thaw is None else thaw(entry.value)
        return self._store.get_slowly(self.name, id, default, force_l2, force_l3)

    def get_many(self, ids: Iterable[Any]) -> dict[Any, T]:
        """See `DataStore.get_many`."""
        return self._store.get_many(self.name, ids)

    def set(self, id: Any, value: T) -> T:
        """See `DataStore.set`."""
        return self._store.set(self.name, id, value)

    def set_many(self, values: Mapping[Any, T]) -> dict[Any, T]:
        """See `DataStore.set_many`."""
        return self._store.set_many(self.name, values)

    def delete(self, id: Any) -> None:
        """See `DataStore.delete`."""
        self._store.delete(self.name, id)

    def delete_many(self, ids: Iterable[Any]) -> None:
        """See `DataStore.delete_many`."""
        self._store.delete_many(self.name, ids)

    def search(self, query: Q | Query | None = None) -> list[T]:
        """See `DataStore.search`."""
        return self._store.search(self.name, query)

    def search_cached(self, query: Q | Query | None = None) -> list[T]:
        """See `DataStore.search_cached`."""
        return self._store.search_cached(self.name, query)

    def search_iter(self, query: Q | Query | None = None, *, chunk: int = 1000) -> Iterator[T]:
        """See `DataStore.search_iter`."""
        return self._store.search_iter(self.name, query, chunk=chunk)

    def exists(self, id: Any) -> bool:
        """See `DataStore.exists`."""
        return self._store.exists(self.name, id)

    def count(self, query: Q | Query | None = None) -> int:
        """See `DataStore.count`."""
        return self._store.count(self.name, query)

    def invalidate(self, id: Any) -> None:
        """See `DataStore.invalidate`."""
        self._store.invalidate(self.name, id)

    @overload
    def warm_cache(self, limit: int = ..., *, background: Literal[False] = ...) -> int: ...
    @overload
    def warm_cache(self, limit: int = ..., *, background: Literal[True]) -> Job: ...
    def warm_cache(self, limit: int = 0, *, background: bool = False) -> int | Job:
        """See `DataStore.warm_cache`."""
        if background:
            return self._store.warm_cache(self.name, limit, background=True)
        return self._store.warm_cache(self.name, limit)

    def __repr__(self) -> str:
        return f"Collection({self.name!r}, {self.model.__name__})"
