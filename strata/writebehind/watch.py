"""Looking after the ledger: whoever finds an entry overdue rings for it once more, or drains it.

Where no fleet beats (`strata:{fleet}:alive`), or it has persisted nothing for some seconds (`strata:{fleet}:pulse`),
the process that notices drains the shard itself, so that write-behind works without any worker.
`strata:{fleet}:sweep` is the lease under which one process at a time looks at the whole ledger.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from strata.bound import Bound
from strata.clock import Clock
from strata.observe.metrics import SafeMetrics
from strata.writebehind.buffer import Buffered, DirtyBuffer, Slot
from strata.writebehind.doorbell import Doorbell
from strata.writebehind.errands import Errands
from strata.writebehind.handoff import HandOff
from strata.writebehind.ledger import Fate, Ledger
from strata.writebehind.outcomes import Outcomes
from strata.writebehind.shard import Shard, shards_of
from strata.writebehind.undertaker import Undertaker

PROBED = 1_000  # writes asked after at once


class Watch:
    """Thread-safe: `_fleet`, `_fleet_until` and `_pulse_at` are written by any thread, as answers that may be lost.

    Methods raise `L2UnavailableError`. After fork the child makes another one.
    """

    def __init__(
        self,
        ledger: Ledger,
        buffer: DirtyBuffer,
        handoff: HandOff,
        outcomes: Outcomes,
        undertaker: Undertaker,
        schemas: Mapping[str, Bound],
        doorbell: Doorbell,
        drainer: Errands,
        clock: Clock,
        metrics: SafeMetrics,
        source: Callable[[], str],
    ) -> None:
        self._ledger = ledger
        self._buffer = buffer
        self._handoff = handoff
        self._outcomes = outcomes
        self._undertaker = undertaker
        self._schemas = schemas
        self._doorbell = doorbell
        self._drainer = drainer
        self._clock = clock
        self._metrics = metrics
        self._source = source
        own = ledger.server.keys.own
        self._alive, self._pulse, self._sweep = (own("fleet", name) for name in ("alive", "pulse", "sweep"))
        self._fleet = False
        self._fleet_until = 0.0
        self._pulse_at = 0.0

    def fleet_beats(self) -> bool:
        """Whether workers that persist are there."""
        now = self._clock.monotonic()
        if now >= self._fleet_until:
            self._fleet = bool(self._ledger.server.execute("EXISTS", self._alive))
            self._fleet_until = now + self._ledger.pace.sweep
        return self._fleet

    def beat(self) -> None:
        """A worker that persists is here."""
        self._ledger.mark(self._alive, self._source(), self._ledger.pace.fleet)

    def pulse(self) -> None:
        """A worker persists; said anew when a third of the time for which it counts is over."""
        now = self._clock.monotonic()
        if now >= self._pulse_at:
            self._ledger.mark(self._pulse, self._source(), self._ledger.pace.dead)
            self._pulse_at = now + self._ledger.pace.dead / 3

    def call(self, shard: Shard) -> None:
        """Something is due: ring for the fleet, or drain it here where there is none."""
        if self.fleet_beats():
            self._doorbell.ring(shard)
        else:
            self._drainer.add(shard)

    def own(self) -> None:
        """Look after the shards in which writes of this process are pending."""
        self.look_after(list(self._buffer.kept_in()))

    def everything(self) -> int:
        """Look after the whole ledger, unless somebody else just did; returns how many shards were overdue."""
        if not self._ledger.mark(self._sweep, self._source(), self._ledger.pace.sweep, new=True):
            return 0
        return self.look_after([shard for name in list(self._schemas) for shard in shards_of(name)])

    def look_after(self, shards: Sequence[Shard]) -> int:
        """Ring for, or drain, those of the shards that are overdue; returns how many."""
        if not shards:
            return 0
        now, pace = self._ledger.now(), self._ledger.pace
        late: dict[Shard, float] = {}
        for shard, look in zip(shards, self._ledger.look(shards), strict=True):
            self._handoff.epoch_seen(shard, look.epoch)
            if look.untimed and self._ledger.retime(shard):
                late[shard] = 0.0
            if look.due is not None and now > look.due:
                late[shard] = (now - look.due) / 1000
        works = bool(late) and self.fleet_beats()
        if works:
            late = {shard: seconds for shard, seconds in late.items() if seconds > pace.overdue}
        if not late:
            return 0
        idle = works and max(late.values()) > pace.dead and not self._ledger.server.execute("EXISTS", self._pulse)
        for shard, seconds in late.items():
            if not works or (idle and seconds > pace.dead):
                self._drainer.add(shard)
            elif self._ledger.ring(shard):
                self._doorbell.ring(shard)
        return len(late)

    def probe(self) -> None:
        """Ask what became of writes whose outcome did not come: it was lost, or somebody else's write overtook them."""
        now = self._clock.monotonic()
        waiting = self._buffer.kept(now - self._ledger.pace.probe, PROBED)
        if waiting:
            self.ask_after(waiting)
            self._buffer.tried([slot for slot, _ in waiting], now)

    def ask_after(self, waiting: Sequence[tuple[Slot, Buffered]]) -> None:
        """Settle the writes of which the ledger knows the end; those that it does not know are handed off again."""
        by_shard: dict[Shard, list[tuple[Slot, Buffered]]] = {}
        for slot, item in waiting:
            by_shard.setdefault(slot.shard, []).append((slot, item))
        asked = [(shard, [slot.key_text for slot, _ in group]) for shard, group in by_shard.items()]
        for group, fates in zip(by_shard.values(), self._ledger.probe(asked), strict=True):
            for (slot, item), fate in zip(group, fates, strict=True):
                self._learn(slot, item, fate)

    def _learn(self, slot: Slot, item: Buffered, fate: Fate) -> None:
        bound = self._schemas[slot.schema]
        if fate.persisted >= item.version:
            self._outcomes.persisted(bound, [(slot.key, fate.persisted)])
        elif item.version in fate.dead:
            self._undertaker.learn(bound, slot.shard, item.version)
        elif slot.given_up >= item.version:
            self._buffer.drop(slot.schema, slot.key, item.version)  # its dead letter was seen to already
        elif fate.pending < item.version and slot.overtaken:
            self._drainer.add(slot.shard)
        elif fate.pending < item.version:
            self._buffer.again(slot, item.version)
