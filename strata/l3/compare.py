"""What a database lacks of the registered schemas: statements that add it, and words for what is not an addition."""

from __future__ import annotations

import datetime
import decimal
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from strata.errors import DecodeError, InvalidModelError
from strata.l3 import ddl, outside
from strata.l3.catalog import ColumnFacts, exists, free_months, has_rows, table_facts
from strata.l3.connection import Connection
from strata.l3.indexes import wanted_indexes
from strata.l3.layout import VERSION, quote
from strata.l3.partition import Month, check_unique, months_from
from strata.l3.table import Table
from strata.model.fields import Field, Kind
from strata.model.hints import is_record
from strata.policies import Index
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


class TableMonth(NamedTuple):
    """A month for which a table has no partition yet."""

    table: Table
    month: Month


@dataclass(slots=True)
class Plan:
    """What there is to do: `statements` in one transaction, `months` and `late` indexes after it, the rest by hand."""

    statements: list[str] = field(default_factory=list)
    months: list[TableMonth] = field(default_factory=list)
    late: list[LateIndex] = field(default_factory=list)
    manual: list[ManualChange] = field(default_factory=list)

    def __bool__(self) -> bool:
        return bool(self.statements or self.months or self.late)


def compare(
    conn: Connection, tables: Sequence[tuple[Table, Schema[Any]]], now: datetime.datetime | None = None
) -> Plan:
    """The plan for these tables. Reads the catalog only. Raises `InvalidModelError` for what no table can be.

    `now` decides which months there must be partitions for; without it the server's clock does.
    """
    plan = Plan()
    months = months_from(now or _server_time(conn))
    for name in ddl.SYSTEM_TABLES:
        if not exists(conn, name):
            plan.statements += ddl.system_table(name)
    seen: dict[str, Table] = {}
    for table, schema in tables:
        if table.name not in seen:
            seen[table.name] = table
            _Comparison(conn, plan, table, schema, months).run()
        elif seen[table.name].partition != table.partition:
            raise InvalidModelError(
                f"schemas {seen[table.name].schema_name!r} and {table.schema_name!r} have another partition_by but the "
                f"same table {table.name!r}; give them the same"
            )
        elif seen[table.name].plan.columns != table.plan.columns:
            raise InvalidModelError(
                f"schemas {seen[table.name].schema_name!r} and {table.schema_name!r} have other columns but the same "
                f"table {table.name!r}; give one of them another PostgresPolicy.table_name"
            )
    _watch(conn, plan, tables)
    return plan


def _server_time(conn: Connection) -> datetime.datetime:
    row = conn.execute("SELECT now()").fetchone()
    assert row is not None
    at: datetime.datetime = row[0]
    return at


def _watch(conn: Connection, plan: Plan, tables: Sequence[tuple[Table, Schema[Any]]]) -> None:
    """What tables lack to tell of changes made outside, and those that tell although nobody asks them to."""
    watched = _watched(tables)
    for item in watched:
        plan.statements += outside.additions(conn, item)
        plan.statements += _watch_partitions(conn, tables, item)
    for name, sql in outside.leftovers(conn, [item.table for item in watched]):
        text = f"{name} tells of changes made outside, but no schema registered here has PostgresPolicy(watch=True)"
        plan.manual.append(ManualChange(text, sql))


def watch_new_partitions(conn: Connection, tables: Sequence[tuple[Table, Schema[Any]]]) -> list[str]:
    """What partitions that were made just now lack to tell of changes made outside."""
    return [statement for item in _watched(tables) for statement in _watch_partitions(conn, tables, item)]


def _watched(tables: Sequence[tuple[Table, Schema[Any]]]) -> list[outside.Watched]:
    watched = {table.name: table for table, schema in tables if schema.l3 is not None and schema.l3.watch}
    found = []
    for name, table in watched.items():
        over = [(other, schema) for other, schema in tables if other.name == name]
        cached = tuple(schema.name for _, schema in over if schema.l2 is not None)
        deferred = tuple(schema.name for other, schema in over if other.deferred)
        found.append(outside.Watched(name, table.plan.key.name, cached, deferred))
    return found


def _watch_partitions(
    conn: Connection, tables: Sequence[tuple[Table, Schema[Any]]], item: outside.Watched
) -> list[str]:
    facts = table_facts(conn, quote(item.table))
    partitioned = any(schema.l3 and schema.l3.partition_by for table, schema in tables if table.name == item.table)
    if facts.kind == "p" or (not facts.kind and partitioned):
        return outside.partitions(conn, item, new=not facts.kind)
    return []


