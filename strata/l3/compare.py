"""What a database lacks of the registered schemas: statements that add it, and words for what is not an addition."""

from __future__ import annotations

import datetime
import decimal
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from strata.errors import DecodeError, InvalidModelError
from strata.l3 import ddl
from strata.l3.catalog import ColumnFacts, exists, has_rows, table_facts
from strata.l3.connection import Connection
from strata.l3.layout import VERSION, quote
from strata.l3.table import Table
from strata.model.fields import Field, Kind
from strata.policies import Index, PostgresPolicy
from strata.schema import Schema

_CATALOG_NAMES = {"TIMESTAMPTZ": "TIMESTAMP WITH TIME ZONE", "TIME": "TIME WITHOUT TIME ZONE"}

# What old rows get in a NOT NULL column for which neither model nor class has a default.
_ZEROS: dict[Kind, Any] = {
    Kind.TEXT: "",
    Kind.BIGINT: 0,
    Kind.DOUBLE: 0.0,
    Kind.BOOLEAN: False,
    Kind.TIMESTAMPTZ: datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC),
    Kind.BYTEA: b"",
    Kind.UUID: uuid.UUID(int=0),
    Kind.NUMERIC: decimal.Decimal(0),
    Kind.DATE: datetime.date(1970, 1, 1),
    Kind.TIME: datetime.time(0),
    Kind.INTERVAL: datetime.timedelta(0),
}


class ManualChange(NamedTuple):
    """A difference that `migrate` leaves alone: in words, and as the SQL to write."""

    text: str
    sql: str


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


@dataclass(slots=True)
class Plan:
    """What there is to do: `statements` in one transaction, then the `late` indexes, and the rest by hand."""

    statements: list[str] = field(default_factory=list)
    late: list[LateIndex] = field(default_factory=list)
    manual: list[ManualChange] = field(default_factory=list)

    def __bool__(self) -> bool:
        return bool(self.statements or self.late)


def compare(conn: Connection, tables: Sequence[tuple[Table, Schema[Any]]]) -> Plan:
    """The plan for these tables. Reads the catalog only. Raises `InvalidModelError` for what no table can be."""
    plan = Plan()
    for name in ddl.SYSTEM_TABLES:
        if not exists(conn, name):
            plan.statements += ddl.system_table(name)
    seen: dict[str, Table] = {}
    for table, schema in tables:
        if table.name not in seen:
            seen[table.name] = table
            _Comparison(conn, plan, table, schema).run()
        elif seen[table.name].plan.columns != table.plan.columns:
            raise InvalidModelError(
                f"schemas {seen[table.name].schema_name!r} and {table.schema_name!r} have other columns but the same "
                f"table {table.name!r}; give one of them another PostgresPolicy.table_name"
            )
    return plan


