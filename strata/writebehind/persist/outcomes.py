"""Outcomes: what became of deferred writes, on its way back to the process that wrote them.

A report travels by a Redis list per instance (`strata:{<instance>}:outcomes`), read, applied, then acknowledged. An
instance that beats (`strata:{<instance>}:alive`) gets its reports; those of one that is gone concern nobody, but for
its failures, which a worker takes over (`strata:{outcomes}:waiting`, a sorted set of instances that have any).
OnWriteError is claimed (`strata:{<schema>:<shard>}:told`, a sorted set of versions) before it is called, so that it
runs once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import msgspec

from strata.bound import Bound
from strata.errors import DecodeError, L2RefusedError
from strata.protocol.entry import UNDECODABLE, Entry, EntryOp
from strata.waits.seats import Turn, Turns
from strata.writebehind.dirty.buffer import DirtyBuffer
from strata.writebehind.dirty.changes import key_of, row_of
from strata.writebehind.dirty.slot import HeldRow
from strata.writebehind.ledger.common import Common
from strata.writebehind.ledger.ledger import script

PAGE = 100  # reports a round trip


class Persisted(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """L3 has taken this write of the key, or has a newer one; `changed`: with other columns than were written.

    `held` is the version that L3 has. It is not what the writer may let go of: where it is newer, it may have been
    written in part, and then it does not stand for writes between the two. `row`: what L3 has held since the stamp
    `at`, packed, with all that the writer has added up to `version`, and nothing that it added later; empty where that
    is not known.
    """

    key_text: str
    version: int
    changed: bool = False
    held: int = 0
    row: bytes = b""
    at: int = 0


class Failed(msgspec.Struct, frozen=True, array_like=True):
    """A write that failed too often. `final`: it was given up; otherwise it goes on waiting for L3, and stands for all
    of its schema that do."""

    key_text: str
    version: int
    sqlstate: str
    error: str
    attempts: int
    final: bool


class OutcomeReport(msgspec.Struct, array_like=True):
    """What became of some writes of one schema and one instance."""

    schema: str
    persisted: list[Persisted] = msgspec.field(default_factory=list)
    failed: list[Failed] = msgspec.field(default_factory=list)


T = TypeVar("T", Persisted, Failed)
_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(OutcomeReport).decode


class Outcomes:
    """Sends and receives reports; `tell` sees to OnWriteError, and to the end of what was given up.

    Thread-safe: `_lock` lets one thread at a time read and acknowledge and guards `_reading`; everything else is on
    Redis or in the buffer. Methods raise `L2UnavailableError`. After fork the child makes another one.
    """

    def __init__(
        self,
        common: Common,
        buffer: DirtyBuffer,
        tell: Callable[[Bound, Sequence[tuple[Any, Failed]]], bool],
    ) -> None:
        self._ledger = common.ledger
        self._versions = common.versions
        self._server = common.ledger.server
        self._buffer = buffer
        self._schemas = common.schemas
        self._announcer = common.announcer
        self._log = common.log
        self._metrics = common.metrics
        self._tell = tell
        self._waiting = self._server.keys.own("outcomes", "waiting")
        self._turns = Turns()
        self._reading = False

    def beat(self) -> None:
        """This instance lives and reads its outcomes."""
        self._ledger.mark(self._alive(self._announcer.source), "1", self._ledger.timing.alive)

    def stop(self) -> None:
        """From now on nothing is sent to this instance; what was sent before is applied."""
        self._server.execute("DEL", self._alive(self._announcer.source))
        self.collect()

    def send(self, origin: str, report: OutcomeReport) -> bool:
        """Tell the instance that wrote; failures of one that is gone are told here. Whether that is done; otherwise it
        is under way, and lost where this process ends before."""
        if origin == self._announcer.source:
            return self.apply(report)
        if report.failed:
            self._ask(self._waiting, "zset", "ZADD", self._ledger.now(), origin)
        args = [_encode(report), self._ledger.timing.outcomes_kept]
        [heard] = self._server.run_each(script("outcome"), [([self._alive(origin), self._list(origin)], args)])
        if isinstance(heard, L2RefusedError):  # whoever reads the list puts it aside; what it missed is asked after
            self._ledger.put_aside({self._list(origin): "list"})
        elif not heard and report.failed and (bound := self._schemas.get(report.schema)) is not None:
            return self._tell(bound, self._keyed(bound, report.failed))
        return True

    def collect(self) -> int:
        """Apply what was sent to this instance; returns the number of reports."""
        return self._read(self._announcer.source)

    def adopt(self) -> int:
        """Take over the failures of instances that are gone; returns how many instances were looked after."""
        waiting = self._ask(self._waiting, "zset", "ZRANGE", 0, PAGE, "WITHSCORES") or []
        adopted = 0
        horizon = self._ledger.now() - 60_000
        for instance, since in _pairs(waiting):
            origin = instance.decode("utf-8", "replace")  # one that is not UTF-8 is nobody's, and has no list
            alive = self._server.execute("EXISTS", self._alive(origin))
            length = self._ask(self._list(origin), "list", "LLEN")
            if not alive and length:
                adopted += 1
                self._read(origin)
            elif not length and since < horizon:
                self._server.execute("ZREM", self._waiting, instance)
        return adopted

    def apply(self, report: OutcomeReport) -> bool:
        """A report to this instance. Whether OnWriteError was told; otherwise it is to be applied once more."""
        bound = self._schemas.get(report.schema)
        if bound is None:
            return True
        persisted = [(key, item) for key, item in self._keyed(bound, report.persisted) if self._meant(bound, key, item)]
        changed = [(key, item.version) for key, item in persisted if item.changed]
        self.persisted(bound, [(key, item.version) for key, item in persisted], changed, outcome=True)
        for key, item in persisted:
            if item.held > item.version:
                bound.l1.forget(key, below=item.held)
            if item.row:
                self._learn(bound, key, item)
        keyed = self._keyed(bound, report.failed)
        failed = [(key, item) for key, item in keyed if not item.final or self._meant(bound, key, item)]
        for key, failure in failed:
            if failure.final:
                self._buffer.give_up(bound.name, key, failure.version)
                bound.l1.forget_up_to(key, failure.version)
        return self._tell(bound, failed)

    def _learn(self, bound: Bound, key: Any, item: Persisted) -> None:
        """What L3 holds of a key to which this instance has added."""
        try:
            names, values = row_of(bound, key, Entry(item.version, EntryOp.SET, 0, "", item.row))
            record = bound.record(values, names)
        except DecodeError as error:
            self._unreadable(bound.name, error)
        else:
            if names == bound.plan.column_names:
                slot, row = self._buffer.slot(bound.name, key), HeldRow(record, item.held, item.version, item.at)
                self._buffer.tallies.learn((bound.name, key), row, slot)

    def _keyed(self, bound: Bound, items: Sequence[T]) -> list[tuple[Any, T]]:
        """The outcomes with their keys, without those that have none."""
        found = []
        for item in items:
            try:
                found.append((key_of(bound, item.key_text), item))
            except DecodeError as error:
                self._unreadable(bound.name, error)
        return found

    def _meant(self, bound: Bound, key: Any, item: Persisted | Failed) -> bool:
        """Whether an outcome is to be believed. One of the far future would end every write of its key: it is about the
        very write of that version, which a clock gone wrong may have stamped, or nobody's."""
        if self._versions.believed(item.version):
            return True
        slot = self._buffer.slot(bound.name, key)
        if slot is not None and slot.item.version == item.version:
            return True
        self._unreadable(bound.name, "its version is of the far future")
        return False

    def _unreadable(self, schema: str, reason: object) -> None:
        self._metrics.count("strata_write_behind_unreadable", schema=schema)
        self._log.warning("an outcome could not be read; what it was about is asked after", reason=str(reason))

    def persisted(
        self,
        bound: Bound,
        versions: Sequence[tuple[Any, int]],
        changed: Sequence[tuple[Any, int]] = (),
        *,
        outcome: bool = False,
    ) -> None:
        """L3 has these versions: the buffer lets go of them, L1 of what is older, and of the very versions that L3
        `changed`, as it has other values in some of their columns."""
        bound.l1.forget_each(self._buffer.confirm(bound.name, versions, outcome=outcome))
        for key, version in changed:
            bound.l1.forget_up_to(key, version)

    def _alive(self, instance: str) -> str:
        return self._server.keys.own(instance, "alive")

    def _list(self, instance: str) -> str:
        return self._server.keys.own(instance, "outcomes")

    def _read(self, origin: str) -> int:
        turn = Turn()
        try:
            self._turns.take(turn)
            if self._reading:
                return 0  # a hook that is run from here has called us: what it would acknowledge is ours to apply
            try:
                self._reading = True
                return self._read_pages(self._list(origin))
            finally:
                self._reading = False
        finally:
            self._turns.leave(turn)

    def _read_pages(self, key: str) -> int:
        count = 0
        while page := self._ask(key, "list", "LRANGE", 0, PAGE - 1):
            told = [self._apply_raw(raw) for raw in page]
            if not all(told):
                break  # it stays for who comes next, should this process end
            self._server.execute("LTRIM", key, len(page), -1)
            count += len(page)
            if len(page) < PAGE:
                break
        return count

    def _apply_raw(self, raw: bytes) -> bool:
        try:
            report = _decode(raw)
        except UNDECODABLE as error:
            self._unreadable("", type(error).__name__)
            return True
        return self.apply(report)

    def _ask(self, key: str, kind: str, command: str, *args: Any) -> Any:
        """A command about a key; None where it is refused, since another type stands there, say, which is put aside."""
        [answer] = self._server.each([(command, key, *args)])
        if not isinstance(answer, L2RefusedError):
            return answer
        if not self._ledger.put_aside({key: kind}):
            self._log.warning("outcomes cannot be read; what they are about is asked after", reason=str(answer))
        return None


def reports(
    schema: str, persisted: Sequence[tuple[str, Persisted]], failed: Sequence[tuple[str, Failed]]
) -> dict[str, OutcomeReport]:
    """One report for each origin."""
    by_origin: dict[str, OutcomeReport] = {}
    for origin, item in persisted:
        by_origin.setdefault(origin, OutcomeReport(schema)).persisted.append(item)
    for origin, failure in failed:
        by_origin.setdefault(origin, OutcomeReport(schema)).failed.append(failure)
    return by_origin


def _pairs(flat: Sequence[Any]) -> list[tuple[bytes, float]]:
    # redis-py gives pairs for a command it knows, and a flat list through some clients.
    if flat and isinstance(flat[0], list | tuple):
        return [(member, float(score)) for member, score in flat]
    return [(flat[at], float(flat[at + 1])) for at in range(0, len(flat), 2)]
