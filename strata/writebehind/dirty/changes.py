"""From deferred writes to changes of L3, and back from what L3 kept to records."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from msgspec.structs import replace

from strata.bound import Bound
from strata.encryption_keys import key_id_of
from strata.errors import DecodeError
from strata.l3.diagnosis import BatchError, Diagnosis
from strata.l3.sqlstates import Failure
from strata.l3.values import Applied, Change, Status
from strata.model.columns import Column
from strata.model.numbers import exact_in
from strata.model.plan import UnknownColumnError
from strata.protocol.added import Added
from strata.protocol.entry import Entry, EntryOp
from strata.protocol.shards import shard_of

if TYPE_CHECKING:
    from strata.writebehind.dirty.slot import Buffered


def key_of(bound: Bound, key_text: str) -> Any:
    """The key of a text out of Redis or a file. Raises `DecodeError` for what is no key of the schema."""
    try:
        key_text.encode()
    except UnicodeEncodeError:  # bytes that are no UTF-8 come as surrogates
        raise DecodeError("a key is not UTF-8; it must be what key_text made") from None
    return bound.plan.parse_key(key_text)


def row_of(bound: Bound, key: Any, entry: Entry) -> tuple[tuple[str, ...], tuple[Any, ...]]:
    """The columns and values of an entry that is no deletion.

    Whoever may write to Redis could have made it: nothing gets out of here that no `set` of this schema could have put
    in. Raises `UnknownColumnError` for what a newer release wrote, and `DecodeError` for what fits the schema not.
    """
    plan = bound.plan
    names, values = plan.unpack_row(entry.row)
    whole = names == plan.column_names
    plan.vet(values, _sealed, None if whole else names)
    if (plan.key_of_row(values) if whole else plan.key.within(dict(zip(names, values, strict=True)))) != key:
        raise DecodeError(f"its {plan.key.spelled} is not the key that it stands under", column=plan.key.names[0])
    return names, values


def added_of(bound: Bound, added: Added) -> Added:
    """What an entry adds, in numbers. Raises `UnknownColumnError` for what a newer release wrote, and `DecodeError` for
    what fits the schema not."""
    found = []
    for series in added:
        name = series.column
        if name not in bound.plan.column_names:
            raise UnknownColumnError(f"it adds to the column {name!r}, which the model has not")
        kind = bound.plan.numbers.get(name)
        if kind is None:
            raise DecodeError(f"it adds to {name}, which is no column of numbers", column=name)
        try:
            found.append(series.in_form(exact_in(kind)))
        except (ValueError, ArithmeticError, TypeError):
            raise DecodeError(f"what it adds to {name} is no number", column=name) from None
    return tuple(found)


def in_text(added: Added) -> Added:
    """What a write adds, as an entry has it."""
    return tuple(series.in_form(str) for series in added)


def default_of(bound: Bound, key: Any, key_text: str, entry: Entry) -> tuple[Any, ...] | None:
    """The row that an entry has in the place of none. Raises as `row_of` does."""
    if not entry.default:
        return None
    names, values = row_of(bound, key, replace(entry, row=entry.default))
    if names == bound.plan.column_names:
        return values
    return widened(bound, Change(key, key_text, entry.version, False, names, values), entry).values


def _sealed(text: str) -> bool:
    return key_id_of(text) is not None


def of_entry(bound: Bound, key: Any, key_text: str, entry: Entry) -> Change:
    """The change of an entry of the ledger. Raises as `row_of` does."""
    if entry.op is EntryOp.DELETE:
        return Change(key, key_text, entry.version, delete=True)
    names, values = row_of(bound, key, entry)
    whole = entry.op is not EntryOp.PARTIAL and names == bound.plan.column_names
    carried = None if whole else names
    if not entry.added and not entry.default:
        return Change(key, key_text, entry.version, False, carried, values, entry.ages, deleted=entry.deleted)
    added, default = added_of(bound, entry.added), default_of(bound, key, key_text, entry)
    return Change(key, key_text, entry.version, False, carried, values, entry.ages, added, default, entry.deleted)


def of_item(bound: Bound, key: Any, key_text: str, item: Buffered) -> Change:
    """The change of a buffered write."""
    if (record := item.record) is None:
        return Change(key, key_text, item.version, delete=True)
    row = bound.plan.to_row(record, bound.cipher)
    if not item.partial:
        return Change(key, key_text, item.version, False, None, row, item.ages, item.added)
    missing = set(bound.plan.unloaded(record))
    pairs = [(name, value) for name, value in zip(bound.plan.column_names, row, strict=True) if name not in missing]
    names, values = tuple(n for n, _ in pairs), tuple(v for _, v in pairs)
    default = None if item.default is None else bound.plan.to_row(item.default, bound.cipher)
    return Change(key, key_text, item.version, False, names, values, item.ages, item.added, default, item.deleted)


def in_order(bound: Bound, change: Change) -> list[Change]:
    """The writes of which a change is made, each of one version, oldest first: of a whole row that row, and, as every
    other, what was laid over it. The last has the change's own version, if no column of its own, and what it adds."""
    if not change.in_steps:
        return [change]
    names, keys = bound.plan.column_names if change.names is None else change.names, bound.plan.key.names
    given = dict(zip(names, change.values or (), strict=True))
    ages = dict(change.ages)
    by_version: dict[int, list[str]] = {change.version: []}
    for name in names:
        if name not in keys:
            by_version.setdefault(ages.get(name, change.version), []).append(name)
    bare = Change(change.key, change.key_text, change.version)
    found = [replace(bare, version=change.deleted, delete=True)] if change.deleted else []
    whole = change.names is None
    for version, some in sorted(by_version.items()):
        if whole:
            found.append(replace(bare, version=version, values=change.values))
            whole = False
        else:
            carried = (*keys, *some)
            found.append(replace(bare, version=version, names=carried, values=tuple(given[name] for name in carried)))
    if change.adds and found[-1].names is None:
        found.append(replace(bare, names=keys, values=bound.plan.key.parts(change.key)))
    found[-1] = replace(found[-1], added=change.added, default=change.default)
    return found


