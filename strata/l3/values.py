"""What goes to L3 and comes back, as everybody knows it: no driver is imported for it."""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import msgspec

from strata.protocol.added import Added
from strata.protocol.entry import Ages


class Status(enum.Enum):
    """What became of a change.

    APPLIED: L3 has just this version, now or from an earlier try. SUPERSEDED: L3 has a newer one. MISSING_ROW: a
    partial change has no row. BELOW_HORIZON: it may have been deleted so long ago that nobody knows. SWALLOWED: L3 has
    what it had, which is older, since a trigger or rule of the table made nothing of the change.
    """

    APPLIED = "applied"
    SUPERSEDED = "superseded"
    MISSING_ROW = "missing_row"
    BELOW_HORIZON = "below_horizon"
    SWALLOWED = "swallowed"


class Change(msgspec.Struct, frozen=True, gc=False):
    """One key's pending change. `names` are the columns it carries, None all of them; `values` are theirs, in order.
    `ages`: columns that are older than `version`, with theirs, and `deleted` the version of a deletion that comes
    before all of it; see `writebehind.dirty.changes.apply`. `added` is what is added to columns, in numbers, and
    `default` the row to which, where there is none."""

    key: Any
    key_text: str
    version: int
    delete: bool = False
    names: tuple[str, ...] | None = None
    values: tuple[Any, ...] | None = None
    ages: Ages = ()
    added: Added = ()
    default: tuple[Any, ...] | None = None
    deleted: int = 0

    @property
    def adds(self) -> bool:
        """Whether it depends on what the row holds."""
        return bool(self.added) or self.default is not None

    @property
    def in_steps(self) -> bool:
        """Whether it is made of several writes."""
        return bool(self.ages) or self.adds or bool(self.deleted)


class Applied(msgspec.Struct, frozen=True, gc=False):
    """The answer to a change.

    `version` is the one that L3 holds now, as a row or as a tombstone; 0 is none. Where the row holds other values
    than were sent, or may do so in columns that were not, `kept` are those of all columns, `kept_names`, of which that
    can be. `late`: the row is newer, but got the columns that newer writes had not carried. `row`: all of it
    as it is then, where that is known of one that was added to, and `counted` the version up to which it has what each
    instance has added.
    """

    key: Any
    status: Status
    version: int
    kept: tuple[Any, ...] | None = None
    kept_names: tuple[str, ...] = ()
    late: bool = False
    row: tuple[Any, ...] | None = None
    counted: Mapping[str, int] = {}


class Repair(NamedTuple):
    """A write that reached L3 and of which L2 does not know; without a key: anything of the schema may be."""

    key_text: str
    version: int


FIRST = Repair("", -1)  # which every repair of a key follows


class Held(NamedTuple):
    """The keys of rows that are locked. `named` has those with a text, by it: another program may have given a row a
    key that is none to Strata, and of which nobody can have written, or cached, a record."""

    keys: Sequence[Any]
    named: Mapping[str, Any]


class Assigned(NamedTuple):
    """The values that rows get, in the order of the plan's columns, UNLOADED for none; those of a column that is
    `sealed` are ciphertexts, one for each row."""

    values: Sequence[Any]
    sealed: Mapping[str, Sequence[str]]
