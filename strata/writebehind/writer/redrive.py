"""Looking after the ledger: whoever finds an entry overdue rings for it once more, or drains it.

Where no fleet beats, or it has persisted nothing for some seconds, the process that notices drains the shard itself.
`strata:{fleet}:sweep` is the lease under which one process at a time looks at the whole ledger.
"""

from __future__ import annotations

from collections.abc import Sequence

from strata.errors import L2RefusedError
from strata.writebehind.dirty.buffer import DirtyBuffer
from strata.writebehind.dirty.slot import Buffered, Slot
from strata.writebehind.fleet.workers import Workers
from strata.writebehind.ledger.answers import KeyStatus, ShardTimes
from strata.writebehind.ledger.common import Common
from strata.writebehind.ledger.shard import Shard, shards_of
from strata.writebehind.persist.giving_up import GivingUp
from strata.writebehind.persist.outcomes import Outcomes
from strata.writebehind.writer.handoff import HandOff

PROBED = 1_000  # writes asked after at once
CHORES = 5  # rounds between looks for what dead processes left


class Redrive:
    """Thread-safe: `_rounds` is written by the flusher's thread and a worker's, one round more or less doing no harm.

    Methods raise `L2UnavailableError`. After fork the child makes another one.
    """

    def __init__(
        self,
        common: Common,
        buffer: DirtyBuffer,
        handoff: HandOff,
        outcomes: Outcomes,
        giving_up: GivingUp,
        workers: Workers,
    ) -> None:
        self._ledger = common.ledger
        self._announcer = common.announcer
        self._clock = common.clock
        self._log = common.log
        self._schemas = common.schemas
        self._buffer = buffer
        self._handoff = handoff
        self._outcomes = outcomes
        self._giving_up = giving_up
        self._workers = workers
        self._sweep = common.ledger.server.keys.own("fleet", "sweep")
        self._rounds = 0

    def round(self) -> int:
        """Look after the whole ledger, and now and then after what dead processes left; returns how many shards were
        overdue."""
        late = self.everything()
        self._rounds += 1
        if self._rounds % CHORES == 0:
            self._giving_up.finish()
            self._outcomes.adopt()
        return late

    def own(self) -> None:
        """Look after the shards in which writes of this process are pending."""
        self.look_after(list(self._buffer.kept_in()))

    def everything(self) -> int:
        """Look after the whole ledger, unless somebody else just did; returns how many shards were overdue."""
        if not self._ledger.mark(self._sweep, self._announcer.source, self._ledger.timing.sweep, new=True):
            return 0
        return self.look_after([shard for name in list(self._schemas) for shard in shards_of(name)])

    def look_after(self, shards: Sequence[Shard]) -> int:
        """Ring for, or drain, those of the shards that are overdue; returns how many."""
        if not shards:
            return 0
        now, timing, left = self._ledger.now(), self._ledger.timing, self._buffer.left()
        late: dict[Shard, float] = {}
        epochs = self._handoff.known_epochs()
        looks: dict[Shard, ShardTimes] = {}
        for shard, look in zip(shards, self._ledger.look(shards), strict=True):
            if isinstance(look, L2RefusedError):
                self._log.warning("a shard of the ledger cannot be looked at", reason=str(look), schema=shard.schema)
            else:
                looks[shard] = look
        self._handoff.epochs_seen(epochs, {shard: look.epoch for shard, look in looks.items()})
        for shard, look in looks.items():
            if shard in left and look.due is None and not look.untimed:
                self._buffer.drained(shard, left[shard])
            if (look.untimed or (look.last or 0.0) > now + timing.ahead * 1000) and self._retime(shard):
                late[shard] = 0.0
            if look.due is not None and now > look.due:
                late[shard] = (now - look.due) / 1000
        works = bool(late) and self._workers.beats()
        if works:
            late = {shard: seconds for shard, seconds in late.items() if seconds > timing.overdue}
        if not late:
            return 0
        idle = works and max(late.values()) > timing.dead and self._workers.idle()
        here = [shard for shard, seconds in late.items() if not works or (idle and seconds > timing.dead)]
        for shard in here:
            self._workers.drain_here(shard)
        self._workers.call_again(late.keys() - here)
        return len(late)

    def _retime(self, shard: Shard) -> int:
        count = self._ledger.retime(shard)
        if count:
            self._log.warning(
                "entries of the ledger had no time, or one of the far future; they are due now",
                schema=shard.schema,
                count=count,
            )
        return count

    def probe(self) -> None:
        """Ask what became of writes whose outcome did not come: it was lost, or somebody else's write overtook them."""
        now = self._clock.monotonic()
        waiting = self._buffer.kept(now - self._ledger.timing.probe, PROBED)
        if waiting:
            self.ask_after(waiting)
            self._buffer.tried([slot for slot, _ in waiting], now)

    def ask_after(self, waiting: Sequence[tuple[Slot, Buffered]]) -> None:
        """Settle the writes of which the ledger knows the end; those that it does not know are handed off again."""
        by_shard: dict[Shard, list[tuple[Slot, Buffered]]] = {}
        for slot, item in waiting:
            by_shard.setdefault(slot.shard, []).append((slot, item))
        asked = [(shard, [slot.key_text for slot, _ in group]) for shard, group in by_shard.items()]
        for group, statuses in zip(by_shard.values(), self._ledger.probe(asked), strict=True):
            if isinstance(statuses, L2RefusedError):
                continue  # they are asked after again, and handing off says what is wrong
            for (slot, item), status in zip(group, statuses, strict=True):
                self._learn(slot, item, status)

    def _learn(self, slot: Slot, item: Buffered, status: KeyStatus) -> None:
        bound = self._schemas[slot.schema]
        if status.persisted >= item.version:
            self._outcomes.persisted(bound, [(slot.key, status.persisted)])
        elif item.version in status.dead:
            self._giving_up.learn(bound, slot.shard, item.version)
        elif slot.given_up == item.version:
            self._buffer.drop(slot.schema, slot.key, item.version)  # its dead letter was seen to already
        elif status.pending < item.version and slot.overtaken:
            self._workers.drain_here(slot.shard)
        elif status.pending < item.version:
            self._buffer.again(slot, item.version)
