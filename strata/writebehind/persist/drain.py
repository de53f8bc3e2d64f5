"""`Drain`: takes what is due out of the ledger, and has it persisted; in a worker, or in the process that wrote."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence

from strata import waits
from strata.bound import Bound
from strata.errors import WITHOUT_L2
from strata.l3.diagnosis import Diagnosis
from strata.writebehind.ledger.answers import Claimed
from strata.writebehind.ledger.common import Common
from strata.writebehind.ledger.shard import Shard
from strata.writebehind.ledger.spans import WriterSpans
from strata.writebehind.persist.lease_renewer import LeaseRenewer
from strata.writebehind.persist.persister import Persister, Result


class Drain:
    """Claims, has applied, and gives back. Thread-safe: it keeps no state."""

    def __init__(self, common: Common, persister: Persister, renewer: LeaseRenewer) -> None:
        self._ledger = common.ledger
        self._persister = persister
        self._renewer = renewer
        self._schemas = common.schemas
        self._clock = common.clock
        self._tracer = common.tracer
        self._spans = WriterSpans(common.ledger)

    def shard(self, shard: Shard, *, claimed_some: Callable[[], None] | None = None) -> tuple[int, bool]:
        """Persist what is due in a shard, for about one budget; how many records, and whether more is due."""
        bound = self._schemas[shard.schema]
        deadline = self._clock.monotonic() + self._ledger.timing.budget
        count, soon = 0, 0.0
        while True:
            token = self._ledger.token()
            claimed = self._ledger.claim(shard, token)
            if not claimed and soon and self._clock.monotonic() + soon < deadline:
                waits.sleep(soon * 1.2)
                soon = 0.0
                continue
            if not claimed:
                return count, False
            if claimed_some is not None:
                with contextlib.suppress(*WITHOUT_L2):  # what was claimed must be applied, or given back
                    claimed_some()
            result = self._apply(bound, shard, token, claimed)
            count += result.persisted
            soon = result.soon
            if result.stopped is not None:
                self._ledger.leave(shard)
                return count, False
            if self._clock.monotonic() >= deadline:
                return count, True

    def keys(self, shard: Shard, keys: Sequence[str]) -> tuple[set[str], Diagnosis | None]:
        """Persist the pending writes of some keys, whoever has claimed them; which keys were pending, and what
        keeps L3 from being written."""
        bound = self._schemas[shard.schema]
        token = self._ledger.token()
        claimed = self._ledger.claim(shard, token, keys)
        if not claimed:
            return set(), None
        result = self._apply(bound, shard, token, claimed)
        return {item.key_text for item in claimed}, result.stopped

    def _apply(self, bound: Bound, shard: Shard, token: str, claimed: Sequence[Claimed]) -> Result:
        try:
            with (
                self._renewer.holding(shard, token, [item.key_text for item in claimed]),
                self._tracer.span("strata.persist", schema=bound.name, shard=shard.number) as span,
            ):
                if self._tracer.enabled:
                    span.link(self._spans.of(shard, [item.entry for item in claimed]))
                return self._persister.apply(bound, shard, token, claimed)
        except BaseException:
            # A time limit, or a server lost on the way: not the records' doing, so the claims do not count as crashes.
            self._persister.give_back(shard, token, claimed)
            raise
