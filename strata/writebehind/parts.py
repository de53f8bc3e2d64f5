"""Everything of write-behind that has state, built anew in the child of a fork."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

from strata.bound import Bound
from strata.clock import Clock
from strata.coherence.messages import Announcer
from strata.coherence.repairs import Repairs
from strata.config import Config
from strata.errors import InvalidConfigError, L2UnavailableError
from strata.l2.client import RedisServer
from strata.observe.log import SafeLogger
from strata.observe.metrics import SafeMetrics
from strata.policies import Durability
from strata.versions import VersionClock
from strata.writebehind.apply import Applier, Desk
from strata.writebehind.broker import Broker
from strata.writebehind.buffer import DirtyBuffer
from strata.writebehind.direct import Direct
from strata.writebehind.doorbell import Doorbell
from strata.writebehind.entry import Entry
from strata.writebehind.errands import Errands
from strata.writebehind.flush import Flush, Persister
from strata.writebehind.flusher import CHORES, Flusher
from strata.writebehind.handoff import HandOff, Route
from strata.writebehind.holder import Holder
from strata.writebehind.journal import Journal
from strata.writebehind.ledger import Ledger
from strata.writebehind.outcomes import Outcomes
from strata.writebehind.parcels import Packer
from strata.writebehind.replay import Replay
from strata.writebehind.settle import Settler
from strata.writebehind.shard import Shard
from strata.writebehind.undertaker import Blame, Undertaker
from strata.writebehind.watch import Watch


@dataclass(frozen=True, slots=True, kw_only=True)
class Shared:
    """What the parts are built from; the same before and after a fork."""

    config: Config
    ledger: Ledger
    publisher: RedisServer | None
    same_server: bool
    schemas: Mapping[str, Bound]
    versions: VersionClock
    announcer: Announcer
    repairs: Repairs | None
    clock: Clock
    log: SafeLogger
    metrics: SafeMetrics

    def journal(self, instance: str) -> Journal | None:
        """The journal of an instance, where the durability asks for one."""
        config = self.config
        if config.write_behind_durability is not Durability.JOURNAL or config.journal_dir is None:
            return None
        return Journal(Path(config.journal_dir), instance, self.log, self.metrics)


class Parts:
    """One process's buffer, threads and helpers.

    `_redrives` is written by the one thread that redrives, `_complaint` (what was last said of the journal) by the
    flusher's; `_beat_at` by any, an extra beat being harmless.
    """

    def __init__(self, shared: Shared) -> None:
        self._shared = shared
        self._redrives = 0
        self._beat_at = 0.0
        self._complaint = ""
        config, ledger, clock = shared.config, shared.ledger, shared.clock
        log, metrics = shared.log, shared.metrics
        interval = float(config.write_behind_flush_interval)  # type: ignore[arg-type]
        threshold = config.write_behind_flush_threshold
        journal = shared.journal(self._source())
        self.buffer = DirtyBuffer(
            config.write_behind_max_dirty,
            threshold,
            clock,
            merge=lambda schema, base, over: shared.schemas[schema].plan.merge(base, over),
            stamp=shared.versions.stamp,
            wake=lambda: self.flusher.wake(),
            uncover=lambda schema, key: shared.schemas[schema].l1.guard.void(key),
            gone=None if journal is None else journal.release,
        )
        self.journal = journal
        self.outcomes = Outcomes(ledger, self.buffer, shared.schemas, self._source, shared.versions, log, metrics)
        self.undertaker = Undertaker(
            ledger, self.outcomes, shared.schemas, shared.announcer, shared.publisher, clock, log, metrics
        )
        route = Route(ledger, shared.publisher, shared.announcer.channel, shared.same_server)
        settler = Settler(shared.announcer, shared.publisher, ledger.server, lambda: route.together)
        desk = Desk(
            ledger=ledger,
            outcomes=self.outcomes,
            undertaker=self.undertaker,
            settler=settler,
            versions=shared.versions,
            clock=clock,
            max_retry=config.write_behind_max_retry,
            log=log,
            metrics=metrics,
        )
        self.direct = Direct(
            settler,
            self.outcomes,
            shared.versions,
            self._unannounced,
            lambda bound, slot, item, reason: self.handoff.drop(bound, slot, item, reason),
        )
        self.holder = Holder(ledger, log)
        self.persister = Persister(ledger, Applier(desk), self.holder, shared.schemas, clock)
        packer = Packer(shared.announcer, clock)
        self.handoff = HandOff(route, self.buffer, packer, shared.schemas, shared.versions, clock, log, metrics)
        self.replay = None
        if journal is not None:
            self.replay = Replay(
                journal, self.buffer, packer, shared.schemas, shared.versions, log, metrics, self.handoff.run
            )
        self.doorbell = Doorbell(Broker(config), log, metrics)
        self.drainer = Errands("strata-drainer", self.drain, log)
        self.watch = Watch(
            ledger,
            self.buffer,
            self.handoff,
            self.outcomes,
            self.undertaker,
            shared.schemas,
            self.doorbell,
            self.drainer,
            clock,
            metrics,
            self._source,
        )
        self.handoff.ring = self.watch.call
        self.handoff.overtaken = self.drainer.add
        self.handoff.give_up = self._give_up
        self.flusher = Flusher(
            self.buffer,
            self.handoff,
            self.outcomes,
            self.watch,
            self.undertaker,
            self._live,
            self._look_at_journal,
            clock,
            ledger.pace,
            interval,
            threshold,
            log,
            metrics,
        )

    def flush(self) -> Flush:
        """A flush of what is pending now."""
        self.beat()
        return Flush(
            self._shared.ledger,
            self.buffer,
            self.handoff,
            self.persister,
            self.direct,
            self.outcomes,
            self.watch,
            self._shared.schemas,
            self._shared.clock,
        )

    def drain(self, shard: Shard) -> int:
        """Persist what is due in a shard, in the fleet's place, and this process's own writes that were overtaken."""
        overtaken = self.buffer.overtaken(shard)
        if overtaken:
            self.direct.overtaken(self._shared.schemas[shard.schema], overtaken)
        return self._persist(shard, None)

    def persist(self, shard: Shard) -> int:
        """Persist what is due in a shard, as a worker does."""
        return self._persist(shard, self.watch.pulse)

    def _persist(self, shard: Shard, claimed_some: Callable[[], None] | None) -> int:
        count, more = self.persister.shard(shard, claimed_some=claimed_some)
        if more:
            self.watch.call(shard)
        return count

    def redrive(self) -> int:
        """One round of a worker that persists."""
        self.watch.beat()
        self._redrives += 1
        if self._redrives % CHORES == 0:
            self.undertaker.finish()
            self.outcomes.adopt()
        return self.watch.everything()

    def beat(self) -> None:
        """This instance reads its outcomes from now on, as far as Redis can be told."""
        now = self._shared.clock.monotonic()
        if now >= self._beat_at:
            with contextlib.suppress(L2UnavailableError, InvalidConfigError):
                self.outcomes.beat()
                self._beat_at = now + self._shared.ledger.pace.alive / 4

    def _live(self) -> None:
        """The flusher's, while something is pending: this instance reads its outcomes, and keeps its node id."""
        self.beat()
        self._shared.versions.reference.beat()

    @property
    def begun(self) -> bool:
        """Whether there are threads, or writes that L3 does not have."""
        threads = (self.flusher, self.doorbell, self.drainer, self.holder)
        return bool(len(self.buffer)) or any(part.started for part in threads)

    def abandon(self) -> None:
        """In the child of a fork: the parent's files are its own."""
        if self.journal is not None:
            self.journal.abandon()

    def stop(self, timeout: float) -> None:
        """End the threads, and take what outcomes there are."""
        self.flusher.stop(timeout)
        self.doorbell.stop(timeout)
        self.drainer.stop(timeout)
        self.holder.stop(timeout)
        with contextlib.suppress(L2UnavailableError, InvalidConfigError):
            if self._beat_at:
                self.outcomes.stop()
        if self.journal is not None:
            self.journal.close()

    def _look_at_journal(self) -> None:
        """Take over what dead processes left, and keep the own journal small."""
        if self.replay is not None:
            try:
                self.replay.take_over()
                self.replay.tidy()
            except Exception as error:  # noqa: BLE001 whatever is wrong with it must not hold up a hand-off
                self._complain(type(error).__name__)
            else:
                self._complaint = ""

    def _complain(self, error: str) -> None:
        """Once, since it is tried every second."""
        if error != self._complaint:
            self._complaint = error
            self._shared.log.error("the journal cannot be used", error=error)

    def _source(self) -> str:
        return self._shared.announcer.source

    def _unannounced(self, bound: Bound, key_texts: Sequence[str]) -> AbstractContextManager[None]:
        repairs = self._shared.repairs
        return contextlib.nullcontext() if repairs is None else repairs.unannounced(bound, key_texts)

    def _give_up(self, bound: Bound, shard: Shard, key_text: str, entry: Entry, reason: str) -> None:
        self.undertaker.bury(bound, shard, key_text, entry, Blame(reason))
