"""A `MetricsRecorder` for Prometheus (extra `prometheus`), and a page of its metrics."""

from __future__ import annotations

import os
import re
import weakref
from pathlib import Path
from typing import Any

from prometheus_client import REGISTRY, CollectorRegistry, Counter, Gauge, Histogram, start_http_server
from prometheus_client.multiprocess import MultiProcessCollector

from strata.errors import InvalidConfigError, shown
from strata.exports import export
from strata.observe.metrics import BUCKETS
from strata.waits.locks import once_lock

__all__ = ["PrometheusRecorder", "all_processes"]

_PREFIX = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
SUMMED = {"strata_l1_entries", "strata_write_behind_dirty"}  # of several processes; of other gauges the largest counts

# The metrics of each registry, which takes a name once: all recorders of a registry share them. Written under `_lock`;
# the child of a fork, where nobody else is left, has one of its own.
_lock = once_lock()
_known: weakref.WeakKeyDictionary[CollectorRegistry, dict[str, Any]] = weakref.WeakKeyDictionary()


def _after_fork() -> None:
    global _lock
    _lock = once_lock()


os.register_at_fork(after_in_child=_after_fork)


class PrometheusRecorder:
    """Counters, histograms (seconds) and gauges named `strata_<name>`, made when first recorded. Thread-safe.

    >>> import strata
    >>> config = strata.Config(metrics=PrometheusRecorder())
    """

    def __init__(self, registry: CollectorRegistry = REGISTRY, prefix: str = "strata") -> None:
        """Raises `InvalidConfigError` for what is no registry, or cannot begin a metric's name."""
        if not isinstance(registry, CollectorRegistry):
            raise InvalidConfigError(f"registry is {shown(registry)}; it must be a CollectorRegistry")
        if not isinstance(prefix, str) or not _PREFIX.fullmatch(prefix):
            raise InvalidConfigError(f"prefix is {shown(prefix)}; it must be letters, digits and underscores")
        self._registry = registry
        self._prefix = prefix
        with _lock:
            # Read without the lock, since a name is set once and never removed.
            self._metrics = _known.setdefault(registry, {})

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
        metric = self._metrics.get(self._full(name)) or self._make(kind, self._full(name), tuple(sorted(labels)))
        return metric.labels(**labels) if labels else metric

    def _full(self, name: str) -> str:
        return name if name.startswith(self._prefix) else f"{self._prefix}_{name}"

    def _make(self, kind: Any, name: str, labels: tuple[str, ...]) -> Any:
        options: dict[str, Any] = {}
        if kind is Histogram:
            options["buckets"] = BUCKETS
        elif kind is Gauge:
            options["multiprocess_mode"] = "livesum" if name in SUMMED else "livemax"
        with _lock:
            if name not in self._metrics:
                said = f"See docs/observability.md: {name}"
                self._metrics[name] = kind(name, said, labels, registry=self._registry, **options)
            return self._metrics[name]


def serve(address: str, port: int) -> None:
    """Serve `/metrics` in a thread; of all processes that share `PROMETHEUS_MULTIPROC_DIR`, where that is set."""
    start_http_server(port, address, registry=all_processes())


def all_processes() -> CollectorRegistry:
    """What is recorded by all processes that share `PROMETHEUS_MULTIPROC_DIR`; where that is not set, by this one.

    A scrape leaves out, and removes, the gauges of processes that are gone, however they ended; what these have counted
    stays. They are known by their pids, so processes that do not see each other must not share a directory. Raises
    `ValueError` where the directory is not there. What is returned is thread-safe.
    """
    if not os.environ.get("PROMETHEUS_MULTIPROC_DIR"):
        return REGISTRY
    registry = CollectorRegistry()
    _Living(registry)  # type: ignore[no-untyped-call]
    return registry


class _Living(MultiProcessCollector):
    """Also knows by itself which processes are gone: not every web server can be told what to do then."""

    def collect(self) -> Any:
        for file in Path(self._path).glob("gauge_live*_*.db"):
            if not _there(int(file.stem.rpartition("_")[2])):
                file.unlink(missing_ok=True)  # another scrape may have been first
        return super().collect()  # type: ignore[no-untyped-call]


def _there(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass  # another user's
    return True


__dir__ = export(globals())
