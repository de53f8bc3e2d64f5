"""The hand-off: from the dirty buffer into the ledger, and into L2 as pending values.

One script a shard does ledger, L2 and bus where all are on one server. Otherwise the ledger is first, since what
stands in L2 as pending must not be lost.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from strata.bound import Bound
from strata.clock import Clock
from strata.coherence.messages import Announcer
from strata.coherence.messages import Op as Said
from strata.coherence.versions import VersionClock, text
from strata.errors import DecodeError, StrataError
from strata.l2.client import RedisServer
from strata.observe.log import SafeLogger
from strata.observe.metrics import SafeMetrics
from strata.shards import shard_of
from strata.writebehind.buffer import Buffered, DirtyBuffer, Slot
from strata.writebehind.entry import Entry, Op, decode
from strata.writebehind.ledger import ANY, Answer, Handing, Ledger, Shard, Verdict, script

MERGES = 4  # tries to lay a partial record over a ledger entry that others keep changing


@dataclass(slots=True)
class Parcel:
    """One write on its way, encoded."""

    slot: Slot
    item: Buffered
    bound: Bound
    shard: Shard
    entry: Entry
    handing: Handing


class GivenUp(Exception):
    """A write that can never be handed off; the text is for its dead letter."""


@dataclass(frozen=True, slots=True)
class Route:
    """Where hand-offs go. `together`: ledger, L2 and bus are on one server, which is not a Cluster."""

    ledger: Ledger
    publisher: RedisServer | None
    same_server: bool

    @property
    def together(self) -> bool:
        return self.same_server and not self.ledger.server.clustered


class HandOff:
    """Thread-safe: `_lock` lets one thread at a time hand off, so that no two send the same; it also guards
    `_epochs`, which the hand-offs alone read and write. After fork the child makes another one."""

    def __init__(
        self,
        route: Route,
        buffer: DirtyBuffer,
        schemas: Mapping[str, Bound],
        announcer: Announcer,
        versions: VersionClock,
        clock: Clock,
        log: SafeLogger,
        metrics: SafeMetrics,
    ) -> None:
        self._route = route
        self._ledger = route.ledger
        self._buffer = buffer
        self._schemas = schemas
        self._announcer = announcer
        self._versions = versions
        self._clock = clock
        self._log = log
        self._metrics = metrics
        self._lock = threading.RLock()  # a hook that is called from here may write
        self._epochs: dict[Shard, bytes] = {}
        self.ring: Callable[[Shard], None] = lambda shard: None
        self.give_up: Callable[[Bound, Shard, str, Entry, str], None] = lambda *_: None

    def run(self) -> int:
        """Hand off everything that waits; returns how many were taken. Raises `L2UnavailableError`."""
        taken = 0
        with self._lock:
            rounds = 1 + self._buffer.unsent // self._ledger.pace.handoff_round
            for _ in range(rounds):
                batch = self._buffer.take(self._ledger.pace.handoff_round)
                if not batch:
                    break
                taken += self._send(batch)
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

    # -- sending ------------------------------------------------------------------------------------------------

    def _send(self, batch: Sequence[tuple[Slot, Buffered]]) -> int:
        parcels = [parcel for slot, item in batch if (parcel := self._encode(slot, item)) is not None]
        taken = 0
        for attempt in range(MERGES):
            again: list[Parcel] = []
            for parcel, answer in self._exchange(parcels):
                if answer.verdict is not Verdict.UNEXPECTED:
                    taken += self._settle(parcel, answer)
                elif attempt + 1 < MERGES and (merged := self._merge(parcel, answer.entry)) is not None:
                    again.append(merged)
                else:
                    self._buffer.tried([parcel.slot], self._clock.monotonic())
            if not again:
                break
            parcels = again
        return taken

    def _exchange(self, parcels: Sequence[Parcel]) -> list[tuple[Parcel, Answer]]:
        """Ask the ledger, put into L2 what it took, and ring."""
        groups: dict[Shard, list[Parcel]] = {}
        for parcel in parcels:
            groups.setdefault(parcel.shard, []).append(parcel)
        step = self._ledger.pace.handoff
        chunks = [(shard, group[at : at + step]) for shard, group in groups.items() for at in range(0, len(group), step)]
        together = self._route.together
        calls = [(shard, [p.handing if together else _bare(p.handing) for p in chunk]) for shard, chunk in chunks]
        answered: list[tuple[Parcel, Answer]] = []
        rings: set[Shard] = set()
        for (shard, chunk), said in zip(chunks, self._ledger.hand_off(calls, self._announcer.channel), strict=True):
            answered += zip(chunk, said.answers, strict=True)
            self._check_epoch(shard, said.epoch)
            if said.ring:
                rings.add(shard)
        if not together:
            self._put_apart([parcel for parcel, a in answered if a.verdict in (Verdict.TAKEN, Verdict.THERE)])
        for shard in rings:
            self.ring(shard)
        return answered

    def _put_apart(self, parcels: Sequence[Parcel]) -> None:
        """L2 and bus, after a ledger on another server; what fails is handed off once more as a whole."""
        calls: dict[int, tuple[RedisServer, list[tuple[list[str], list[Any]]]]] = {}
        messages: list[bytes] = []
        for parcel in parcels:
            handing, l2 = parcel.handing, parcel.bound.l2
            if l2 is None:
                messages.append(handing.message)
                continue
            args = [self._announcer.channel, text(parcel.entry.version), handing.content, handing.px, handing.message]
            calls.setdefault(id(l2.server), (l2.server, []))[1].append(([handing.l2_key], args))
        for server, group in calls.values():
            server.run_many(script("pend"), group)
        publisher = self._route.publisher
        if publisher is not None:
            publisher.pipeline([("PUBLISH", self._announcer.channel, message) for message in messages])

    def _settle(self, parcel: Parcel, answer: Answer) -> int:
        slot, bound, version = parcel.slot, parcel.bound, parcel.item.version
        now = self._clock.monotonic()
        if answer.verdict in (Verdict.TAKEN, Verdict.THERE):
            self._buffer.sent(slot, version, now)
            return 1
        if answer.verdict is Verdict.FULL:
            self._buffer.tried([slot], now)
            self._metrics.count("strata_write_behind_ledger_full", schema=bound.name)
            return 0
        self._versions.observe(answer.version)
        bound.l1.forget(slot.key, below=answer.version)
        if answer.verdict is Verdict.PERSISTED:
            self._buffer.confirm(bound.name, slot.key, answer.version)
        else:
            self._buffer.supersede(bound.name, slot.key, answer.version)
            self._buffer.sent(slot, version, now)
        return 1

    def _check_epoch(self, shard: Shard, epoch: bytes) -> None:
        known = self._epochs.get(shard)
        if known is not None and known != epoch:
            count = self._buffer.lost((shard.schema, shard.number))
            self._log.warning("the ledger was lost; pending writes are handed off again", schema=shard.schema, count=count)
            self._metrics.count("strata_write_behind_ledger_lost", schema=shard.schema)
        if epoch:
            self._epochs[shard] = epoch
        else:
            self._epochs.pop(shard, None)

    # -- encoding -----------------------------------------------------------------------------------------------

    def _encode(self, slot: Slot, item: Buffered) -> Parcel | None:
        bound = self._schemas[slot.schema]
        if slot.shard < 0:
            slot.shard = shard_of(slot.key_text)
        shard = Shard(slot.schema, slot.shard)
        op = Op.DELETE if item.record is None else Op.PARTIAL if item.partial else Op.SET
        entry = Entry(item.version, op, int(self._clock.wall() * 1000), self._announcer.source, b"")
        try:
            if item.record is not None:
                row = bound.plan.pack_row(bound.plan.to_row(item.record, bound.cipher))
                entry = entry._replace(row=row)
            handing = self._handing(bound, slot.key_text, entry, item.record)
        except Exception as error:  # noqa: BLE001 a record that cannot be encoded must not hold up the others
            self._drop(bound, shard, slot, entry, f"the record cannot be encoded ({type(error).__name__})")
            return None
        return Parcel(slot, item, bound, shard, entry, handing)

    def _handing(self, bound: Bound, key_text: str, entry: Entry, record: Any, expected: str | None = None) -> Handing:
        if expected is None:
            expected = "" if entry.op is Op.PARTIAL else ANY
        said = Said.DELETE if entry.op is Op.DELETE else Said.SET
        message = self._announcer.message(bound.name, key_text, said, entry.version)
        l2 = bound.l2
        if l2 is None:
            return Handing(key_text, entry.encode(), expected, message=message)
        content = b""
        if entry.op is not Op.PARTIAL:
            cached = None if record is None else bound.plan.cached(record)
            content = l2.content(entry.version, cached, pending=True)
        return Handing(key_text, entry.encode(), expected, l2.key(key_text), content, l2.px(record), message)

    def _merge(self, parcel: Parcel, raw: bytes) -> Parcel | None:
        """The partial record laid over what the ledger holds; None where that cannot be done, now or ever."""
        bound, key_text = parcel.bound, parcel.slot.key_text
        own = parcel.item
        try:
            if not raw:
                entry = parcel.entry._replace(op=Op.PARTIAL, row=_packed(bound, own.record))
                return self._reparcel(parcel, entry, None, "")
            base = decode(raw)
            if base.op is Op.DELETE:
                raise GivenUp("some columns were not loaded, and the record was deleted")
            names, values = bound.plan.unpack_row(base.row)
            own_names, own_values = bound.plan.unpack_row(_packed(bound, own.record))
            merged = dict(zip(names, values, strict=True)) | dict(zip(own_names, own_values, strict=True))
            row = bound.plan.pack_row(tuple(merged.values()), tuple(merged))
            entry = parcel.entry._replace(op=base.op, row=row)
            record = None
            if base.op is Op.SET:
                record = bound.plan.from_row(tuple(merged.values()), bound.cipher, tuple(merged))
            return self._reparcel(parcel, entry, record, text(base.version))
        except GivenUp as reason:
            self._drop(bound, parcel.shard, parcel.slot, parcel.entry, str(reason))
        except DecodeError as error:
            self._log.warning("a pending write waits for a newer process", schema=bound.name, error=type(error).__name__)
        except StrataError as error:
            self._drop(bound, parcel.shard, parcel.slot, parcel.entry, f"{type(error).__name__}: {error}")
        if parcel.slot.item is own:
            self._buffer.tried([parcel.slot], self._clock.monotonic())
        return None

    def _reparcel(self, parcel: Parcel, entry: Entry, record: Any, expected: str) -> Parcel:
        handing = self._handing(parcel.bound, parcel.slot.key_text, entry, record, expected)
        return Parcel(parcel.slot, parcel.item, parcel.bound, parcel.shard, entry, handing)

    def _drop(self, bound: Bound, shard: Shard, slot: Slot, entry: Entry, reason: str) -> None:
        self.give_up(bound, shard, slot.key_text, entry, reason)
        self._buffer.drop(bound.name, slot.key, entry.version)


def _packed(bound: Bound, record: Any) -> bytes:
    return bound.plan.pack_row(bound.plan.to_row(record, bound.cipher))


def _bare(handing: Handing) -> Handing:
    return handing._replace(l2_key="", content=b"", px=0, message=b"")
