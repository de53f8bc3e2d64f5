"""The flusher: the thread that hands off in time, reads outcomes, and looks after the ledger once a second."""

from __future__ import annotations

import math
from typing import Protocol

from strata.errors import WITHOUT_L2, StrataError
from strata.runtime.daemon import Daemon
from strata.writebehind.dirty.buffer import DirtyBuffer
from strata.writebehind.fleet.workers import Workers
from strata.writebehind.ledger.common import Common
from strata.writebehind.persist.outcomes import Outcomes
from strata.writebehind.writer.handoff import HandOff
from strata.writebehind.writer.redrive import Redrive

RETRY = 0.5  # seconds after a hand-off that failed
STALLED = "look at the workers' log, at `strata doctor` and at `strata dead-letters list`"


class Rounds(Protocol):
    """What a round of the flusher does besides, for the process whose it is."""

    def keep_alive(self) -> None:
        """While something is pending: this instance is told what becomes of it."""

    def look_at_journal(self) -> None:
        """Take over what dead processes left. Raises nothing."""

    def settled(self) -> None:
        """A round is over."""


class Flusher:
    """Started by the first use of a write-behind schema. The times belong to the thread.

    After fork the child makes another one. What is left at exit is flushed by the thread that ends the process.
    """

    def __init__(
        self,
        common: Common,
        buffer: DirtyBuffer,
        handoff: HandOff,
        outcomes: Outcomes,
        redrive: Redrive,
        workers: Workers,
        rounds: Rounds,
    ) -> None:
        self._common = common
        self._buffer = buffer
        self._handoff = handoff
        self._outcomes = outcomes
        self._redrive = redrive
        self._workers = workers
        self._rounds = rounds
        self._stalled = common.log.outage(
            "deferred writes are not persisted",
            "deferred writes are persisted again",
            tell=lambda: {"waiting": len(buffer)},
            because=lambda: [*common.ledger_away(), *common.postgres_away()],
            patience=common.ledger.timing.lease,  # longer than any pause of those who waited for a server
        )
        self._clock = common.clock
        self._timing = common.ledger.timing
        self._log = common.log
        self._metrics = common.metrics
        self.daemon = Daemon("strata-flusher", self._step, common.log)
        self.wake = self.daemon.wake  # there is something to do; to be called without any lock held
        self._retry_at = 0.0
        self._poll_at = 0.0
        self._sweep_at = 0.0

    def stop(self, timeout: float) -> None:
        """End the thread."""
        self.daemon.stop()
        self.daemon.join(timeout)

    def _step(self) -> float:
        try:
            self._round(self._clock.monotonic())
        except WITHOUT_L2 as error:  # which is said for all that need it
            self._retry_at = self._clock.monotonic() + RETRY
            self._log.debug("deferred writes wait for Redis", reason=str(error), waiting=len(self._buffer))
        except StrataError as error:
            self._retry_at = self._clock.monotonic() + RETRY
            self._log.warning("deferred writes wait", reason=str(error), waiting=len(self._buffer))
        self._rounds.settled()
        return self._next() - self._clock.monotonic()

    def _next(self) -> float:
        """When there is something to do, by the monotonic clock."""
        times = [self._sweep_at, self._handoff_at()]
        if self._awaits_outcomes():
            times.append(max(self._poll_at, self._retry_at))
        return min(times)

    def _handoff_at(self) -> float:
        if not self._buffer.unsent:
            return math.inf
        limits = self._buffer.limits
        many = self._buffer.fresh >= limits.threshold
        return max(self._retry_at, 0.0 if many else self._buffer.since + limits.interval)

    def _awaits_outcomes(self) -> bool:
        """Also of keys that were written once more since they were handed off."""
        lately = self._clock.monotonic() < self._buffer.sent_at + self._timing.probe
        return self._buffer.unconfirmed > 0 or (lately and len(self._buffer) > 0)

    def _round(self, now: float) -> None:
        if now >= self._sweep_at:
            self._rounds.look_at_journal()
        if len(self._buffer):
            self._rounds.keep_alive()
        if now >= self._handoff_at():
            self._handoff.run()
        if now >= self._poll_at and self._awaits_outcomes():
            self._poll_at = now + self._timing.poll
            self._outcomes.collect()
        if now >= self._sweep_at:
            self._sweep_at = now + self._timing.sweep
            self._sweep()

    def _sweep(self) -> None:
        now = self._clock.monotonic()
        age = self._buffer.age(now)
        self._metrics.gauge("strata_write_behind_dirty", len(self._buffer))
        self._metrics.gauge("strata_write_behind_dirty_seconds", age)
        if age > self._timing.stalled:
            self._stalled.gone(f"the oldest has waited for {age:.0f} s", STALLED, calls=0)
        else:
            self._stalled.back()
        self._log.remind()
        self._workers.beats()
        self._common.lag.look()
        self._redrive.own()
        self._redrive.probe()
        self._redrive.round()
