"""Feeding a `MetricsRecorder` with what the counters have gained, so that counting costs an operation nothing more."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from strata.observe.log import SafeLogger
from strata.observe.metrics import SafeMetrics
from strata.runtime.daemon import Daemon
from strata.waits.locks import memory_lock

INTERVAL = 5.0  # seconds between rounds
STOP_TIMEOUT = 1.0  # seconds; a recorder may be slow

Labels = tuple[tuple[str, str], ...]


class Reading(NamedTuple):
    """A number with its name and labels."""

    name: str
    labels: Labels
    value: float


Read = Callable[[], Sequence[Reading]]


class Feed:
    """Publishes in a daemon thread, every `interval` seconds and once at the end. Nothing runs without a recorder.

    `_lock` guards `_seen`: one round at a time, which takes the differences to the one before. After
    fork the child calls `after_fork`: what the parent counted is the parent's to publish.
    """

    def __init__(
        self, metrics: SafeMetrics, counts: Read, gauges: Read, log: SafeLogger, interval: float = INTERVAL
    ) -> None:
        self._metrics = metrics
        self._counts = counts  # totals since the store was made, which only rise
        self._gauges = gauges  # values as they are now; may ask servers
        self._log = log
        self._seen: dict[tuple[str, Labels], float] = {}
        self._lock = memory_lock()
        self._interval = interval
        self.daemon = Daemon("strata-metrics", self._step, log, delay=interval)

    def start(self) -> None:
        """Start the thread, unless it runs, was stopped for good, or has nobody to tell. Never raises."""
        if self._metrics.enabled:
            self.daemon.start()

    def publish(self) -> None:
        """One round, in the calling thread. Never raises."""
        if not self._metrics.enabled:
            return
        with self._lock:
            try:
                counts, gauges = self._counts(), self._gauges()
            except Exception as error:  # noqa: BLE001 numbers that cannot be had must not stop anything
                self._log.debug("the metrics could not be read", error=type(error).__name__)
                return
            for name, labels, value in counts:
                first, gained = (name, labels) not in self._seen, value - self._seen.get((name, labels), 0)
                if gained > 0 or first:  # a counter begins at zero, so that its first gain is seen as one
                    self._metrics.count(name, int(gained), **dict(labels))
                self._seen[name, labels] = value
            for name, labels, value in gauges:
                self._metrics.gauge(name, value, **dict(labels))

    def stop(self) -> None:
        """End the thread, and publish what is left. Idempotent."""
        last = not self.daemon.stopped
        self.daemon.stop()
        self.daemon.join(STOP_TIMEOUT)
        if last:
            self.publish()

    def after_fork(self) -> None:
        """In the child: no thread yet, and nothing gained yet."""
        self._lock = memory_lock()
        self.daemon.reset()
        if self._metrics.enabled:
            self._seen = {(name, labels): value for name, labels, value in self._counts()}

    def _step(self) -> float:
        self.publish()
        return self._interval
