"""`get` and `exists` behind an L1 miss: what this process knows by itself, then a load."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from strata.bound import Bound
from strata.engine.context import ABSENT, Context
from strata.engine.flights import Flights
from strata.engine.load import FAILED, Loaded, found_below
from strata.engine.own import instead, known_here, own_write, shown
from strata.engine.steps import alone
from strata.engine.whole import completed, in_l2
from strata.errors import L3UnavailableError
from strata.l1.claims import Claim, LoaderLeft
from strata.l2.content import State

if TYPE_CHECKING:
    from strata.writebehind.dirty.slot import OwnWrite


class Reader:
    """Reads single records. Thread-safe: it keeps no state of its own."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self.flights = Flights(context)

    def get(self, bound: Bound, id: Any, *, force_l2: bool = False, force_l3: bool = False, whole: bool = False) -> Any:
        """The record, private to the caller, or ABSENT."""
        id, key_text = bound.plan.key_and_text(id)
        self._context.listen()
        hooks = bound.hooks
        if hooks.get_given:
            hooks.before_get(id)
        if force_l3:
            record = self._only_l3(bound, id)
        else:
            record = self.find(bound, id, key_text, force_l2 or (whole and in_l2(bound)))
            if whole:
                record = alone(completed(self._context, bound, {id: record}, {id: key_text}))[id]
        if record is ABSENT:
            bound.counters.misses += 1
            return ABSENT
        return hooks.after_get(record) if hooks.get_given else record

    def exists(self, bound: Bound, id: Any) -> bool:
        """Whether any tier has the record; nothing is filled."""
        id, key_text = bound.plan.key_and_text(id)
        self._context.listen()
        now = self._context.clock.monotonic()
        if bound.l1.lookup(id, now) is not None:
            return True
        own = own_write(self._context, bound, id, now)
        if own is not None and own.newest:
            return own.record is not None
        if own is None and bound.l1.absent(id, now):
            return False
        try:
            return self._exists_below(bound, id, key_text, own)
        except FAILED:
            if (known := instead(bound, own)) is None:
                raise
            return known.record is not ABSENT

    def _exists_below(self, bound: Bound, id: Any, key_text: str, own: OwnWrite | None) -> bool:
        claim = Claim(id)  # nobody's: nothing is filled
        found = self.flights.ask(bound, key_text, claim, False)
        if found is not None and found.state in (State.VALUE, State.TOMBSTONE):
            if own is not None:
                record = found.record if found.state is State.VALUE else ABSENT
                return shown(self._context, bound, id, key_text, own, Loaded(record, found.version)) is not ABSENT
            return found.state is State.VALUE
        if bound.l3 is None:
            return False
        pending = self._context.handed_off(bound, [key_text])
        if pending or own is not None:
            below = found_below(self._context, bound, id, key_text, pending or {})
            record = below.record if own is None else shown(self._context, bound, id, key_text, own, below)
            return record is not ABSENT
        with bound.rows.primary.connection() as conn:
            return bound.rows.table.exists(conn, id)

    def _only_l3(self, bound: Bound, id: Any) -> Any:
        bound.counters.gets += 1
        if bound.l3 is None:
            raise L3UnavailableError(f"schema {bound.name!r} has no L3; read it without force_l3")
        with bound.rows.primary.connection() as conn:
            row = bound.rows.table.get(conn, id)
        if row is None:
            return ABSENT
        bound.counters.l3_hits += 1
        return bound.record(row.values)

    def find(self, bound: Bound, id: Any, key_text: str, force_l2: bool) -> Any:
        """As `get`, without hooks."""
        now = self._context.clock.monotonic()
        if not force_l2:
            entry = bound.l1.lookup(id, now)
            if entry is not None:
                entry.hits += 1
                if bound.l1.claim_refresh(entry, now):
                    self.flights.refresh(bound, id, key_text)
                return bound.plan.thaw(entry.value)
        known, own = known_here(self._context, bound, id, now, not force_l2)
        if known is not None:
            return known.record
        try:
            loaded = self._loaded(bound, id, key_text, now)
            if bound.deferred:
                self._context.met(bound, id, loaded.version)
            return loaded.record if own is None else shown(self._context, bound, id, key_text, own, loaded)
        except FAILED:
            if (known := instead(bound, own)) is None:
                raise
            return known.record

    def _loaded(self, bound: Bound, id: Any, key_text: str, now: float) -> Loaded:
        while True:
            try:
                return self.flights.fly(bound, id, key_text, now)
            except LoaderLeft:
                now = self._context.clock.monotonic()
