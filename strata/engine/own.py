"""What this process knows of a key by itself, without asking a tier below: its own writes, and remembered absences."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from msgspec.structs import replace

from strata.bound import Bound
from strata.engine.context import ABSENT, Context
from strata.engine.load import NOTHING, Loaded, found_below
from strata.l1.trust import BUS_GRACE
from strata.protocol.added import total

if TYPE_CHECKING:
    from strata.writebehind.dirty.slot import OwnWrite


def known_here(
    context: Context, bound: Bound, id: Any, now: float, absent: bool = True
) -> tuple[Loaded | None, OwnWrite | None]:
    """What a read gets of a key that L1 does not have, None where it must be loaded; and, to be laid over what is
    loaded, this process's own write. `absent`: an absence that L1 remembers counts."""
    bound.counters.gets += 1
    own = own_write(context, bound, id, now) if bound.deferred else None
    if own is not None and own.newest and not own.partial:
        bound.counters.l1_hits += own.record is not None
        return Loaded(_laid_over(bound, own, NOTHING)), own
    if own is None and absent and bound.l1.absences is not None and bound.l1.absent(id, now):
        bound.counters.negative_hits += 1
        return NOTHING, None
    return None, own


def own_write(context: Context, bound: Bound, id: Any, now: float) -> OwnWrite | None:
    """This process's own write of the key, which nobody below has yet.

    Where the process may have missed what others have written since, an own write is as old as anything that it knows:
    after the same second as what L1 has read from below it is compared with what is below, also when the bus is back.
    """
    own = context.pending(bound, id)
    if own is None or not own.newest or bound.l1.trust.heard(own.born, now) or now < own.born + BUS_GRACE:
        return own
    return replace(own, newest=False, doubted=True)


def instead(bound: Bound, own: OwnWrite | None) -> Loaded | None:
    """What is shown where the tiers below cannot be asked; None where nothing may be."""
    return Loaded(_laid_over(bound, own, NOTHING)) if own is not None and own.doubted and not own.partial else None


def shown(context: Context, bound: Bound, id: Any, key_text: str, own: OwnWrite, loaded: Loaded) -> Any:
    """What a read shows of this process's own write and of what it has found below. Raises as L3 does."""
    if loaded.record is ABSENT and not loaded.version and not own.newest:
        loaded = Loaded(ABSENT, _buried(bound, key_text))
    if own.added and loaded.version >= own.oldest:
        return _together(context, bound, id, key_text)
    if own.in_parts and loaded.version > own.oldest and _matters(own, loaded):
        return _decided(context, bound, id, key_text)
    return _laid_over(bound, own, loaded)


def _matters(own: OwnWrite, loaded: Loaded) -> bool:
    """Whether it is shown in any case: of some columns only, it is nothing where there is no record."""
    return loaded.record is not ABSENT or not own.partial


def _decided(context: Context, bound: Bound, id: Any, key_text: str) -> Any:
    """An own write of some columns, or with some that are older, and something newer, which may have been one of other
    columns: L3 alone knows. So it gets the write now. Raises as L3 does: either could be the older one."""
    assert context.writebehind is not None
    context.writebehind.persist_own(bound, id)
    pending = context.handed_off(bound, [key_text]) or {}
    return found_below(context, bound, id, key_text, pending).record


def _together(context: Context, bound: Bound, id: Any, key_text: str) -> Any:
    """What was added here, and something newer below, which may have it in it or not: the row says what it has. Raises
    as L3 does."""
    assert context.writebehind is not None
    found = (context.handed_off(bound, [key_text]) or {}).get(key_text)
    pending = context.writebehind.with_own(bound, id, key_text, found)
    return found_below(context, bound, id, key_text, {} if pending is None else {key_text: pending}).record


def _laid_over(bound: Bound, own: OwnWrite, loaded: Loaded) -> Any:
    """The newer one, or, of a partial write, its columns over the record that is there."""
    if loaded.version > own.version:
        return loaded.record
    if own.added:
        return _added_to(bound, own, loaded)
    if not own.partial:
        return ABSENT if own.record is None else bound.plan.copy(own.record)
    return ABSENT if loaded.record is ABSENT else bound.plan.merge(loaded.record, own.record)


def _added_to(bound: Bound, own: OwnWrite, loaded: Loaded) -> Any:
    """What this process has added, over a record that has none of it."""
    base = loaded.record
    if base is ABSENT or loaded.version <= own.deleted:
        base = ABSENT if own.default is None else own.default
    record = bound.plan.copy(own.record) if not own.partial else ABSENT
    if own.partial and base is not ABSENT:
        record = bound.plan.merge(base, own.record)
    if record is ABSENT:
        return ABSENT
    deltas = {series.column: total(own.added, series.column, 0) for series in own.added}
    sum_ = bound.plan.counted(record, deltas)
    return record if sum_ is None else sum_


def _buried(bound: Bound, key_text: str) -> int:
    """The version at which a record was deleted, as far as L3 remembers it, else 0."""
    with bound.rows.primary.connection() as conn:
        return bound.rows.table.tombstone(conn, key_text)
