"""The guard around the user's `Tracer`."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from itertools import islice
from typing import Any, Self

from strata.contracts import Tracer
from strata.observe.server_call import ServerCall

MOST = 128  # other spans that one is linked to: as many as OpenTelemetry keeps by default


class SafeTracer:
    """Has spans made, or does nothing where there is no tracer; an exception in it stops nothing."""

    def __init__(self, tracer: Tracer | None) -> None:
        self._tracer = tracer
        self.enabled = tracer is not None

    def span(self, name: str, **attributes: Any) -> SafeSpan:
        """A span for the length of a `with` block."""
        return SafeSpan(self._tracer, name, attributes)

    def call(self, name: str, call: ServerCall, **attributes: Any) -> None:
        """A span of a call that a server has just answered, or not."""
        if self._tracer is not None:
            with contextlib.suppress(Exception):
                attributes["operation"] = call.operation
                self._tracer.call(name, call.seconds, attributes, call.error)

    def current(self) -> str:
        """The caller's span, to be linked to; "" where there is none."""
        if self._tracer is not None:
            with contextlib.suppress(Exception):
                return str(self._tracer.current())
        return ""


class SafeSpan:
    """What `SafeTracer.span` returns. Used once, by one operation."""

    __slots__ = ("_attributes", "_name", "_span", "_tracer")

    def __init__(self, tracer: Tracer | None, name: str, attributes: dict[str, Any]) -> None:
        self._tracer = tracer
        self._name = name
        self._attributes = attributes
        self._span: Any = None

    def link(self, others: Iterable[str]) -> None:
        """Link it to others, the first so many of them, each once; empty ones are left out."""
        if self._tracer is not None:
            with contextlib.suppress(Exception):
                self._tracer.link(self._span, list(islice(dict.fromkeys(filter(None, others)), MOST)))

    def __enter__(self) -> Self:
        if self._tracer is not None:
            with contextlib.suppress(Exception):
                self._span = self._tracer.begin(self._name, self._attributes)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: Any) -> None:
        if self._tracer is not None:
            with contextlib.suppress(Exception):
                self._tracer.end(self._span, error)
