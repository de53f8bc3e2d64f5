"""The class of an enum type."""

from __future__ import annotations

from dataclasses import dataclass

from strata.cli.inspect_table.names import Names, is_field, of_class, of_member
from strata.cli.inspect_table.text import quoted
from strata.l3.survey import Survey

STR_ENUM = "from enum import StrEnum"


@dataclass(frozen=True, slots=True)
class EnumSource:
    """An Enum as source: the names of its members by their labels, in the order of the type."""

    name: str
    members: dict[str, str]

    def default(self, label: str) -> str:
        """The member that a label stands for; empty where there is none."""
        return f"{self.name}.{self.members[label]}" if label in self.members else ""

    def lines(self) -> list[str]:
        """The class."""
        made = [f"    {member} = {quoted(label)}" for label, member in self.members.items()]
        return [f"class {self.name}(StrEnum):", *made]


def enums_of(table: Survey, classes: Names) -> dict[str, EnumSource]:
    """Those of the columns, by the name of the type."""
    found: dict[str, EnumSource] = {}
    for column, labels in table.labels.items():
        facts = table.facts.columns[column]
        if labels and is_field(column) and facts.base not in found:
            members = Names()
            taken = {label: members.take(of_member(label)) for label in labels}
            found[facts.base] = EnumSource(classes.take(of_class(facts.bare)), taken)
    return found
