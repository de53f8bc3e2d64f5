"""What a row holds under changes that arrive in any order, by the version of each: what L3's statements come to.

Reads lay what is pending over a row by it, and what is added to a row is reckoned by it, in the transaction that has
locked the row.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec

from strata.l3.values import Change
from strata.model.numbers import exact_in, plus, raised
from strata.protocol.added import Added, joined, newest, thinned, total
from strata.protocol.versions import NODE_BITS

KEPT = 16  # points of a series that stay with a row: a write that comes late is in order with what was added since
# Time for which a series stays that is not added to, as a version's: as long as tombstones do, unless that was changed.
# What is written behind, and held up for longer, may not be as it was meant.
KEPT_FOR = 7 * 86_400_000_000 << NODE_BITS


@dataclass(slots=True)
class Standing:
    """A row, or none: `values` by column, `version` that of the row or of its deletion. `base` is when it was last
    written whole, `columns` when which was since, `changed` when which was changed by who knew what the row held, and
    `added` what was added to it, all of it in `values`."""

    values: dict[str, Any] | None
    version: int
    base: int = 0
    columns: dict[str, int] = field(default_factory=dict)
    added: Added = ()
    changed: dict[str, int] = field(default_factory=dict)

    @staticmethod
    def of(names: Sequence[str], version: int, values: Sequence[Any], note: RowNote | None) -> Standing:
        """A row with its note, which is good if it is of the row's version."""
        held = dict(zip(names, values, strict=True))
        if note is None or note.version != version:
            return Standing(held, version, version)
        return Standing(held, version, note.base, dict(note.columns), note.added, dict(note.changed))

    @staticmethod
    def gone(deletion: int) -> Standing:
        """No row, since a deletion at this version."""
        return Standing(None, deletion, deletion)

    def lay(self, change: Change, names: Sequence[str], keys: Sequence[str]) -> bool:
        """Take a change of one version; whether anything came of it. `names` are all columns, `keys` the key's."""
        if change.delete:
            return self._delete(change.version)
        if change.names is None:
            return self._put(change.version, dict(zip(names, change.values or (), strict=True)))
        given = dict(zip(change.names, change.values or (), strict=True))
        for name in keys:
            given.pop(name, None)
        if not change.adds:
            return self._write(change.version, given)
        default = None if change.default is None else dict(zip(names, change.default, strict=True))
        return self._add(change.version, given, change.added, default)

    def written(self, column: str) -> int:
        """When a column was last written by who did not look: what had been added by then is gone."""
        return self.columns.get(column, self.base)

    def decided(self, column: str) -> int:
        """When a column was last written, or changed: no older write gives it its value."""
        return max(self.written(column), self.changed.get(column, 0))

    def _delete(self, version: int) -> bool:
        if version <= self.version:
            return False
        self._replace(None, version)
        return True

    def _replace(self, values: dict[str, Any] | None, version: int) -> None:
        self.values, self.version, self.base, self.columns, self.added = values, version, version, {}, ()
        self.changed = {}

    def _put(self, version: int, given: dict[str, Any]) -> bool:
        if self.values is None or version > self.version:
            if version <= self.version:
                return False
            self._replace(given, version)
            return True
        if version <= self.base:
            return False
        came = self._write(version, given)
        self.columns = apart(self.base, self.columns, self.changed, version)
        self.base = version
        return came

    def _write(self, version: int, given: dict[str, Any]) -> bool:
        if self.values is None:
            return False
        came = False
        for name, value in given.items():
            if self.decided(name) < version:
                self.values[name] = on_top(value, self.added, name, version)
                self.columns[name] = version
                came = True
        self.version = max(self.version, version)
        return came

    def _add(self, version: int, given: dict[str, Any], added: Added, default: dict[str, Any] | None) -> bool:
        if self.values is None:
            # The version may be one that was raised above another's, where they met.
            if default is None or newest(added) <= self.version:
                return False
            self.values = default
        before, after = self.added, joined(self.added, added)
        self.added = _kept(after)
        came = self._write(version, given)
        for column in dict.fromkeys(series.column for series in added):
            at = self.written(column)
            more = plus(total(after, column, at), total(before, column, at), -1)
            if more:
                self.values[column] = raised(self.values[column], more)
                came = True
        self.version = max(self.version, version)
        return came


class RowNote(msgspec.Struct, frozen=True):
    """What is noted of a row (`strata.l3.partials`); good while the row has this version."""

    version: int
    base: int
    columns: Mapping[str, int]
    added: Added = ()
    changed: Mapping[str, int] = {}

    def decided(self, column: str) -> int:
        """As `Standing.decided`."""
        return max(self.columns.get(column, self.base), self.changed.get(column, 0))


class _Counted(msgspec.Struct, frozen=True, array_like=True):
    base: int
    added: Added


def counted_text(base: int, added: Added) -> str:
    """What was added to a row since it was written whole, for its note."""
    return msgspec.json.encode(_Counted(base, tuple(series.in_form(str) for series in added))).decode()


class _Noted(msgspec.Struct, frozen=True):
    """A row of `_strata_partials`, as JSON; an earlier release's has fewer columns."""

    version: int
    base: int
    columns: dict[str, int]
    counted: _Counted | None = None
    changed: dict[str, int] | None = None


def note_of(text: str, kinds: Mapping[str, Any]) -> RowNote:
    """A note as PostgreSQL has it; `kinds` are the types of numbers, by column. What was added under another base is in
    the row, or was written over."""
    found = msgspec.json.decode(text, type=_Noted)
    added: Added = ()
    if found.counted is not None and found.counted.base == found.base:
        known = [series for series in found.counted.added if series.column in kinds]
        added = tuple(series.in_form(exact_in(kinds[series.column])) for series in known)
    return RowNote(found.version, found.base, found.columns, added, found.changed or {})


def apart(base: int, columns: Mapping[str, int], changed: Mapping[str, int], version: int) -> dict[str, int]:
    """When the columns were written of which a write of all of them, that comes late, is not the last: those that
    were `changed` later were so without it, and it ends nothing that was added to them."""
    found = {name: at for name, at in columns.items() if at > version}
    return found | {name: columns.get(name, base) for name, at in changed.items() if at > version}


def on_top(value: Any, added: Added, column: str, version: int) -> Any:
    """What a column holds that was written at a version, with what was added to it since."""
    more = total(added, column, version)
    return raised(value, more) if more else value


def _kept(added: Added) -> Added:
    least = newest(added) - KEPT_FOR
    return tuple(
        msgspec.structs.replace(series, points=thinned(series.points, KEPT)) for series in added if series.last > least
    )
