"""After L3 has deferred writes: L2 and every instance learn what L3 holds."""

from __future__ import annotations

from collections.abc import Sequence, Set

from strata.bound import Bound
from strata.coherence.repairs import Repairs
from strata.errors import WITHOUT_L2
from strata.l2.tier import L2Tier
from strata.l3.values import Applied, Change, Status
from strata.protocol.messages import MessageOp as Said
from strata.writebehind.dirty.changes import as_kept, kept
from strata.writebehind.ledger.common import Common
from strata.writebehind.ledger.shard import Shard, by_home

_APPLIED = Status.APPLIED  # an enum's member costs more by its name
GONE = b"-"  # in the place of a content: L2 has none that L3 has

Written = Sequence[tuple[Change, Applied]]


class Settler:
    """Thread-safe: it keeps no state."""

    def __init__(self, common: Common) -> None:
        self._common = common

    def settle(self, bound: Bound, written: Written, *, unheard: bool = False) -> None:
        """Settle what was written; `unheard`: no hand-off has told the bus of it. Raises `L2UnavailableError`."""
        items = [self._settlement(bound, change, applied, unheard) for change, applied in written]
        channel, publisher = self._common.announcer.channel, self._common.publisher
        try:
            if bound.l2 is not None:
                bound.l2.settle(channel, items)
                bound.searches.drop()
            elif publisher is not None:
                publisher.pipeline([("PUBLISH", channel, message) for *_, message, _ in items if message])
        finally:  # the bus does not bring this instance its own messages
            bound.l1.forget_each([(change.key, applied.version + kept(change, applied)) for change, applied in written])

    def settle_or_repair(self, bound: Bound, written: Written) -> None:
        """As `settle`; where Redis is away and the ledger is not, leave rows in L3 from which it is repaired.

        Raises `L2UnavailableError` where the ledger is away too.
        """
        try:
            self.settle(bound, written)
        except WITHOUT_L2:
            told = self._common.publisher if bound.l2 is None else bound.l2.server
            if told is self._common.ledger.server:
                raise
            self.leave_repairs(bound, written)

    def finish(self, bound: Bound, shard: Shard, written: Written, partial: Set[str], token: str) -> None:
        """L3 has what was claimed by `token`: L2 and every instance learn that, and the ledger lets go of it.
        `partial`: the keys of which the version may stand for some columns only. Raises as `settle_or_repair` does.

        What L3 has just as it was handed off needs one script, where ledger and L2 are on one server.
        """
        l2, plain, other = bound.l2, list[Change](), list[tuple[Change, Applied]]()
        together = l2 is not None and self._common.together
        for change, applied in written:
            if together and _as_handed_off(change, applied, partial):
                plain.append(change)
            else:
                other.append((change, applied))
        if l2 is not None and plain:
            self._finish_plain(bound, l2, shard, plain)
        if other:
            self.settle_or_repair(bound, other)
            versions = [(change.key_text, change.version) for change, _ in other]
            self._common.ledger.done([(shard, versions)], partial, token)

    def _finish_plain(self, bound: Bound, l2: L2Tier, shard: Shard, written: Sequence[Change]) -> None:
        announcer, ledger = self._common.announcer, self._common.ledger
        by_op: dict[Said, list[tuple[str, int]]] = {}
        for change in written:
            said = Said.DELETE if change.delete else Said.SET
            by_op.setdefault(said, []).append((change.key_text, change.version))
        try:
            for op, versions in by_op.items():
                l2.remember(versions)
                ledger.finish(shard, versions, l2.key, announcer.channel, announcer.head(bound.name, op))
            bound.searches.drop()
        finally:  # the bus does not bring this instance its own messages
            bound.l1.forget_each([(change.key, change.version) for change in written])

    def raise_floor(self, bound: Bound, written: Written) -> None:
        """L3 has these, which went around the ledger: it is to take, and to hold, nothing older.

        Raises `L2UnavailableError`.
        """
        partial = {
            change.key_text
            for change, applied in written
            if applied.status is Status.SUPERSEDED or change.names is not None or change.ages
        }
        versions = [(change.key_text, change.version) for change, _ in written]
        self._common.ledger.done(by_home(bound.name, versions), partial)

    def leave_repairs(self, bound: Bound, written: Written) -> None:
        """Leave rows in L3 from which L2 is repaired, in a transaction of their own."""
        table, database = bound.rows.table, bound.rows.primary
        with database.transaction() as conn:
            table.record_repairs(
                conn, {change.key_text: Repairs.bound_of(bound, applied.version) for change, applied in written}
            )

    def _settlement(
        self, bound: Bound, change: Change, applied: Applied, unheard: bool
    ) -> tuple[str, int, bytes, int, bytes, int]:
        content, px, message = b"", 0, b""
        announcer = self._common.announcer
        said = Said.DELETE if change.delete else Said.SET
        # Where ledger and L2 are apart, whoever handed it off may not have come to telling of it.
        surely = applied.version > change.version or unheard or not self._common.together
        if surely or bound.l2 is not None:  # others may have read what L2 holds in its place
            message = announcer.message(bound.name, change.key_text, said, applied.version)
        if change.adds:
            # What was read from its entry has a version that may be above all that L3 will ever have.
            surely = True
            message = announcer.message(bound.name, change.key_text, Said.INVALIDATE, applied.version)
            content = GONE
        elif kept(change, applied) and applied.version == change.version:
            # Not SET: who holds this very version must drop it too.
            surely = True
            message = announcer.message(bound.name, change.key_text, Said.INVALIDATE, applied.version)
            if bound.l2 is not None:
                content, px = _content(bound, bound.l2, change, applied)
        return change.key_text, applied.version, content, px, message, int(surely)


def _as_handed_off(change: Change, applied: Applied, partial: Set[str]) -> bool:
    """Whether L3 has the whole of a write, at its version, and nothing else."""
    if applied.status is not _APPLIED or applied.version != change.version or change.key_text in partial:
        return False
    return not change.adds and not kept(change, applied)


def _content(bound: Bound, l2: L2Tier, change: Change, applied: Applied) -> tuple[bytes, int]:
    if change.names is not None or change.ages:
        return GONE, 0  # what a read laid over the old row
    if l2.since is not None:
        return GONE, 0  # a marker may have been set since the row was written
    record = as_kept(bound, change, applied)
    return l2.held(applied.version, bound.plan.cached(record))
