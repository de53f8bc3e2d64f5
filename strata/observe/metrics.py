"""The guard around the user's `MetricsRecorder`."""

from __future__ import annotations

import contextlib

from strata.contracts import MetricsRecorder

# Seconds that durations are sorted into.
BUCKETS = (0.0001, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)


class SafeMetrics:
    """Passes measurements on, or drops them where there is no recorder; an exception in it stops nothing."""

    def __init__(self, recorder: MetricsRecorder | None) -> None:
        self._recorder = recorder
        self.enabled = recorder is not None

    def count(self, name: str, value: int = 1, **labels: str) -> None:
        if self._recorder is not None:
            with contextlib.suppress(Exception):
                self._recorder.count(name, value, **labels)

    def observe(self, name: str, seconds: float, **labels: str) -> None:
        if self._recorder is not None:
            with contextlib.suppress(Exception):
                self._recorder.observe(name, seconds, **labels)

    def gauge(self, name: str, value: float, **labels: str) -> None:
        if self._recorder is not None:
            with contextlib.suppress(Exception):
                self._recorder.gauge(name, value, **labels)
