"""One write of a key laid over another that is pending: each column keeps the version of the write that gave it."""

from __future__ import annotations

from collections.abc import Sequence

from msgspec.structs import replace

from strata.protocol.added import beyond, rejoined
from strata.writebehind.dirty.owner import Owner
from strata.writebehind.dirty.slot import Accepted, Buffered, Slot


def coalesced(owner: Owner, slot: Slot, item: Buffered) -> tuple[Buffered | None, Accepted]:
    """What takes the place of a slot's write where another comes, None where that stays; and what became of that."""
    old, version = slot.item, item.version
    if version == old.version:
        return None, Accepted(version)  # the same write, out of a journal that was read before
    if version < old.version:
        return _overtaken(owner, slot, item)
    if item.partial and not old.deletes:
        return laid(owner, slot.schema, old, item), Accepted(version)
    if item.partial and not slot.overtaken:
        if item.default is None:
            return None, Accepted(version, orphan=True)
        added = beyond(item.added, lambda column: old.version)
        return replace(item, deleted=old.version, added=added), Accepted(version)
    return item, Accepted(version)


def laid(owner: Owner, schema: str, under: Buffered, over: Buffered) -> Buffered:
    """A newer write of some columns, or one that adds to some, over another."""
    base, top = under.record, over.record
    beneath, carried = owner.carried(schema, base), owner.carried(schema, top)
    if beneath == carried and under.partial and not under.ages and not over.ages and not _writes(carried, under, over):
        default = over.default if under.default is None else under.default
        added = rejoined(under.added, over.added)
        return Buffered(over.version, top, True, (), added, default, under.deleted, span=over.span)
    older = dict.fromkeys(beneath, under.version) | dict(under.ages)
    for name in carried:
        older.pop(name, None)
    record = owner.merge(schema, base, top)
    written = older | dict.fromkeys(carried, over.version) | dict(over.ages)
    added = beyond(rejoined(under.added, over.added), lambda column: written.get(column, 0))
    default = (over.default if under.default is None else under.default) if under.partial else None
    ages = (*sorted(older.items()), *over.ages)
    return Buffered(over.version, record, under.partial, ages, added, default, under.deleted, span=over.span)


def _writes(carried: Sequence[str], *items: Buffered) -> bool:
    """Whether one of the columns that are written is added to as well."""
    return any(series.column in carried for item in items for series in item.added)


def _overtaken(owner: Owner, slot: Slot, item: Buffered) -> tuple[Buffered | None, Accepted]:
    """A write that was stamped before what is here comes after it, out of a journal or the dead letters."""
    old, accepted = slot.item, Accepted(item.version)
    if old.oldest < item.version or item.added or old.added:
        return None, Accepted(item.version, room=False)  # it is between what was laid one over the other
    if not old.partial or item.deletes:
        return None, accepted
    # It is what the other left out. A version of its own, since the ledger may have the other one already.
    both = laid(owner, slot.schema, item, old)
    ages = dict.fromkeys(owner.carried(slot.schema, both.record), old.version) | dict(both.ages)
    return Buffered(owner.stamp(), both.record, item.partial, tuple(sorted(ages.items()))), accepted
