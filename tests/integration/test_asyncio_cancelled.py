"""A call that is cancelled, wherever it waits, leaves nothing behind."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Generator
from contextlib import aclosing
from typing import Any

import pytest
import redis

from strata import AsyncCollection, AsyncDataStore, DataStore, Q, WriteMode
from strata.testing import inspect
from tests.models import Note
from tests.stores import MakeStore, schema, sure
from tests.support import wait_until

Call = Callable[[AsyncDataStore, AsyncCollection[Note, int]], Awaitable[Any]]


class Cancelling:
    """Awaits a call, and cancels its task as it waits for the n-th time; `waits` says how often it did."""

    def __init__(self, call: Awaitable[Any], n: int) -> None:
        self._call = call
        self._n = n
        self.waits = 0

    def __await__(self) -> Generator[Any, Any, Any]:
        inner = self._call.__await__()
        answer: Any = None
        error: BaseException | None = None
        while True:
            try:
                waited = inner.send(answer) if error is None else inner.throw(error)
            except StopIteration as end:
                return end.value
            self.waits += 1
            if self.waits == self._n:
                task = asyncio.current_task()
                assert task is not None
                task.cancel()
            answer = error = None
            try:
                answer = yield waited
            except BaseException as raised:
                error = raised


async def _iterate(notes: AsyncCollection[Note, int]) -> int:
    async with aclosing(notes.search_iter(Q().order_by("id"), chunk=2)) as found:  # type: ignore[type-var]
        return len([note async for note in found])


async def _tx(store: AsyncDataStore) -> None:
    async with store.tx() as tx:
        tx.set(Note, 1, Note(1, "by tx")).set("more", 2, Note(2, "by tx")).delete(Note, 3)


async def _missed(notes: AsyncCollection[Note, int]) -> Note:
    await notes.invalidate(1)
    return await notes.get(1)


async def _made(notes: AsyncCollection[Note, int]) -> Note:
    async def made() -> Note:
        await asyncio.sleep(0)
        return Note(4, "made")

    await notes.delete(4)
    return await notes.get_or_set(4, made)


CALLS: dict[str, Call] = {
    "get": lambda store, notes: _missed(notes),
    "get past L1": lambda store, notes: notes.get(1, force_l2=True),
    "get from L3": lambda store, notes: notes.get(1, force_l3=True),
    "get what is not there": lambda store, notes: notes.get(99, default=None),
    "get_many": lambda store, notes: notes.get_many([1, 2, 98, 99]),
    "exists": lambda store, notes: notes.exists(2),
    "search": lambda store, notes: notes.search(Q().limit(3)),
    "search_cached": lambda store, notes: notes.search_cached(Q().limit(3)),
    "search_iter": lambda store, notes: _iterate(notes),
    "count": lambda store, notes: notes.count(),
    "get_or_set": lambda store, notes: _made(notes),
    "set": lambda store, notes: notes.set(1, Note(1, "set")),
    "touch": lambda store, notes: notes.touch(1, 60),
    "set_many": lambda store, notes: notes.set_many({n: Note(n, "many") for n in range(1, 4)}),
    "delete": lambda store, notes: notes.delete(4),
    "delete_many": lambda store, notes: notes.delete_many([4, 5]),
    "tx": lambda store, notes: _tx(store),
    "invalidate": lambda store, notes: notes.invalidate(1),
    "warm_cache": lambda store, notes: notes.warm_cache(),
    "migrate": lambda store, notes: store.migrate(),
    "flush_dirty": lambda store, notes: store.flush_dirty(),
    "audit": lambda store, notes: store.audit(pause=0),
}


READS = {
    "get past L1", "get from L3", "get what is not there", "exists", "search", "search_cached", "search_iter", "count",
    "migrate", "audit", "warm_cache", "flush_dirty",
}  # fmt: skip
THROUGH, BEHIND = WriteMode.WRITE_THROUGH, WriteMode.WRITE_BEHIND


@pytest.fixture
def filled(make: MakeStore, mode: WriteMode) -> tuple[DataStore, AsyncCollection[Note, int]]:
    store = make()
    notes = store.aio.register(schema(Note, name="notes", write_mode=mode))
    store.register(schema(Note, name="more"))
    store.migrate()
    store.set_many("notes", {n: Note(n, "first") for n in range(1, 6)})
    sure(store)
    return store, notes


@pytest.mark.parametrize(
    ("name", "mode"),
    [(name, mode) for name in CALLS for mode in (THROUGH, BEHIND) if mode is BEHIND or name not in READS],
)
def test_a_call_that_is_cancelled_at_any_of_its_waits_leaves_nothing_behind(
    filled: tuple[DataStore, AsyncCollection[Note, int]], redis_addr: str, name: str
) -> None:
    store, notes = filled

    async def at_each() -> None:
        for n in range(1, 200):
            cancelling = Cancelling(CALLS[name](store.aio, notes), n)
            try:
                await cancelling
            except asyncio.CancelledError:
                pass
            else:
                assert cancelling.waits < n or n > 1, "it never waited"
            _nothing_is_left(store, redis_addr)
            await _all_agree(notes)
            if cancelling.waits < n:
                return
        raise AssertionError("it never ends by itself")

    asyncio.run(at_each())


def _nothing_is_left(store: DataStore, redis_addr: str) -> None:
    inside = inspect(store)
    for database in inside.databases.values():
        wait_until(lambda: database.counts().open == database.counts().idle, what="all connections")  # noqa: B023
        assert database.breaker.closed
    for bound in inside.schemas.values():
        assert not bound.l1.claims._flights and not bound.l1.claims._claims and not bound.l1.claims._calls
    assert inside.redis.breaker.closed
    with redis.Redis.from_url(f"redis://{redis_addr}") as client:
        held = {key: client.get(key) for key in client.keys("strata:notes:*") + client.keys("strata:more:*")}
    assert {key: value for key, value in held.items() if value and value[:1] in (b"I", b"L")} == {}


async def _all_agree(notes: AsyncCollection[Note, int]) -> None:
    for id in (1, 2, 3, 4):
        texts = [await notes.get(id, default=None, **how) for how in ({}, {"force_l2": True})]
        assert texts[0] == texts[1]
