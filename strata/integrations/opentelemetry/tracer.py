"""`OpenTelemetryTracer`: spans of OpenTelemetry."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextvars import Token
from typing import Any

from opentelemetry import context
from opentelemetry.trace import (
    Span,
    SpanKind,
    StatusCode,
    TracerProvider,
    get_current_span,
    get_tracer,
    set_span_in_context,
)

from strata.errors import InvalidConfigError, StrataError, shown
from strata.integrations.opentelemetry.attributes import described
from strata.integrations.opentelemetry.traceparent import read, written
from strata.policies import flag

_KEY = context.create_key("strata-open-span")


class _Open:
    """A span that is the caller's, and what it reached: the deepest tier that answered."""

    __slots__ = ("span", "tier", "token")

    def __init__(self, span: Span) -> None:
        self.span = span
        self.tier = ""
        self.token: Token[context.Context] = context.attach(context.set_value(_KEY, self, set_span_in_context(span)))

    def reached(self, tier: str) -> None:
        if tier > self.tier:
            self.tier = tier
            self.span.set_attribute("strata.tier", tier)

    def leave(self) -> None:
        if context.get_value(_KEY) is self:  # else it is ended elsewhere, by a collector of garbage for instance
            context.detach(self.token)


class OpenTelemetryTracer:
    """A `Tracer`: see docs/observability.md for its spans. Thread-safe: it keeps no state.

    >>> import strata
    >>> config = strata.Config(tracer=OpenTelemetryTracer())
    """

    def __init__(self, provider: TracerProvider | None = None, *, keys: bool = False) -> None:
        """`provider`: by default the global one, which may be set later. `keys`: spans of operations on one record bear
        its key.

        Raises `InvalidConfigError` for what is no provider, or no bool.
        """
        if not (provider is None or isinstance(provider, TracerProvider)):
            raise InvalidConfigError(f"provider is {shown(provider)}; it must be a TracerProvider")
        self._tracer = get_tracer("strata", tracer_provider=provider)
        self._keys = flag(keys, "keys")

    def begin(self, name: str, attributes: Mapping[str, Any]) -> Any:
        """Begin a span within the caller's, and make it the caller's."""
        return _Open(self._tracer.start_span(name, attributes=described(attributes, keys=self._keys)))

    def link(self, span: Any, others: Sequence[str]) -> None:
        """Link a span to others."""
        for other in filter(None, map(read, others)):
            span.span.add_link(other)

    def end(self, span: Any, error: BaseException | None) -> None:
        """End a span."""
        try:
            span.leave()
        finally:
            _end(span.span, error)

    def call(self, name: str, seconds: float, attributes: Mapping[str, Any], error: BaseException | None) -> None:
        """Make the span of a server's call that has just ended, where the caller's is recorded."""
        if not get_current_span().is_recording():
            return
        began = time.time_ns() - round(seconds * 1e9)
        told = described(attributes, keys=False)
        _end(self._tracer.start_span(name, kind=SpanKind.CLIENT, attributes=told, start_time=began), error)
        if error is None and isinstance(of := context.get_value(_KEY), _Open):
            of.reached(name.rpartition(".")[2])

    def current(self) -> str:
        """The caller's span, where it is recorded."""
        return written(get_current_span().get_span_context())


def _end(span: Span, error: BaseException | None) -> None:
    if error is not None:
        # Not `record_exception`: texts of others, and tracebacks with the drivers' errors, may show values.
        span.set_attribute("error.type", type(error).__name__)
        span.set_status(StatusCode.ERROR, str(error) if isinstance(error, StrataError) else None)
    span.end()
