"""A load: keys of one schema from L2 down, and what was found filled upward. `get` loads one key, `get_many` many.

In this order: L2, which leaves a lease where it has nothing; the ledger, then L3, so that what is being persisted is
not missed in both; L2 again where its lease still stands; L1 where the claim still does.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from strata import waits
from strata.bound import Bound
from strata.engine.context import ABSENT, Context
from strata.engine.steps import Fill, Handed, RowsOf, Steps, alone
from strata.errors import (
    WITHOUT_L2,
    WITHOUT_L3,
    DecodeError,
    L3UnavailableError,
    RefusedError,
    UnavailableError,
)
from strata.l1.claims import Claim, ManyClaim
from strata.l1.tier import Fill as FillL1
from strata.l2.content import Found, State
from strata.l2.values import Put
from strata.l3.standing import RowNote, Standing

if TYPE_CHECKING:
    from strata.l2.tier import L2Tier
    from strata.l3.reads import Row
    from strata.l3.table import Table
    from strata.writebehind.pending import Pending

FAILED = (UnavailableError, RefusedError)
"""What a load may end in that a stale value may stand in for."""


HAVE_OWN = (State.VALUE, State.STALE)
"""The answers of L2 of which there is something to say of a key, so that it has a claim of its own."""


class Loaded(NamedTuple):
    """A record, or ABSENT, on its way up: its version, and whether L3 does not have it yet."""

    record: Any
    version: int = 0
    pending: bool = False


NOTHING = Loaded(ABSENT)


class Load:
    """The slow half: keys, by their texts, for which L2 had no answer. `claims` on them, one for all perhaps, are the
    caller's to enter and to release; `found` is what L2 said of each key, None where there is none, or it was not
    asked, or did not answer. Run once, by one thread."""

    __slots__ = ("_bound", "_claims", "_context", "_found", "_keys", "_since")

    def __init__(
        self,
        context: Context,
        bound: Bound,
        keys: Mapping[str, Any],
        claims: Mapping[str, Claim | ManyClaim],
        found: dict[str, Found] | None,
    ) -> None:
        self._context = context
        self._bound = bound
        self._keys = keys
        self._claims = claims
        self._found = found
        self._since = None if bound.l2 is None else bound.l2.since  # before anything is read

    def run(self) -> dict[str, Loaded]:
        """What ledger and L3 hold, by key text, filled upward where nothing happened to a key meanwhile.

        Raises `L3UnavailableError` or `L3RefusedError`, `UnavailableError` where Redis did not answer either, and
        `DecodeError` for a row that cannot be read, once the others are filled.
        """
        return alone(self.steps())

    def steps(self) -> Steps[dict[str, Loaded]]:
        """Those of `run`."""
        try:
            return (yield from self._run())
        except BaseException as error:
            self.broken_off(error)
            raise

    def broken_off(self, error: BaseException) -> None:
        """What comes from outside ends the load: the leases that were left for it are others' to have."""
        l2, found = self._bound.l2, self._found
        if l2 is None or not found:
            return
        leased: dict[str, list[str]] = {}
        for key_text in self._keys:
            if found[key_text].state is State.LEASED:
                leased.setdefault(found[key_text].token, []).append(key_text)
        for token, key_texts in leased.items():
            l2.broken_off(error, token, key_texts)

    @property
    def _intended(self) -> bool:
        found = self._found or {}
        return any(found[text].state is State.BUSY for text in self._keys if text in found)

    def _run(self) -> Steps[dict[str, Loaded]]:
        context, bound = self._context, self._bound
        began = context.clock.monotonic()
        pending = (yield Handed(context, bound, list(self._keys))) if bound.deferred else {}
        past = self._found is None and bound.l2 is not None
        claims = set(self._claims.values())
        for claim in claims:
            claim.brief = past or pending is None
        silent = past and any(claim.silent for claim in claims)
        loaded, unreadable = yield from self.beneath(pending or {})
        if silent:
            context.repairs.distrust()  # once more: L3 may have shown what an earlier look at the repairs missed
        bound.counters.l3_hits += len([1 for item in loaded.values() if item.record is not ABSENT and not item.pending])
        yield from self.fill(loaded, began)
        if unreadable:
            raise unreadable[0]
        return loaded

    def beneath(self, pending: Mapping[str, Pending]) -> Steps[tuple[dict[str, Loaded], list[DecodeError]]]:
        """What L3 holds under what the ledger was found to hold; and the errors of the rows that cannot be read.

        Where L3 is away, what is pending as a whole is the newest, unless the ledger was not told of a newer write of
        this process, or somebody's commit, which may have happened, has left its intent in L2.
        """
        bound, keys, observe = self._bound, self._keys, self._context.versions.observe
        loaded: dict[str, Loaded] = {}
        unreadable: list[DecodeError] = []
        try:
            rows: Mapping[Any, Row | None] = yield RowsOf(bound, list(keys.values()))
            for text, key in waits.in_turns(keys.items()):
                try:
                    row, entry = rows.get(key), pending.get(text)
                    if row is not None and entry is None:
                        item = loaded[text] = Loaded(bound.record(row.values), row.version)
                    else:
                        item = loaded[text] = _joined(bound, key, text, row, entry)
                except DecodeError as error:
                    unreadable.append(error)
                else:
                    observe(item.version)
        except WITHOUT_L3 as error:
            whole = {text: joined(bound, None, entry) for text, entry in pending.items() if not entry.partial}
            if len(whole) == len(keys) and not self._context.repairs.skips(bound, keys) and not self._intended:
                return whole, []
            away = isinstance(error, L3UnavailableError) and not self._context.awaits_postgres
            if away and self._found is None and bound.l2 is not None:
                raise UnavailableError(
                    f"neither Redis nor PostgreSQL answered for schema {bound.name!r}; check both"
                ) from error
            raise
        return loaded, unreadable

    def fill(self, loaded: Mapping[str, Loaded], began: float) -> Steps[None]:
        """Fill upward what was loaded, as new as `began`, where nothing has happened to a key meanwhile."""
        bound, allowed = self._bound, (yield from self._fill_l2(loaded))
        fills: list[FillL1] = []
        for text, (record, version, pending) in waits.in_turns(loaded.items()):
            claim, key = self._claims[text], self._keys[text]
            if text not in allowed:
                bound.l1.met(claim, key, None if record is ABSENT else version)
            elif record is ABSENT:
                bound.l1.fill_absent(claim, key, None, began)
            elif bound.l1.store is not None:
                fills.append((claim, key, bound.plan.freeze(record), version, pending))
        if fills:
            fill_l1(bound, fills, began)

    def _fill_l2(self, loaded: Mapping[str, Loaded]) -> Steps[Collection[str]]:
        """The keys that may enter L1 too: what L2 refuses does not, what L2 could not be asked of may."""
        bound, found = self._bound, self._found
        if bound.l2 is None or found is None:
            return loaded.keys()
        by_token: dict[str, list[Put]] = {}
        for text, item in loaded.items():
            answer = found[text]
            if answer.state is State.LEASED or answer.raw:
                by_token.setdefault(answer.token, []).append(_put(bound, text, item, self._since))
        allowed: set[str] = set()
        for token, puts in by_token.items():
            try:
                stood = (yield Fill(bound.l2, token, puts)) if token else bound.l2.refresh(found, puts)
            except WITHOUT_L2:
                break
            allowed |= stood
            if len(stood) < len(puts):
                refused = [put for put in puts if put.record is not None and put.key_text not in stood]
                bound.counters.stale_fills += len(refused)
        return allowed