class _Comparison:
    """One table, as it is and as it should be."""

    def __init__(
        self, conn: Connection, plan: Plan, table: Table, schema: Schema[Any], months: Sequence[Month]
    ) -> None:
        self._conn = conn
        self._plan = plan
        self._table = table
        self._name = quote(table.name)
        self._alter = f"ALTER TABLE {self._name}"
        self._months = months
        self._wanted = wanted_indexes(table.plan, schema)
        self._facts = table_facts(conn, self._name)
        self._filled = bool(self._facts.kind in ("r", "p") and has_rows(conn, self._name))

    def run(self) -> None:
        table, facts = self._table, self._facts
        check_unique(table.plan, table.name, table.partition, self._wanted)
        if not facts.kind:
            self._plan.statements += ddl.create_table(
                table.name, table.plan.columns, table.plan.key.name, table.partition, self._months
            )
        elif facts.kind not in ("r", "p"):
            raise InvalidModelError(f"{table.name!r} is there already and is no table; give the schema another table")
        else:
            self._extend()
            self._divided()
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
        self._key()

    def _add(self, column: Field) -> None:
        if column.nullable or column.default is not None or not self._filled:
            self._plan.statements += ddl.add_column(self._table.name, column, None)
            return
        old_rows = self._for_old_rows(column)
        if old_rows is not None:
            self._plan.statements += ddl.add_column(self._table.name, column, old_rows)
            return
        where, name = f"{self._table.name}.{column.name}", quote(column.name)
        how = "add it, fill it in every row, then set it NOT NULL"
        if column.encrypted:
            how = "let it be `str | None`, write every record, then take the None back: SQL can make no ciphertext"
        self._by_hand(
            f"{where} is new and NOT NULL, and no value can be made up for the rows there are; {how}",
            f"{self._alter} ADD COLUMN {name} {column.sql_type};\n"
            f"-- when it is filled: {self._alter} ALTER COLUMN {name} SET NOT NULL;",
        )

    def _for_old_rows(self, column: Field) -> str | None:
        """The expression for rows that are there: now for stamps, the class's default, the type's zero.

        None where there is none that could be read back: a nested class with required fields, say.
        """
        if column.stamped:
            return "now()"
        if column.encrypted:
            return None
        conversion = self._table.plan.conversion(column.name)
        if column.factory is not None:
            return ddl.literal(conversion.to_row(conversion.settle(column.factory())))
        assert column.kind is not None
        if is_record(column.annotation):
            try:
                return ddl.literal(conversion.to_row(conversion.settle(column.annotation())))
            except Exception:  # noqa: BLE001 the user's class, which may want arguments, or more
                return None
        zeros = [*map(conversion.to_row, column.choices.values())] if column.choices else [_ZEROS.get(column.kind)]
        for zero in ["{}", "[]"] if column.kind is Kind.JSONB else zeros:
            try:
                conversion.restore(zero)
            except DecodeError:
                continue
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

    # -- partitions ---------------------------------------------------------------------------------------------

    def _divided(self) -> None:
        """What a table lacks of its partitions; one that is divided in another way is left to be done by hand."""
        facts, partition, table = self._facts, self._table.partition, self._table
        key = table.plan.key.name
        if partition is None:
            if facts.kind == "p" and set(facts.divided_by) - {key}:
                by = ", ".join(column or "an expression" for column in facts.divided_by)
                self._by_hand(
                    f"{table.name} is partitioned by {by}, and the schema does not say so: no upsert by key can work; "
                    "set PostgresPolicy.partition_by, or copy all rows",
                    self._repartition(),
                )
            return
        if (facts.strategy, facts.divided_by) != ("r" if partition.monthly else "h", (partition.column,)):
            self._by_hand(
                f"{table.name} is not partitioned by {partition.column!r}; to change that all rows must be copied",
                self._repartition(),
            )
            return
        if partition.monthly:
            if facts.rest is None:
                self._plan.statements.append(ddl.default_partition(table.name))
            self._plan.months += [
                TableMonth(table, month) for month in free_months(self._conn, self._name, self._months)
            ]

    def _repartition(self) -> str:
        table, partition = self._table, self._table.partition
        create = ddl.create_table(table.name, table.plan.columns, table.plan.key.name, partition, self._months)
        mine = (*table.plan.column_names, VERSION)
        copied = [name for name in mine if name in self._facts.columns and not self._facts.columns[name].computed]
        monthly = partition is not None and partition.monthly
        return ddl.repartition(table.name, create, copied, partition.column if partition and monthly else None)

    def _key(self) -> None:
        """The constraint that upserts go by, or, by month, the index in which writers look for the key."""
        key, partition, facts = self._table.plan.key.name, self._table.partition, self._facts
        if facts.kind == "p" and set(facts.divided_by) - {key}:
            if partition is not None and partition.monthly and facts.divided_by == (partition.column,):
                both = Index([key, partition.column], unique=True)
                if facts.index_over((key, partition.column), unique=True) is None:
                    self._unique(both, deferrable=False)
            return  # nothing less than that can be unique in it
        found = facts.index_over((key,), unique=True)
        if found is None:
            self._unique(Index([key], unique=True), deferrable=False)
        elif not found.immediate:
            self._by_hand(
                f"the key of {self._table.name} has a deferrable constraint, which no upsert can use",
                ddl.unique(self._table.name, Index([key], unique=True), deferrable=False) + ";",
            )

    def _by_hand(self, text: str, sql: str) -> None:
        self._plan.manual.append(ManualChange(text, sql))
