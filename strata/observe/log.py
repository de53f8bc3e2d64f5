"""Loggers: the adapter to `logging`, and the one way on which the store's own lines go to whatever the user gave."""

from __future__ import annotations

import contextlib
import logging
import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from strata.contracts import Logger
from strata.errors import InvalidConfigError, shown
from strata.observe.outages import AGAIN, Lines, Outage
from strata.waits.clock import Clock, SystemClock
from strata.waits.locks import once_lock

KEPT = 500  # different lines that are remembered


class StandardLogger:
    """Writes to the standard library's `logging`, the fields as `key=value` after the message.

    The default of `Config.logger`. The library adds no handler and sets no level: where the application configures
    nothing, `logging` shows WARNING and above on standard error.

    >>> import strata
    >>> config = strata.Config(logger=StandardLogger("myapp.cache"))
    """

    def __init__(self, name: str = "strata") -> None:
        """Raises `InvalidConfigError` for a name that is no str."""
        if not isinstance(name, str):
            raise InvalidConfigError(f"the name of a logger is {shown(name)}; it must be a str")
        self._logger = logging.getLogger(name)

    def debug(self, msg: str, **fields: Any) -> None:
        """Write it at level DEBUG."""
        self._write(logging.DEBUG, msg, fields)

    def info(self, msg: str, **fields: Any) -> None:
        """Write it at level INFO."""
        self._write(logging.INFO, msg, fields)

    def warning(self, msg: str, **fields: Any) -> None:
        """Write it at level WARNING."""
        self._write(logging.WARNING, msg, fields)

    def error(self, msg: str, **fields: Any) -> None:
        """Write it at level ERROR."""
        self._write(logging.ERROR, msg, fields)

    def _write(self, level: int, msg: str, fields: dict[str, Any]) -> None:
        if self._logger.isEnabledFor(level):
            self._logger.log(level, "%s", " ".join([msg, *(f"{key}={value!r}" for key, value in fields.items())]))


class _Line:
    """One thing that is said: when it was last, and what came since. Its numbers may lose a few where two threads add
    at once; `say` belongs to whoever says it, whom nobody waits for."""

    __slots__ = ("count", "fields", "said_at", "saying", "times")

    def __init__(self) -> None:
        self.said_at = -math.inf
        self.times = 0
        self.count = 0
        self.fields: dict[str, Any] = {}
        self.saying = once_lock()


class SafeLogger:
    """Passes lines on to a logger; an exception in it stops nothing.

    The same line of level INFO or above is given once a minute at most. What comes in between is held back, and given
    when the minute is over, with the numbers since: `times`, and the sum of what `count` said. Lines are the same where
    message and texts are; other values may differ, and the last ones are given.

    Thread-safe, without a lock that is waited for: `_lines` and `_outages` are dicts of which each use is one call. The
    logger is called without any lock that another thread, or the logger itself, would wait for. Held lines go out with
    `remind`, which threads of the store call about once a second, and with the next line. After fork the child calls
    `reset`.
    """

    def __init__(self, logger: Logger | None, clock: Clock | None = None) -> None:
        self._logger = logger
        self._clock = clock or SystemClock()
        self._lines: dict[tuple[Any, ...], _Line] = {}
        self._outages: dict[tuple[str, str], Outage] = {}

    def debug(self, msg: str, **fields: Any) -> None:
        self._pass("debug", msg, fields)

    def info(self, msg: str, **fields: Any) -> None:
        self._say("info", msg, fields)

    def warning(self, msg: str, **fields: Any) -> None:
        self._say("warning", msg, fields)

    def error(self, msg: str, **fields: Any) -> None:
        self._say("error", msg, fields)

    def outage(
        self,
        gone: str,
        back: str,
        *,
        name: str = "",
        tell: Callable[[], Mapping[str, Any]] = dict,
        because: Callable[[], Iterable[Outage]] = tuple,
        patience: float = 0.0,
        expected: bool = True,
    ) -> Outage:
        """Something that may go away and come back, told of by these two messages; see `Outage`. `name` tells those
        of the same messages apart, of which a new one takes the place of an older one."""
        made = Outage(self._pass, self._clock, Lines(gone, back), tell, because, patience, expected)
        self._outages[gone, name] = made
        return made

    def remind(self, *, now: bool = False) -> None:
        """Give what was held back for a minute, and what still is away; `now`: without waiting for the minute."""
        at = math.inf if now else self._clock.monotonic()
        for key, line in list(self._lines.items()):
            if line.times:
                self._give(key[0], key[1], line, at)
        for outage in list(self._outages.values()):
            outage.tell()

    def reset(self) -> None:
        """In the child of a fork: what the parent held back is the parent's to say, and what is away is found anew."""
        self._lines.clear()
        for outage in self._outages.values():
            outage.reset()

    def _say(self, level: str, msg: str, fields: dict[str, Any]) -> None:
        if self._logger is None:
            return
        key = (level, msg, *(item for item in fields.items() if isinstance(item[1], str)))
        line = self._lines.get(key)
        if line is None:
            if len(self._lines) >= KEPT:
                with contextlib.suppress(KeyError, StopIteration, RuntimeError):
                    self._lines.pop(next(iter(self._lines)))
            line = self._lines.setdefault(key, _Line())
        line.fields = fields
        line.count += fields.get("count", 0)
        line.times += 1
        self._give(level, msg, line, self._clock.monotonic())

    def _give(self, level: str, msg: str, line: _Line, now: float) -> None:
        if now < line.said_at + AGAIN or not line.saying.acquire(blocking=False):
            return  # whoever gives it now may not count this one; it goes out a minute later then
        try:
            times, count, line.times, line.count = line.times, line.count, 0, 0
            if not times:
                return
            line.said_at = self._clock.monotonic()
            numbers = {"count": count} if "count" in line.fields else {}
            self._pass(level, msg, line.fields | numbers | ({"times": times} if times > 1 else {}))
        finally:
            line.saying.release()

    def _pass(self, level: str, msg: str, fields: Mapping[str, Any]) -> None:
        if self._logger is not None:
            with contextlib.suppress(Exception):
                getattr(self._logger, level)(msg, **fields)
