"""The application of the tests' fleet, traced: each process writes the spans that it has ended to a file of its own."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path

from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor, SpanExporter, SpanExportResult

from strata import Config, DataStore
from strata.integrations.opentelemetry import OpenTelemetryTracer
from tests.behind import deferred

FOLDER = Path(os.environ["STRATA_TEST_SPANS"])


class Files(SpanExporter):
    """One line of JSON a span, in a file a process."""

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        with (FOLDER / f"{os.getpid()}.jsonl").open("a") as file:
            file.writelines(f"{json.dumps(json.loads(span.to_json()))}\n" for span in spans)
        return SpanExportResult.SUCCESS


provider = TracerProvider()
provider.add_span_processor(SimpleSpanProcessor(Files()))
trace.set_tracer_provider(provider)
store = DataStore(Config.from_env(write_behind_flush_interval=0.05, tracer=OpenTelemetryTracer()))
store.register(deferred())
