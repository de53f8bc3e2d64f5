"""Outcomes: what became of deferred writes, on its way back to the process that wrote them.

A report travels by a Redis list per instance (`strata:{<instance>}:outcomes`), read, applied, then acknowledged. An
instance that beats (`strata:{<instance>}:alive`) gets its reports; those of one that is gone concern nobody, but for
its failures, which a worker takes over (`strata:{outcomes}:waiting`, a sorted set of instances that have any).
OnWriteError is claimed (`strata:{<schema>:<shard>}:told:<version>`) before it is called, so that it runs once.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec

from strata.bound import Bound
from strata.errors import WriteBehindMaxRetryError
from strata.observe.log import SafeLogger
from strata.observe.metrics import SafeMetrics
from strata.versions import VersionClock
from strata.writebehind.buffer import DirtyBuffer
from strata.writebehind.ledger import Ledger, script
from strata.writebehind.shard import home_of

TOLD_SECONDS = 7 * 86_400
PAGE = 100  # reports a round trip


class Persisted(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """L3 has taken this write of the key, or has a newer one; `changed`: with other columns than were written.

    `held` is the version that L3 has. It is not what the writer may let go of: where it is newer, it may have been
    written in part, and then it does not stand for writes between the two.
    """

    key_text: str
    version: int
    changed: bool = False
    held: int = 0


class Failed(msgspec.Struct, frozen=True, array_like=True):
    """A write that failed too often. `final`: it was given up; otherwise it goes on waiting for L3."""

    key_text: str
    version: int
    sqlstate: str
    error: str
    attempts: int
    final: bool


class Report(msgspec.Struct, array_like=True):
    """What became of some writes of one schema and one instance."""

    schema: str
    persisted: list[Persisted] = msgspec.field(default_factory=list)
    failed: list[Failed] = msgspec.field(default_factory=list)


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Report).decode


class Outcomes:
    """Sends and receives reports. Thread-safe: `_lock` lets one thread at a time read and acknowledge and guards
    `_reading`; everything else is on Redis or in the buffer. Methods raise `L2UnavailableError`. After fork the child
    makes another one."""

    def __init__(
        self,
        ledger: Ledger,
        buffer: DirtyBuffer,
        schemas: Mapping[str, Bound],
        source: Callable[[], str],
        versions: VersionClock,
        log: SafeLogger,
        metrics: SafeMetrics,
    ) -> None:
        self._ledger = ledger
        self._versions = versions
        self._server = ledger.server
        self._buffer = buffer
        self._schemas = schemas
        self._source = source
        self._log = log
        self._metrics = metrics
        self._waiting = self._server.keys.own("outcomes", "waiting")
        self._lock = threading.RLock()
        self._reading = False

    def beat(self) -> None:
        """This instance lives and reads its outcomes."""
        self._ledger.mark(self._alive(self._source()), "1", self._ledger.pace.alive)

    def stop(self) -> None:
        """From now on nothing is sent to this instance; what was sent before is applied."""
        self._server.execute("DEL", self._alive(self._source()))
        self.collect()

    def send(self, origin: str, report: Report) -> None:
        """Tell the instance that wrote; failures of one that is gone are told here."""
        if origin == self._source():
            self.apply(report)
            return
        if report.failed:
            self._server.execute("ZADD", self._waiting, self._ledger.now(), origin)
        args = [_encode(report), self._ledger.pace.outcomes_kept]
        if not self._server.run(script("outcome"), [self._alive(origin), self._list(origin)], args) and report.failed:
            self._tell_all(report)

    def collect(self) -> int:
        """Apply what was sent to this instance; returns the number of reports."""
        return self._read(self._source())

    def adopt(self) -> int:
        """Take over the failures of instances that are gone; returns how many instances were looked after."""
        waiting = self._server.execute("ZRANGE", self._waiting, 0, PAGE, "WITHSCORES")
        adopted = 0
        horizon = self._ledger.now() - 60_000
        for instance, since in _pairs(waiting):
            origin = instance.decode()
            alive, length = self._server.pipeline([("EXISTS", self._alive(origin)), ("LLEN", self._list(origin))])
            if not alive and length:
                adopted += 1
                self._read(origin)
            elif not length and since < horizon:
                self._server.execute("ZREM", self._waiting, instance)
        return adopted

    def apply(self, report: Report) -> None:
        """A report to this instance."""
        bound = self._schemas.get(report.schema)
        if bound is None:
            return
        parse = bound.plan.parse_key
        persisted = [item for item in report.persisted if self._meant(bound, item)]
        changed = [(parse(item.key_text), item.version) for item in persisted if item.changed]
        done = [(parse(item.key_text), item.version) for item in persisted]
        self.persisted(bound, done, changed, outcome=True)
        for item in persisted:
            if item.held > item.version:
                bound.l1.forget(parse(item.key_text), below=item.held)
        ended = [
            (parse(item.key_text), item.version) for item in report.failed if item.final and self._meant(bound, item)
        ]
        for key, version in ended:
            self._buffer.give_up(bound.name, key, version)
            bound.l1.forget_up_to(key, version)
        self._tell_all(report)
        for key, version in ended:
            self._buffer.drop(bound.name, key, version)

    def _meant(self, bound: Bound, item: Persisted | Failed) -> bool:
        """Whether an outcome is to be believed. One of the far future would end every write of its key: it is about the
        very write of that version, which a clock gone wrong may have stamped, or nobody's."""
        if self._versions.believed(item.version):
            return True
        slot = self._buffer.slot(bound.name, bound.plan.parse_key(item.key_text))
        if slot is not None and slot.item.version == item.version:
            return True
        self._log.warning("an outcome is about a version of the far future; it is left alone", schema=bound.name)
        return False

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
        for key, version in self._buffer.confirm(bound.name, versions, outcome=outcome):
            bound.l1.forget(key, below=version)
        for key, version in changed:
            bound.l1.forget_up_to(key, version)

    def _alive(self, instance: str) -> str:
        return self._server.keys.own(instance, "alive")

    def _list(self, instance: str) -> str:
        return self._server.keys.own(instance, "outcomes")

    def _told(self, schema: str, failure: Failed) -> str:
        return self._ledger.key(home_of(schema, failure.key_text), f"told:{failure.version}")

    def _read(self, origin: str) -> int:
        with self._lock:
            if self._reading:
                return 0  # a hook that is run from here has called us: what it would acknowledge is ours to apply
            self._reading = True
            try:
                return self._read_pages(self._list(origin))
            finally:
                self._reading = False

    def _read_pages(self, key: str) -> int:
        count = 0
        while page := self._server.execute("LRANGE", key, 0, PAGE - 1):
            for raw in page:
                self._apply_raw(raw)
            self._server.execute("LTRIM", key, len(page), -1)
            count += len(page)
            if len(page) < PAGE:
                break
        return count

    def _apply_raw(self, raw: bytes) -> None:
        try:
            report = _decode(raw)
        except msgspec.MsgspecError:
            self._log.warning("an outcome could not be read; it is asked after instead")
            return
        self.apply(report)

    def _tell_all(self, report: Report) -> None:
        bound = self._schemas.get(report.schema)
        if bound is None or not report.failed:
            return
        keys = [self._told(bound.name, failure) for failure in report.failed]
        claims = self._server.run_many(script("mark"), [([key], ["1", TOLD_SECONDS * 1000, 1]) for key in keys])
        for failure, mine in zip(report.failed, claims, strict=True):
            if mine:
                self._tell(bound, failure)

    def _tell(self, bound: Bound, failure: Failed) -> None:
        end = "it is a dead letter" if failure.final else "it goes on waiting"
        error = WriteBehindMaxRetryError(
            f"a deferred write to schema {bound.name!r} failed {failure.attempts} times and {end}: {failure.error}",
            sqlstate=failure.sqlstate,
            attempts=failure.attempts,
        )
        self._metrics.count("strata_write_behind_errors", schema=bound.name)
        self._log.error("a deferred write failed", schema=bound.name, sqlstate=failure.sqlstate, final=failure.final)
        bound.hooks.write_error(bound.plan.parse_key(failure.key_text), error)


def reports(
    schema: str, persisted: Sequence[tuple[str, Persisted]], failed: Sequence[tuple[str, Failed]]
) -> dict[str, Report]:
    """One report for each origin."""
    by_origin: dict[str, Report] = {}
    for origin, item in persisted:
        by_origin.setdefault(origin, Report(schema)).persisted.append(item)
    for origin, failure in failed:
        by_origin.setdefault(origin, Report(schema)).failed.append(failure)
    return by_origin


def _pairs(flat: Sequence[Any]) -> list[tuple[bytes, float]]:
    # redis-py gives pairs for a command it knows, and a flat list through some clients.
    if flat and isinstance(flat[0], list | tuple):
        return [(member, float(score)) for member, score in flat]
    return [(flat[at], float(flat[at + 1])) for at in range(0, len(flat), 2)]
