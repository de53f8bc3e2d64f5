"""The protocols of the parts that users may plug in."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol, TypeVar, runtime_checkable

T = TypeVar("T")


@runtime_checkable
class Codec(Protocol):
    """Turns a record into the bytes kept in L2, and back. Must be thread-safe.

    Fields holding `strata.UNLOADED` are not part of the bytes; `decode` gives them back as UNLOADED.
    """

    def encode(self, record: Any, model: type[Any]) -> bytes:
        """The record of that class as bytes. Raises `EncodeError` for what it cannot encode; it reaches the caller."""
        ...

    def decode(self, data: bytes, model: type[T]) -> T:
        """The record of the bytes. It raises whatever it likes for those that it cannot read: the entry is a miss."""
        ...


@runtime_checkable
class Logger(Protocol):
    """A structured logger: `msg` is one of few texts, and `fields` say what it is about. Must be thread-safe. What it
    raises is ignored."""

    def debug(self, msg: str, **fields: Any) -> None:
        """What only who looks for a fault wants to read."""
        ...

    def info(self, msg: str, **fields: Any) -> None:
        """What is as it should be."""
        ...

    def warning(self, msg: str, **fields: Any) -> None:
        """What somebody should look at."""
        ...

    def error(self, msg: str, **fields: Any) -> None:
        """What was lost, or a mistake in a hook or in Strata."""
        ...


@runtime_checkable
class MetricsRecorder(Protocol):
    """Receives counters, durations and gauges. Must be thread-safe. What it raises is ignored."""

    def count(self, name: str, value: int = 1, **labels: str) -> None:
        """Add to a counter."""
        ...

    def observe(self, name: str, seconds: float, **labels: str) -> None:
        """Add a duration, in seconds, to a histogram."""
        ...

    def gauge(self, name: str, value: float, **labels: str) -> None:
        """Set a gauge."""
        ...


@runtime_checkable
class Tracer(Protocol):
    """Makes spans of what Strata does. Must be thread-safe. What it raises is ignored.

    Attributes are `schema`, `key` (of a record, as it is), `shard`, and of a server's calls `system`, `server`,
    `address` and `operation`.
    """

    def begin(self, name: str, attributes: Mapping[str, Any]) -> Any:
        """Begin a span within the caller's, and make it the caller's; what is returned is given to `link` and `end`."""
        ...

    def link(self, span: Any, others: Sequence[str]) -> None:
        """Link a span to others, which `current` has named, in another process perhaps."""
        ...

    def end(self, span: Any, error: BaseException | None) -> None:
        """End it, with what was raised in it; the caller's is then the one that was before."""
        ...

    def call(self, name: str, seconds: float, attributes: Mapping[str, Any], error: BaseException | None) -> None:
        """Make a span, within the caller's, of a server's call that has just ended; none where the caller has none."""
        ...

    def current(self) -> str:
        """The caller's span as a short text of ASCII without blanks, by which it can be linked to; "" without one."""
        ...


def fulfils(value: object, protocol: type) -> bool:
    """Whether an object has the methods of a protocol, be it by `__getattr__`, as the proxies of logging libraries do,
    which `isinstance` does not see from Python 3.12 on."""
    wanted = [name for name, item in vars(protocol).items() if callable(item) and not name.startswith("_")]
    return not isinstance(value, type) and all(callable(getattr(value, name, None)) for name in wanted)
