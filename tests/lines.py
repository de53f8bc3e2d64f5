"""A logger for tests."""

from __future__ import annotations

from typing import Any


class Log:
    """Remembers errors and warnings."""

    def __init__(self) -> None:
        self.errors: list[dict[str, Any]] = []
        self.warnings: list[dict[str, Any]] = []

    def debug(self, msg: str, **fields: Any) -> None: ...

    def info(self, msg: str, **fields: Any) -> None: ...

    def warning(self, msg: str, **fields: Any) -> None:
        self.warnings.append({"msg": msg} | fields)

    def error(self, msg: str, **fields: Any) -> None:
        self.errors.append({"msg": msg} | fields)
