"""The SQL that gives a column another type and keeps its values, for the pairs of types where there is such a thing.

What is offered reads afterwards as the value that was there, whatever the session's time zone, DateStyle or locale;
where PostgreSQL's own cast would depend on these, lose something, or guess, there are words instead.
"""

from __future__ import annotations

import re
import typing
from collections.abc import Mapping
from dataclasses import dataclass

from strata.l3 import ddl
from strata.l3.catalog import ColumnFacts, Dependents
from strata.l3.fit import shown
from strata.l3.layout import quote
from strata.l3.report import ManualChange
from strata.model.columns import Column
from strata.model.fields import Field, Kind

_CAST = "{c}::{to}"
_TEXTS = ("character varying", "character", "bpchar", "citext", "text")
_INTEGERS = ("smallint", "integer", "bigint")
_ARRAYS = (*_TEXTS, *_INTEGERS, "boolean", "uuid", "numeric", "real", "double precision")

# By the type wanted, then the type found. `{c}` is the column, or its old DEFAULT; `{to}` the type wanted.
_CONVERSIONS: Mapping[Kind, Mapping[str, str]] = {
    Kind.TEXT: dict.fromkeys((*_TEXTS, *_INTEGERS, "numeric", "uuid", "boolean", "json", "jsonb"), _CAST),
    Kind.BIGINT: {**dict.fromkeys((*_INTEGERS, *_TEXTS), _CAST), "boolean": "{c}::integer::{to}"},
    Kind.DOUBLE: {
        **dict.fromkeys(("real", *_INTEGERS, "numeric", *_TEXTS), _CAST),
        "money": "{c}::numeric::{to}",
    },
    Kind.NUMERIC: {
        **dict.fromkeys((*_INTEGERS, "numeric", "money", *_TEXTS), _CAST),
        **dict.fromkeys(("real", "double precision"), "{c}::text::{to}"),  # their own cast cuts digits off
    },
    Kind.BOOLEAN: {**dict.fromkeys((*_INTEGERS, "numeric"), "{c} <> 0"), **dict.fromkeys(_TEXTS, _CAST)},
    # As Strata reads such columns: its sessions are in UTC.
    Kind.TIMESTAMPTZ: {
        "timestamp with time zone": _CAST,
        "timestamp without time zone": "{c} AT TIME ZONE 'UTC'",
        "date": "{c}::timestamp AT TIME ZONE 'UTC'",
    },
    Kind.DATE: {"date": _CAST},
    Kind.TIME: {"time without time zone": _CAST},
    Kind.INTERVAL: {"interval": _CAST, "time without time zone": _CAST},
    Kind.BYTEA: {"bytea": _CAST, "uuid": "uuid_send({c})"},
    Kind.UUID: {"uuid": _CAST, **dict.fromkeys(_TEXTS, _CAST), "bytea": "encode({c}, 'hex')::{to}"},
    Kind.JSONB: {
        **dict.fromkeys(("jsonb", "json", *_TEXTS), _CAST),
        **{f"{item}[]": "to_jsonb({c})" for item in _ARRAYS},
    },
}
# What there are words for only. `{n}` is the column's name, quoted.
_WORDS: Mapping[tuple[Kind, str], str] = {
    **{
        (Kind.TIMESTAMPTZ, found): "only you know what the numbers count: seconds since 1970 would be USING"
        " to_timestamp({n}), milliseconds to_timestamp({n} / 1000.0)"
        for found in (*_INTEGERS, "numeric", "real", "double precision")
    },
    **{
        (Kind.INTERVAL, found): "only you know what the numbers count: seconds would be USING"
        " make_interval(secs => {n}::double precision)"
        for found in (*_INTEGERS, "numeric", "real", "double precision")
    },
    **{
        (Kind.BYTEA, found): "only you know what the text stands for: characters would be USING convert_to({n},"
        " 'UTF8'), base64 or hexadecimal digits decode({n}, 'base64') or decode({n}, 'hex')"
        for found in _TEXTS
    },
    (Kind.TEXT, "bytea"): "only you know what the bytes stand for: characters would be USING convert_from({n}, 'UTF8')",
    (Kind.BIGINT, "numeric"): "what stands after the decimal point would be lost; give the field the type Decimal",
    (Kind.BIGINT, "real"): "what stands after the decimal point would be lost; give the field the type float",
    (Kind.BIGINT, "double precision"): "what stands after the decimal point would be lost; give the field the type"
    " float",
    **{
        (Kind.DATE, found): "its times of day would be lost; give the field the type datetime"
        for found in ("timestamp with time zone", "timestamp without time zone")
    },
}
_NO_SQL = "no conversion keeps all values: add a column of the type wanted, and fill it"
_LOSES: Mapping[tuple[Kind, str], str] = {
    (Kind.DOUBLE, "bigint"): "whole numbers beyond 2**53 are rounded",
    (Kind.DOUBLE, "numeric"): "decimals are rounded to the nearest float",
    (Kind.DOUBLE, "money"): "decimals are rounded to the nearest float",
}
_WHOLE = re.compile(r"numeric\(\d+(,0)?\)\Z")
_NOW = re.compile(r"now\(\)|CURRENT_TIMESTAMP|LOCALTIMESTAMP|\(?(timezone\('utc'::text, )?now\(\).*", re.IGNORECASE)
_LITERAL = re.compile(r"-?[\d.]+|true|false|'(?:[^']|'')*'(?:::[^'()]+(?:\([\d,]+\))?(?:\[\])?)?|ARRAY\[\]::[\w \[\]]+")


