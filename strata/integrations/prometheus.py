"""A `MetricsRecorder` for Prometheus (extra `prometheus`)."""

from __future__ import annotations

import threading
from typing import Any

from prometheus_client import REGISTRY, CollectorRegistry, Counter, Gauge, Histogram

BUCKETS = (0.0001, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)


class PrometheusRecorder:
    """Counters, histograms (seconds) and gauges named `strata_<name>`, made when first recorded. Thread-safe.

    >>> import strata
    >>> config = strata.Config(metrics=PrometheusRecorder())
    """

    def __init__(self, registry: CollectorRegistry = REGISTRY, prefix: str = "strata") -> None:
        self._registry = registry
        self._prefix = prefix
        # `_known` is written under `_lock`; read without it, since a key is set once and never removed.
        self._lock = threading.Lock()
        self._known: dict[str, Any] = {}

    def count(self, name: str, value: int = 1, **labels: str) -> None:
        """Add to a counter."""
        self._labelled(Counter, name, labels).inc(value)

    def observe(self, name: str, seconds: float, **labels: str) -> None:
        """Add a duration to a histogram."""
        self._labelled(Histogram, name, labels).observe(seconds)

    def gauge(self, name: str, value: float, **labels: str) -> None:
        """Set a gauge."""
        self._labelled(Gauge, name, labels).set(value)

    def _labelled(self, kind: Any, name: str, labels: dict[str, str]) -> Any:
        metric = self._known.get(name)
        if metric is None:
            metric = self._make(kind, name, tuple(sorted(labels)))
        return metric.labels(**labels) if labels else metric

    def _make(self, kind: Any, name: str, labels: tuple[str, ...]) -> Any:
        with self._lock:
            if name not in self._known:
                options: dict[str, Any] = {"buckets": BUCKETS} if kind is Histogram else {}
                plain = name.replace(".", "_")
                full = plain if plain.startswith(f"{self._prefix}_") else f"{self._prefix}_{plain}"
                self._known[name] = kind(full, f"Strata: {name}", labels, registry=self._registry, **options)
            return self._known[name]
