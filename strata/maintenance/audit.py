"""`audit`: how many of the cached copies agree with L3, as a number, and which do not.

Keys are drawn from what the caches hold, since a key that is nowhere cached cannot be stale: L1 of this process, and
L2. A copy that differs is looked at again after a pause, and counts only if that very copy is still there and still
differs: a write under way is no staleness. Nor is a write-behind entry that L3 does not have yet.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from strata import waits
from strata.bound import Bound
from strata.engine.context import Context
from strata.errors import DecodeError
from strata.l2.content import State
from strata.model.unloaded import UNLOADED
from strata.observe.metrics import SafeMetrics

if TYPE_CHECKING:
    from strata.l2.tier import L2Tier

CHUNK = 250  # keys compared in one round trip a tier


@dataclass(frozen=True, slots=True)
class StaleKey:
    """A copy that does not agree with L3.

    Attributes:
        schema: The schema's name.
        tier: The cache that holds it, "l1" or "l2".
        id: The record's id.
        reason: What differs, in words.
        cached_version: The version of the copy.
        version: The version of L3's row; 0 where there is none.
    """

    schema: str
    tier: str
    id: Any
    reason: str
    cached_version: int
    version: int


class _Compared(Protocol):
    @property
    def compared(self) -> int: ...
    @property
    def stale(self) -> Sequence[StaleKey]: ...


class _Agreement:
    """What follows from how many copies were compared, and which of them are stale."""

    __slots__ = ()

    @property
    def share(self: _Compared) -> float:
        """The share of the compared copies that agree; 1 where there was nothing to compare."""
        return 1 - len(self.stale) / self.compared if self.compared else 1.0

    @property
    def nines(self: _Compared) -> float:
        """The share in nines: 3 is 99.9 %. Where all agree, it is at least so much, by the number compared."""
        return math.log10(self.compared / max(len(self.stale), 1)) if self.compared else 0.0


@dataclass(frozen=True, slots=True)
class SchemaAudit(_Agreement):
    """What was found of one schema.

    Attributes:
        schema: Its name.
        compared: Copies compared.
        pending: Copies of writes that L3 does not have yet; they are not among those.
        stale: The copies that do not agree.
    """

    schema: str
    compared: int
    pending: int
    stale: tuple[StaleKey, ...] = ()


@dataclass(frozen=True, slots=True)
class AuditReport(_Agreement):
    """What was found of all schemas that were asked for.

    Attributes:
        schemas: What was found of each.
    """

    schemas: tuple[SchemaAudit, ...]

    @property
    def compared(self) -> int:
        """Copies compared."""
        return sum(item.compared for item in self.schemas)

    @property
    def stale(self) -> tuple[StaleKey, ...]:
        """The copies that do not agree."""
        return tuple(key for item in self.schemas for key in item.stale)


class _Copy(NamedTuple):
    """A copy in a cache; `record` is None for a tombstone."""

    tier: str
    id: Any
    key_text: str
    version: int
    pending: bool
    record: Any


class Auditor:
    """Compares caches with L3. Thread-safe: it keeps no state of its own."""

    def __init__(self, context: Context, metrics: SafeMetrics) -> None:
        self._context = context
        self._metrics = metrics

    def audit(self, bound: Bound, sample: int, pause: float) -> SchemaAudit:
        """Compare up to `sample` keys of each cache; `pause`: seconds between the two looks.

        Raises `L2UnavailableError` or `L3UnavailableError`, since nothing can be said without them.
        """
        if bound.l3 is None:
            return SchemaAudit(bound.name, 0, 0)
        compared = pending = 0
        suspects: list[StaleKey] = []
        for copies in self._sample(bound, sample):
            stale, waiting, settled = self._compare(bound, copies)
            suspects += stale
            pending += waiting
            compared += settled
        if suspects:
            waits.sleep(pause)
            suspects = self._again(bound, suspects)
        audit = SchemaAudit(bound.name, compared, pending, tuple(suspects))
        self._metrics.gauge("strata_audit_agreement", audit.share, schema=bound.name)
        self._metrics.gauge("strata_audit_stale", len(audit.stale), schema=bound.name)
        return audit

    def _sample(self, bound: Bound, sample: int) -> Iterable[list[_Copy]]:
        held = list(bound.l1.entries)
        yield from _chunks(self._in_l1(bound, waits.chance().sample(held, min(sample, len(held)))))
        if bound.l2 is not None:
            for texts in _chunks(_sampled(bound.l2, sample)):
                yield self._in_l2(bound, texts)

    def _in_l1(self, bound: Bound, ids: Sequence[Any]) -> list[_Copy]:
        """The copies that would be served."""
        now = self._context.clock.monotonic()
        found = [(id, bound.l1.lookup(id, now)) for id in ids]
        return [
            _Copy("l1", id, bound.plan.key_text(id), entry.version, entry.pending, bound.plan.thaw(entry.value))
            for id, entry in found
            if entry is not None
        ]

    def _in_l2(self, bound: Bound, key_texts: Sequence[str]) -> list[_Copy]:
        assert bound.l2 is not None
        copies = []
        for text, found in bound.l2.read_many(key_texts, lease=False, count=False).items():
            if found.state in (State.VALUE, State.TOMBSTONE):
                try:
                    id = bound.plan.parse_key(text)
                except DecodeError:
                    continue  # nobody's: no read asks for it
                copies.append(_Copy("l2", id, text, found.version, found.pending, found.record))
        return copies

    def _again(self, bound: Bound, suspects: Sequence[StaleKey]) -> list[StaleKey]:
        """Those that are still there, unchanged, and still differ."""
        seen = {(item.tier, item.id, item.cached_version) for item in suspects}
        confirmed: list[StaleKey] = []
        for group in _chunks(suspects):
            copies = self._in_l1(bound, [item.id for item in group if item.tier == "l1"])
            texts = [bound.plan.key_text(item.id) for item in group if item.tier == "l2"]
            copies += self._in_l2(bound, texts) if texts else []
            stale, *_ = self._compare(bound, [copy for copy in copies if (copy.tier, copy.id, copy.version) in seen])
            confirmed += stale
        return confirmed

    def _compare(self, bound: Bound, copies: Sequence[_Copy]) -> tuple[list[StaleKey], int, int]:
        """The copies that differ from L3, how many are of writes that it does not have yet, and how many could be
        compared with a row."""
        if not copies:
            return [], 0, 0
        waiting = self._waiting(bound, copies)  # before L3 is read, as in any read: a write is in one or the other
        with bound.rows.primary.connection() as conn:
            rows = bound.rows.table.get_many(conn, list({copy.id for copy in copies}))
        stale = []
        pending = unreadable = 0
        for copy in copies:
            row = rows.get(copy.id)
            version = 0 if row is None else row.version
            if waiting.get(copy.key_text, 0) >= copy.version > version:
                pending += 1
                continue
            try:
                reason = _difference(bound, copy, row)
            except DecodeError as error:
                bound.leave_out(error)
                unreadable += 1
                continue
            if reason:
                stale.append(StaleKey(bound.name, copy.tier, copy.id, reason, copy.version, version))
        return stale, pending, len(copies) - pending - unreadable

    def _waiting(self, bound: Bound, copies: Sequence[_Copy]) -> dict[str, int]:
        """The versions that are on their way to L3, by key text."""
        deferred = self._context.writebehind
        if deferred is None or not bound.deferred:
            return {}
        found = {copy.key_text: 0 for copy in copies}
        for text, entry in deferred.ledger_read(bound, list(found)).items():
            found[text] = entry.version
        for copy in copies:
            own = deferred.peek(bound, copy.id)
            if own is not None:
                found[copy.key_text] = max(found[copy.key_text], own.version)
        return found


def _difference(bound: Bound, copy: _Copy, row: Any) -> str:
    """In what a copy differs from the row; empty where it does not."""
    if row is None:
        return "" if copy.record is None else "there is no row"
    if copy.version < row.version:
        return "it is older than the row"
    if copy.record is None:
        return "there is a row"
    if copy.version > row.version:
        return "it is newer than the row, and no write of it is pending"
    record = bound.record(row.values)
    names = [column.name for column in bound.plan.columns]
    same = all(_equal(getattr(copy.record, name), getattr(record, name)) for name in names)
    return "" if same else "it has the row's version and another content"


def _equal(cached: Any, held: Any) -> bool:
    # By repr, too: a NaN, or something that holds one, is not equal to itself.
    return cached is UNLOADED or cached == held or repr(cached) == repr(held)


def _sampled(l2: L2Tier, most: int) -> list[str]:
    """Up to so many keys of a schema, from a random place in Redis on."""
    found: dict[str, None] = {}
    for key_texts in l2.walk(anywhere=True):
        found.update(dict.fromkeys(key_texts))
        if len(found) >= most:
            break
    return list(found)[:most]


def _chunks(items: Sequence[Any]) -> Iterable[list[Any]]:
    for start in range(0, len(items), CHUNK):
        yield list(items[start : start + CHUNK])
