"""The callbacks of a schema's life cycle."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class SchemaHooks:
    """Callbacks, each optional, called in the thread that does the work.

    `before_set(value)` may return a replacement, or raise to abort; `before_get(id)` may raise to abort: the
    caller gets `HookError` with the original as its `__cause__`, and nothing was written. `after_get(value)` may
    return a replacement, which is not cached. `on_evict(key, value)` runs when L1 drops an entry for want of room
    or for its age. `on_write_error(key, error)` runs once for a deferred write that was given up. What the other
    hooks raise is logged and counted, and never hides a result.
    """

    before_set: Callable[[Any], Any] | None = None
    after_set: Callable[[Any], None] | None = None
    before_get: Callable[[Any], None] | None = None
    after_get: Callable[[Any], Any] | None = None
    on_evict: Callable[[Any, Any], None] | None = None
    on_write_error: Callable[[Any, Exception], None] | None = None
