"""A table's names, types and SQL fragments, made once from its plan; every statement is put together from these.

Names were checked to be plain identifiers and are quoted, so that reserved words and capitals work. Values are never
part of a statement's text.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any
from zlib import crc32

from strata.errors import InvalidModelError
from strata.l3.connection import JSONB
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

VERSION = "_strata_version"
TOMBSTONES, HORIZONS, REPAIRS = "_strata_tombstones", "_strata_horizons", "_strata_repairs"
PARTIALS = "_strata_partials"
RESERVED = "_strata_"
NODE_BITS = 11  # of a version; above them are microseconds (design, "Versions")
L3_NODE = (1 << NODE_BITS) - 1  # of versions given by PostgreSQL, or under a row's lock for it; no process leases it

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


class Layout:
    """Everything about one table that statements are made of. Immutable.

    `places` gives a column's place in a row; `settable` are the columns that an update may change: not the key, and
    not `kept`, the AutoNowAdd columns, which keep the value of the first insert. In a `monthly` table no index keeps
    the key unique, but its writers do; `locked` says that they take the shards' locks, for that or another reason.
    """

    def __init__(
        self,
        plan: ModelPlan[Any],
        name: str,
        schema_name: str,
        *,
        deferred: bool,
        partition: Partition | None = None,
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
        self.schema = f"'{schema_name}'"
        # Schemas that share a monthly table must exclude each other.
        self.lock_space = _signed(crc32((f"table {name}" if self.monthly else schema_name).encode()))
        self.key = quote(plan.key.name)
        self.key_oid = oid_of(plan.key)
        self.key_place = plan.column_names.index(plan.key.name)
        self.names = plan.column_names
        self.oids = tuple(oid_of(field) for field in plan.columns)
        self.places = {column: place for place, column in enumerate(self.names)}
        self.kept = tuple(field.name for field in plan.columns if field.auto_now_add and not field.primary_key)
        self.settable = tuple(f.name for f in plan.columns if not f.primary_key and not f.auto_now_add)
        self.columns = ", ".join(quote(column) for column in self.names)

    def field(self, name: str) -> Field:
        """The field of a column."""
        return self.plan.columns[self.places[name]]

    def shown(self, names: Iterable[str], of: str = "") -> str:
        """Columns as a select list, each cast to the type that the plan expects, in case the table has another."""
        prefix = f"{of}." if of else ""
        return ", ".join(f"{prefix}{quote(name)}::{_shown_type(self.field(name))}" for name in names)

    def assigned(self, names: Sequence[str], source: str) -> str:
        """`column = source.column` for each of the names, ready to be followed by the version."""
        return "".join(f"{quote(name)} = {source}.{quote(name)}, " for name in names)

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
        """An upsert of a table where ON CONFLICT has no index to go by; under the keys' locks nobody comes between."""
        return f"WITH u AS ({update}), i AS ({insert}) SELECT * FROM u UNION ALL SELECT * FROM i"

    def overwrite(self, node: str) -> str:
        """What a synchronous upsert does with a row that is there."""
        raised = self.raised(f"r.{VERSION}", node)
        return (
            f"ON CONFLICT ({self.key}) DO UPDATE SET {self.assigned(self.settable, 'EXCLUDED')}"
            f"{VERSION} = GREATEST(EXCLUDED.{VERSION}, {raised})"
        )

    def returned(self, names: Sequence[str]) -> str:
        """The version and these columns, for RETURNING."""
        return f"r.{VERSION}" + "".join(f", {self.shown([name], 'r')}" for name in names)

    def unset(self, names: Sequence[str]) -> tuple[str, ...]:
        """The columns but the key that an update of `names` leaves as they are."""
        return tuple(name for name in self.names if name not in names and name != self.plan.key.name)

    def buried(self, alias: str, key_text: str) -> str:
        """The condition that finds a key's tombstone."""
        return f"{alias}.schema = {self.schema} AND {alias}.id = {key_text}"

    def statement(self, sql: str, *types: int) -> Statement:
        """A statement with these parameter types."""
        return Statement(sql, types)


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
