"""`AsyncCollection`: one schema of a store, with the asynchronous store's calls without `schema`."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, Generic, Literal, TypeAlias, TypeVar, overload

from strata.aio.here import here
from strata.aio.jobs import AsyncJob
from strata.aio.ready import Ready
from strata.collection import Collection
from strata.durations import Duration
from strata.engine.hot import MISS, RAISE
from strata.model.numbers import Number
from strata.paging import Page
from strata.query import Q, Query
from strata.schema import Key, Record

T = TypeVar("T", bound=Record)
D = TypeVar("D")
if TYPE_CHECKING:
    from typing_extensions import TypeVar as WithDefault  # of `typing` from Python 3.13 on

    from strata.aio.store import AsyncDataStore  # which makes collections; only its type is needed here

    K = WithDefault("K", bound=Key, default=Any)
else:
    K = TypeVar("K", bound=Key)


Change: TypeAlias = Callable[[T], T | Awaitable[T | None] | None]
Factory: TypeAlias = Callable[[], T | Awaitable[T]]


class AsyncCollection(Ready, Generic[T, K]):
    """One schema of an asynchronous store: its calls, without `schema`. `AsyncDataStore.register` returns it.

    To be used in any loop, and by `sync` from threads; as long-lived as its store. `AsyncCollection[Player, str]` says
    that the ids are texts; `AsyncCollection[Player]` leaves open what they are.

    >>> players: AsyncCollection[Player, str] = store.register(Schema(Player, name="others", l1=MemPolicy(ttl=60)))
    >>> await players.set("p1", Player("p1", "andrew"))
    Player(id='p1', name='andrew')

    Attributes:
        name: The schema's name.
        model: The class of its records.
        sync: The same for synchronous callers.
    """

    if not TYPE_CHECKING:

        def __class_getitem__(cls, parts: Any) -> Any:
            return super().__class_getitem__(parts if isinstance(parts, tuple) else (parts, Any))

    __slots__ = ("_hot", "_store", "model", "name", "sync")

    def __init__(self, store: AsyncDataStore, collection: Collection[T, K]) -> None:
        self._store = store
        self._hot = collection._hot
        self.sync = collection
        self.name = collection.name
        self.model = collection.model

    @overload
    async def get(self, id: K, *, force_l2: bool = ..., force_l3: bool = ..., whole: bool = ...) -> T: ...
    @overload
    async def get(
        self, id: K, *, default: D, force_l2: bool = ..., force_l3: bool = ..., whole: bool = ...
    ) -> T | D: ...
    async def get(
        self, id: K, *, default: Any = RAISE, force_l2: bool = False, force_l3: bool = False, whole: bool = False
    ) -> Any:
        """As `Collection.get`. A hit in L1 does not give way to the loop."""
        if not (force_l2 or force_l3 or whole):
            record = self._hot.hit(id)
            if record is not MISS:
                return record
        store = self._store.sync
        return await here().call(store._get_slowly, self.name, id, default, force_l2, force_l3, whole)

    async def get_many(self, ids: Iterable[K], *, whole: bool = False) -> dict[K, T]:
        """As `Collection.get_many`."""
        return await here().call(self.sync.get_many, ids, whole=whole)

    async def get_or_set(self, id: K, factory: Factory[T], /, *, ttl: Duration | None = None) -> T:
        """As `Collection.get_or_set`; the factory may be a coroutine function. Who is cancelled does not end it for
        others who wait."""
        call: Callable[..., T] = self.sync.get_or_set  # the engine awaits it
        return await here().call(call, id, factory, ttl=ttl)

    async def set(self, id: K, value: T, *, ttl: Duration | None = None) -> T:
        """As `Collection.set`."""
        return await here().call(self.sync.set, id, value, ttl=ttl)

    async def touch(self, id: K, /, ttl: Duration | None) -> None:
        """As `Collection.touch`."""
        await here().call(self.sync.touch, id, ttl)

    async def insert(self, record: T, /, *, ttl: Duration | None = None) -> T:
        """As `Collection.insert`."""
        return await here().call(self.sync.insert, record, ttl=ttl)

    async def insert_many(self, records: Iterable[T], /) -> list[T]:
        """As `Collection.insert_many`."""
        return await here().call(self.sync.insert_many, records)

    async def update(self, id: K, /, *, expect: Mapping[str, Any] | None = None, **fields: Any) -> T:
        """As `Collection.update`."""
        return await here().call(partial(self.sync.update, id, expect=expect, **fields))

    async def increment(self, id: K, /, *, default: T | None = None, **deltas: Number) -> T:
        """As `Collection.increment`."""
        return await here().call(partial(self.sync.increment, id, default=default, **deltas))

    async def modify(self, id: K, function: Change[T], /) -> T:
        """As `Collection.modify`; the function may be a coroutine function."""
        return await here().call(self.sync.modify, id, function)  # type: ignore[arg-type]  # the engine awaits it

    async def set_many(self, values: Mapping[K, T], *, ttl: Duration | None = None) -> dict[K, T]:
        """As `Collection.set_many`."""
        return await here().call(self.sync.set_many, values, ttl=ttl)

    async def delete(self, id: K) -> None:
        """As `Collection.delete`."""
        await here().call(self.sync.delete, id)

    async def delete_many(self, ids: Iterable[K]) -> None:
        """As `Collection.delete_many`."""
        await here().call(self.sync.delete_many, ids)

    async def update_where(
        self, query: Q | Query, progress: Callable[[int], object] | None = None, /, **fields: Any
    ) -> int:
        """As `Collection.update_where`; `progress` may be a coroutine function."""
        return await self._store.update_where(self.name, query, progress, **fields)

    async def delete_where(self, query: Q | Query, progress: Callable[[int], object] | None = None, /) -> int:
        """As `Collection.delete_where`; `progress` may be a coroutine function."""
        return await self._store.delete_where(self.name, query, progress)

    async def search(self, query: Q | Query | None = None) -> list[T]:
        """As `Collection.search`."""
        return await here().call(self.sync.search, query)

    async def search_page(self, query: Q | Query | None = None, *, after: str | None = None) -> Page[T]:
        """As `Collection.search_page`."""
        return await here().call(partial(self.sync.search_page, query, after=after))

    async def search_cached(self, query: Q | Query | None = None) -> list[T]:
        """As `Collection.search_cached`."""
        return await here().call(self.sync.search_cached, query)

    def search_iter(self, query: Q | Query | None = None, *, chunk: int = 1000) -> AsyncIterator[T]:
        """As `Collection.search_iter`, for `async for`. Where the loop over it ends early, `aclose` frees the
        connection, as `contextlib.aclosing` does at once, and the event loop by and by."""
        return self._store.search_iter(self.name, query, chunk=chunk)

    async def exists(self, id: K) -> bool:
        """As `Collection.exists`."""
        return await here().call(self.sync.exists, id)

    async def count(self, query: Q | Query | None = None) -> int:
        """As `Collection.count`."""
        return await here().call(self.sync.count, query)

    async def invalidate(self, id: K) -> None:
        """As `Collection.invalidate`."""
        await here().call(self.sync.invalidate, id)

    async def invalidate_many(self, ids: Iterable[K]) -> None:
        """As `Collection.invalidate_many`."""
        await here().call(self.sync.invalidate_many, ids)

    async def invalidate_all(self) -> None:
        """As `Collection.invalidate_all`."""
        await here().call(self.sync.invalidate_all)

    @overload
    async def warm_cache(
        self, limit: int = ..., *, background: Literal[False] = ..., progress: Callable[[int], object] | None = ...
    ) -> int: ...
    @overload
    async def warm_cache(self, limit: int = ..., *, background: Literal[True]) -> AsyncJob: ...
    async def warm_cache(
        self, limit: int = 0, *, background: bool = False, progress: Callable[[int], object] | None = None
    ) -> int | AsyncJob:
        """As `Collection.warm_cache`; `progress` may be a coroutine function."""
        warm: Callable[..., Any] = self._store.warm_cache
        done: int | AsyncJob = await warm(self.name, limit, background=background, progress=progress)
        return done

    def __repr__(self) -> str:
        return f"Async{self.sync!r}"
