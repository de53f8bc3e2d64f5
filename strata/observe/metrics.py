"""The guard around the user's `MetricsRecorder`."""

from __future__ import annotations

import contextlib

from strata.contracts import MetricsRecorder


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
