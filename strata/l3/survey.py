"""A table that somebody else has made, read as far as a record class has to say it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from strata.errors import InvalidModelError, MigrationError, NoPrimaryKeyError, shown
from strata.l3.catalog import IndexFacts, TableFacts, table_facts
from strata.l3.connection import Connection
from strata.l3.fit import no_table
from strata.l3.layout import RESERVED, quote
from strata.model.fields import check_identifier

# Labels of enum types, and the tables that foreign keys lead to: those of partitions are copies of their table's.
_LABELS = "SELECT enumlabel::text FROM pg_enum WHERE enumtypid = to_regtype($1) ORDER BY enumsortorder"
_REFERENCES = """
SELECT a.attname::text, c.confrelid::regclass::text || '.' || quote_ident(f.attname)
FROM pg_constraint c CROSS JOIN LATERAL unnest(c.conkey, c.confkey) AS k(own, other)
JOIN pg_attribute a ON a.attrelid = c.conrelid AND a.attnum = k.own
JOIN pg_attribute f ON f.attrelid = c.confrelid AND f.attnum = k.other
WHERE c.conrelid = to_regclass($1) AND c.contype = 'f' AND c.conparentid = 0 ORDER BY c.conname
"""
_ON_PATH = "SELECT COALESCE(to_regclass($1) = to_regclass($2), false)"
_LOOKED_AT = 1_000  # rows, for what their JSON is
JSON = ("json", "jsonb")
"""The types of columns whose values say more than their type."""


@dataclass(frozen=True, slots=True)
class Survey:
    """A table, and by column: `labels` of its enum, what it `refers` to, and as what its `json` is there ("object",
    "array" and the like, of the first rows).

    `key` is the index of the PRIMARY KEY, or a unique one in its place. `on_path`: without `schema`, the name leads to
    the table, too.
    """

    name: str
    schema: str
    on_path: bool
    facts: TableFacts
    key: IndexFacts
    labels: dict[str, tuple[str, ...]]
    refers: dict[str, str]
    json: dict[str, frozenset[str]]


def survey(conn: Connection, named: str) -> Survey:
    """The table `name` or `schema.name`, spelt as the catalog has it.

    Raises `MigrationError` where there is none, `NoPrimaryKeyError` for one without a key, and `InvalidModelError` for
    a name that no schema can have.
    """
    schema, _, name = named.rpartition(".")
    full = f"{quote(schema)}.{quote(name)}" if schema else quote(name)
    facts = table_facts(conn, full)
    if not facts.kind:
        raise MigrationError(
            f"there is no table {shown(named)} in the database; give its name as the catalog has it, capitals too, and "
            "as schema.name where it is not on the search_path"
        )
    if why := no_table(facts.kind):
        raise MigrationError(f"{named!r} {why}")
    check_identifier(name, "table name")
    if name.startswith(RESERVED):
        raise InvalidModelError(f"table {name!r} is one of Strata's own; inspect another")
    columns = facts.columns.values()
    return Survey(
        name=name,
        schema=schema,
        on_path=bool(_rows(conn, _ON_PATH, full, quote(name))[0][0]),
        facts=facts,
        key=_key(named, facts),
        labels={item.name: _labels(conn, item.base) for item in columns if item.enum},
        refers=dict(_rows(conn, _REFERENCES, full)),
        json={item.name: _json(conn, full, quote(item.name)) for item in columns if item.bare in JSON},
    )


def _key(named: str, facts: TableFacts) -> IndexFacts:
    """The index by which a row is found: of NOT NULL columns, and the PRIMARY KEY's where there is one."""
    fit = [
        index
        for index in sorted(facts.indexes, key=lambda index: (not index.primary, not index.immediate, index.name))
        if index.unique and index.plain and index.valid
        if all(name in facts.columns and facts.columns[name].not_null for name in index.columns)
    ]
    if not fit:
        raise NoPrimaryKeyError(
            f"table {named!r} has no PRIMARY KEY, nor a UNIQUE constraint of columns that are NOT NULL; give it one, "
            "since a record is found by its key"
        )
    return fit[0]


def _labels(conn: Connection, enum: str) -> tuple[str, ...]:
    return tuple(label for (label,) in _rows(conn, _LABELS, enum))


def _json(conn: Connection, table: str, column: str) -> frozenset[str]:
    some = f"(SELECT {column} AS x FROM {table} LIMIT {_LOOKED_AT}) AS s"
    found = _rows(conn, f"SELECT DISTINCT jsonb_typeof(x::jsonb) FROM {some} WHERE x IS NOT NULL")
    return frozenset(kind for (kind,) in found)


def _rows(conn: Connection, sql: str, *names: str) -> list[tuple[Any, ...]]:
    return conn.execute(sql.encode(), names).fetchall()
