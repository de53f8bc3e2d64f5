"""Flushing: everything that this process wrote, into L3, in the calling thread and without any worker."""

from __future__ import annotations

from collections.abc import Collection

from strata import waits
from strata.errors import WITHOUT_L2, InvalidConfigError, L2RefusedError, StrataError
from strata.l3.diagnosis import Diagnosis
from strata.writebehind.dirty.buffer import DirtyBuffer
from strata.writebehind.dirty.slot import Buffered, Slot
from strata.writebehind.ledger.answers import ShardTimes
from strata.writebehind.ledger.common import Common
from strata.writebehind.ledger.shard import Shard
from strata.writebehind.persist.bypass import Bypass
from strata.writebehind.persist.drain import Drain
from strata.writebehind.persist.outcomes import Outcomes
from strata.writebehind.writer.handoff import HandOff
from strata.writebehind.writer.redrive import Redrive

PAUSE = 0.05  # seconds between passes over what is left


class Flush:
    """One call of `flush`. Not thread-safe."""

    def __init__(
        self,
        common: Common,
        buffer: DirtyBuffer,
        handoff: HandOff,
        drain: Drain,
        bypass: Bypass,
        outcomes: Outcomes,
        redrive: Redrive,
    ) -> None:
        self._ledger = common.ledger
        self._buffer = buffer
        self._handoff = handoff
        self._drain = drain
        self._bypass = bypass
        self._outcomes = outcomes
        self._redrive = redrive
        self._schemas = common.schemas
        self._clock = common.clock
        self._wanted = {slot: item.version for slot, item in buffer.pending()}
        self._left = buffer.left()
        self.stopped: Diagnosis | None = None

    def run(self, timeout: float, *, settle_for_ledger: bool = False) -> int:
        """Returns how many writes L3 does not have after `timeout` seconds.

        `settle_for_ledger`: do not wait for L3 to come back, once everything is safe in the ledger.
        """
        deadline = self._clock.monotonic() + timeout
        while True:
            self.stopped = None
            self._pass()
            left = self._remaining()
            if not left or self._clock.monotonic() >= deadline:
                return left
            if settle_for_ledger and self.stopped is not None and not self._buffer.unsent:
                return left
            waits.sleep(min(PAUSE, max(0.0, deadline - self._clock.monotonic())))

    def _pass(self) -> None:
        try:
            self._handoff.run()
            refused = self._handoff.refusing() | self._own()
            self._overtaken()
            self._others()
            self._outcomes.collect()
            if refused:
                self._around(refused)
        except (*WITHOUT_L2, InvalidConfigError):  # away; or it has come to be another database's
            self._around()

    def _own(self) -> set[Shard]:
        """What is in the ledger: claim it from whoever has it, since applying twice is harmless. Returns the shards
        that the ledger refused."""
        refused: set[Shard] = set()
        by_shard: dict[Shard, list[tuple[Slot, Buffered]]] = {}
        for slot, item in self._buffer.pending():
            if slot in self._wanted and slot.sent:
                by_shard.setdefault(slot.shard, []).append((slot, item))
        step = self._ledger.timing.claim
        for shard, group in by_shard.items():
            for at in range(0, len(group), step):
                part = group[at : at + step]
                try:
                    pending, stopped = self._drain.keys(shard, [slot.key_text for slot, _ in part])
                except L2RefusedError:
                    refused.add(shard)
                    break
                self.stopped = self.stopped or stopped
                unknown = [(slot, item) for slot, item in part if slot.key_text not in pending]
                if unknown:
                    self._redrive.ask_after(unknown)
        return refused

    def _overtaken(self) -> None:
        """Writes of which a newer version was met: L3 has that one, or takes these, whatever the ledger remembers."""
        for slot, item in self._buffer.overtaken():
            if slot in self._wanted:
                outcome = self._bypass.overtaken(self._schemas[slot.schema], [(slot, item)])
                self.stopped = self.stopped or outcome.stopped

    def _others(self) -> None:
        """Shards into which writes went that the buffer had no room to keep."""
        for shard, version in self._left.items():
            try:
                self._drain.shard(shard)
            except L2RefusedError:
                continue  # it is left, and counted
            [look] = self._ledger.look([shard])
            if isinstance(look, ShardTimes) and look.due is None:
                self._buffer.drained(shard, version)

    def _around(self, shards: Collection[Shard] | None = None) -> None:
        """The ledger is away, or refuses some shards: straight to L3."""
        by_schema: dict[str, list[tuple[Slot, Buffered]]] = {}
        for slot, item in self._buffer.pending():
            if slot in self._wanted and (shards is None or slot.shard in shards):
                by_schema.setdefault(slot.schema, []).append((slot, item))
        step = self._ledger.timing.claim
        for name, group in by_schema.items():
            for at in range(0, len(group), step):
                try:
                    self._bypass.many(self._schemas[name], group[at : at + step])
                except StrataError:
                    continue  # what is left is counted

    def _remaining(self) -> int:
        pending = {slot for slot, _ in self._buffer.pending()}
        left = [slot for slot, version in self._wanted.items() if slot in pending and slot.persisted < version]
        return len(left) + sum(1 for shard in self._left if shard in self._buffer.left())
