"""The protocols of the parts that users may plug in."""

from __future__ import annotations

from typing import Any, Protocol, TypeVar, runtime_checkable

T = TypeVar("T")


@runtime_checkable
class Codec(Protocol):
    """Turns a record into the bytes kept in L2, and back. Must be thread-safe.

    Fields holding `strata.UNLOADED` are not part of the bytes; `decode` gives them back as UNLOADED.
    `decode` raises any exception for bytes it cannot read: the entry is then a miss.
    """

    def encode(self, record: Any, model: type[Any]) -> bytes: ...

    def decode(self, data: bytes, model: type[T]) -> T: ...


@runtime_checkable
class Logger(Protocol):
    """A structured logger. What it raises is ignored."""

    def debug(self, msg: str, **fields: Any) -> None: ...

    def info(self, msg: str, **fields: Any) -> None: ...

    def warning(self, msg: str, **fields: Any) -> None: ...

    def error(self, msg: str, **fields: Any) -> None: ...


@runtime_checkable
class MetricsRecorder(Protocol):
    """Receives counters, durations (seconds) and gauges. What it raises is ignored."""

    def count(self, name: str, value: int = 1, **labels: str) -> None: ...

    def observe(self, name: str, seconds: float, **labels: str) -> None: ...

    def gauge(self, name: str, value: float, **labels: str) -> None: ...
