"""The flusher: the thread that hands off in time, reads outcomes, and looks after the ledger once a second."""

from __future__ import annotations

import math
from collections.abc import Callable

from strata.clock import Clock
from strata.errors import StrataError
from strata.interrupts import Nudge
from strata.observe.complaints import Complaints
from strata.observe.log import SafeLogger
from strata.observe.metrics import SafeMetrics
from strata.threads import OwnThread
from strata.writebehind.buffer import DirtyBuffer
from strata.writebehind.handoff import HandOff
from strata.writebehind.outcomes import Outcomes
from strata.writebehind.pace import Pace
from strata.writebehind.undertaker import Undertaker
from strata.writebehind.watch import Watch

RETRY = 0.5  # seconds after a hand-off that failed
REMINDER = 30.0  # seconds between warnings that nothing is persisted
CHORES = 5  # sweeps between looks for what dead processes left


class Flusher:
    """Started by the first use of a write-behind schema. The times belong to the thread.

    After fork the child makes another one. At exit the daemon thread just ends; what it left is flushed by the thread
    that ends the process.
    """

    def __init__(
        self,
        buffer: DirtyBuffer,
        handoff: HandOff,
        outcomes: Outcomes,
        watch: Watch,
        undertaker: Undertaker,
        beat: Callable[[], None],
        look_at_journal: Callable[[], None],
        clock: Clock,
        pace: Pace,
        interval: float,
        threshold: int,
        log: SafeLogger,
        metrics: SafeMetrics,
    ) -> None:
        self._buffer = buffer
        self._handoff = handoff
        self._outcomes = outcomes
        self._watch = watch
        self._undertaker = undertaker
        self._beat = beat
        self._look_at_journal = look_at_journal
        self._clock = clock
        self._pace = pace
        self._interval = interval
        self._threshold = threshold
        self._log = log
        self._metrics = metrics
        self._complaints = Complaints(log, clock)
        self._nudge = Nudge()
        self._own = OwnThread("strata-flusher", self._run)
        self._retry_at = 0.0
        self._poll_at = 0.0
        self._sweep_at = 0.0
        self._sweeps = 0
        self._warn_at = 0.0

    @property
    def started(self) -> bool:
        """Whether the thread runs, or is not to run any more."""
        return self._own.started or self._own.stopped

    def wake(self) -> None:
        """There is something to do. To be called without any lock held."""
        self._own.start()  # at exit no thread starts any more; what is left is flushed there
        self._nudge.give()

    def stop(self, timeout: float) -> None:
        """End the thread."""
        self._own.stop()
        self._nudge.give()
        self._own.join(timeout)

    def _run(self) -> None:
        while self._own.goes_on:
            self._nudge.wait(self._next() - self._clock.monotonic())
            try:
                self._step(self._clock.monotonic())
            except StrataError as error:
                self._retry_at = self._clock.monotonic() + RETRY
                self._complaints.say("deferred writes wait for Redis", str(error), count=len(self._buffer))
            except Exception as error:  # noqa: BLE001 the thread must outlive a mistake in one round
                self._retry_at = self._clock.monotonic() + RETRY
                self._log.error("the flusher failed", error=type(error).__name__)

    def _next(self) -> float:
        """When there is something to do, by the monotonic clock."""
        times = [self._sweep_at, self._handoff_at()]
        if self._buffer.unconfirmed:
            times.append(max(self._poll_at, self._retry_at))
        return min(times)

    def _handoff_at(self) -> float:
        waiting = self._buffer.unsent
        if not waiting:
            return math.inf
        return max(self._retry_at, 0.0 if waiting >= self._threshold else self._buffer.since + self._interval)

    def _step(self, now: float) -> None:
        if now >= self._sweep_at:
            self._look_at_journal()
        if len(self._buffer):
            self._beat()
        if now >= self._handoff_at() and not self._handoff.run() and self._buffer.unsent >= self._threshold:
            self._retry_at = self._clock.monotonic() + self._interval  # nobody takes them now
        if self._buffer.unconfirmed and now >= self._poll_at:
            self._poll_at = now + self._pace.poll
            self._outcomes.collect()
        if now >= self._sweep_at:
            self._sweep_at = now + self._pace.sweep
            self._sweep()

    def _sweep(self) -> None:
        now = self._clock.monotonic()
        age = self._buffer.age(now)
        self._metrics.gauge("strata_write_behind_dirty", len(self._buffer))
        self._metrics.gauge("strata_write_behind_dirty_seconds", age)
        if age > self._pace.stalled and now >= self._warn_at:
            self._warn_at = now + REMINDER
            self._log.warning("deferred writes are not persisted", oldest_seconds=round(age), count=len(self._buffer))
        self._watch.own()
        self._watch.probe()
        self._watch.everything()
        self._sweeps += 1
        if self._sweeps % CHORES == 0:
            self._undertaker.finish()
            self._outcomes.adopt()
