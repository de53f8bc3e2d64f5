"""A span as text, in the form of the W3C's `traceparent` (https://www.w3.org/TR/trace-context/)."""

from __future__ import annotations

import re

from opentelemetry.trace import SpanContext, TraceFlags

_FORM = re.compile(r"00-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})")


def written(span: SpanContext) -> str:
    """The text of a span that is sampled; "" for any other, which nobody will ever see."""
    if not (span.is_valid and span.trace_flags.sampled):
        return ""
    return f"00-{span.trace_id:032x}-{span.span_id:016x}-{span.trace_flags:02x}"


def read(text: str) -> SpanContext | None:
    """The span of a text; None where it is none.

    >>> written(read("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"))
    '00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01'
    """
    found = _FORM.fullmatch(text)
    if found is None:
        return None
    trace, span, flags = (int(part, 16) for part in found.groups())
    return SpanContext(trace, span, is_remote=True, trace_flags=TraceFlags(flags))