def found_below(context: Context, bound: Bound, key: Any, key_text: str, pending: Mapping[str, Pending]) -> Loaded:
    """What L3 holds of one key under what the ledger was found to hold; nothing is filled. Raises as `run` does."""
    loaded, unreadable = alone(Load(context, bound, {key_text: key}, {}, {}).beneath(pending))
    if unreadable:
        raise unreadable[0]
    return loaded[key_text]


def askable(context: Context, bound: Bound, key_texts: Collection[str]) -> L2Tier | None:
    """L2, where there is one, and it may be asked for these keys."""
    if bound.l2 is not None and bound.l3 is not None and context.repairs.skips(bound, key_texts):
        bound.counters.l2_skips += 1
        return None
    return bound.l2


def unanswered(context: Context, bound: Bound, claim: Claim | ManyClaim) -> None:
    """L2 did not answer, and L3 is to be asked in its place."""
    bound.counters.l2_skips += 1
    context.repairs.distrust()
    claim.silent = True


def answered(
    context: Context, bound: Bound, claim: Claim | ManyClaim, key: Any, found: Found, began: float
) -> Loaded | None:
    """What L2's answer ends the way of a key with: a value, which is yet to enter L1, or a tombstone; else None. Where
    there is a value, fresh or stale, the claim is the key's own."""
    state = found.state
    if state is State.VALUE:
        context.versions.observe(found.version)
        claim.life = found.life
        return Loaded(found.record, found.version, found.pending)
    if state is State.TOMBSTONE:
        context.versions.observe(found.version)
        bound.counters.negative_hits += not found.version
        bound.l1.fill_absent(claim, key, found.version or None, began)
        return Loaded(ABSENT, found.version)
    if state is State.STALE:
        assert isinstance(claim, Claim)
        bound.l1.claims.offer(claim, Loaded(found.record, found.version, found.pending))
    return None


