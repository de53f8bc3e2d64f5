"""Spans of OpenTelemetry's own SDK, kept in memory."""

from __future__ import annotations

from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanContext


class Spans:
    """What a provider has ended since it was looked at last."""

    def __init__(self) -> None:
        self._kept = InMemorySpanExporter()
        self.provider = TracerProvider()
        self.provider.add_span_processor(SimpleSpanProcessor(self._kept))

    def taken(self) -> list[ReadableSpan]:
        """All of them, which are forgotten then."""
        found = list(self._kept.get_finished_spans())
        self._kept.clear()
        return found

    def named(self, name: str) -> list[ReadableSpan]:
        """Those of a name, which are kept."""
        return [span for span in self._kept.get_finished_spans() if span.name == name]

    def one(self, name: str) -> ReadableSpan:
        """The one of a name."""
        [span] = self.named(name)
        return span


def about(span: ReadableSpan) -> SpanContext:
    """Where it is."""
    where: SpanContext | None = span.context
    assert where is not None
    return where


def said(span: ReadableSpan, name: str) -> object:
    """An attribute, or None."""
    return (span.attributes or {}).get(name)


def within(span: ReadableSpan, spans: list[ReadableSpan]) -> list[ReadableSpan]:
    """Those of the spans that are children of it."""
    return [item for item in spans if item.parent is not None and item.parent.span_id == about(span).span_id]
