"""Memoized coroutine functions."""

from __future__ import annotations

import functools
from time import monotonic
from typing import Any

from strata.aio.here import here
from strata.memo.cached import Memo


def awaiting(memo: Memo) -> Any:
    """The coroutine function that users call, as `Memo.wrapped` has it for others."""
    hot, make_key, call = memo.hot, memo.make_key, memo.call

    @functools.wraps(memo.function)
    async def cached(*args: Any, **kwargs: Any) -> Any:
        text = make_key(args, kwargs)
        entry = hot.lookup(text)
        if entry is not None:
            now = monotonic()
            if now < entry.expires and now < hot.trust.until:
                entry.used = now
                entry.hits += 1
                thaw = hot.thaw
                return (entry.value if thaw is None else thaw(entry.value)).result
        return await here().call(call, text, args, kwargs)

    async def invalidate(*args: Any, **kwargs: Any) -> None:
        await here().call(memo.invalidate, args, kwargs)

    async def refresh(*args: Any, **kwargs: Any) -> Any:
        return await here().call(memo.refresh, args, kwargs)

    return memo.with_calls(cached, invalidate, refresh)