@dataclass(frozen=True, slots=True)
class _Way:
    """How values become those of another type. `soft`: DEFAULT, indexes and constraints follow by themselves."""

    using: str
    soft: bool
    loses: str = ""


def _way(field: Field, facts: ColumnFacts) -> _Way | None:
    kind, bare = field.kind, facts.bare
    assert kind is not None
    if facts.enum:
        return _Way(_CAST, soft=False) if kind is Kind.TEXT else None
    if kind is Kind.BIGINT and _WHOLE.match(facts.base):
        return _Way(_CAST, soft=True)
    if kind is Kind.JSONB and bare.endswith("[]") and _origin(field) not in (list, tuple, set, frozenset):
        return None
    using = _CONVERSIONS[kind].get(bare)
    if using is None:
        return None
    return _Way(using, (kind, bare) in _SOFT, _LOSES.get((kind, bare), ""))


def _origin(field: Field) -> typing.Any:
    return typing.get_origin(field.annotation) or field.annotation


_SOFT = {
    *((Kind.TEXT, found) for found in _TEXTS if found != "citext"),
    *((kind, found) for kind in (Kind.BIGINT, Kind.DOUBLE, Kind.NUMERIC) for found in _INTEGERS),
    (Kind.DOUBLE, "real"),
    (Kind.DOUBLE, "numeric"),
    (Kind.NUMERIC, "numeric"),
    (Kind.TIMESTAMPTZ, "timestamp with time zone"),
    (Kind.TIME, "time without time zone"),
    (Kind.INTERVAL, "interval"),
}


def retype(table: str, column: Column, facts: ColumnFacts, dependents: Dependents) -> ManualChange:
    """What to do about a column of another type than the model's: SQL that keeps its values, or words alone."""
    field, name = column.field, quote(column.field.name)
    said = f"{table}.{field.name} is {shown(facts)}, the model wants {field.sql_type}"
    way = _way(field, facts)
    if way is None:
        assert field.kind is not None
        return ManualChange(f"{said}; {_WORDS.get((field.kind, facts.bare), _NO_SQL).format(n=name)}", "")
    if dependents.blocking:
        return ManualChange(
            f"{said}; {', '.join(dependents.blocking)} must be dropped before the change, and made anew after it: "
            f"ALTER COLUMN {name} TYPE {field.sql_type} USING {_filled(way, field, name)}",
            "",
        )
    parts, notes, before = _default(way, column, facts), [way.loses] if way.loses else [], []
    if not way.soft and dependents.dropped:
        before = [sql for _, sql in dependents.dropped]
        what = ", ".join(told for told, _ in dependents.dropped)
        notes.append(f"dropped for it, to be made anew for the new type: {what}")
    if facts.default is not None and not way.soft and len(parts) == 2:
        notes.append(f"its DEFAULT {facts.default} is dropped")
    alter = f"ALTER TABLE {quote(table)} {', '.join(f'ALTER COLUMN {name} {part}' for part in parts)}"
    return ManualChange("; ".join([said, *notes]), ";\n".join([*before, alter]) + ";")


def _filled(way: _Way, field: Field, value: str) -> str:
    return way.using.format(c=value, to=field.sql_type)


def _default(way: _Way, column: Column, facts: ColumnFacts) -> list[str]:
    """The parts of the ALTER: those about the DEFAULT stand around the type's, where it does not follow by itself."""
    change = f"TYPE {column.field.sql_type} USING {_filled(way, column.field, quote(column.field.name))}"
    if way.soft or facts.default is None:
        return [change]
    new = ddl.default(column)
    if new is None and _NOW.fullmatch(facts.default) and column.field.kind is Kind.TIMESTAMPTZ:
        new = "now()"  # what the old one gave was the session's time of day
    elif new is None and _LITERAL.fullmatch(facts.default):
        new = _filled(way, column.field, f"({facts.default})")
    return ["DROP DEFAULT", change] + ([f"SET DEFAULT {new}"] if new is not None else [])


def offered() -> set[tuple[Kind, str]]:
    """Every pair of types, that wanted and that found, for which there is SQL; an enum's members aside."""
    return {(kind, found) for kind, ways in _CONVERSIONS.items() for found in ways}
