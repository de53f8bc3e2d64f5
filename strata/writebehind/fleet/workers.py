"""The workers that persist, as any process sees them: whether they are there, and how a shard is brought to them.

A worker beats (`strata:{fleet}:alive`), and says that it persists (`strata:{fleet}:pulse`). Where nobody beats, whoever
has something due drains the shard itself, so that write-behind works without any worker.
"""

from __future__ import annotations

from collections.abc import Collection

from strata.writebehind.fleet.doorbell import Doorbell
from strata.writebehind.fleet.keyed_worker import KeyedWorker
from strata.writebehind.ledger.common import Common
from strata.writebehind.ledger.shard import Shard


class Workers:
    """Thread-safe: `_there`, `_there_until` and `_pulse_at` are written by any thread, as answers that may be lost.

    Methods raise `L2UnavailableError`. After fork the child makes another one.
    """

    def __init__(self, common: Common, doorbell: Doorbell, drainer: KeyedWorker) -> None:
        self._ledger = common.ledger
        self._announcer = common.announcer
        self._clock = common.clock
        self._doorbell = doorbell
        self._drainer = drainer
        own = common.ledger.server.keys.own
        self._alive, self._pulse = own("fleet", "alive"), own("fleet", "pulse")
        self.outage = common.log.outage(
            "no worker is seen",
            "a worker is seen",
            tell=lambda: {"meanwhile": "processes that write persist in its place"},
            because=common.ledger_away,
            # A Redis that was away, or a process that just began, has yet to hear a beat.
            patience=common.ledger.timing.fleet,
            expected=False,  # write-behind works without any
        )
        self._there = False
        self._there_until = 0.0
        self._pulse_at = 0.0

    @property
    def seen(self) -> bool | None:
        """Whether a worker was there when somebody looked last; None where nobody did."""
        return False if self.outage.away is not None else self.outage.seen or None

    def beats(self) -> bool:
        """Whether workers that persist are there."""
        now = self._clock.monotonic()
        if now >= self._there_until:
            self._there = bool(self._ledger.server.execute("EXISTS", self._alive))
            self._there_until = now + self._ledger.timing.sweep
            if self._there:
                self.outage.back()
            else:
                self.outage.gone(f"none was there for {self._ledger.timing.fleet:g} s", calls=0)
        return self._there

    def idle(self) -> bool:
        """Whether those that are there have persisted nothing for some seconds."""
        return not self._ledger.server.execute("EXISTS", self._pulse)

    def beat(self) -> None:
        """A worker that persists is here."""
        self._ledger.mark(self._alive, self._announcer.source, self._ledger.timing.fleet)

    def pulse(self) -> None:
        """A worker persists; said anew when a third of the time for which it counts is over."""
        now = self._clock.monotonic()
        if now >= self._pulse_at:
            self._ledger.mark(self._pulse, self._announcer.source, self._ledger.timing.dead)
            self._pulse_at = now + self._ledger.timing.dead / 3

    def call(self, shards: Collection[Shard]) -> None:
        """Something is due: ring for the fleet, or drain it here where there is none."""
        if not shards:
            return
        if self.beats():
            self._ring(shards)
        else:
            for shard in shards:
                self._drainer.add(shard)

    def call_again(self, shards: Collection[Shard]) -> None:
        """Ring once more for those for which no ring is under way."""
        self._ring([shard for shard in shards if self._ledger.ring(shard)])

    def _ring(self, shards: Collection[Shard]) -> None:
        # One bell a schema: who comes looks after all of its shards.
        for shard in {shard.schema: shard for shard in shards}.values():
            self._doorbell.ring(shard)

    def drain_here(self, shard: Shard) -> None:
        """Do it in the fleet's place; returns at once."""
        self._drainer.add(shard)
