"""The callbacks of a schema's life cycle."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from strata.errors import InvalidConfigError, WriteBehindMaxRetryError, shown

if TYPE_CHECKING:
    from typing_extensions import TypeVar as WithDefault  # of `typing` from Python 3.13 on

    T = WithDefault("T", default=Any)
else:
    T = TypeVar("T")


@dataclass(frozen=True)  # with slots, `SchemaHooks[Player](...)` would be a TypeError (CPython 3.11)
class SchemaHooks(Generic[T]):
    """Callbacks, each optional, called in the thread that does the work; `on_write_error` in one of its own.

    What a `before_*` hook raises reaches the caller as `HookError`, with the original as its `__cause__`, and nothing
    was written. What the others raise is logged and counted, and never hides a result. Coroutine functions are for
    asyncio (`AsyncDataStore`): where no event loop uses the store, they count as raising. Raises `InvalidConfigError`
    for what cannot be called.

    Attributes:
        before_set: Called with a record before it is written; returns a replacement, or None, or raises to abort.
        after_set: Called with a record after it was written.
        before_get: Called with an id before it is read; raises to abort.
        after_get: Called with a record that was read; returns a replacement, which is not cached, or None.
        on_evict: Called with key and record when L1 drops an entry for want of room or for its age; not for what leaves
            while it runs, by its own calls, which might never end.
        on_write_error: Called with key and error: once for a deferred write that was given up (`error.final`), and once
            for all those of the schema that wait out a long outage.
    """

    before_set: Callable[[T], T | Awaitable[T | None] | None] | None = None
    after_set: Callable[[T], object] | None = None
    before_get: Callable[[Any], object] | None = None
    after_get: Callable[[T], T | Awaitable[T | None] | None] | None = None
    on_evict: Callable[[Any, T], object] | None = None
    on_write_error: Callable[[Any, WriteBehindMaxRetryError], object] | None = None

    def __post_init__(self) -> None:
        for item in fields(self):
            hook = getattr(self, item.name)
            if hook is not None and not callable(hook):
                raise InvalidConfigError(f"SchemaHooks.{item.name} is {shown(hook)}; it must be a function, or None")
