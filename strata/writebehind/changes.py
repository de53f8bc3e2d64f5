"""From deferred writes to changes of L3, and back from what L3 kept to records."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from msgspec.structs import replace

from strata.bound import Bound
from strata.l3.table import Applied, Change
from strata.model.columns import Column
from strata.writebehind.buffer import Buffered
from strata.writebehind.entry import Entry, Op


def of_entry(bound: Bound, key_text: str, entry: Entry) -> Change:
    """The change of an entry of the ledger. Raises `DecodeError` or `ValueError` for what this process cannot read."""
    key = bound.plan.parse_key(key_text)
    if entry.op is Op.DELETE:
        return Change(key, key_text, entry.version, delete=True)
    names, values = bound.plan.unpack_row(entry.row)
    whole = entry.op is Op.SET and names == bound.plan.column_names
    return Change(key, key_text, entry.version, False, None if whole else names, values)


def of_item(bound: Bound, key: Any, key_text: str, item: Buffered) -> Change:
    """The change of a buffered write."""
    if item.record is None:
        return Change(key, key_text, item.version, delete=True)
    row = bound.plan.to_row(item.record, bound.cipher)
    if not item.partial:
        return Change(key, key_text, item.version, False, None, row)
    missing = set(bound.plan.unloaded(item.record))
    pairs = [(name, value) for name, value in zip(bound.plan.column_names, row, strict=True) if name not in missing]
    return Change(key, key_text, item.version, False, tuple(n for n, _ in pairs), tuple(v for _, v in pairs))


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


def _default(bound: Bound, column: Column, key_text: str, entry: Entry) -> Any:
    field = column.field
    if field.stamped:
        return datetime.fromtimestamp(entry.since / 1000, UTC)
    if field.factory is None:
        return None if field.default is None else field.default.value
    value = column.to_row(column.settle(field.factory()))
    return value if value is None or not field.encrypted else bound.cipher.encrypt(field.name, key_text, value)
