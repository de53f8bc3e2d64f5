"""What a comparison of schemas and database comes to: statements to run, and changes that are left to a person."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from strata.l3.partition import Month
    from strata.l3.report import ManualChange
    from strata.l3.table import Table


@dataclass(frozen=True, slots=True)
class LateIndex:
    """An index on a table that is in use: made without blocking its writers, outside of any transaction.

    `leftover` is the statement that removes what an earlier try left unfinished. `afterwards` makes a constraint of
    it. Where rows are in its way, it becomes `manual`.
    """

    name: str
    leftover: str
    create: str
    afterwards: str
    manual: ManualChange

    @property
    def statements(self) -> list[str]:
        """The steps, in order."""
        return [step for step in (self.leftover, self.create, self.afterwards) if step]


class TableMonth(NamedTuple):
    """A month for which a table has no partition yet."""

    table: Table
    month: Month


@dataclass(slots=True)
class Plan:
    """What there is to do: `statements` and `defaults` in one transaction, then `months` and `late` indexes.

    `defaults` are those that columns lack which are there already. `manual` is left to a person.
    """

    statements: list[str] = field(default_factory=list)
    defaults: list[str] = field(default_factory=list)
    months: list[TableMonth] = field(default_factory=list)
    late: list[LateIndex] = field(default_factory=list)
    manual: list[ManualChange] = field(default_factory=list)

    def __bool__(self) -> bool:
        return bool(self.statements or self.defaults or self.months or self.late)

    def add(self, other: Plan) -> None:
        """Take over what there is to do for one table."""
        self.statements += other.statements
        self.defaults += other.defaults
        self.months += other.months
        self.late += other.late
        self.manual += other.manual
