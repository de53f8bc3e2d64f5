"""`AsyncTx`: a transaction, awaited."""

from __future__ import annotations

from collections.abc import Callable, Generator
from copy import deepcopy
from functools import partial
from types import TracebackType
from typing import Any, Self, TypeVar, overload

from strata.aio.here import here
from strata.aio.ready import AsyncWith, Ready
from strata.engine.tx import Tx
from strata.schema import Key, Record, SchemaRef

T = TypeVar("T", bound=Record)


class AsyncTx(AsyncWith):
    """Changes of several records, all or nothing in L3, then in the caches; as `strata.Tx`. Used by one task.

    `set` and `delete` only collect: there is nothing to await, and `await` before them does no harm. Where `before_set`
    is a coroutine function it is awaited then, else in `commit`.

    >>> await store.tx().set(Player, "p1", Player("p1", "andrew")).delete("sessions", "s9").commit()
    """

    def __init__(self, tx: Tx) -> None:
        self._tx = tx
        self._left: list[Callable[[], object]] = []  # from the first one on whose hook is to be awaited

    @overload
    def set(self, schema: type[T], id: Key, value: T) -> Self: ...
    @overload
    def set(self, schema: str, id: Key, value: Record) -> Self: ...
    def set(self, schema: SchemaRef[Any], id: Key, value: Any) -> Self:
        """As `Tx.set`: nothing is sent yet, and the transaction is returned."""
        if self._left or self._tx._awaits(schema):
            give: Callable[..., Any] = self._tx.set
            self._left.append(partial(give, schema, id, deepcopy(value)))
        else:
            self._tx.set(schema, id, value)
        return self

    def delete(self, schema: SchemaRef[Any], id: Key) -> Self:
        """As `Tx.delete`: nothing is sent yet, and the transaction is returned."""
        if self._left:
            self._left.append(partial(self._tx.delete, schema, id))
        else:
            self._tx.delete(schema, id)
        return self

    async def commit(self) -> None:
        """As `Tx.commit`: everything, once; in L3 all of it or nothing."""
        await here().call(self._commit)

    def rollback(self) -> Ready:
        """As `Tx.rollback`: there is nothing to await, and that does no harm."""
        self._left.clear()
        self._tx.rollback()
        return Ready()

    def __await__(self) -> Generator[Any, Any, Self]:
        return self._collected().__await__()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None:
            self.rollback()
        elif not self._tx._over:
            await self.commit()

    async def _collected(self) -> Self:
        if self._left:
            await here().call(self._collect)
        return self

    def _commit(self) -> None:
        self._collect()
        self._tx.commit()

    def _collect(self) -> None:
        left, self._left = self._left, []
        for give in left:
            give()
