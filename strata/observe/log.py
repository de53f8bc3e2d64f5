"""Loggers: the adapter to `logging`, and the guard around whatever the user gave."""

from __future__ import annotations

import contextlib
import logging
from typing import Any

from strata.contracts import Logger


class StandardLogger:
    """Writes to the standard library's `logging`, the fields as `key=value` after the message.

    >>> import strata
    >>> config = strata.Config(logger=StandardLogger("myapp.cache"))
    """

    def __init__(self, name: str = "strata") -> None:
        self._logger = logging.getLogger(name)

    def debug(self, msg: str, **fields: Any) -> None:
        self._write(logging.DEBUG, msg, fields)

    def info(self, msg: str, **fields: Any) -> None:
        self._write(logging.INFO, msg, fields)

    def warning(self, msg: str, **fields: Any) -> None:
        self._write(logging.WARNING, msg, fields)

    def error(self, msg: str, **fields: Any) -> None:
        self._write(logging.ERROR, msg, fields)

    def _write(self, level: int, msg: str, fields: dict[str, Any]) -> None:
        if self._logger.isEnabledFor(level):
            self._logger.log(level, "%s", " ".join([msg, *(f"{key}={value!r}" for key, value in fields.items())]))


class SafeLogger:
    """Passes messages on to a logger, or drops them where there is none; an exception in it stops nothing."""

    def __init__(self, logger: Logger | None) -> None:
        self._logger = logger

    def debug(self, msg: str, **fields: Any) -> None:
        if self._logger is not None:
            with contextlib.suppress(Exception):
                self._logger.debug(msg, **fields)

    def info(self, msg: str, **fields: Any) -> None:
        if self._logger is not None:
            with contextlib.suppress(Exception):
                self._logger.info(msg, **fields)

    def warning(self, msg: str, **fields: Any) -> None:
        if self._logger is not None:
            with contextlib.suppress(Exception):
                self._logger.warning(msg, **fields)

    def error(self, msg: str, **fields: Any) -> None:
        if self._logger is not None:
            with contextlib.suppress(Exception):
                self._logger.error(msg, **fields)
