"""The way around the ledger: deferred writes straight to L3, where the ledger is away or the buffer is full."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, ExitStack
from functools import partial
from typing import Any

from strata.bound import Bound
from strata.coherence.repairs import Repairs
from strata.errors import WITHOUT_L2, EncodeError
from strata.l3.diagnosis import BatchError, NoRowError, suppressed, unfit
from strata.l3.doubt import adapting
from strata.l3.values import Applied, Change, Status
from strata.protocol.versions import VersionClock
from strata.writebehind.dirty import changes
from strata.writebehind.dirty.slot import Buffered, Slot
from strata.writebehind.persist.giving_up import Reason
from strata.writebehind.persist.isolate import Outcome, isolate
from strata.writebehind.persist.outcomes import Outcomes
from strata.writebehind.persist.persister import why_lost
from strata.writebehind.persist.settle import Settler

Unannounced = Callable[[Bound, Sequence[str]], AbstractContextManager[None]]


class Bypass:
    """Thread-safe: it keeps no state. `unannounced` surrounds writes of keys that L2 must not be asked for later;
    `give_up` is called for a write that was overtaken and cannot reach L3: it becomes a dead letter, unless what is
    newer did reach it."""

    def __init__(
        self,
        settler: Settler,
        outcomes: Outcomes,
        versions: VersionClock,
        unannounced: Unannounced,
        give_up: Callable[[Bound, Slot, Buffered, Reason], None],
    ) -> None:
        self._settler = settler
        self._outcomes = outcomes
        self._versions = versions
        self._unannounced = unannounced
        self._give_up = give_up

    def one(self, bound: Bound, key: Any, key_text: str, item: Buffered) -> None:
        """Write one record now.

        Raises `L3UnavailableError`, `MigrationError`, `ConstraintError`, or `EncodeError`, the last also where a
        partial record has no row.
        """
        change = changes.of_item(bound, key, key_text, item)
        try:
            applied = adapting(lambda: self._write(bound, [change], l2_down=not _l2_answers(bound)))[0]
        except BatchError as error:
            raise unfit(error) from error.__cause__
        if applied.status is Status.MISSING_ROW:
            raise NoRowError(
                f"a record of schema {bound.name!r} has UNLOADED fields and there is no row to keep them from; "
                "read the whole record, or give every field a value"
            )
        if applied.status is Status.SWALLOWED:
            raise suppressed(bound.rows.table.name)
        if reason := why_lost(bound, applied, self._versions):
            raise EncodeError(f"a write to schema {bound.name!r} is lost: {reason}")

    def many(self, bound: Bound, items: Sequence[tuple[Slot, Buffered]]) -> Outcome[Applied]:
        """Write what can be written, and let the buffer go of it; L2 is left to be repaired."""
        outcome = self._each(bound, items, l2_down=True)
        done = [place for place, answer in outcome.written.items() if not why_lost(bound, answer, self._versions)]
        self._let_go(bound, items, outcome, done)
        return outcome

    def overtaken(self, bound: Bound, items: Sequence[tuple[Slot, Buffered]]) -> Outcome[Applied]:
        """Writes of which a newer version was met: L3 has that one, which has seen to L2, or takes them, or refuses
        them: the newer one may have been given up."""
        outcome = self._each(bound, items, l2_down=False, silent=True)
        lost = {place: why for place, a in outcome.written.items() if (why := why_lost(bound, a, self._versions))}
        for place, why in lost.items():
            self._give_up(bound, *items[place], Reason(why))
        for place, found in outcome.refused.items():
            self._give_up(bound, *items[place], Reason(found.message, found.sqlstate))
        self._let_go(bound, items, outcome, [place for place in outcome.written if place not in lost])
        return outcome

    def _let_go(
        self, bound: Bound, items: Sequence[tuple[Slot, Buffered]], outcome: Outcome[Applied], ended: Sequence[int]
    ) -> None:
        """The buffer lets go of just these writes: a newer row that was written in part does not stand for others."""
        answers = [outcome.written[place] for place in ended if place in outcome.written]
        self._outcomes.persisted(
            bound,
            [(slot.key, item.version) for slot, item in (items[place] for place in ended)],
            [(answer.key, answer.version) for answer in answers if answer.kept is not None],
        )
        for answer in answers:
            # The bus does not bring this instance its own messages.
            bound.l1.forget(answer.key, below=answer.version)

    def _each(
        self, bound: Bound, items: Sequence[tuple[Slot, Buffered]], *, l2_down: bool, silent: bool = False
    ) -> Outcome[Applied]:
        wanted = [changes.of_item(bound, slot.key, slot.key_text, item) for slot, item in items]

        def write(places: Sequence[int]) -> Sequence[Applied]:
            return self._write(bound, [wanted[place] for place in places], l2_down=l2_down, silent=silent)

        return isolate(write, len(wanted))

    def _write(
        self, bound: Bound, wanted: Sequence[Change], *, l2_down: bool, silent: bool = False
    ) -> Sequence[Applied]:
        table, database = bound.rows.table, bound.rows.primary
        # No ledger entry brings anybody back to these, and nobody else refuses what is older and handed off later: so
        # rows are left also where L2 answers, until this process, or whoever outlives it, has seen to them.
        repaired = bound.l2 is not None
        with ExitStack() as after_commit, database.transaction() as conn:
            applied = changes.apply(bound, conn, wanted)
            done = [
                (change, answer)
                for change, answer in zip(wanted, applied, strict=True)
                # What it added to a newer row, nobody has told of.
                if answer.status is Status.APPLIED or answer.late or (answer.status is Status.SUPERSEDED and not silent)
            ]
            if repaired and done:
                after_commit.enter_context(self._unannounced(bound, [change.key_text for change, _ in done]))
                table.record_repairs(
                    conn, {change.key_text: Repairs.bound_of(bound, answer.version) for change, answer in done}
                )
        if done and (bound.l2 is None or not l2_down):
            self._settle(bound, done, repaired)
        return applied

    def _settle(self, bound: Bound, done: Sequence[tuple[Change, Applied]], repaired: bool) -> None:
        told = True
        # The floor first: else what is older is handed off between them, and stands in L2 as the newest.
        for tell in (self._settler.raise_floor, partial(self._settler.settle, unheard=True)):
            try:
                tell(bound, done)
            except WITHOUT_L2:
                told = False
        if not (told or repaired):
            with self._unannounced(bound, [change.key_text for change, _ in done]):
                self._settler.leave_repairs(bound, done)


def _l2_answers(bound: Bound) -> bool:
    return bound.l2 is None or bound.l2.server.breaker.closed
