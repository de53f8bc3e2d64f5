"""Memoized coroutine functions."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any, Concatenate, ParamSpec, Protocol, TypeVar, overload

from strata.aio.here import here
from strata.memo.cached import Memo

P = ParamSpec("P")
Q = ParamSpec("Q")
T = TypeVar("T", covariant=True)


class AsyncCached(Protocol[P, T]):
    """As `Cached`, of a coroutine function: it is one, and `invalidate` and `refresh` are awaited too.

    >>> @store.cached(ttl=60)
    ... async def double(number: int) -> int:
    ...     return 2 * number
    >>> await double(21)
    42
    >>> await double.invalidate(21)
    """

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> Coroutine[Any, Any, T]: ...

    async def invalidate(self, *args: P.args, **kwargs: P.kwargs) -> None:
        """As `Cached.invalidate`."""

    async def refresh(self, *args: P.args, **kwargs: P.kwargs) -> T:
        """As `Cached.refresh`."""
        ...

    def key(self, *args: P.args, **kwargs: P.kwargs) -> str:
        """As `Cached.key`; there is nothing to await."""
        ...

    @overload
    def __get__(self, instance: None, owner: Any, /) -> AsyncCached[P, T]: ...
    @overload
    def __get__(
        self: AsyncCached[Concatenate[Any, Q], T], instance: object, owner: Any, /
    ) -> Callable[Q, Coroutine[Any, Any, T]]: ...


def awaiting(memo: Memo) -> Any:
    """The coroutine function that users call, as `Memo.wrapped` has it for others. A hit does not give way to the
    loop."""

    async def call(given: Any) -> Any:
        return await here().call(memo.call, given)

    async def invalidate(*args: Any, **kwargs: Any) -> None:
        await here().call(memo.invalidate, args, kwargs)

    async def refresh(*args: Any, **kwargs: Any) -> Any:
        return await here().call(memo.refresh, args, kwargs)

    return memo.with_calls(memo.hit("async def", "await {call}({given})", call), invalidate, refresh)
