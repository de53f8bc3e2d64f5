"""What a commit is about: the last word on each key, by schema."""

from __future__ import annotations

from collections.abc import Collection
from contextvars import ContextVar
from dataclasses import dataclass, field
from operator import attrgetter
from typing import TYPE_CHECKING, Any, Protocol

from strata.bound import Bound
from strata.errors import StrataError
from strata.l1.claims import ManyClaim

if TYPE_CHECKING:
    from strata.l3.values import Change as Pending


@dataclass(slots=True, eq=False)
class _Deciding:
    """A function decides on a record; `over` is set by who called it, when it has."""

    place: tuple[str, str]  # schema and key text
    over: bool = False


# What the code which runs now is inside of. A task or thread that is begun in it, with a copy of the context, is inside
# of it for as long as it goes on.
_deciding: ContextVar[tuple[_Deciding, ...]] = ContextVar("strata_deciding", default=())

UNDECIDED: Any = object()  # in the place of a record that the row decides on, or that was changed there and not read


class Decision(Protocol):
    """What is to become of a row, decided where nobody else can change it: it is called in the transaction, with the
    record that L3 has, or ABSENT, and gives the checked and stamped one to be written, perhaps with UNLOADED columns;
    in a schema without L3 also None, to delete it. What it raises ends the commit. It may be called more than once."""

    @property
    def inserts(self) -> bool:
        """Whether there must be no row, so that none is decided on."""
        ...

    @property
    def changes(self) -> bool:
        """Whether it makes the values of those that it was given, so that increments which were not in these, since
        nobody had handed them off yet, go on top."""
        ...

    def __call__(self, held: Any, /) -> Any: ...


def decide_on(bound: Bound, key_text: str, decision: Decision, held: Any) -> Any:
    """What is decided on a record, by a function of the user's perhaps."""
    mine = _Deciding((bound.name, key_text))
    token = _deciding.set((*_deciding.get(), mine))
    try:
        return decision(held)
    finally:
        mine.over = True
        _deciding.reset(token)


def check_outside(bound: Bound, key_texts: Collection[str]) -> None:
    """Raise `StrataError` in a function that decides on one of these records: it would wait for itself."""
    for deciding in _deciding.get():
        name, text = deciding.place
        if not deciding.over and name == bound.name and text in key_texts:
            raise StrataError(
                f"the function that decides on a record of schema {name!r} has written that very record; have it "
                "return what the record is to be"
            )


@dataclass(slots=True)
class KeyChange:
    """One key's last word in the batch: a checked, stamped record, or None for its deletion; where there is a `decide`,
    what that has decided on. `life`: seconds, where the record gets a life of its own."""

    id: Any
    key_text: str
    record: Any
    version: int = 0
    decide: Decision | None = None
    life: float | None = None

    @property
    def open(self) -> bool:
        """Whether what becomes of the row depends on it, so that what is pending must be in it."""
        return self.decide is not None or self.record is UNDECIDED


@dataclass(slots=True)
class SchemaChanges:
    """The changes of one schema, by key text."""

    bound: Bound
    changes: dict[str, KeyChange] = field(default_factory=dict)
    claims: list[ManyClaim] = field(default_factory=list)  # one for each life that records get
    rows: dict[str, tuple[Any, ...]] = field(default_factory=dict)
    inserting: bool = False  # whether there must be no row of any of the keys
    token: str = ""
    since: int | None = None  # `SchemaMarkers.since` before the intent
    intended: bool = False
    intending: bool = False  # whether the intent may stand in L2
    partial: set[str] = field(default_factory=set)  # keys of records that do not carry all columns
    beneath: dict[str, list[Pending]] = field(default_factory=dict)  # deferred writes under partial records, by key
    handed_off: dict[str, int] = field(default_factory=dict)  # the version of the one that the ledger has
    brought: dict[tuple[str, int], int] = field(default_factory=dict)  # what L3 holds with the commit in their place

    def add(self, change: KeyChange) -> None:
        """A later change of a key takes the earlier one's place, keeping what it did not load."""
        earlier = self.changes.pop(change.key_text, None)
        both = earlier is not None and earlier.record is not None and change.record is not None
        if both and self.bound.plan.unloaded(change.record):
            change.record = self.bound.plan.merge(earlier.record, change.record)  # type: ignore[union-attr]
        self.changes[change.key_text] = change
        if change.record is not None:
            self.rows[change.key_text] = self.bound.plan.to_row(change.record, self.bound.cipher)

    @property
    def decision(self) -> Decision | None:
        """What decides on the one key that there is then."""
        for change in self.changes.values():
            if change.decide is not None:
                return change.decide
        return None

    @property
    def ordered(self) -> list[KeyChange]:
        """Sorted by key, so that batches do not deadlock."""
        changes = list(self.changes.values())
        if len(changes) > 1:
            changes.sort(key=attrgetter("id"))
        return changes
