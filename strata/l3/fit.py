"""Whether the columns of a table, which may be another tool's, can hold a model's fields.

Strata binds its parameters with the types of its own tables. A column of another type will do where PostgreSQL puts
every value of the model's into it by an assignment (or a cast that the writes make), gives it back by a cast, and
compares it with a parameter of the model's type: then all doors work. Some round or pad what they are given, or compute
a value of their own; that is for the writes to see to (`strata.l3.look`).
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from strata.errors import MigrationError
from strata.l3.catalog import ColumnFacts
from strata.model.fields import Field, Kind
from strata.model.plan import ModelPlan

_TEXTS = {"text", "character varying", "character", "bpchar", "citext"}
_INTEGERS = {"bigint", "integer", "smallint"}
# By the model's type: those of columns that will do. A key is looked up by an index, and must not be folded or padded.
_TAKEN: Mapping[Kind, set[str]] = {
    Kind.TEXT: _TEXTS,
    Kind.BIGINT: _INTEGERS,
    Kind.DOUBLE: {"double precision", "real", "numeric", "integer", "smallint"},
    Kind.BOOLEAN: {"boolean"},
    Kind.TIMESTAMPTZ: {"timestamp with time zone", "timestamp without time zone", "date"},
    Kind.BYTEA: {"bytea"},
    Kind.JSONB: {"jsonb", "json"},
    Kind.UUID: {"uuid"},
    Kind.NUMERIC: {"numeric", *_INTEGERS},
    Kind.DATE: {"date"},
    Kind.TIME: {"time without time zone"},
    Kind.INTERVAL: {"interval"},
}
_AS_KEY: Mapping[Kind, set[str]] = {
    Kind.TEXT: {"text", "character varying"},
    Kind.BIGINT: _INTEGERS,
    Kind.UUID: {"uuid"},
}
_CATALOG_NAMES = {"TIMESTAMPTZ": "TIMESTAMP WITH TIME ZONE", "TIME": "TIME WITHOUT TIME ZONE"}
_WHOLE = re.compile(r"numeric\((\d+)(?:,0)?\)\Z")
_WHOLE_DIGITS = 18  # that BIGINT always has

_RELATIONS = {"v": "a view", "m": "a materialized view", "f": "a foreign table", "S": "a sequence", "i": "an index"}
_NEEDED = "a schema needs a table of its own rows: give it the one behind, by PostgresPolicy.table_name"
_RULES = "has rules (CREATE RULE) that make something else of a write; have triggers instead"


def no_table(kind: str) -> str:
    """Why a relation of this kind (`TableFacts`) cannot have a schema's rows, in words that go on from its name; empty
    where it can."""
    if kind in ("r", "p"):
        return ""
    return _RULES if kind == "rules" else f"is no table, but {_RELATIONS.get(kind, 'something else')}; {_NEEDED}"


def takes(field: Field, facts: ColumnFacts) -> bool:
    """Whether the column's type will do for the field's values."""
    assert field.kind is not None
    if facts.enum:
        return field.kind is Kind.TEXT and not field.primary_key  # which is compared with no text
    if field.primary_key:
        return facts.bare in _AS_KEY[field.kind] and not facts.folds
    if field.kind is Kind.BIGINT and facts.bare in _TEXTS:
        return field.choices is not None  # ints of an Enum, which an earlier release kept as texts
    whole = _WHOLE.match(facts.base) if field.kind is Kind.BIGINT else None
    return facts.bare in _TAKEN[field.kind] or (whole is not None and int(whole[1]) <= _WHOLE_DIGITS)


def same_type(field: Field, facts: ColumnFacts) -> bool:
    """Whether the column has the very type that the model wants."""
    return facts.sql_type.upper() == _CATALOG_NAMES.get(field.sql_type, field.sql_type)


def misfit(field: Field, facts: ColumnFacts) -> str:
    """Why no value of the field can be kept in the column, in words that go on from its name; empty where it can."""
    if facts.generated and field.primary_key:
        return "is GENERATED ALWAYS, so that no record can have a key of its own"
    if not takes(field, facts):
        key = " as its key" if field.primary_key and facts.bare in _TAKEN[field.kind or Kind.TEXT] else ""
        return f"is {shown(facts)}, which cannot hold what the model has{key}: it wants {field.sql_type}"
    if facts.labels and field.choices and not set(field.choices).intersection(facts.labels):
        has, wants = (", ".join(map(repr, list(some)[:4])) for some in (facts.labels, field.choices))
        return f"is {shown(facts)}, which has {has}, and none of what the model has: {wants}"
    return ""


def shown(facts: ColumnFacts) -> str:
    """A column's type as messages have it."""
    folding = " with a collation that takes different texts for equal" if facts.folds else ""
    return ("the enum " if facts.enum else "") + facts.sql_type.upper() + folding


def check(plan: ModelPlan[object], table: str, kind: str, columns: Mapping[str, ColumnFacts]) -> None:
    """Raise `MigrationError` for a table that is there and cannot hold the model's records."""
    if why := no_table(kind):
        raise MigrationError(f"{table!r} {why}")
    for field in plan.columns:
        facts = columns.get(field.name)
        reason = "" if facts is None else misfit(field, facts)
        if reason:
            raise MigrationError(
                f"column {field.name!r} of table {table!r} {reason}; `strata migrate` tells what to change, or leave "
                f"{plan.model.__name__}.{field.name} out, or give it another type"
            )
