"""The hand-off: from the dirty buffer into the ledger, and into L2 as pending values.

One script a shard does ledger, L2 and bus where all are on one server. Otherwise the ledger is first, since what
stands in L2 as pending must not be lost.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence, Set
from itertools import chain
from typing import Any, NamedTuple

from msgspec.structs import replace

from strata.bound import Bound
from strata.errors import DecodeError, L2RefusedError
from strata.l2.client import RedisServer
from strata.protocol.entry import Entry, version_of
from strata.protocol.messages import MessageOp
from strata.protocol.versions import text
from strata.waits.seats import Turn, Turns
from strata.writebehind.dirty.buffer import DirtyBuffer
from strata.writebehind.dirty.slot import Buffered, Slot
from strata.writebehind.fleet.workers import Workers
from strata.writebehind.ledger.answers import NEVER, TAKEN, Answer, LedgerBatch, LedgerPut, Verdict
from strata.writebehind.ledger.common import Common
from strata.writebehind.ledger.ledger import script
from strata.writebehind.ledger.shard import Shard
from strata.writebehind.ledger.spans import WriterSpans
from strata.writebehind.persist.giving_up import GivingUp, Reason
from strata.writebehind.writer.encode import EncodedWrite, Encoder, GivenUpError, Writes

ARRIVED = (Verdict.TAKEN, Verdict.THERE)
MERGES = 4  # tries to lay a partial record over a ledger entry that others keep changing


class Parcel(NamedTuple):
    """What of one shard is handed off together; `encoded` one by one, but for plain writes, of which that is empty."""

    bound: Bound
    writes: Writes
    batch: LedgerBatch
    encoded: Sequence[EncodedWrite] = ()

    def spans(self) -> Iterator[tuple[Shard, int, str]]:
        """Which span has written which version."""
        shard = self.batch.shard
        if self.encoded:
            return ((shard, encoded.entry.version, encoded.item.span) for encoded in self.encoded)
        return ((shard, item.version, item.span) for _, item in self.writes)


Answered = list[tuple[EncodedWrite, Answer | L2RefusedError]]


class HandOff:
    """Thread-safe: by `_turns` one at a time hands off, so that no two send the same; whoever has the turn may change
    `_epochs` (copied without it, in one call), `_lost`, and `_refusing`, the shards that the ledger refused when they
    were last sent to (replaced as a whole, and read without it).

    `_lost` holds, by schema, how many writes a lost ledger had, until that is said.
    After fork the child makes another one.
    """

    def __init__(
        self, common: Common, buffer: DirtyBuffer, encoder: Encoder, workers: Workers, giving_up: GivingUp
    ) -> None:
        self._common = common
        self._ledger = common.ledger
        self._buffer = buffer
        self._encoder = encoder
        self._workers = workers
        self._giving_up = giving_up
        self._schemas = common.schemas
        self._versions = common.versions
        self._clock = common.clock
        self._log = common.log
        self._metrics = common.metrics
        self._tracer = common.tracer
        self._spans = WriterSpans(common.ledger)
        self._turns = Turns()  # which a hook that is called from here may take once more, as it may write
        self._epochs: dict[Shard, bytes] = {}
        self._lost: dict[str, int] = {}
        self._refusing: frozenset[Shard] = frozenset()

    def run(self) -> int:
        """Hand off everything that waits; returns how many were taken. Raises `L2UnavailableError`."""
        timing = self._ledger.timing
        taken, step = 0, timing.handoff_round
        turn = Turn()
        try:
            self._turns.take(turn)
            for _ in range(1 + self._buffer.unsent // timing.handoff_sort):
                batch = sorted(self._buffer.take(timing.handoff_sort), key=_shard)
                for at in range(0, len(batch), step):
                    taken += self._send(batch[at : at + step])
        finally:
            self._turns.leave(turn)
        self._metrics.count("strata_write_behind_handed_off", taken)
        return taken

    def run_for(self, schema: str, key: Any) -> None:
        """Hand off the write of one key. Raises `L2UnavailableError`, or `L2RefusedError`."""
        batch = self._buffer.find(schema, [key])
        if not batch:
            return
        turn = Turn()
        try:
            self._turns.take(turn)
            self._send(batch, alone=True)
        finally:
            self._turns.leave(turn)

    def refusing(self) -> Set[Shard]:
        """The shards that take nothing now."""
        return self._refusing

    def known_epochs(self) -> Mapping[Shard, bytes]:
        """The epochs of shards as they are known now."""
        return dict(self._epochs)

    def epochs_seen(self, before: Mapping[Shard, bytes], seen: Mapping[Shard, bytes]) -> None:
        """What a look at the ledger found; `before` is what was known when it began. Another epoch than that one means
        that the ledger was lost."""
        turn = Turn()
        try:
            self._turns.take(turn)
            for shard, epoch in seen.items():
                if self._epochs.get(shard) == before.get(shard):  # else a hand-off was here, and knows better
                    self._check_epoch(shard, epoch)
            self._say_lost()
        finally:
            self._turns.leave(turn)

    def _send(self, batch: Writes, *, alone: bool = False) -> int:
        """`alone`: what the ledger refuses is raised; otherwise it waits, and the other shards go on."""
        with self._tracer.span("strata.handoff") as span:
            span.link(item.span for _, item in batch)
            return self._deliver(batch, alone=alone)

    def _deliver(self, batch: Writes, *, alone: bool) -> int:
        parcels = self._parcels(batch)
        sent: list[tuple[Slot, int]] = []
        again: list[EncodedWrite] = []
        for _ in range(MERGES):
            again = []
            for encoded, answer in self._exchange(parcels, sent):
                if isinstance(answer, L2RefusedError):
                    if alone:
                        raise answer
                    self._buffer.tried([encoded.slot], self._clock.monotonic())
                    self._log.warning(
                        "deferred writes of a shard wait", reason=str(answer), schema=encoded.bound.name, count=1
                    )
                elif answer.verdict in ARRIVED:
                    if answer.entry:
                        _leave_l1(encoded.bound, encoded.slot.key)
                    sent.append((encoded.slot, encoded.item.version))
                elif answer.verdict is Verdict.UNEXPECTED:
                    again += self._unexpected(encoded, answer.entry)
                else:
                    self._refused(encoded, answer, sent)
            parcels = self._alike(again)
            if not parcels:
                break
        self._say_lost()
        now = self._clock.monotonic()
        self._buffer.sent(sent, now)
        self._buffer.tried([encoded.slot for encoded in again], now)
        return len(sent)

    def _parcels(self, batch: Writes) -> list[Parcel]:
        """Plain writes, as most are, shard by shard, and what else there is."""
        plain: dict[Shard, list[tuple[Slot, Buffered]]] = {}
        others = []
        surely, together = self._versions.surely(), self._common.together
        for slot, item in batch:
            if together and item.plain and not slot.overtaken and item.version <= surely:
                plain.setdefault(slot.shard, []).append((slot, item))
            else:
                others.append((slot, item))
        parcels, step = [], self._ledger.timing.handoff
        for shard, writes in plain.items():
            bound = self._schemas[shard.schema]
            for some in (writes[at : at + step] for at in range(0, len(writes), step)):
                try:
                    if bound.l2 is not None:
                        parcels.append(Parcel(bound, some, self._encoder.plain(bound, shard, some)))
                        continue
                except Exception as error:  # noqa: BLE001 of which one is said when they are encoded one by one
                    self._log.debug("writes cannot be encoded together", schema=bound.name, error=type(error).__name__)
                others += some
        return parcels + self._alike(self._packed(others))

    def _packed(self, writes: Writes) -> list[EncodedWrite]:
        return [encoded for slot, item in writes if (encoded := self._pack(slot, item)) is not None]

    def _alike(self, writes: Sequence[EncodedWrite]) -> list[Parcel]:
        """Those of one shard and kind together."""
        groups: dict[Any, list[EncodedWrite]] = {}
        for encoded in writes:
            groups.setdefault((encoded.shard, encoded.put.kind), []).append(encoded)
        step = self._ledger.timing.handoff
        return [self._parcel(some[at : at + step]) for some in groups.values() for at in range(0, len(some), step)]

    def _parcel(self, encoded: Sequence[EncodedWrite]) -> Parcel:
        first, puts, head = encoded[0], [one.put for one in encoded], b""
        if not self._common.together:
            puts = [_bare(put) for put in puts]
        elif first.put.said is not None:
            head = self._common.announcer.head(first.bound.name, first.put.said)
        batch = LedgerBatch.of(first.shard, puts, head)
        return Parcel(first.bound, [(one.slot, one.item) for one in encoded], batch, encoded)

    def _unexpected(self, encoded: EncodedWrite, raw: bytes) -> list[EncodedWrite]:
        """The ledger holds another entry than the one that the write was made for; returns what to try instead."""
        if encoded.put.expected == NEVER and version_of(raw) < encoded.entry.version:
            # What is newer was only heard of: until L3 is seen to have it, this one is not safe anywhere.
            self._buffer.tried([encoded.slot], self._clock.monotonic())
            self._workers.drain_here(encoded.shard)
            return []
        merged = self._merge(encoded, raw)
        return [] if merged is None else [merged]

    def _refused(self, encoded: EncodedWrite, answer: Answer, sent: list[tuple[Slot, int]]) -> None:
        slot, bound, version = encoded.slot, encoded.bound, answer.version
        if answer.verdict is Verdict.FULL:
            self._buffer.tried([slot], self._clock.monotonic())
            self._metrics.count("strata_write_behind_ledger_full", schema=bound.name)
            return
        self._versions.observe(version)
        if answer.verdict is Verdict.PERSISTED:
            self._buffer.confirm(bound.name, [(slot.key, version)])
        else:
            self._buffer.supersede(bound.name, slot.key, version)
            sent.append((slot, encoded.item.version))
        bound.l1.forget(slot.key, below=version)

    def _exchange(self, parcels: Sequence[Parcel], sent: list[tuple[Slot, int]]) -> Answered:
        """Ask the ledger, put into L2 what it took, and ring; what was plainly taken is among those `sent`. Where an
        answer does not come, L2 may have refused."""
        try:
            return self._hand_off(parcels, sent)
        except BaseException:
            for parcel in parcels:
                _leave_l1(parcel.bound, *[slot.key for slot, _ in parcel.writes])
            raise

    def _hand_off(self, parcels: Sequence[Parcel], sent: list[tuple[Slot, int]]) -> Answered:
        if self._tracer.enabled:
            self._spans.leave(chain.from_iterable(parcel.spans() for parcel in parcels))
        calls, together = [parcel.batch for parcel in parcels], self._common.together
        answered: Answered = []
        rings: set[Shard] = set()
        for parcel, said in zip(parcels, self._ledger.hand_off(calls, self._common.announcer.channel), strict=True):
            shard = parcel.batch.shard
            if isinstance(said, L2RefusedError):
                self._refusing |= {shard}
                answered += [(encoded, said) for encoded in self._one_by_one(parcel)]
                continue
            self._refusing -= {shard}
            if together and said.answers.count(TAKEN) == len(parcel.writes):
                sent += [(slot, item.version) for slot, item in parcel.writes]
            else:
                answered += zip(self._one_by_one(parcel), said.answers, strict=True)
            self._check_epoch(shard, said.epoch)
            if said.ring:
                rings.add(shard)
        try:
            if not together:
                self._put_apart([p for p, a in answered if isinstance(a, Answer) and a.verdict in ARRIVED])
        finally:
            self._workers.call(rings)
        return answered

    def _one_by_one(self, parcel: Parcel) -> Sequence[EncodedWrite]:
        """Those of a parcel of which something is to be said."""
        return parcel.encoded or [self._encoder.pack(parcel.bound, slot, item) for slot, item in parcel.writes]

    def _put_apart(self, writes: Sequence[EncodedWrite]) -> None:
        """L2 and bus, after a ledger on another server; what fails is handed off once more as a whole."""
        calls: dict[int, tuple[RedisServer, list[EncodedWrite], list[tuple[list[str], list[Any]]]]] = {}
        told: dict[tuple[str, MessageOp], list[tuple[str, int]]] = {}
        announcer, publisher = self._common.announcer, self._common.publisher
        channel = announcer.channel
        for encoded in writes:
            put, l2, name, version = encoded.put, encoded.bound.l2, encoded.bound.name, encoded.entry.version
            if l2 is None and put.said is not None:
                told.setdefault((name, put.said), []).append((put.key_text, version))
            if l2 is None:
                continue
            # Said in the script that changes L2: whoever hears of it and reads finds what it was told of.
            message = b"" if put.said is None else announcer.message(name, put.key_text, put.said, version)
            args = [channel, text(version), put.content, put.px, message]
            _, sent, group = calls.setdefault(id(l2.server), (l2.server, [], []))
            sent.append(encoded)
            group.append(([put.l2_key], args))
        for server, sent, group in calls.values():
            for encoded, refused in zip(sent, server.run_many(script("pend"), group), strict=True):
                if refused:
                    _leave_l1(encoded.bound, encoded.slot.key)
        if publisher is not None:
            publisher.pipeline([("PUBLISH", channel, announcer.about(*what, some)) for what, some in told.items()])

    def _check_epoch(self, shard: Shard, epoch: bytes) -> None:
        known = self._epochs.get(shard)
        if known is not None and known != epoch:
            self._lost[shard.schema] = self._lost.get(shard.schema, 0) + self._buffer.lost(shard)
            self._metrics.count("strata_write_behind_ledger_lost", schema=shard.schema)
        if epoch:
            self._epochs[shard] = epoch
        else:
            self._epochs.pop(shard, None)

    def _say_lost(self) -> None:
        lost, self._lost = self._lost, {}
        for schema, count in lost.items():
            if count:
                self._log.warning("the ledger was lost; writes are handed off again", schema=schema, count=count)

    def drop(self, bound: Bound, slot: Slot, item: Buffered, reason: Reason) -> None:
        """Give up a write. Raises `L2UnavailableError`."""
        entry = self._encoder.entry(bound, slot, item)
        self._drop(bound, slot.shard, slot, entry, reason)

    def _pack(self, slot: Slot, item: Buffered) -> EncodedWrite | None:
        bound = self._schemas[slot.schema]
        if not self._versions.plausible(item.version):
            again = self._buffer.restamp(slot, item)
            if again is None:
                return None  # a newer one waits
            bound.l1.forget(slot.key)
            item = again
        try:
            return self._encoder.pack(bound, slot, item)
        except Exception as error:  # noqa: BLE001 a record that cannot be encoded must not hold up the others
            shard, entry = self._encoder.address(slot, item)
            self._drop(bound, shard, slot, entry, Reason(f"the record cannot be encoded ({type(error).__name__})"))
            return None

    def _merge(self, encoded: EncodedWrite, raw: bytes) -> EncodedWrite | None:
        """The record merged with what the ledger holds; None where that cannot be done, now or ever."""
        bound, slot = encoded.bound, encoded.slot
        try:
            merged = self._encoder.merge(encoded, raw)
        except GivenUpError as reason:
            self._drop(bound, encoded.shard, slot, encoded.entry, Reason(str(reason)))
        except DecodeError as error:
            self._log.warning("a deferred write waits for a newer release", reason=str(error), schema=bound.name)
            self._buffer.tried([slot], self._clock.monotonic())
        else:
            version = merged.entry.version
            if version > encoded.item.version:  # reads get both from the ledger, not this alone
                self._versions.observe(version)
                self._buffer.supersede(bound.name, slot.key, version, adding=merged.entry.row == encoded.entry.row)
                bound.l1.forget(slot.key, below=version)
            return merged
        return None

    def _drop(self, bound: Bound, shard: Shard, slot: Slot, entry: Entry, reason: Reason) -> None:
        # The dead letter comes first: where that fails, the write is still in the buffer.
        self._giving_up.bury(bound, shard, slot.key_text, entry, reason)
        self._buffer.drop(bound.name, slot.key, entry.version)


def _shard(write: tuple[Slot, Buffered]) -> Shard:
    return write[0].shard


def _leave_l1(bound: Bound, *keys: Any) -> None:
    # L2 refused them for a commit that is under way, whose outcome nobody may ever be told.
    bound.l1.forget_many(keys)


def _bare(put: LedgerPut) -> LedgerPut:
    return replace(put, l2_key="", content=b"", px=0)
