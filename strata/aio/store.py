"""`AsyncDataStore`: the face of the library for asyncio."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from dataclasses import fields
from functools import partial
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, ParamSpec, Self, TypeVar, overload

from strata import waits
from strata.aio.cached import awaiting
from strata.aio.collection import AsyncCollection, Change, Factory
from strata.aio.here import here
from strata.aio.jobs import AsyncDeadLetters, AsyncJob
from strata.aio.ready import AsyncWith, Ready
from strata.aio.tx import AsyncTx
from strata.collection import Collection
from strata.config import Config
from strata.datastore import DataStore
from strata.durations import Duration
from strata.engine.hot import MISS, RAISE
from strata.jobs.job import Job
from strata.memo.cached import Caching
from strata.model.numbers import Number
from strata.observe.counters import Stats
from strata.observe.health import Health
from strata.paging import Page
from strata.query import Q, Query
from strata.schema import FieldNames, Key, Record, Schema, SchemaRef

if TYPE_CHECKING:
    from strata.l3.report import MigrationRecord, MigrationReport
    from strata.maintenance.audit import AuditReport
    from strata.maintenance.rotate_keys import KeyRotation

T = TypeVar("T", bound=Record)
D = TypeVar("D")
K = TypeVar("K", bound=Key)
P = ParamSpec("P")
R = TypeVar("R")


class _Stats(Stats, Ready):
    pass


class _Health(Health, Ready):
    pass


class AsyncDataStore(AsyncWith):
    """A `DataStore` whose calls are awaited: the same calls, which mean the same, on asyncio's event loop or uvloop's.

    While a call waits for Redis or PostgreSQL, the loop goes on with other tasks; a hit in L1 waits for nothing, and
    does not give way. One store may serve loops in several threads, and synchronous callers beside them (`sync`): they
    share all that it has. Nothing is connected, or started, before it is needed.

    A call may be cancelled wherever it waits: it leaves nothing behind, and what was not sent yet is not written. A
    COMMIT that is under way, and the caches' share in it, are seen to their end first, for as long as their time-outs
    are. Hooks, and functions that report progress, may be coroutine functions; where a thread calls a hook
    (`on_write_error` always) it is awaited by the last event loop that began to use a store, and still runs.

    `register`, `tx`, `stats` and `health` have nothing to wait for: they may be awaited, and need not be.

    >>> async with AsyncDataStore(Config()) as ds:
    ...     players = ds.register(Schema(Player, l1=MemPolicy(ttl=60)))
    ...     await players.set("p1", Player("p1", "andrew"))
    Player(id='p1', name='andrew')
    """

    def __init__(self, config: Config) -> None:
        self.sync = DataStore(config)

    @classmethod
    def _over(cls, store: DataStore) -> Self:
        """The face of a store that there is, as `DataStore.aio` gives it."""
        made = cls.__new__(cls)
        made.sync = store
        return made

    @property
    def config(self) -> Config:
        """What the store was made with."""
        return self.sync.config

    def register(self, schema: Schema[T]) -> AsyncCollection[T, Any]:
        """As `DataStore.register`; nothing is connected yet, and no loop need run."""
        return AsyncCollection(self, self.sync.register(schema))

    # -- reading ------------------------------------------------------------------------------------------------

    @overload
    async def get(
        self, schema: type[T], id: Key, *, force_l2: bool = ..., force_l3: bool = ..., whole: bool = ...
    ) -> T: ...
    @overload
    async def get(
        self, schema: type[T], id: Key, *, default: D, force_l2: bool = ..., force_l3: bool = ..., whole: bool = ...
    ) -> T | D: ...
    @overload
    async def get(
        self, schema: str, id: Key, *, default: Any = ..., force_l2: bool = ..., force_l3: bool = ..., whole: bool = ...
    ) -> Any: ...
    async def get(
        self,
        schema: SchemaRef[Any],
        id: Key,
        *,
        default: Any = RAISE,
        force_l2: bool = False,
        force_l3: bool = False,
        whole: bool = False,
    ) -> Any:
        """As `DataStore.get`. A hit in L1 does not give way to the loop."""
        store = self.sync
        if not (force_l2 or force_l3 or whole):
            try:
                hot = store._hot[schema]
            except (TypeError, KeyError):
                pass  # a schema that is not there, or that has no hash
            else:
                record = hot.hit(id)
                if record is not MISS:
                    return record
        return await here().call(store._get_slowly, schema, id, default, force_l2, force_l3, whole)

    @overload
    async def get_many(self, schema: type[T], ids: Iterable[K], *, whole: bool = ...) -> dict[K, T]: ...
    @overload
    async def get_many(self, schema: str, ids: Iterable[K], *, whole: bool = ...) -> dict[K, Any]: ...
    async def get_many(self, schema: SchemaRef[Any], ids: Iterable[Any], *, whole: bool = False) -> dict[Any, Any]:
        """As `DataStore.get_many`."""
        get: Callable[..., dict[Any, Any]] = self.sync.get_many
        return await here().call(get, schema, ids, whole=whole)

    @overload
    async def get_batch(self, wanted: Iterable[tuple[type[T], Key]], *, whole: bool = ...) -> list[T | None]: ...
    @overload
    async def get_batch(
        self, wanted: Iterable[tuple[type[T], Key]], *, default: D, whole: bool = ...
    ) -> list[T | D]: ...
    @overload
    async def get_batch(
        self, wanted: Iterable[tuple[SchemaRef[Any], Key]], *, default: Any = ..., whole: bool = ...
    ) -> list[Any]: ...
    async def get_batch(
        self, wanted: Iterable[tuple[SchemaRef[Any], Key]], *, default: Any = None, whole: bool = False
    ) -> list[Any]:
        """As `DataStore.get_batch`."""
        get: Callable[..., list[Any]] = self.sync.get_batch
        return await here().call(get, wanted, default=default, whole=whole)

    @overload
    async def prefetch(
        self, records: Iterable[Record], field: FieldNames, schema: type[T], *, whole: bool = ...
    ) -> dict[Any, T]: ...
    @overload
    async def prefetch(
        self, records: Iterable[Record], field: FieldNames, schema: str, *, whole: bool = ...
    ) -> dict[Any, Any]: ...
    async def prefetch(
        self, records: Iterable[Record], field: FieldNames, schema: SchemaRef[Any], *, whole: bool = False
    ) -> dict[Any, Any]:
        """As `DataStore.prefetch`."""
        get: Callable[..., dict[Any, Any]] = self.sync.prefetch
        return await here().call(get, records, field, schema, whole=whole)

    @overload
    async def get_or_set(
        self, schema: type[T], id: Key, factory: Factory[T], /, *, ttl: Duration | None = ...
    ) -> T: ...
    @overload
    async def get_or_set(self, schema: str, id: Key, factory: Factory[T], /, *, ttl: Duration | None = ...) -> T: ...
    async def get_or_set(
        self, schema: SchemaRef[Any], id: Key, factory: Factory[Any], /, *, ttl: Duration | None = None
    ) -> Any:
        """As `DataStore.get_or_set`; the factory may be a coroutine function. Who is cancelled does not end it for
        others who wait."""
        call: Callable[..., Any] = self.sync.get_or_set
        return await here().call(call, schema, id, factory, ttl=ttl)

    def cached(
        self,
        ttl: Duration | None = None,
        *,
        key: Callable[..., object] | None = None,
        name: str | None = None,
        lease_wait: Duration = 0,
        tags: Iterable[str] | Callable[..., Iterable[str]] | None = None,
    ) -> Caching:
        """As `DataStore.cached`: there is nothing to await. A coroutine function stays one, and a plain function, which
        stops the loop where it is called in its thread, does too."""
        return self.sync.cached(ttl, key=key, name=name, lease_wait=lease_wait, tags=tags)

    async def exists(self, schema: SchemaRef[Any], id: Key) -> bool:
        """As `DataStore.exists`."""
        return await here().call(self.sync.exists, schema, id)

    @overload
    async def search(self, schema: type[T], query: Q | Query | None = ...) -> list[T]: ...
    @overload
    async def search(self, schema: str, query: Q | Query | None = ...) -> list[Any]: ...
    async def search(self, schema: SchemaRef[Any], query: Q | Query | None = None) -> list[Any]:
        """As `DataStore.search`."""
        search: Callable[..., list[Any]] = self.sync.search
        return await here().call(search, schema, query)

    @overload
    async def search_page(
        self, schema: type[T], query: Q | Query | None = ..., *, after: str | None = ...
    ) -> Page[T]: ...
    @overload
    async def search_page(
        self, schema: str, query: Q | Query | None = ..., *, after: str | None = ...
    ) -> Page[Any]: ...
    async def search_page(
        self, schema: SchemaRef[Any], query: Q | Query | None = None, *, after: str | None = None
    ) -> Page[Any]:
        """As `DataStore.search_page`."""
        search: Callable[..., Page[Any]] = self.sync.search_page
        return await here().call(partial(search, schema, query, after=after))

    @overload
    async def search_cached(self, schema: type[T], query: Q | Query | None = ...) -> list[T]: ...
    @overload
    async def search_cached(self, schema: str, query: Q | Query | None = ...) -> list[Any]: ...
    async def search_cached(self, schema: SchemaRef[Any], query: Q | Query | None = None) -> list[Any]:
        """As `DataStore.search_cached`."""
        search: Callable[..., list[Any]] = self.sync.search_cached
        return await here().call(search, schema, query)

    @overload
    def search_iter(self, schema: type[T], query: Q | Query | None = ..., *, chunk: int = ...) -> AsyncIterator[T]: ...
    @overload
    def search_iter(self, schema: str, query: Q | Query | None = ..., *, chunk: int = ...) -> AsyncIterator[Any]: ...
    def search_iter(
        self, schema: SchemaRef[Any], query: Q | Query | None = None, *, chunk: int = 1000
    ) -> AsyncIterator[Any]:
        """As `DataStore.search_iter`, for `async for`. Where the loop over it ends early, `aclose` frees the connection
        at once (`contextlib.aclosing`), else the event loop does so by and by.

        Raises `QueryError` at once; then as `search` does.
        """
        return _chunks(self.sync.search_iter(schema, query, chunk=chunk), chunk)

    async def count(self, schema: SchemaRef[Any], query: Q | Query | None = None) -> int:
        """As `DataStore.count`."""
        return await here().call(self.sync.count, schema, query)

    # -- writing ------------------------------------------------------------------------------------------------

    @overload
    async def set(self, schema: type[T], id: Key, value: T, *, ttl: Duration | None = ...) -> T: ...
    @overload
    async def set(self, schema: str, id: Key, value: T, *, ttl: Duration | None = ...) -> T: ...
    async def set(self, schema: SchemaRef[Any], id: Key, value: Any, *, ttl: Duration | None = None) -> Any:
        """As `DataStore.set`."""
        put: Callable[..., Any] = self.sync.set
        return await here().call(put, schema, id, value, ttl=ttl)

    async def touch(self, schema: SchemaRef[Any], id: Key, /, ttl: Duration | None) -> None:
        """As `DataStore.touch`."""
        await here().call(self.sync.touch, schema, id, ttl)

    @overload
    async def insert(self, schema: type[T], record: T, /, *, ttl: Duration | None = ...) -> T: ...
    @overload
    async def insert(self, schema: str, record: T, /, *, ttl: Duration | None = ...) -> T: ...
    async def insert(self, schema: SchemaRef[Any], record: Any, /, *, ttl: Duration | None = None) -> Any:
        """As `DataStore.insert`."""
        insert: Callable[..., Any] = self.sync.insert
        return await here().call(insert, schema, record, ttl=ttl)

    @overload
    async def insert_many(self, schema: type[T], records: Iterable[T], /) -> list[T]: ...
    @overload
    async def insert_many(self, schema: str, records: Iterable[Any], /) -> list[Any]: ...
    async def insert_many(self, schema: SchemaRef[Any], records: Iterable[Any], /) -> list[Any]:
        """As `DataStore.insert_many`."""
        insert: Callable[..., list[Any]] = self.sync.insert_many
        return await here().call(insert, schema, records)

    @overload
    async def update(
        self, schema: type[T], id: Key, /, *, expect: Mapping[str, Any] | None = ..., **fields: Any
    ) -> T: ...
    @overload
    async def update(
        self, schema: str, id: Key, /, *, expect: Mapping[str, Any] | None = ..., **fields: Any
    ) -> Any: ...
    async def update(
        self, schema: SchemaRef[Any], id: Key, /, *, expect: Mapping[str, Any] | None = None, **fields: Any
    ) -> Any:
        """As `DataStore.update`."""
        return await here().call(partial(self.sync.update, schema, id, expect=expect, **fields))

    @overload
    async def increment(self, schema: type[T], id: Key, /, *, default: T | None = ..., **deltas: Number) -> T: ...
    @overload
    async def increment(self, schema: str, id: Key, /, *, default: Any = ..., **deltas: Number) -> Any: ...
    async def increment(self, schema: SchemaRef[Any], id: Key, /, *, default: Any = None, **deltas: Number) -> Any:
        """As `DataStore.increment`."""
        return await here().call(partial(self.sync.increment, schema, id, default=default, **deltas))

    @overload
    async def modify(self, schema: type[T], id: Key, function: Change[T], /) -> T: ...
    @overload
    async def modify(self, schema: str, id: Key, function: Change[T], /) -> T: ...
    async def modify(self, schema: SchemaRef[Any], id: Key, function: Change[Any], /) -> Any:
        """As `DataStore.modify`; the function may be a coroutine function."""
        modify: Callable[..., Any] = self.sync.modify
        return await here().call(modify, schema, id, function)

    @overload
    async def set_many(self, schema: type[T], values: Mapping[K, T], *, ttl: Duration | None = ...) -> dict[K, T]: ...
    @overload
    async def set_many(self, schema: str, values: Mapping[K, T], *, ttl: Duration | None = ...) -> dict[K, T]: ...
    async def set_many(
        self, schema: SchemaRef[Any], values: Mapping[Any, Any], *, ttl: Duration | None = None
    ) -> dict[Any, Any]:
        """As `DataStore.set_many`."""
        put: Callable[..., dict[Any, Any]] = self.sync.set_many
        return await here().call(put, schema, values, ttl=ttl)

    async def delete(self, schema: SchemaRef[Any], id: Key) -> None:
        """As `DataStore.delete`."""
        await here().call(self.sync.delete, schema, id)

    async def delete_many(self, schema: SchemaRef[Any], ids: Iterable[Key]) -> None:
        """As `DataStore.delete_many`."""
        await here().call(self.sync.delete_many, schema, ids)

    async def update_where(
        self,
        schema: SchemaRef[Any],
        query: Q | Query,
        progress: Callable[[int], object] | None = None,
        /,
        **fields: Any,
    ) -> int:
        """As `DataStore.update_where`; `progress` may be a coroutine function."""
        return await here().call(partial(self.sync.update_where, schema, query, _awaiting(progress), **fields))

    async def delete_where(
        self, schema: SchemaRef[Any], query: Q | Query, progress: Callable[[int], object] | None = None, /
    ) -> int:
        """As `DataStore.delete_where`; `progress` may be a coroutine function."""
        return await here().call(self.sync.delete_where, schema, query, _awaiting(progress))

    def tx(self, timeout: Duration | None = None) -> AsyncTx:
        """As `DataStore.tx`; for `async with`, or to be committed by `await tx.commit()`."""
        return AsyncTx(self.sync.tx(timeout))

    # -- caches and write-behind --------------------------------------------------------------------------------

    async def invalidate(self, schema: SchemaRef[Any], id: Key) -> None:
        """As `DataStore.invalidate`."""
        await here().call(self.sync.invalidate, schema, id)

    async def invalidate_many(self, schema: SchemaRef[Any], ids: Iterable[Key]) -> None:
        """As `DataStore.invalidate_many`."""
        await here().call(self.sync.invalidate_many, schema, ids)

    async def invalidate_all(self, schema: SchemaRef[Any]) -> None:
        """As `DataStore.invalidate_all`."""
        await here().call(self.sync.invalidate_all, schema)

    async def invalidate_tag(self, tag: str) -> None:
        """As `DataStore.invalidate_tag`."""
        await here().call(self.sync.invalidate_tag, tag)

    @overload
    async def warm_cache(
        self,
        schema: SchemaRef[Any],
        limit: int = ...,
        *,
        background: Literal[False] = ...,
        progress: Callable[[int], object] | None = ...,
    ) -> int: ...
    @overload
    async def warm_cache(self, schema: SchemaRef[Any], limit: int = ..., *, background: Literal[True]) -> AsyncJob: ...
    async def warm_cache(
        self,
        schema: SchemaRef[Any],
        limit: int = 0,
        *,
        background: bool = False,
        progress: Callable[[int], object] | None = None,
    ) -> int | AsyncJob:
        """As `DataStore.warm_cache`; `progress` may be a coroutine function."""
        warm: Callable[..., Any] = self.sync.warm_cache
        told = _awaiting(progress)
        done: int | Job = await here().call(partial(warm, schema, limit, background=background, progress=told))
        return AsyncJob(done) if isinstance(done, Job) else done

    async def flush_dirty(self, timeout: Duration | None = None) -> None:
        """As `DataStore.flush_dirty`."""
        await here().call(self.sync.flush_dirty, timeout)

    @property
    def dead_letters(self) -> AsyncDeadLetters:
        """As `DataStore.dead_letters`."""
        return AsyncDeadLetters(self.sync.dead_letters)

    # -- migration ----------------------------------------------------------------------------------------------

    @overload
    async def migrate(self, *, background: Literal[False] = ...) -> MigrationReport: ...
    @overload
    async def migrate(self, *, background: Literal[True]) -> AsyncJob: ...
    async def migrate(self, *, background: bool = False) -> MigrationReport | AsyncJob:
        """As `DataStore.migrate`."""
        migrate: Callable[..., Any] = self.sync.migrate
        done: MigrationReport | Job = await here().call(migrate, background=background)
        return AsyncJob(done) if isinstance(done, Job) else done

    async def migrate_from(self, directory: str | Path) -> list[str]:
        """As `DataStore.migrate_from`."""
        return await here().call(self.sync.migrate_from, directory)

    async def migration_status(self) -> list[MigrationRecord]:
        """As `DataStore.migration_status`."""
        return await here().call(self.sync.migration_status)

    # -- encryption ---------------------------------------------------------------------------------------------

    async def rotate_keys(
        self, schema: SchemaRef[Any] | None = None, *, progress: Callable[[str, int], object] | None = None
    ) -> list[KeyRotation]:
        """As `DataStore.rotate_keys`; `progress` may be a coroutine function."""
        return await here().call(self.sync.rotate_keys, schema, progress=_awaiting(progress))

    async def audit(
        self, schema: SchemaRef[Any] | None = None, *, sample: int = 1000, pause: Duration | None = 1.0
    ) -> AuditReport:
        """As `DataStore.audit`."""
        return await here().call(self.sync.audit, schema, sample=sample, pause=pause)

    # -- life ---------------------------------------------------------------------------------------------------

    def stats(self) -> _Stats:
        """As `DataStore.stats`."""
        return _as(_Stats, self.sync.stats())

    def health(self) -> _Health:
        """As `DataStore.health`."""
        return _as(_Health, self.sync.health())

    async def close(self, timeout: Duration = 30) -> None:
        """As `DataStore.close`, in a thread, as the store's own threads are waited for. Cancelled, it goes on there."""
        loop = here()
        try:
            await loop.in_thread(lambda: self.sync.close(timeout))
        finally:
            loop.close()

    async def __aenter__(self) -> Self:
        self.sync.__enter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    def __repr__(self) -> str:
        return f"Async{self.sync!r}"


def plain(store: Any) -> Any:
    """The synchronous store behind one of either face; anything else as it is."""
    return store.sync if isinstance(store, AsyncDataStore) else store


DataStore._face = AsyncDataStore._over
DataStore._awaiting = staticmethod(awaiting)
Collection._face = lambda self: AsyncCollection(self._store.aio, self)


async def _chunks(records: Any, chunk: int) -> AsyncIterator[Any]:
    """The records, so many at a time; whoever ends early frees the connection."""
    try:
        while some := await here().call(lambda: list(islice(records, chunk))):
            for record in some:
                yield record
    finally:
        await here().call(records.close)


def _awaiting(call: Callable[P, object] | None) -> Callable[P, object] | None:
    """The same, which the engine may call: what comes of a coroutine is waited for."""
    if not callable(call):
        return call

    def called(*args: P.args, **kwargs: P.kwargs) -> object:
        said: object = waits.awaited(call(*args, **kwargs))
        return said

    return called


def _as(kind: type[R], known: Any) -> R:
    return kind(**{field.name: getattr(known, field.name) for field in fields(known)})
