"""What is told of an operation of one schema: that it raised, the time it took, its span."""

from __future__ import annotations

from types import TracebackType
from typing import Any, NamedTuple

from strata import _compiled, waits
from strata.bound import Bound
from strata.errors import DecodeError
from strata.observe import labels
from strata.observe.metrics import SafeMetrics
from strata.observe.tracing import SafeTracer

TIMED = {
    "get": "strata_get_seconds",
    **dict.fromkeys(("set", "insert", "update", "modify", "increment"), "strata_set_seconds"),
}


class Observers(NamedTuple):
    """Who is told."""

    metrics: SafeMetrics
    tracer: SafeTracer

    def or_none(self) -> Observers | None:
        """These, or None where nobody is to be told."""
        return self if self.metrics.enabled or self.tracer.enabled else None


class Observed:
    """Counts an operation that raises, and tells the observers, where there are some, of it; `key` is the record's, of
    one that is about a single record."""

    __slots__ = ("_began", "_bound", "_key", "_observers", "_operation", "_span")

    def __init__(self, bound: Bound, observers: Observers | None, operation: str, key: Any = None) -> None:
        self._bound = bound
        self._observers = observers
        self._operation = operation
        self._key = key

    def __enter__(self) -> None:
        if self._observers is not None:
            self._began = waits.monotonic()
            span = self._observers.tracer.span(f"strata.{self._operation}", schema=self._bound.name, key=self._key)
            self._span = span.__enter__()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None:
            self._bound.counters.errors += 1
        if isinstance(error, DecodeError) and not error.schema:
            error.schema = self._bound.name
        if self._observers is not None:
            self._span.__exit__(kind, error, trace)
            self._tell(self._observers.metrics, kind)

    def _tell(self, metrics: SafeMetrics, kind: type[BaseException] | None) -> None:
        name = self._bound.name
        if self._operation in TIMED:
            metrics.observe(TIMED[self._operation], waits.monotonic() - self._began, schema=name)
        if kind is not None:
            metrics.count("strata_errors", schema=name, error=labels.of_error(kind))


_compiled.replace(globals(), "observed", "Observed")
