"""Where the asynchronous face finds its event loop, and imports what that takes: at the first call."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from strata.errors import InvalidConfigError

if TYPE_CHECKING:
    from strata.aio.loop import EventLoop


def here() -> EventLoop:
    """What there is for the loop that runs here. Raises `RuntimeError` where none does; without greenlet
    `InvalidConfigError`."""
    return _find()


def _find_first() -> EventLoop:
    global _find
    try:
        from strata.aio.loop import running
    except ModuleNotFoundError as error:
        if error.name != "greenlet":
            raise
        raise InvalidConfigError("asyncio takes greenlet; install strata[asyncio]") from error
    _find = running
    return running()


_find: Callable[[], EventLoop] = _find_first  # replaced once, by whoever comes first; twice does no harm
