"""`get` behind an L1 miss: own dirty buffer, L2 and ledger, L3; each fill conditional."""

from __future__ import annotations

from typing import Any

from strata.bound import Bound
from strata.coherence.guard import Claim, Left
from strata.engine.context import ABSENT, Context
from strata.engine.leases import await_loader
from strata.engine.patience import Loaded, Patience
from strata.errors import L2UnavailableError, L3UnavailableError, UnavailableError
from strata.l2.tier import Found, Put, State
from strata.l3.connection import Connection
from strata.l3.table import Row
from strata.writebehind import Own, Pending

NOTHING = Loaded(ABSENT)
REFRESH_PATIENCE = 1.0  # seconds that a refresh waits for a load of the same key, before the next read has to see to it


def laid_over(bound: Bound, own: Own, loaded: Loaded) -> Any:
    """What a read shows of this process's own write and of what it has found below: the newer one, or, of a partial
    write, its columns over the record that is there."""
    if loaded.version > own.version:
        return loaded.record
    if not own.partial:
        return ABSENT if own.record is None else bound.plan.copy(own.record)
    return ABSENT if loaded.record is ABSENT else bound.plan.merge(loaded.record, own.record)


def joined(bound: Bound, row: Row | None, pending: Pending | None, deletion: int = 0) -> Loaded:
    """What ledger and L3 hold together: the newer one, or, of a partial write, its columns over the row.

    `deletion` is the version at which L3 knows that there is no row, as `buried_under` finds it.
    """
    if pending is not None and not pending.partial and pending.version > (deletion if row is None else row.version):
        record = ABSENT if pending.deleted else bound.record(pending.values, pending.names)
        return Loaded(record, pending.version, True)
    if row is None:
        return Loaded(ABSENT, deletion)
    bound.counters.l3_hits += 1
    record = bound.record(row.values)
    if pending is None or pending.version <= row.version:
        return Loaded(record, row.version)
    over = bound.record(pending.values, pending.names)
    return Loaded(bound.plan.merge(record, over), pending.version, True)


def buried_under(bound: Bound, conn: Connection, key_text: str, row: Row | None, pending: Pending | None) -> int:
    """The version of the deletion that may be newer than what is pending, else 0.

    A deletion that went around the ledger, while that was away, leaves an older write there, until repairs take it out.
    """
    assert bound.table is not None
    return bound.table.tombstone(conn, key_text) if row is None and pending is not None else 0


def put_of(bound: Bound, key_text: str, loaded: Loaded) -> Put:
    """What L2 is to hold of what was found below."""
    record = None if loaded.record is ABSENT else bound.plan.cached(loaded.record)
    return Put(key_text, loaded.version, record, pending=loaded.pending, absent=record is None)


def buried(bound: Bound, key_text: str) -> int:
    """The version at which a record was deleted, as far as L3 remembers it, else 0."""
    assert bound.table is not None and bound.database is not None
    with bound.database.connection() as conn:
        return bound.table.tombstone(conn, key_text)