def nowhere(bound: Bound, claim: Claim | ManyClaim, key: Any, began: float) -> Loaded:
    """There is no tier below that could have the key."""
    if bound.l1.absences is not None:
        bound.l1.fill_absent(claim, key, None, began)
    return NOTHING


def fill_l1(bound: Bound, fills: Sequence[FillL1], began: float) -> None:
    """Put these into L1 where the claims are still good."""
    if bound.l1.store is not None:
        bound.counters.stale_fills += len(bound.l1.fill_many(fills, began))


def overtaken(bound: Bound, record: Any, began: float, until: float) -> bool:
    """Whether what was shared is too old for who asked at `until`: its tags were invalidated between that and `began`,
    when it began to be read (monotonic times)."""
    if bound.tagger is None or record is ABSENT:
        return False
    return bound.l1.overtaken(bound.tagger(record), began, until)


def stale_of(context: Context, bound: Bound, claim: Claim) -> Loaded | None:
    """The newest of a key that is known, and that nothing heard has outdated, where it may be served; else None."""
    if not bound.freshness.fail_safe:
        return None
    now = context.clock.monotonic()
    entry = bound.l1.stale(claim.key, now)
    stale: Loaded | None = claim.stale
    if stale is not None and overtaken(bound, stale.record, claim.born, now):
        stale = None
    if entry is not None and (stale is None or stale.version <= entry.version):
        return Loaded(bound.plan.thaw(entry.value), entry.version, entry.pending)
    return stale


def _joined(bound: Bound, key: Any, key_text: str, row: Row | None, entry: Pending | None) -> Loaded:
    """What ledger and L3 hold together, with what else L3 knows of the key, where that matters."""
    if entry is None or (row is not None and not _is_noted(row, entry)):
        return joined(bound, row, entry)
    with bound.rows.primary.connection() as conn:
        note, table = None, bound.rows.table
        if row is not None:
            row, note = _noted(conn, table, row, key, key_text)
        # One that went around the ledger, while that was away, leaves an older write there.
        deletion = 0 if row is not None else table.tombstone(conn, key_text)
    return joined(bound, row, entry, deletion, note)


def _is_noted(row: Row, entry: Pending) -> bool:
    """Whether what is noted of a row matters: to what is added to it, or to columns that are not newer than it."""
    if entry.adds or entry.deleted:
        return entry.adds
    return entry.oldest < row.version or entry.oldest == row.version < entry.version


def _noted(conn: Any, table: Table, row: Row, key: Any, key_text: str) -> tuple[Row | None, RowNote | None]:
    """A row, and a note that is not of a later one."""
    found: Row | None = row
    while found is not None:
        note = table.note_of(conn, key_text)
        if note is None or note.version <= found.version:
            return found, note
        found = table.get(conn, key)
    return None, None


def joined(
    bound: Bound, row: Row | None, pending: Pending | None, deletion: int = 0, note: RowNote | None = None
) -> Loaded:
    """What ledger and L3 hold together: the newer one, or, of a partial write, its columns over the row.

    `deletion` is the version at which L3 knows that there is no row; `note` is what is noted of the row, where that
    matters.
    """
    if pending is not None and (pending.adds or (row is not None and _is_noted(row, pending))):
        names, keys = bound.plan.column_names, bound.plan.key.names
        held = Standing.gone(deletion) if row is None else Standing.of(names, row.version, row.values, note)
        came = [held.lay(step, names, keys) for step in pending.steps]
        if held.values is None:
            return Loaded(ABSENT, held.version)
        record = bound.record(tuple(held.values[name] for name in names))
        return Loaded(record, held.version, any(came))
    if pending is not None and not pending.partial and pending.oldest > (deletion if row is None else row.version):
        record = ABSENT if pending.deleted else bound.record(pending.values, pending.names)
        return Loaded(record, pending.version, True)
    if row is None:
        return Loaded(ABSENT, deletion)
    record = bound.record(row.values)
    if pending is None or pending.version <= row.version:
        return Loaded(record, row.version)
    over = bound.record(pending.values, pending.names)
    return Loaded(bound.plan.merge(record, over), pending.version, True)


def _put(bound: Bound, key_text: str, loaded: Loaded, since: int | None) -> Put:
    """What L2 is to hold of what was found below."""
    record = None if loaded.record is ABSENT else bound.plan.cached(loaded.record)
    return Put(key_text, loaded.version, record, pending=loaded.pending, absent=record is None, since=since)