def widened(bound: Bound, change: Change, entry: Entry) -> Change:
    """The whole row of one that an older process wrote: the columns that it did not know get their defaults."""
    given = dict(zip(change.names or (), change.values or (), strict=True))
    for column in bound.plan.forms:
        if column.field.name not in given:
            given[column.field.name] = _default(bound, column, change.key_text, entry)
    return replace(change, names=None, values=tuple(given[name] for name in bound.plan.column_names))


def kept(change: Change, applied: Applied) -> bool:
    """Whether L3 has, or may have, other values than were written."""
    return applied.kept is not None and not change.delete


def as_kept(bound: Bound, change: Change, applied: Applied) -> Any:
    """The record as L3 has it, of a whole row of which L3 has other values than were written."""
    assert change.values is not None and applied.kept is not None
    held = dict(zip(bound.plan.column_names, change.values, strict=True))
    held |= zip(applied.kept_names, applied.kept, strict=True)
    return bound.record(tuple(held.values()))


def apply(bound: Bound, conn: Any, wanted: Sequence[Change]) -> list[Applied]:
    """As `Table.apply`, of changes that may be made of several writes, each of which L3 judges by its own version.

    Raises `BatchError`, too, for a record of which the table makes what cannot be read back, and which would be in the
    way of those beside it ever after.
    """
    if not any(change.in_steps for change in wanted):
        return _apply(bound, conn, wanted)
    if bound.rows.table.locked:  # at once, as the last ones need them: who asked for more later would wait in a circle
        bound.rows.table.lock_shards(conn, {shard_of(change.key_text): True for change in wanted})
    left = {place: in_order(bound, change) for place, change in enumerate(wanted)}
    answers: dict[int, Applied] = {}
    while left:  # no key twice at once
        places = list(left)
        try:
            applied = _apply(bound, conn, [left[place].pop(0) for place in places])
        except BatchError as error:
            error.at(places)
            raise
        for place, answer in zip(places, applied, strict=True):
            answers[place] = _both(answers[place], answer) if place in answers else answer
        left = {place: changes for place, changes in left.items() if changes}
    return [answers[place] for place in range(len(wanted))]


def _both(before: Applied, after: Applied) -> Applied:
    """The answer to a write, and to one that was laid over it."""
    if before.status not in (Status.APPLIED, Status.SUPERSEDED):
        return before
    kept, names = (before.kept, before.kept_names) if after.kept is None else (after.kept, after.kept_names)
    return replace(after, late=before.late or after.late, kept=kept, kept_names=names)


def _apply(bound: Bound, conn: Any, wanted: Sequence[Change]) -> list[Applied]:
    applied, key = bound.rows.table.apply(conn, wanted), bound.plan.key
    for index, (change, answer) in enumerate(zip(wanted, applied, strict=True)):
        if answer.kept is None or change.delete:
            continue
        added = [series.column for series in change.added]
        carried = bound.plan.column_names if change.names is None else (*change.names, *added)
        held = {name: value for name, value in zip(answer.kept_names, answer.kept, strict=True) if name in carried}
        try:
            bound.record((*key.parts(change.key), *held.values()), (*key.names, *held))
        except DecodeError as error:
            raise BatchError(Diagnosis(Failure.PERMANENT, message=str(error)), index) from error
    return applied


def _default(bound: Bound, column: Column, key_text: str, entry: Entry) -> Any:
    field = column.field
    if field.stamped:
        return datetime.fromtimestamp(entry.since / 1000, UTC)
    if field.factory is None:
        return None if field.default is None else field.default.value
    value = column.to_row(column.settle(field.factory()))
    return value if value is None or not field.encrypted else bound.cipher.encrypt(field.name, key_text, value)