class _Comparison:
    """One table, as it is and as it should be."""

    def __init__(self, conn: Connection, plan: Plan, table: Table, schema: Schema[Any]) -> None:
        self._conn = conn
        self._plan = plan
        self._table = table
        self._name = quote(table.name)
        self._alter = f"ALTER TABLE {self._name}"
        self._policy = schema.l3 or PostgresPolicy()
        self._wanted = _indexes(table, schema)
        self._facts = table_facts(conn, self._name)
        self._filled = bool(self._facts.kind in ("r", "p") and has_rows(conn, self._name))

    def run(self) -> None:
        table, facts = self._table, self._facts
        hashed = self._hashed()
        if not facts.kind:
            self._plan.statements += ddl.create_table(
                table.name, table.plan.columns, table.plan.key.name, hashed=hashed
            )
        elif facts.kind not in ("r", "p"):
            raise InvalidModelError(f"{table.name!r} is there already and is no table; give the schema another table")
        else:
            self._extend()
            if hashed and facts.kind != "p":
                self._by_hand(f"{table.name} is not partitioned", "-- make a partitioned table and copy the rows over")
        for item in self._wanted:
            self._index(item)

    def _extend(self) -> None:
        for column in self._table.plan.columns:
            facts = self._facts.columns.get(column.name)
            if facts is None:
                self._add(column)
            else:
                self._differences(column, facts)
        if VERSION not in self._facts.columns:
            self._plan.statements.append(f"{self._alter} ADD COLUMN {VERSION} BIGINT NOT NULL DEFAULT 0")
        self._strangers()
        key = Index([self._table.plan.key.name], unique=True)
        found = self._facts.index_over((self._table.plan.key.name,), unique=True)
        if found is None:
            self._unique(key, deferrable=False)
        elif not found.immediate:
            self._by_hand(
                f"the key of {self._table.name} has a deferrable constraint, which no upsert can use",
                ddl.unique(self._table.name, key, deferrable=False) + ";",
            )

    def _add(self, column: Field) -> None:
        if column.nullable or column.default is not None or not self._filled:
            self._plan.statements += ddl.add_column(self._table.name, column, None)
            return
        old_rows = self._for_old_rows(column)
        if old_rows is not None:
            self._plan.statements += ddl.add_column(self._table.name, column, old_rows)
            return
        self._by_hand(
            f"{self._table.name}.{column.name} is new and NOT NULL, and no value can be made up for the rows there "
            "are; add it, fill it, then set it NOT NULL",
            f"{self._alter} ADD COLUMN {quote(column.name)} {column.sql_type};",
        )

    def _for_old_rows(self, column: Field) -> str | None:
        """The expression for rows that are there: now for stamps, the class's default, the type's zero."""
        if column.stamped:
            return "now()"
        if column.encrypted:
            return None
        conversion = self._table.plan.conversion(column.name)
        if column.factory is not None:
            return ddl.literal(conversion.to_row(conversion.settle(column.factory())))
        assert column.kind is not None
        zeros = list(column.choices) if column.choices else [_ZEROS.get(column.kind)]
        for zero in ["{}", "[]"] if column.kind is Kind.JSONB else zeros:
            try:
                conversion.restore(zero)
            except DecodeError:
                continue  # a nested class that cannot be made of nothing
            return ddl.literal(zero)
        return None

    def _differences(self, column: Field, facts: ColumnFacts) -> None:
        where = f"{self._table.name}.{column.name}"
        alter = f"{self._alter} ALTER COLUMN {quote(column.name)}"
        found = facts.sql_type.upper()
        same_type = found == _CATALOG_NAMES.get(column.sql_type, column.sql_type)
        if not same_type:
            using = f"USING {quote(column.name)}::{column.sql_type}"
            self._by_hand(
                f"{where} is {found}, the model wants {column.sql_type}", f"{alter} TYPE {column.sql_type} {using};"
            )
        if facts.not_null and column.nullable:
            self._by_hand(f"{where} is NOT NULL, the model allows None", f"{alter} DROP NOT NULL;")
        if not facts.not_null and not column.nullable:
            self._by_hand(f"{where} may be NULL, the model wants a value", f"{alter} SET NOT NULL;")
        if facts.computed:
            drop = "DROP EXPRESSION" if facts.default else "SET GENERATED BY DEFAULT"
            self._by_hand(f"{where} is GENERATED ALWAYS, so that no value can be written to it", f"{alter} {drop};")
        elif same_type:
            self._default(column, facts, where, alter)

    def _default(self, column: Field, facts: ColumnFacts, where: str, alter: str) -> None:
        wanted = ddl.default(column)
        if wanted is None:
            if facts.default is not None and not facts.default.startswith("nextval("):
                self._by_hand(f"{where} has a DEFAULT, the model has none", f"{alter} DROP DEFAULT;")
        elif facts.default is None or not self._same(column, facts.default, wanted):
            self._by_hand(f"{where} has another DEFAULT than the model", f"{alter} SET DEFAULT {wanted};")

    def _same(self, column: Field, found: str, wanted: str) -> bool:
        if column.default is not None and column.default.sql is not None:
            return True  # two spellings of an expression cannot be told from two expressions
        if "(" in found and not found.startswith("'"):
            return False  # not a literal
        sql = f"SELECT ({found})::{column.sql_type} IS NOT DISTINCT FROM ({wanted})::{column.sql_type}"
        row = self._conn.execute(sql.encode()).fetchone()
        return bool(row and row[0])

    def _strangers(self) -> None:
        known = {*self._table.plan.column_names, VERSION}
        for column in self._facts.columns.values():
            if column.name in known:
                continue
            where = f"{self._table.name}.{column.name}"
            if column.not_null and column.default is None and not column.computed:
                self._by_hand(
                    f"{where} is not in the model and is NOT NULL without a DEFAULT, so that no row can be inserted",
                    f"{self._alter} ALTER COLUMN {quote(column.name)} DROP NOT NULL;",
                )
            else:
                self._by_hand(
                    f"{where} is not in the model; its values stay", f"{self._alter} DROP COLUMN {quote(column.name)};"
                )

    def _index(self, item: Index) -> None:
        columns = tuple(item.fields)
        if columns == (self._table.plan.key.name,):
            return  # the primary key
        found = self._facts.index_over(columns, unique=item.unique)
        if found is None and item.unique:
            self._unique(item, deferrable=self._table.deferred)
        elif found is None:
            self._plain(item)
        elif item.unique and found.immediate and self._table.deferred:
            drop = f"{self._alter} DROP CONSTRAINT {quote(found.name)}; "
            self._by_hand(
                f"{found.name} is not deferrable, so that a chain of renames written behind in one batch is refused",
                drop + ddl.unique(self._table.name, item, deferrable=True) + ";",
            )

    def _plain(self, item: Index) -> None:
        if not self._late():
            self._plan.statements.append(ddl.index(self._table.name, item))
            return
        create = ddl.index(self._table.name, item, concurrently=True)
        self._plan.late.append(self._late_index(item, create, "", ManualChange("", "")))

    def _unique(self, item: Index, *, deferrable: bool) -> None:
        add = ddl.unique(self._table.name, item, deferrable=deferrable)
        if not self._late():
            self._plan.statements.append(add)
            return
        columns = ", ".join(item.fields)
        manual = ManualChange(
            f"{self._table.name} has rows that are equal in {columns}, which the model wants unique; change them first",
            f"{add};",
        )
        self._plan.late.append(
            self._late_index(
                item,
                ddl.index(self._table.name, Index(item.fields, item.name, unique=True), concurrently=True),
                ddl.unique(self._table.name, item, deferrable=deferrable, using_index=True),
                manual,
            )
        )

    def _late(self) -> bool:
        return self._filled and self._facts.kind == "r"

    def _late_index(self, item: Index, create: str, afterwards: str, manual: ManualChange) -> LateIndex:
        name = ddl.index_name(self._table.name, item)
        leftover = f"DROP INDEX CONCURRENTLY {quote(name)}" if self._facts.broken_index(name) else ""
        return LateIndex(name, leftover, create, afterwards, manual)

    def _hashed(self) -> bool:
        """Whether the table is partitioned; only by the key, since an upsert by key needs it in every constraint."""
        column, key = self._policy.partition_by, self._table.plan.key.name
        if column is None:
            return False
        if column != key:
            raise InvalidModelError(
                f"table {self._table.name} cannot be partitioned by {column!r}: PostgreSQL would then not keep the key "
                f"unique, nor find a row by it; partition_by can only be the key, {key!r} (by hash)"
            )
        for item in self._wanted:
            if item.unique and key not in item.fields:
                raise InvalidModelError(
                    f"table {self._table.name} is partitioned by {key!r}, so that {', '.join(item.fields)} cannot be "
                    "unique in all of it; drop Unique, or partition_by"
                )
        return True

    def _by_hand(self, text: str, sql: str) -> None:
        self._plan.manual.append(ManualChange(text, sql))


def _indexes(table: Table, schema: Schema[Any]) -> list[Index]:
    """The indexes that model and schema ask for, each set of columns once."""
    columns = table.plan.columns
    asked = [
        *(Index([column.name], unique=True) for column in columns if column.unique),
        *(Index([column.name]) for column in columns if column.indexed and not column.unique),
        *schema.indexes,
    ]
    names = set(table.plan.column_names)
    found: dict[tuple[tuple[str, ...], bool], Index] = {}
    for item in asked:
        unknown = [name for name in item.fields if name not in names]
        if unknown:
            raise InvalidModelError(
                f"an Index of schema {schema.name!r} names {unknown[0]!r}, which is no column of it"
            )
        found.setdefault((tuple(item.fields), item.unique), item)
    return [item for (fields, unique), item in found.items() if unique or (fields, True) not in found]
