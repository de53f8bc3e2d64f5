"""`OpenTelemetryRecorder`: counters, histograms and gauges of OpenTelemetry."""

from __future__ import annotations

from typing import Any

from opentelemetry.metrics import Counter, Histogram, MeterProvider, get_meter

from strata.errors import InvalidConfigError, shown
from strata.observe.metrics import BUCKETS

_SHARES = {"strata.audit_agreement"}


class OpenTelemetryRecorder:
    """A `MetricsRecorder`: of `strata_get_seconds` it makes the histogram `strata.get.duration`, in `s`, of
    `strata_hits` the counter `strata.hits`, and so of all others. Thread-safe.

    >>> import strata
    >>> config = strata.Config(metrics=OpenTelemetryRecorder())
    """

    def __init__(self, provider: MeterProvider | None = None) -> None:
        """`provider`: by default the global one, which may be set later.

        Raises `InvalidConfigError` for what is no provider.
        """
        if not (provider is None or isinstance(provider, MeterProvider)):
            raise InvalidConfigError(f"provider is {shown(provider)}; it must be a MeterProvider")
        self._meter = get_meter("strata", meter_provider=provider)
        # Each use is one call. Two threads may make an instrument at the same time, and have the same one.
        self._instruments: dict[str, Any] = {}

    def count(self, name: str, value: int = 1, **labels: str) -> None:
        """Add to a counter."""
        counter: Counter = self._instruments.get(name) or self._keep(name, self._meter.create_counter)
        counter.add(value, labels)

    def observe(self, name: str, seconds: float, **labels: str) -> None:
        """Add a duration to a histogram."""
        histogram: Histogram = self._instruments.get(name) or self._keep(
            name, self._meter.create_histogram, explicit_bucket_boundaries_advisory=BUCKETS
        )
        histogram.record(seconds, labels)

    def gauge(self, name: str, value: float, **labels: str) -> None:
        """Set a gauge."""
        gauge = self._instruments.get(name) or self._keep(name, self._meter.create_gauge)
        gauge.set(value, labels)

    def _keep(self, name: str, make: Any, **options: Any) -> Any:
        full, unit = named(name)
        return self._instruments.setdefault(name, make(full, unit, f"See docs/observability.md: {name}", **options))


def named(name: str) -> tuple[str, str]:
    """The name of an instrument, and its unit.

    >>> named("strata_write_behind_oldest_seconds"), named("strata_hits")
    (('strata.write_behind.oldest.duration', 's'), ('strata.hits', '{item}'))
    """
    full = name.replace("strata_", "strata.", 1).replace("write_behind_", "write_behind.", 1)
    if full.endswith("_seconds"):
        return f"{full.removesuffix('_seconds')}.duration", "s"
    return full, "1" if full in _SHARES else "{item}"
