"""Single-flight: a load of one key, which callers that come meanwhile share, in the foreground or as a refresh."""

from __future__ import annotations

from typing import Any

from strata.bound import Bound
from strata.engine.context import ABSENT, Context
from strata.engine.leases import await_loader
from strata.engine.load import Load, Loaded, answered, askable, nowhere, overtaken, unanswered
from strata.engine.timeouts import Timeouts
from strata.errors import WITHOUT_L2
from strata.l1.claims import Claim, LoaderLeft
from strata.l2.content import Found, State

REFRESH_PATIENCE = 1.0  # seconds that a refresh waits for a load of the same key, before the next read has to see to it


class Flights:
    """Thread-safe: it keeps no state of its own."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._timeouts = Timeouts(context, self._above)

    def fly(self, bound: Bound, id: Any, key_text: str, asked: float) -> Loaded:
        """What is below L1, private to the caller, who `asked` then (monotonic); of schemas that do not just wait,
        perhaps what is stale.

        Raises `LoaderLeft` where it waited for a load that was interrupted, or that began before a tag of what it has
        found was invalidated: the caller is to ask once more.
        """
        if not bound.freshness.plain:
            return _private(bound, self._timeouts.fly(bound, id, key_text, asked))
        mine, claims = Claim(id), bound.l1.claims
        try:
            flight = bound.l1.board(mine, asked)
            if flight is not mine:
                shared = flight.wait()
                if overtaken(bound, shared.record, flight.born, asked):
                    raise LoaderLeft
                return _private(bound, shared)
            loaded = mine.result = self._load(bound, key_text, mine)
        except BaseException as error:
            mine.error = error
            raise
        finally:
            mine.ended = True
            claims.release(mine)
        # Whoever waits copies the result itself, perhaps while this caller already changes its own: so that one
        # takes a copy too. Nobody boards a flight that was released.
        return _private(bound, loaded) if mine.shared else loaded

    def refresh(self, bound: Bound, id: Any, key_text: str, found: Found | None = None) -> None:
        """Load in the background what is due: what stands in L1 anew from below, or what L2 `found` anew from L3."""

        def run() -> None:
            mine, claims = Claim(id), bound.l1.claims
            try:
                while (flight := bound.l1.board(mine, self._context.clock.monotonic())) is not mine:
                    # Most likely that is the read which found it due; or it is one that waits for this very thread.
                    if found is None or not flight.landed(REFRESH_PATIENCE):
                        return  # somebody loads it already
                if found is None:
                    mine.result = self._load(bound, key_text, mine)
                else:
                    mine.result = self._below(bound, key_text, mine, found).run()[key_text]
            except BaseException as error:
                mine.error = error
                raise
            finally:
                mine.ended = True
                claims.release(mine)

        if self._context.background.submit((bound.name, key_text, found is None), run):
            bound.counters.eager_refreshes += 1

    def ask(self, bound: Bound, key_text: str, claim: Claim, lease: bool) -> Found | None:
        """What L2 says; None where there is none, or it cannot be asked and L3 can."""
        l2 = askable(self._context, bound, (key_text,))
        if l2 is None:
            return None
        try:
            return l2.read(key_text, lease=lease)
        except WITHOUT_L2:
            if bound.l3 is None:
                raise
            unanswered(self._context, bound, claim)
            return None

    def _load(self, bound: Bound, key_text: str, claim: Claim) -> Loaded:
        above = self._above(bound, key_text, claim)
        return above.run()[key_text] if isinstance(above, Load) else above

    def _above(self, bound: Bound, key_text: str, claim: Claim) -> Loaded | Load:
        """The quick half: what L2 answers, or the load of what it does not. What is due in L2 is refreshed."""
        began = claim.born
        found = self.ask(bound, key_text, claim, bound.l3 is not None)
        if found is not None and found.state is State.LOADING and (patience := bound.freshness.lease_wait):
            bound.counters.lease_waits += 1
            found = await_loader(found, patience, lambda: self.ask(bound, key_text, claim, True))
        if found is not None and (loaded := answered(self._context, bound, claim, claim.key, found, began)) is not None:
            if loaded.record is not ABSENT:
                self._hit(bound, key_text, claim, found, began)
            return loaded
        if bound.l3 is None:
            return nowhere(bound, claim, claim.key, began)
        return self._below(bound, key_text, claim, found)

    def _below(self, bound: Bound, key_text: str, claim: Claim, found: Found | None) -> Load:
        answers = None if found is None else {key_text: found}
        return Load(self._context, bound, {key_text: claim.key}, {key_text: claim}, answers)

    def _hit(self, bound: Bound, key_text: str, claim: Claim, found: Found, began: float) -> None:
        bound.counters.l2_hits += 1
        l1 = bound.l1
        if l1.store is not None:
            value = bound.plan.freeze(found.record)
            if not l1.fill(claim, value, found.version, pending=found.pending, loaded=began):
                bound.counters.stale_fills += 1
        if found.due:
            self.refresh(bound, claim.key, key_text, found)


def _private(bound: Bound, loaded: Loaded) -> Loaded:
    return loaded if loaded.record is ABSENT else loaded._replace(record=bound.plan.copy(loaded.record))
