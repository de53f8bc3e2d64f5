"""The hand-off: from the dirty buffer into the ledger, and into L2 as pending values.

One script a shard does ledger, L2 and bus where all are on one server. Otherwise the ledger is first, since what
stands in L2 as pending must not be lost.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from msgspec.structs import replace

from strata.bound import Bound
from strata.clock import Clock
from strata.errors import DecodeError
from strata.l2.client import RedisServer
from strata.observe.log import SafeLogger
from strata.observe.metrics import SafeMetrics
from strata.versions import VersionClock, text
from strata.writebehind.buffer import Buffered, DirtyBuffer, Slot
from strata.writebehind.entry import Entry, version_of
from strata.writebehind.ledger import NEVER, Answer, Handing, Ledger, Verdict, script
from strata.writebehind.parcels import GivenUpError, Packer, Parcel
from strata.writebehind.shard import Shard

ARRIVED = (Verdict.TAKEN, Verdict.THERE)
MERGES = 4  # tries to lay a partial record over a ledger entry that others keep changing


@dataclass(frozen=True, slots=True)
class Route:
    """Where hand-offs go; `channel` and `publisher` are the bus's."""

    ledger: Ledger
    publisher: RedisServer | None
    channel: str
    same_server: bool

    @property
    def together(self) -> bool:
        """Whether ledger, L2 and bus are on one server, which is not a Cluster."""
        return self.same_server and not self.ledger.server.clustered


