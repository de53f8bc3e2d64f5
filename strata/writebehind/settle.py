"""After L3 has deferred writes: L2 and every instance learn what L3 holds."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from strata.bound import Bound
from strata.coherence.messages import Announcer
from strata.coherence.messages import Op as Said
from strata.coherence.repairs import Repairs
from strata.errors import L2UnavailableError
from strata.l2.client import RedisServer
from strata.l2.tier import L2Tier
from strata.l3.table import Applied, Change
from strata.writebehind.changes import as_kept, kept

GONE = b"-"  # in the place of a content: L2 has none that L3 has

Written = Sequence[tuple[Change, Applied]]


@dataclass(frozen=True, slots=True)
class Settler:
    """Immutable. `publisher` is where the bus is, `ledger_server` where the ledger is; `together`: a hand-off reaches
    ledger and bus, or neither. Otherwise the bus may not have been told of what the ledger had."""

    announcer: Announcer
    publisher: RedisServer | None
    ledger_server: RedisServer
    together: Callable[[], bool]

    def settle(self, bound: Bound, written: Written, *, unheard: bool = False) -> None:
        """Settle what was written; `unheard`: no hand-off has told the bus of it. Raises `L2UnavailableError`."""
        items = [self._settlement(bound, change, applied, unheard) for change, applied in written]
        channel = self.announcer.channel
        if bound.l2 is not None:
            bound.l2.settle(channel, items)
            bound.searches.drop()
        elif self.publisher is not None:
            self.publisher.pipeline([("PUBLISH", channel, message) for *_, message, _ in items if message])

    def settle_or_repair(self, bound: Bound, written: Written) -> None:
        """As `settle`; where Redis is away and the ledger is not, leave rows in L3 from which it is repaired.

        Raises `L2UnavailableError` where the ledger is away too.
        """
        try:
            self.settle(bound, written)
        except L2UnavailableError:
            told = self.publisher if bound.l2 is None else bound.l2.server
            if told is self.ledger_server:
                raise
            self.leave_repairs(bound, written)

    def leave_repairs(self, bound: Bound, written: Written) -> None:
        """Leave rows in L3 from which L2 is repaired, in a transaction of their own."""
        table, database = bound.table, bound.database
        assert table is not None and database is not None
        with database.transaction() as conn:
            for change, applied in written:
                table.record_repair(conn, change.key_text, Repairs.bound_of(bound, applied.version))

    def _settlement(
        self, bound: Bound, change: Change, applied: Applied, unheard: bool
    ) -> tuple[str, int, bytes, int, bytes, int]:
        content, px, message = b"", 0, b""
        said = Said.DELETE if change.delete else Said.SET
        surely = applied.version > change.version or unheard
        if surely or not self.together():
            message = self.announcer.message(bound.name, change.key_text, said, applied.version)
        if kept(change, applied) and applied.version == change.version:
            # Not SET: who holds this very version must drop it too.
            surely = True
            message = self.announcer.message(bound.name, change.key_text, Said.INVALIDATE, applied.version)
            if bound.l2 is not None:
                content, px = _content(bound, bound.l2, change, applied)
        return change.key_text, applied.version, content, px, message, int(surely)


def _content(bound: Bound, l2: L2Tier, change: Change, applied: Applied) -> tuple[bytes, int]:
    if change.names is not None:
        return GONE, 0  # what a read laid over the old row
    record = as_kept(bound, change, applied)
    return l2.content(applied.version, bound.plan.cached(record)), l2.px(record)
