"""A table's names, types and SQL fragments, made once from its plan; every statement is put together from these.

Names were checked to be plain identifiers and are quoted, so that reserved words and capitals work. Values are never
part of a statement's text.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any
from zlib import crc32

import msgspec

from strata.errors import InvalidModelError
from strata.l3.actual import AS_MADE, Actual
from strata.l3.connection import JSONB
from strata.l3.key import KeyColumns
from strata.l3.partition import Partition
from strata.l3.statement import (
    BOOL,
    BYTEA,
    DATE,
    FLOAT8,
    INT8,
    INTERVAL,
    NUMERIC,
    TEXT,
    TIME,
    TIMESTAMPTZ,
    UUID,
    Statement,
)
from strata.model.fields import Field, Kind, check_identifier
from strata.model.plan import ModelPlan
from strata.model.unloaded import UNLOADED
from strata.protocol.versions import NODE_BITS

VERSION = "_strata_version"
TOMBSTONES, HORIZONS, REPAIRS = "_strata_tombstones", "_strata_horizons", "_strata_repairs"
PARTIALS = "_strata_partials"
RESERVED = "_strata_"

_OIDS = {
    Kind.TEXT: TEXT,
    Kind.BIGINT: INT8,
    Kind.DOUBLE: FLOAT8,
    Kind.BOOLEAN: BOOL,
    Kind.TIMESTAMPTZ: TIMESTAMPTZ,
    Kind.BYTEA: BYTEA,
    Kind.JSONB: JSONB,
    Kind.UUID: UUID,
    Kind.NUMERIC: NUMERIC,
    Kind.DATE: DATE,
    Kind.TIME: TIME,
    Kind.INTERVAL: INTERVAL,
}
_SYSTEM_COLUMNS = frozenset({"ctid", "xmin", "xmax", "cmin", "cmax", "tableoid"})


def mark_of(table: str, schema_name: str) -> str:
    """What stands for a schema in Strata's own tables: applications that share a database may have schemas of one name,
    but no table. Names have no dot."""
    return schema_name if table == schema_name else f"{table}.{schema_name}"


class Layout:
    """Everything about one table, as it is, that statements are made of. Immutable.

    `places` gives a column's place in a row; `settable` are the columns that an update may change: not the key, and
    not the AutoNowAdd columns, which keep the value of the first insert. `kept` are the columns of which the row may
    hold another value than a whole record was written with: these, and those of the table that are not exact. Where it
    `updates_first`, rows that exist are updated without an INSERT. In a `monthly` table no index keeps
    the key unique, but its writers do; `locked` says that they take the shards' locks, for that or another reason. An
    upsert that is good `alone` needs no transaction; one needs it, too, where the table has its own way with a row, so
    that there may be a reason to undo it.
    """

    def __init__(
        self,
        plan: ModelPlan[Any],
        name: str,
        schema_name: str,
        *,
        deferred: bool,
        partition: Partition | None = None,
        actual: Actual = AS_MADE,
    ) -> None:
        check_identifier(name, "table name")
        _check_names(plan, name)
        self.plan = plan
        self.name = name
        self.schema_name = schema_name
        self.deferred = deferred
        self.monthly = partition is not None and partition.monthly
        self.locked = deferred or self.monthly
        self.table = quote(name)
        self.mark = mark_of(name, schema_name)
        self.schema = f"'{self.mark}'"
        # Schemas that share a monthly table must exclude each other.
        self.lock_space = _signed(crc32((f"table {name}" if self.monthly else schema_name).encode()))
        self.key = KeyColumns(plan.key, list(map(quote, plan.key.names)), list(map(oid_of, plan.key.fields)))
        self.key_of_row = plan.key_of_row
        self.names = plan.column_names
        self.oids = tuple(oid_of(field) for field in plan.columns)
        self.places = {column: place for place, column in enumerate(self.names)}
        self.partition = partition
        self.actual = actual
        self.alone = not (self.locked or actual.restless or actual.computed)
        self.updates_first = self.monthly or actual.insert_refused
        first = {field.name for field in plan.columns if field.auto_now_add} | actual.fixed
        others = tuple(field.name for field in plan.columns if not field.primary_key)
        self.kept = tuple(n for n in others if n in first or n in actual.inexact or n in actual.generated)
        self.settable = tuple(n for n in others if n not in first and n not in actual.generated)
        self.carried = tuple(name for name in self.names if name not in actual.generated)
        self.columns = ", ".join(quote(column) for column in self.carried)
        self.insert = f"INSERT INTO {self.table} AS r ({self.columns}, {VERSION})"
        if actual.fixed:
            self.insert += " OVERRIDING SYSTEM VALUE"
        self._casts = dict(actual.casts)

    def of(self, actual: Actual) -> Layout:
        """The same for a table that is so."""
        return Layout(
            self.plan, self.name, self.schema_name, deferred=self.deferred, partition=self.partition, actual=actual
        )

    def field(self, name: str) -> Field:
        """The field of a column."""
        return self.plan.columns[self.places[name]]

    def shown(self, names: Iterable[str], of: str = "") -> str:
        """Columns as a select list, each cast to the type that the plan expects, in case the table has another."""
        prefix = f"{of}." if of else ""
        return ", ".join(f"{prefix}{quote(name)}::{_shown_type(self.field(name))}" for name in names)

    def assigned(self, names: Sequence[str], source: str) -> str:
        """`column = source.column` for each of the names, ready to be followed by the version."""
        return "".join(f"{quote(name)} = {self.given(name, f'{source}.{quote(name)}')}, " for name in names)

    def given(self, name: str, value: str) -> str:
        """The SQL of a value that is to be a column's, cast where PostgreSQL would not do so by itself."""
        return f"{value}::{self._casts[name]}" if name in self._casts else value

    def shown_key(self, of: str = "") -> str:
        """The columns of the key, as `shown` has them."""
        return self.shown(self.plan.key.names, of)

    def staged(self) -> str:
        """What the stage `s` has for the columns of an INSERT."""
        return ", ".join(self.given(name, f"s.{quote(name)}") for name in self.carried)

    def raised(self, old: str, node: str) -> str:
        """The version rule of a synchronous write that meets the version `old`: one microsecond above it."""
        return f"((({old} >> {NODE_BITS}) + 1) << {NODE_BITS} | {node})"

    def inserted(self, stamp: str, node: str, key_text: str) -> str:
        """The version of a row that a synchronous write inserts: above its tombstone, and above the horizon."""
        if not self.deferred:
            return stamp
        tombstone = f"(SELECT {self.raised('d.version', node)} FROM {TOMBSTONES} d WHERE {self.buried('d', key_text)})"
        horizon = f"(SELECT {self.raised('h.version', node)} FROM {HORIZONS} h WHERE h.schema = {self.schema})"
        return f"GREATEST({stamp}, {tombstone}, {horizon})"

    def upserting(self, update: str, insert: str) -> str:
        """An upsert that updates first: where ON CONFLICT has no index to go by, and under the keys' locks nobody comes
        between; and where an INSERT of a row that exists would be refused. It ends in ON CONFLICT there."""
        return f"WITH u AS ({update}), i AS ({insert}) SELECT * FROM u UNION ALL SELECT * FROM i"

    def overwrite(self, node: str) -> str:
        """What a synchronous upsert does with a row that is there."""
        raised = self.raised(f"r.{VERSION}", node)
        return (
            f"ON CONFLICT ({self.key.listed}) DO UPDATE SET {self.assigned(self.settable, 'EXCLUDED')}"
            f"{VERSION} = GREATEST(EXCLUDED.{VERSION}, {raised})"
        )

    def returned(self, names: Sequence[str]) -> str:
        """The version and these columns, for RETURNING."""
        return f"r.{VERSION}" + "".join(f", {self.shown([name], 'r')}" for name in names)

    def filled(self, values: Sequence[Any]) -> Sequence[Any]:
        """The values of a record, which lacks nothing where only columns are UNLOADED that take no value."""
        if not self.actual.generated or UNLOADED not in values:
            return values
        generated = self.actual.generated
        return [
            None if value is UNLOADED and name in generated else value
            for name, value in zip(self.names, values, strict=True)
        ]

    def unset(self, names: Sequence[str]) -> tuple[str, ...]:
        """The columns but the key of which L3 may hold something else after an update of `names` than these."""
        keys = self.plan.key.names
        return tuple(name for name in self.names if name not in keys and (name not in names or name in self.kept))

    def with_key(self, values: Mapping[str, Any], id: Any, other: Any = None) -> list[Any]:
        """A row of this key, with the values of some columns, and `other` in those that are left."""
        held = {**values, **self.plan.key.given(id)}
        return [held.get(name, other) for name in self.names]

    def other(self, names: Sequence[str], sent: Sequence[Any], held: Sequence[Any]) -> list[tuple[str, Any]]:
        """Those columns that a row holds another value of than was sent, with that value, which may be UNHELD."""
        pairs = zip(names, sent, held, strict=True)
        return [(name, there) for name, given, there in pairs if not self._same(name, given, there)]

    def _same(self, name: str, sent: Any, held: Any) -> bool:
        if sent == held or (sent != sent and held != held):  # the latter are NaNs
            return True
        if type(sent) is not str or type(held) is not str or self.field(name).kind is not Kind.JSONB:
            return False
        return bool(_from_json(sent) == _from_json(held))  # JSONB has its own way to write it

    def buried(self, alias: str, key_text: str) -> str:
        """The condition that finds a key's tombstone."""
        return f"{alias}.schema = {self.schema} AND {alias}.id = {key_text}"

    def statement(self, sql: str, *types: int) -> Statement:
        """A statement with these parameter types."""
        return Statement(sql, types)


_from_json = msgspec.json.decode


def quote(name: str) -> str:
    """An identifier in quotes."""
    return '"' + name.replace('"', '""') + '"'


def oid_of(field: Field) -> int:
    """The OID of a column's type."""
    assert field.kind is not None
    return _OIDS[field.kind]


def _shown_type(field: Field) -> str:
    return "text" if field.kind is Kind.JSONB else field.sql_type


def _signed(number: int) -> int:
    return number - (1 << 32) if number >= 1 << 31 else number


def _check_names(plan: ModelPlan[Any], name: str) -> None:
    if name.startswith(RESERVED):
        raise InvalidModelError(f"table name {name!r} begins with {RESERVED!r}, which is Strata's own; choose another")
    for column in plan.column_names:
        if column.startswith(RESERVED) or column in _SYSTEM_COLUMNS:
            raise InvalidModelError(
                f"{plan.model.__name__}.{column} has the name of a system column; choose another for the field"
            )
