"""A column as a field of the record class; or, where it can be none, as words that say why."""

from __future__ import annotations

import uuid
from dataclasses import dataclass, field

from strata.cli.inspect_table import defaults
from strata.cli.inspect_table.enums import STR_ENUM, EnumSource
from strata.cli.inspect_table.names import is_field
from strata.cli.inspect_table.text import comment, quoted
from strata.cli.inspect_table.types import SPELLED, json_type, type_of
from strata.errors import InvalidModelError
from strata.l3.catalog import ColumnFacts
from strata.l3.fit import shown
from strata.l3.survey import JSON, Survey

_ASSIGNED = (int, uuid.UUID)  # of which the database makes keys


@dataclass(frozen=True, slots=True)
class FieldSource:
    """A field as source. `hint` is its type without None; `line` imports that; an empty `default` is none."""

    name: str
    hint: str
    nullable: bool
    markers: list[str] = field(default_factory=list)
    default: str = ""
    remark: str = ""
    line: str = ""

    def __str__(self) -> str:
        optional = f"{self.hint} | None" if self.nullable else self.hint
        hint = f"Annotated[{', '.join([optional, *self.markers])}]" if self.markers else optional
        default = f" = {self.default}" if self.default else ""
        remark = f"  {comment(self.remark)}" if self.remark else ""
        return f"{self.name}: {hint}{default}{remark}"


def key_field(table: Survey, facts: ColumnFacts) -> FieldSource:
    """A column of the key. Raises `InvalidModelError` for one that no key can have."""
    python = type_of(facts, key=True)
    if python is None or facts.generated or not is_field(facts.name):
        raise InvalidModelError(
            f"column {facts.name!r} of the key of table {table.name!r} is {shown(facts)}; a key has columns of text, "
            "varchar, integers and uuid, with names that Python allows, and none that is GENERATED AS an expression"
        )
    assigned = bool(facts.identity) or facts.default is not None
    generated = assigned and python in _ASSIGNED and len(table.key.columns) == 1
    return FieldSource(
        facts.name,
        SPELLED[python].text,
        nullable=generated,
        markers=["strata.PrimaryKey"] + ["strata.Generated"] * generated,
        default="None" if generated else "",
        remark=_refers(table, facts),
        line=SPELLED[python].line,
    )


def plain_field(table: Survey, facts: ColumnFacts, enum: EnumSource | None) -> FieldSource | None:
    """Any other column; None where no field can stand for it."""
    python = str if enum else _type(table, facts)
    if python is None or not is_field(facts.name):
        return None
    default, markers = _default(facts, python, enum)
    remark = "computed by the database" if facts.generated else _refers(table, facts)
    return FieldSource(
        facts.name,
        enum.name if enum else SPELLED[python].text,
        nullable=not facts.not_null,
        markers=_indexed(table, facts) + markers,
        default=default,
        remark=remark,
        line=STR_ENUM if enum else SPELLED[python].line,
    )


def left_out(table: Survey, facts: ColumnFacts) -> list[str]:
    """Why no field stands for a column, and what that means, as comments."""
    if not is_field(facts.name):
        why = "no field can have its name"
    elif facts.bare in JSON:
        why = "its values are neither all objects nor all arrays"
    elif facts.base.endswith("[]"):
        why = f"it is {shown(facts)}, and Strata keeps lists as JSONB"
    else:
        why = f"it is {shown(facts)}, for which Strata has no type"
    lines = [f"{facts.name!r} is left out: {why}."]
    if facts.demanding:
        lines.append("It is NOT NULL without a DEFAULT: Strata can insert no rows, only change and delete them.")
    return [comment(line) for line in lines]


def _type(table: Survey, facts: ColumnFacts) -> type | None:
    if facts.bare in JSON:
        return json_type(facts, table.json[facts.name])
    return type_of(facts, key=False)


def _default(facts: ColumnFacts, python: type, enum: EnumSource | None) -> tuple[str, list[str]]:
    """The default of the class, which is the table's, too; and a marker, where only SQL can say the table's."""
    none = "" if facts.not_null else "None"
    if facts.generated:
        return "strata.UNLOADED", []
    if facts.default is None or defaults.is_null(facts.default):
        return none, []
    text = defaults.literal(facts.default)
    if text is not None and (made := enum.default(text) if enum else defaults.source(text, python)):
        return made, []
    return none, [f"strata.Default(sql={quoted(facts.default)})"]


def _indexed(table: Survey, facts: ColumnFacts) -> list[str]:
    for unique, marker in ((True, "strata.Unique"), (False, "strata.Indexed")):
        if table.facts.index_over((facts.name,), unique=unique) is not None:
            return [marker]
    return []


def _refers(table: Survey, facts: ColumnFacts) -> str:
    return f"refers to {table.refers[facts.name]}" if facts.name in table.refers else ""
