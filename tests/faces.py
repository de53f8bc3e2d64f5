"""The asynchronous face in the place of the other, for tests that are written for that: each call is awaited, on an
event loop in a thread."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Iterator
from functools import cache
from types import FunctionType, MethodType
from typing import Any

from strata import Collection, Config, DataStore, waits
from strata.aio.collection import AsyncCollection
from strata.aio.jobs import AsyncDeadLetters, AsyncJob
from strata.aio.operations import Operation, current
from strata.aio.store import AsyncDataStore
from strata.aio.tx import AsyncTx

# Whoever waits on a loop is woken: to look by itself, after a second, is for what nobody has thought of, and must not
# hide in a test that nobody wakes it.
Operation.look = 3600.0

PUBLIC = {name for name in dir(AsyncDataStore) if not name.startswith("_")}
AWAITED = {name for name in PUBLIC if isinstance(vars(DataStore).get(name), FunctionType)} - {"register", "search_iter"}


@cache
def loop() -> asyncio.AbstractEventLoop:
    made = asyncio.new_event_loop()
    threading.Thread(target=made.run_forever, name="loop of tests", daemon=True).start()
    return made


def awaited(answer: Any) -> Any:
    """What comes of an answer that is to be awaited; one that has calls to be awaited has them called so."""
    if isinstance(answer, Awaitable):
        if current() is None:
            answer = asyncio.run_coroutine_threadsafe(_await(answer), loop()).result()
        else:  # a hook's own call, in the loop's thread
            answer = waits.awaited(answer)
    return Awaiting(answer) if isinstance(answer, AsyncTx | AsyncJob | AsyncDeadLetters) else answer


async def _await(answer: Awaitable[Any]) -> Any:
    return await answer


class Awaiting:
    """A thing of the asynchronous face, called as its like of the other."""

    def __init__(self, inner: Any) -> None:
        self._inner = inner

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._inner, name)
        return (lambda *args, **kwargs: awaited(value(*args, **kwargs))) if callable(value) else awaited(value)

    def __enter__(self) -> Any:
        return awaited(self._inner.__aenter__())

    def __exit__(self, *raised: Any) -> None:
        awaited(self._inner.__aexit__(*raised))


class Plain:
    """A store's own calls, whatever a class below `DataStore` has in their place."""

    def __init__(self, store: DataStore) -> None:
        self._store = store

    def __getattr__(self, name: str) -> Any:
        value = vars(DataStore).get(name)
        if isinstance(value, FunctionType):
            return MethodType(value, self._store)
        if isinstance(value, property):
            return value.__get__(self._store)
        return getattr(self._store, name)

    def __repr__(self) -> str:
        return repr(self._store)


class AwaitedStore(DataStore):
    """A store whose calls go through its asynchronous face."""

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        plain: Any = Plain(self)
        self._awaited = AsyncDataStore._over(plain)

    def register(self, schema: Any) -> Any:
        plain: Any = Plain(self)
        made = DataStore.register(self, schema)
        face = AsyncCollection(self._awaited, Collection(plain, made.name, made.model, made._hot))
        return AwaitedCollection(self, made, face)

    def search_iter(self, schema: Any, query: Any = None, *, chunk: int = 1000) -> Iterator[Any]:
        return _each(self._awaited.search_iter(schema, query, chunk=chunk))

    @property
    def dead_letters(self) -> Any:
        return Awaiting(self._awaited.dead_letters)


class AwaitedCollection(Collection[Any, Any]):
    """The same for a collection."""

    __slots__ = ("_awaited",)

    def __init__(self, store: DataStore, plain: Collection[Any, Any], face: AsyncCollection[Any, Any]) -> None:
        super().__init__(store, plain.name, plain.model, plain._hot)
        self._awaited = face

    def search_iter(self, query: Any = None, *, chunk: int = 1000) -> Iterator[Any]:
        return _each(self._awaited.search_iter(query, chunk=chunk))


def _each(records: Any) -> Iterator[Any]:
    def each() -> Iterator[Any]:
        try:
            while True:
                try:
                    yield awaited(anext(records))
                except StopAsyncIteration:
                    return
        finally:
            awaited(records.aclose())

    return each()


def _through(name: str) -> Any:
    def call(self: Any, /, *args: Any, **kwargs: Any) -> Any:
        return awaited(getattr(self._awaited, name)(*args, **kwargs))

    return call


for _name in AWAITED:
    setattr(AwaitedStore, _name, _through(_name))
for _name in AWAITED & set(vars(Collection)):
    setattr(AwaitedCollection, _name, _through(_name))
