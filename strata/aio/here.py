"""Where the asynchronous face finds its event loop, and imports what that takes: at the first call."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from strata.errors import InvalidConfigError

if TYPE_CHECKING:
    from strata.aio.loop import LoopHub


def hub() -> LoopHub:
    """The hub of the loop that runs here. Raises `RuntimeError` where none does, and `InvalidConfigError` without
    greenlet."""
    return _find()


def _find_first() -> LoopHub:
    global _find
    try:
        from strata.aio.loop import of_running_loop
    except ModuleNotFoundError as error:
        if error.name != "greenlet":
            raise
        raise InvalidConfigError("asyncio takes greenlet; install strata[asyncio]") from error
    _find = of_running_loop
    return of_running_loop()


_find: Callable[[], LoopHub] = _find_first  # replaced once, by whoever comes first; twice does no harm