class Reader:
    """Reads single records. Thread-safe: it keeps no state of its own."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._patience = Patience(context, self)

    def get(self, bound: Bound, id: Any, *, force_l2: bool = False, force_l3: bool = False) -> Any:
        """The record, private to the caller, or ABSENT."""
        key_text = bound.plan.key_text(id)
        self._context.listen()
        bound.hooks.before_get(id)
        record = self._only_l3(bound, id) if force_l3 else self._cached(bound, id, key_text, force_l2)
        if record is ABSENT:
            bound.counters.misses += 1
            return ABSENT
        return bound.hooks.after_get(record)

    def exists(self, bound: Bound, id: Any) -> bool:
        """Whether any tier has the record; nothing is filled."""
        key_text = bound.plan.key_text(id)
        self._context.listen()
        if bound.l1.lookup(id, self._context.clock.monotonic()) is not None:
            return True
        own = self._context.pending(bound, id)
        if own is not None and own.newest:
            return own.record is not None
        if bound.l1.absent(id, self._context.clock.monotonic()):
            return False
        found = self._ask_l2(bound, key_text, lease=False)
        if found is not None and found.state in (State.VALUE, State.TOMBSTONE):
            return found.state is State.VALUE
        if bound.table is None or bound.database is None:
            return False
        pending = self._context.handed_off(bound, [key_text]).get(key_text)
        if pending is not None:
            return self._over_l3(bound, id, key_text, pending, l2_down=False).record is not ABSENT
        with bound.database.connection() as conn:
            return bound.table.exists(conn, id)

    def _only_l3(self, bound: Bound, id: Any) -> Any:
        bound.counters.gets += 1
        if bound.table is None or bound.database is None:
            raise L3UnavailableError(f"schema {bound.name!r} has no L3; read it without force_l3")
        with bound.database.connection() as conn:
            row = bound.table.get(conn, id)
        if row is None:
            return ABSENT
        bound.counters.l3_hits += 1
        return bound.record(row.values)

    def _cached(self, bound: Bound, id: Any, key_text: str, force_l2: bool) -> Any:
        now = self._context.clock.monotonic()
        if not force_l2:
            entry = bound.l1.lookup(id, now)
            if entry is not None:
                entry.hits += 1
                if bound.l1.claim_refresh(entry, now):
                    self._refresh(bound, id, key_text)
                return bound.plan.thaw(entry.value)
        bound.counters.gets += 1
        own = self._context.pending(bound, id)
        if own is not None and own.newest and not own.partial:
            bound.counters.l1_hits += own.record is not None
            return laid_over(bound, own, NOTHING)
        if own is None and not force_l2 and bound.l1.absent(id, now):
            bound.counters.negative_hits += 1
            return ABSENT
        while True:
            try:
                loaded = self._fly(bound, id, key_text)
                break
            except Left:
                pass
        if own is None:
            return loaded.record
        if loaded.record is ABSENT and not loaded.version and not own.newest:
            loaded = Loaded(ABSENT, buried(bound, key_text))
        return laid_over(bound, own, loaded)

    def _fly(self, bound: Bound, id: Any, key_text: str) -> Loaded:
        """What is below L1, private to the caller."""
        if not bound.freshness.plain:
            return self._private(bound, self._patience.fly(bound, id, key_text))
        mine, guard = Claim(id), bound.l1.guard
        try:
            flight = guard.board(mine)
            if flight is not mine:
                return self._private(bound, flight.wait())
            loaded = mine.result = self._load(bound, id, key_text, mine)
        except BaseException as error:
            mine.error = error
            raise
        finally:
            mine.ended = True
            guard.release(mine)
        # Whoever waits copies the result itself, perhaps while this caller already changes its own: so that one
        # takes a copy too. Nobody boards a flight that was released.
        return self._private(bound, loaded) if mine.shared else loaded

    def _private(self, bound: Bound, loaded: Loaded) -> Loaded:
        return loaded if loaded.record is ABSENT else loaded._replace(record=bound.plan.copy(loaded.record))

    def _load(self, bound: Bound, id: Any, key_text: str, claim: Claim) -> Loaded:
        loaded, found = self.above(bound, id, key_text, claim)
        return self.below(bound, id, key_text, claim, found) if loaded is None else loaded

    def above(self, bound: Bound, id: Any, key_text: str, claim: Claim) -> tuple[Loaded | None, Found | None]:
        """What L2 answers, None where L3 must be asked; and what L2 said, for the fill."""
        began = self._context.clock.monotonic()
        found = self._ask_l2(bound, key_text, lease=bound.table is not None, claim=claim)
        if found is not None and found.state is State.LOADING and bound.freshness.lease_wait:
            bound.counters.lease_waits += 1
            patience = bound.freshness.lease_wait
            found = await_loader(found, patience, lambda: self._ask_l2(bound, key_text, lease=True, claim=claim))
        if found is not None and found.state is State.TOMBSTONE:
            self._context.versions.observe(found.version)
            bound.counters.negative_hits += not found.version
            bound.l1.fill_absent(claim, found.version or None, began)
            return Loaded(ABSENT, found.version), found
        if found is not None and found.state is State.VALUE:
            bound.counters.l2_hits += 1
            self._context.versions.observe(found.version)
            loaded = Loaded(found.record, found.version, found.pending)
            self._fill_l1(bound, claim, loaded, began)
            if found.due:
                self._refresh(bound, id, key_text, found)
            return loaded, found
        if bound.table is not None:
            return None, found
        if bound.l1.absences is not None:
            bound.l1.fill_absent(claim, None, began)
        return NOTHING, found

    def below(self, bound: Bound, id: Any, key_text: str, claim: Claim, found: Found | None) -> Loaded:
        """What ledger and L3 hold, filled upward where nothing has happened to the key meanwhile."""
        began = self._context.clock.monotonic()
        claim.brief = found is None and bound.l2 is not None
        loaded = self._below(bound, id, key_text, l2_down=claim.brief)
        if claim.silent:
            self._context.repairs.distrust()  # once more: L3 may have shown what an earlier look at the repairs missed
        filled = self._fill_l2(bound, key_text, found, loaded)
        if not filled:
            bound.l1.met(claim, None if loaded.record is ABSENT else loaded.version)
        elif loaded.record is ABSENT:
            bound.l1.fill_absent(claim, None, began)
        else:
            self._fill_l1(bound, claim, loaded, began)
        return loaded

    def _refresh(self, bound: Bound, id: Any, key_text: str, found: Found | None = None) -> None:
        """Load in the background what is due: what stands in L1 anew from below, or what L2 `found` anew from L3."""

        def run() -> None:
            mine, guard = Claim(id), bound.l1.guard
            try:
                while (flight := guard.board(mine)) is not mine:
                    # Most likely that is the read which found it due; or it is one that waits for this very thread.
                    if found is None or not flight.landed(REFRESH_PATIENCE):
                        return  # somebody loads it already
                if found is None:
                    mine.result = self._load(bound, id, key_text, mine)
                else:
                    mine.result = self.below(bound, id, key_text, mine, found)
            except BaseException as error:
                mine.error = error
                raise
            finally:
                mine.ended = True
                guard.release(mine)

        if self._context.background.submit((bound.name, key_text, found is None), run):
            bound.counters.eager_refreshes += 1

    def _below(self, bound: Bound, id: Any, key_text: str, *, l2_down: bool) -> Loaded:
        """What ledger and L3 hold, asked in this order, so that what is being persisted is not missed in both."""
        pending = self._context.handed_off(bound, [key_text]).get(key_text)
        return self._over_l3(bound, id, key_text, pending, l2_down=l2_down)

    def _over_l3(self, bound: Bound, id: Any, key_text: str, pending: Pending | None, *, l2_down: bool) -> Loaded:
        """What L3 holds under what the ledger was found to hold."""
        assert bound.table is not None and bound.database is not None
        try:
            with bound.database.connection() as conn:
                row = bound.table.get(conn, id)
                deletion = buried_under(bound, conn, key_text, row, pending)
        except L3UnavailableError as error:
            if pending is not None and not pending.partial:
                return joined(bound, None, pending)
            if l2_down and not self._context.awaits_postgres:
                raise UnavailableError(
                    f"neither Redis nor PostgreSQL answered for schema {bound.name!r}; check both"
                ) from error
            raise
        loaded = joined(bound, row, pending, deletion)
        self._context.versions.observe(loaded.version)
        return loaded

    def _ask_l2(self, bound: Bound, key_text: str, *, lease: bool, claim: Claim | None = None) -> Found | None:
        """What L2 says; None where there is none, or it cannot be asked and L3 can."""
        if bound.l2 is None:
            return None
        if bound.table is None:
            return bound.l2.read(key_text, lease=False)
        if self._context.repairs.skips(bound, key_text):
            bound.counters.l2_skips += 1
            return None
        try:
            return bound.l2.read(key_text, lease=lease)
        except L2UnavailableError:
            bound.counters.l2_skips += 1
            self._context.repairs.distrust()
            if claim is not None:
                claim.silent = True
            return None

    def _fill_l2(self, bound: Bound, key_text: str, found: Found | None, loaded: Loaded) -> bool:
        """Whether L1 may be filled too: what L2 refuses does not enter it, what L2 could not be asked may."""
        if bound.l2 is None or found is None:
            return True
        if found.state is not State.LEASED and not found.raw:
            return False
        put = put_of(bound, key_text, loaded)
        try:
            filled = bound.l2.refresh({key_text: found}, [put]) if found.raw else bound.l2.fill(found.token, [put])
        except L2UnavailableError:
            return False
        if loaded.record is not ABSENT and not filled:
            bound.counters.stale_fills += 1
        return bool(filled)

    def _fill_l1(self, bound: Bound, claim: Any, loaded: Loaded, began: float) -> None:
        value = bound.plan.freeze(loaded.record)
        if not bound.l1.fill(claim, value, loaded.version, pending=loaded.pending, loaded=began):
            bound.counters.stale_fills += bound.l1.store is not None
