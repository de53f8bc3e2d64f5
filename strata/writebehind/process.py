"""Everything of write-behind that has state, built anew in the child of a fork."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from strata.bound import Bound
from strata.coherence.repairs import Repairs
from strata.config import Config
from strata.errors import WITHOUT_L2, InvalidConfigError
from strata.observe.causes import network_cause
from strata.policies import Durability
from strata.protocol.versions import NODE_BITS
from strata.runtime.daemon import Daemon
from strata.writebehind.dirty.buffer import DirtyBuffer
from strata.writebehind.dirty.journal import Journal
from strata.writebehind.dirty.owner import Counted, Limits
from strata.writebehind.dirty.slot import Addition, Slot
from strata.writebehind.fleet.broker import Broker
from strata.writebehind.fleet.doorbell import Doorbell
from strata.writebehind.fleet.keyed_worker import KeyedWorker
from strata.writebehind.fleet.workers import Workers
from strata.writebehind.ledger.common import Common
from strata.writebehind.ledger.shard import Shard
from strata.writebehind.persist.bypass import Bypass
from strata.writebehind.persist.drain import Drain
from strata.writebehind.persist.giving_up import GivingUp
from strata.writebehind.persist.lease_renewer import LeaseRenewer
from strata.writebehind.persist.notifier import Notifier
from strata.writebehind.persist.outcomes import Outcomes
from strata.writebehind.persist.persister import Persister
from strata.writebehind.persist.settle import Settler
from strata.writebehind.writer.encode import Encoder
from strata.writebehind.writer.flush import Flush
from strata.writebehind.writer.flusher import Flusher
from strata.writebehind.writer.handoff import HandOff
from strata.writebehind.writer.intake import Intake
from strata.writebehind.writer.redrive import Redrive
from strata.writebehind.writer.replay import Replay


@dataclass(frozen=True, slots=True, kw_only=True)
class Shared(Common):
    """What the parts are built from; the same before and after a fork. `live` is to be called now and then, while
    something is pending."""

    config: Config
    repairs: Repairs | None = None
    live: Callable[[], None] = lambda: None

    def journal(self) -> Journal | None:
        """The journal of this instance, where the durability asks for one."""
        config = self.config
        if config.write_behind_durability is not Durability.JOURNAL or config.journal_dir is None:
            return None
        return Journal(Path(config.journal_dir), self.announcer.source, self.log, self.metrics)


class Process:
    """One process's buffer, threads and helpers. It is its buffer's `Owner`, and keeps the `Rounds` of its flusher.

    `_beat_at` is written by any thread, an extra beat being harmless.
    """

    def __init__(self, shared: Shared, settled: Callable[[], None]) -> None:
        """`settled` is called after each round of the flusher."""
        self._shared = shared
        self.stamp = shared.versions.stamp
        self._beat_at = 0.0
        self.settled = settled
        config, log = shared.config, shared.log
        limits = Limits(
            config.write_behind_max_dirty,
            config.write_behind_flush_threshold,
            config.write_behind_flush_interval,
        )
        self.journal = shared.journal()
        self.buffer = DirtyBuffer(limits, shared.clock, self)
        self.notifier = Notifier(shared, self.buffer)
        self.outcomes = Outcomes(shared, self.buffer, self.notifier.tell)
        self.giving_up = GivingUp(shared, self.outcomes, config.retention)
        settler = Settler(shared)
        self.renewer = LeaseRenewer(shared.ledger, log)
        persister = Persister(shared, self.outcomes, self.giving_up, settler, config.write_behind_max_retry)
        self.drain = Drain(shared, persister, self.renewer)
        self.doorbell = Doorbell(Broker(config), log, shared.metrics, shared.ledger_away)
        self.drainer = KeyedWorker("strata-drainer", self.drain_here, log)
        self.workers = Workers(shared, self.doorbell, self.drainer)
        encoder = Encoder(shared.announcer, shared.clock)
        self.handoff = HandOff(shared, self.buffer, encoder, self.workers, self.giving_up)
        self.bypass = Bypass(settler, self.outcomes, shared.versions, self._unannounced, self.handoff.drop)
        self.replay = None
        if self.journal is not None:
            self.replay = Replay(shared, self.journal, self.buffer, encoder, self.handoff.run)
        self.intake = Intake(
            shared,
            config.write_behind_durability,
            self.buffer,
            self.replay,
            self.handoff,
            self.bypass,
            self.beat,
        )
        self.redrive = Redrive(shared, self.buffer, self.handoff, self.outcomes, self.giving_up, self.workers)
        self._journal_away = log.outage(
            "the journal cannot be used",
            "the journal can be used again",
            tell=lambda: {"directory": str(config.journal_dir), "meanwhile": "the ledger takes writes at once"},
        )
        self.flusher = Flusher(shared, self.buffer, self.handoff, self.outcomes, self.redrive, self.workers, self)

    def flush(self) -> Flush:
        """A flush of what is pending now."""
        self.beat()
        return Flush(self._shared, self.buffer, self.handoff, self.drain, self.bypass, self.outcomes, self.redrive)

    def drain_here(self, shard: Shard) -> int:
        """Persist what is due in a shard, in the fleet's place, and this process's own writes that were overtaken."""
        overtaken = self.buffer.overtaken(shard)
        if overtaken:
            self.bypass.overtaken(self._shared.schemas[shard.schema], overtaken)
        count, more = self.drain.shard(shard)
        if more:
            self.workers.call([shard])
        return count

    def persist(self, shard: Shard) -> int:
        """Persist what is due in a schema, as a worker does that was rung for at one of its shards."""
        return self.drain.schema(shard, self.workers.pulse, lambda other: self.workers.call([other]))

    def work(self) -> int:
        """One round of a worker that persists; returns how many shards were overdue."""
        self.workers.beat()
        return self.redrive.round()

    def beat(self) -> None:
        """This instance reads its outcomes from now on, as far as Redis can be told."""
        now = self._shared.clock.monotonic()
        if now >= self._beat_at:
            with contextlib.suppress(*WITHOUT_L2, InvalidConfigError):
                self.outcomes.beat()
                self._beat_at = now + self._shared.ledger.timing.alive / 4

    @property
    def daemons(self) -> list[Daemon]:
        """The threads, started or not."""
        parts = (self.flusher, self.doorbell, self.drainer, self.renewer, self.notifier)
        return [part.daemon for part in parts]

    def abandon(self) -> None:
        """In the child of a fork: the parent's files are its own."""
        if self.journal is not None:
            self.journal.abandon()

    def stop(self, timeout: float) -> None:
        """End the threads, and take what outcomes there are."""
        self.flusher.stop(timeout)
        self.doorbell.stop(timeout)
        self.drainer.stop(timeout)
        self.renewer.stop(timeout)
        with contextlib.suppress(*WITHOUT_L2, InvalidConfigError):
            if self._beat_at:
                self.outcomes.stop()
        self.notifier.stop(timeout)
        if self.journal is not None:
            self.journal.close()

    # -- what its buffer asks -----------------------------------------------------------------------------------

    @property
    def source(self) -> str:
        return self._shared.announcer.source

    def count(self, schema: str, key: Any, what: Addition, known: Any) -> Counted:
        bound = self._shared.schemas[schema]
        plan, record = bound.plan, None
        if bound.l1.concerns(key):

            def change(value: Any) -> Any:
                nonlocal record
                record = plan.counted(plan.thaw(value), what.deltas, what.part)
                return None if record is None else plan.freeze(record)

            if bound.l1.change(key, change, self._shared.clock.monotonic()) is not None:
                return Counted(plan.copy(record), record, in_l1=True)
        record = None if known is None else plan.counted(known, what.deltas, what.part)
        return Counted() if record is None else Counted(plan.copy(record), record)

    def counted(self, schema: str, record: Any, deltas: Mapping[str, Any], part: Any) -> Any:
        return self._shared.schemas[schema].plan.counted(record, deltas, part)

    def age(self, version: int) -> float:
        return max(0, (self.stamp() >> NODE_BITS) - (version >> NODE_BITS)) / 1_000_000

    def merge(self, schema: str, base: Any, over: Any) -> Any:
        return self._shared.schemas[schema].plan.merge(base, over)

    def carried(self, schema: str, record: Any) -> Sequence[str]:
        return self._shared.schemas[schema].plan.loaded(record)

    def uncover(self, schema: str, key: Any) -> None:
        self._shared.schemas[schema].l1.claims.void(key)

    def gone(self, slot: Slot) -> None:
        if self.journal is not None:
            self.journal.release(slot)

    def wake(self) -> bool:
        return self.flusher.wake()

    # -- rounds of its flusher ----------------------------------------------------------------------------------

    def keep_alive(self) -> None:
        """This instance reads its outcomes, and keeps its node id."""
        self.beat()
        self._shared.versions.reference.beat()
        self._shared.live()

    def look_at_journal(self) -> None:
        """Take over what dead processes left, and keep the own journal small."""
        if self.replay is not None:
            try:
                self.replay.take_over()
                self.replay.tidy()
            except Exception as error:  # noqa: BLE001 whatever is wrong with it must not hold up a hand-off
                self._journal_away.gone(network_cause(error) or type(error).__name__, calls=0)
            else:
                self._journal_away.back()

    def _unannounced(self, bound: Bound, key_texts: Sequence[str]) -> AbstractContextManager[None]:
        repairs = self._shared.repairs
        return contextlib.nullcontext() if repairs is None else repairs.unannounced(bound, key_texts)