class HandOff:
    """Thread-safe: `_lock` lets one thread at a time hand off, so that no two send the same, and guards `_epochs`.

    `ring` is called for a shard whose doorbell is to be rung, `give_up` for a write that can never be handed off,
    `overtaken` for a shard with writes of which a newer version was met that the ledger does not have any more.
    After fork the child makes another one.
    """

    def __init__(
        self,
        route: Route,
        buffer: DirtyBuffer,
        packer: Packer,
        schemas: Mapping[str, Bound],
        versions: VersionClock,
        clock: Clock,
        log: SafeLogger,
        metrics: SafeMetrics,
    ) -> None:
        self._route = route
        self._ledger = route.ledger
        self._buffer = buffer
        self._packer = packer
        self._schemas = schemas
        self._versions = versions
        self._clock = clock
        self._log = log
        self._metrics = metrics
        self._lock = threading.RLock()  # a hook that is called from here may write
        self._epochs: dict[Shard, bytes] = {}
        self.ring: Callable[[Shard], None] = lambda shard: None
        self.overtaken: Callable[[Shard], None] = lambda shard: None
        self.give_up: Callable[[Bound, Shard, str, Entry, str], None] = lambda *_: None

    def run(self) -> int:
        """Hand off everything that waits; returns how many were taken. Raises `L2UnavailableError`."""
        pace = self._ledger.pace
        taken, step = 0, pace.handoff_round
        with self._lock:
            for _ in range(1 + self._buffer.unsent // pace.handoff_sort):
                batch = sorted(self._buffer.take(pace.handoff_sort), key=_shard)
                for at in range(0, len(batch), step):
                    taken += self._send(batch[at : at + step])
        self._metrics.count("strata_write_behind_handed_off", taken)
        return taken

    def run_for(self, schema: str, key: Any) -> None:
        """Hand off the write of one key. Raises `L2UnavailableError`."""
        batch = self._buffer.find(schema, [key])
        if batch:
            with self._lock:
                self._send(batch)

    def epoch_seen(self, shard: Shard, epoch: bytes) -> None:
        """What a look at the ledger found: another epoch than ours means that it was lost."""
        with self._lock:
            self._check_epoch(shard, epoch)

    def _send(self, batch: Sequence[tuple[Slot, Buffered]]) -> int:
        parcels = [parcel for slot, item in batch if (parcel := self._pack(slot, item)) is not None]
        sent: list[tuple[Slot, int]] = []
        for _ in range(MERGES):
            again: list[Parcel] = []
            for parcel, answer in self._exchange(parcels):
                if answer.verdict in ARRIVED:
                    if answer.entry:
                        _leave_l1(parcel)
                    sent.append((parcel.slot, parcel.item.version))
                elif answer.verdict is Verdict.UNEXPECTED:
                    again += self._unexpected(parcel, answer.entry)
                else:
                    self._refused(parcel, answer, sent)
            parcels = again
            if not parcels:
                break
        now = self._clock.monotonic()
        self._buffer.sent(sent, now)
        self._buffer.tried([parcel.slot for parcel in parcels], now)
        return len(sent)

    def _unexpected(self, parcel: Parcel, raw: bytes) -> list[Parcel]:
        """The ledger holds another entry than the one that the write was made for; returns what to try instead."""
        if parcel.handing.expected == NEVER and version_of(raw) < parcel.entry.version:
            # What is newer was only heard of: until L3 is seen to have it, this one is not safe anywhere.
            self._buffer.tried([parcel.slot], self._clock.monotonic())
            self.overtaken(parcel.shard)
            return []
        merged = self._merge(parcel, raw)
        return [] if merged is None else [merged]

    def _refused(self, parcel: Parcel, answer: Answer, sent: list[tuple[Slot, int]]) -> None:
        slot, bound, version = parcel.slot, parcel.bound, answer.version
        if answer.verdict is Verdict.FULL:
            self._buffer.tried([slot], self._clock.monotonic())
            self._metrics.count("strata_write_behind_ledger_full", schema=bound.name)
            return
        self._versions.observe(version)
        if answer.verdict is Verdict.PERSISTED:
            self._buffer.confirm(bound.name, [(slot.key, version)])
        else:
            self._buffer.supersede(bound.name, slot.key, version)
            sent.append((slot, parcel.item.version))
        bound.l1.forget(slot.key, below=version)

    def _exchange(self, parcels: Sequence[Parcel]) -> list[tuple[Parcel, Answer]]:
        """Ask the ledger, put into L2 what it took, and ring."""
        groups: dict[tuple[Shard, bool], list[Parcel]] = {}
        for parcel in parcels:
            groups.setdefault((parcel.shard, bool(parcel.handing.l2_key)), []).append(parcel)
        step, together = self._ledger.pace.handoff, self._route.together
        chunks = [(key[0], some[at : at + step]) for key, some in groups.items() for at in range(0, len(some), step)]
        calls = [(shard, [p.handing if together else _bare(p.handing) for p in chunk]) for shard, chunk in chunks]
        answered: list[tuple[Parcel, Answer]] = []
        rings: set[Shard] = set()
        for (shard, chunk), said in zip(chunks, self._ledger.hand_off(calls, self._route.channel), strict=True):
            answered += zip(chunk, said.answers, strict=True)
            self._check_epoch(shard, said.epoch)
            if said.ring:
                rings.add(shard)
        try:
            if not together:
                self._put_apart([parcel for parcel, a in answered if a.verdict in ARRIVED])
        finally:
            for shard in rings:
                self.ring(shard)
        return answered

    def _put_apart(self, parcels: Sequence[Parcel]) -> None:
        """L2 and bus, after a ledger on another server; what fails is handed off once more as a whole."""
        calls: dict[int, tuple[RedisServer, list[Parcel], list[tuple[list[str], list[Any]]]]] = {}
        messages: list[bytes] = []
        for parcel in parcels:
            handing, l2 = parcel.handing, parcel.bound.l2
            if l2 is None:
                messages.append(handing.message)
                continue
            args = [self._route.channel, text(parcel.entry.version), handing.content, handing.px, handing.message]
            _, sent, group = calls.setdefault(id(l2.server), (l2.server, [], []))
            sent.append(parcel)
            group.append(([handing.l2_key], args))
        for server, sent, group in calls.values():
            for parcel, refused in zip(sent, server.run_many(script("pend"), group), strict=True):
                if refused:
                    _leave_l1(parcel)
        if self._route.publisher is not None:
            self._route.publisher.pipeline([("PUBLISH", self._route.channel, message) for message in messages])

    def _check_epoch(self, shard: Shard, epoch: bytes) -> None:
        known = self._epochs.get(shard)
        if known is not None and known != epoch:
            count = self._buffer.lost(shard)
            self._log.warning("the ledger was lost; writes are handed off again", schema=shard.schema, count=count)
            self._metrics.count("strata_write_behind_ledger_lost", schema=shard.schema)
        if epoch:
            self._epochs[shard] = epoch
        else:
            self._epochs.pop(shard, None)

    def drop(self, bound: Bound, slot: Slot, item: Buffered, reason: str) -> None:
        """Give up a write. Raises `L2UnavailableError`."""
        entry = self._packer.entry(bound, slot, item)
        self._drop(bound, slot.shard, slot, entry, reason)

    def _pack(self, slot: Slot, item: Buffered) -> Parcel | None:
        bound = self._schemas[slot.schema]
        if not self._versions.plausible(item.version):
            again = self._buffer.restamp(slot, item)
            if again is None:
                return None  # a newer one waits
            bound.l1.forget(slot.key)
            item = again
        try:
            return self._packer.pack(bound, slot, item)
        except Exception as error:  # noqa: BLE001 a record that cannot be encoded must not hold up the others
            shard, entry = self._packer.address(slot, item)
            self._drop(bound, shard, slot, entry, f"the record cannot be encoded ({type(error).__name__})")
            return None

    def _merge(self, parcel: Parcel, raw: bytes) -> Parcel | None:
        """The record merged with what the ledger holds; None where that cannot be done, now or ever."""
        bound, slot = parcel.bound, parcel.slot
        try:
            merged = self._packer.merge(parcel, raw, self._versions.node)
        except GivenUpError as reason:
            self._drop(bound, parcel.shard, slot, parcel.entry, str(reason))
        except DecodeError as error:
            self._log.warning("a write waits for a newer process", schema=bound.name, error=type(error).__name__)
            self._buffer.tried([slot], self._clock.monotonic())
        else:
            version = merged.entry.version
            if version > parcel.item.version:  # laid under a newer one
                self._versions.observe(version)
                self._buffer.supersede(bound.name, slot.key, version)
                bound.l1.forget(slot.key, below=version)
            return merged
        return None

    def _drop(self, bound: Bound, shard: Shard, slot: Slot, entry: Entry, reason: str) -> None:
        # The dead letter comes first: where that fails, the write is still in the buffer.
        self.give_up(bound, shard, slot.key_text, entry, reason)
        self._buffer.drop(bound.name, slot.key, entry.version)


def _shard(write: tuple[Slot, Buffered]) -> Shard:
    return write[0].shard


def _leave_l1(parcel: Parcel) -> None:
    # L2 refused it for a commit that is under way, whose outcome nobody may ever be told.
    parcel.bound.l1.forget(parcel.slot.key)


def _bare(handing: Handing) -> Handing:
    return replace(handing, l2_key="", content=b"", px=0, message=b"")
