"""`Drain`: takes what is due out of the ledger, and has it persisted; in a worker, or in the process that wrote."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence

from strata import waits
from strata.bound import Bound
from strata.errors import WITHOUT_L2, L2RefusedError
from strata.l3.diagnosis import Diagnosis
from strata.writebehind.ledger.answers import Claimed
from strata.writebehind.ledger.common import Common
from strata.writebehind.ledger.shard import Shard, shards_of
from strata.writebehind.ledger.spans import WriterSpans
from strata.writebehind.persist.lease_renewer import LeaseRenewer
from strata.writebehind.persist.persister import Persister, Result

CROWD = 2  # claims; where more is due, another worker is to help


class Drain:
    """Claims, has applied, and gives back. Thread-safe: it keeps no state."""

    def __init__(self, common: Common, persister: Persister, renewer: LeaseRenewer) -> None:
        self._ledger = common.ledger
        self._persister = persister
        self._renewer = renewer
        self._schemas = common.schemas
        self._clock = common.clock
        self._log = common.log
        self._tracer = common.tracer
        self._spans = WriterSpans(common.ledger)

    def shard(self, shard: Shard) -> tuple[int, bool]:
        """Persist what is due in a shard, for about one budget; how many records, and whether more is due."""
        deadline = self._clock.monotonic() + self._ledger.timing.budget
        count, soon = 0, 0.0
        while True:
            result = self._visit(shard)
            if result is None and soon and self._clock.monotonic() + soon < deadline:
                waits.sleep(soon * 1.2)
                soon = 0.0
                continue
            if result is None:
                return count, False
            count += result.persisted
            soon = result.soon
            if result.stopped is not None:
                self._ledger.leave([shard])
                return count, False
            if self._clock.monotonic() >= deadline:
                return count, True

    def schema(self, first: Shard, claimed_some: Callable[[], None], call: Callable[[Shard], None]) -> int:
        """Persist what is due in every shard of a schema, beginning with the one that was rung for, until for a moment
        nothing is, or for about one budget; returns how many records. `claimed_some` is told when some were claimed;
        `call` brings another worker, where more is due than one has soon done, or the budget is over.

        One bell serves all shards, and none is rung while somebody is here, since a message of Celery's costs as much
        as persisting a hundred records.
        """
        timing, now = self._ledger.timing, self._clock.monotonic
        shards, due = list(shards_of(first.schema)), [first]
        deadline, stays, called, count = now() + timing.budget, 0.0, False, 0
        while True:
            for shard in due:
                try:
                    result = self._visit(shard, claimed_some)
                except L2RefusedError as error:
                    self._log.warning("a shard of the ledger waits", reason=str(error), schema=first.schema)
                    shards.remove(shard)
                    continue
                if result is not None:
                    count += result.persisted
                    stays = now() + max(timing.linger, result.soon * 1.2)
                if now() >= deadline:
                    break
            waiting, over = self._ledger.due(shards), now() >= deadline
            if not waiting and (over or now() >= stays):
                self._ledger.leave(shards)  # whoever hands off from now on rings; what came before is seen here
                waiting = self._ledger.due(shards)
                if not waiting:
                    return count
            if waiting and (over or (not called and sum(waiting.values()) > CROWD * timing.claim)):
                call(next(iter(waiting)))
                called = True
            if over:
                return count
            if not waiting:
                waits.sleep(timing.glance)
            due = waits.chance().sample(list(waiting), len(waiting))  # several workers begin at several shards

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

    def _visit(self, shard: Shard, claimed_some: Callable[[], None] = lambda: None) -> Result | None:
        """Persist what can be claimed of a shard at once; None where nothing is due."""
        token = self._ledger.token()
        claimed = self._ledger.claim(shard, token)
        if not claimed:
            return None
        with contextlib.suppress(*WITHOUT_L2):  # what was claimed must be applied, or given back
            claimed_some()
        return self._apply(self._schemas[shard.schema], shard, token, claimed)

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
