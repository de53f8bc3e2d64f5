"""Spans and metrics for OpenTelemetry (extra `opentelemetry`)."""

from __future__ import annotations

from strata.exports import export
from strata.integrations.opentelemetry.recorder import OpenTelemetryRecorder
from strata.integrations.opentelemetry.tracer import OpenTelemetryTracer

__all__ = ["OpenTelemetryRecorder", "OpenTelemetryTracer"]

__dir__ = export(globals())
