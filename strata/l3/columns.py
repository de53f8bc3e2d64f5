"""One column of a schema beside the one that its table has, or lacks."""

from __future__ import annotations

import datetime
import decimal
import uuid
from typing import Any

import psycopg

from strata.errors import DecodeError
from strata.l3 import ddl
from strata.l3.catalog import ColumnFacts, dependents
from strata.l3.changes import Plan
from strata.l3.connection import Connection
from strata.l3.convert import retype
from strata.l3.fit import misfit, same_type, shown, takes
from strata.l3.layout import quote
from strata.l3.report import BlockingChange, ManualChange
from strata.l3.table import Table
from strata.model.columns import Column
from strata.model.defaults import default_of, varies
from strata.model.fields import Kind
from strata.model.hints import is_record

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


class Columns:
    """Compares the columns of one table. What there is to do goes to `plan`."""

    def __init__(self, conn: Connection, plan: Plan, table: Table) -> None:
        self._conn = conn
        self._plan = plan
        self._table = table
        self._alter = f"ALTER TABLE {quote(table.name)}"

    # -- new ----------------------------------------------------------------------------------------------------

    def add(self, column: Column, *, filled: bool) -> None:
        """A column that the table, which has rows where it is `filled`, lacks."""
        field, where = column.field, f"{self._table.name}.{column.field.name}"
        if field.nullable or default_of(column) is not None:
            self._plan.statements += ddl.add_column(self._table.name, column, None)
            return
        old_rows = self._for_old_rows(column) if filled else None
        if filled and old_rows is None:
            self._cannot_add(column, where)
            return
        self._plan.statements += ddl.add_column(self._table.name, column, old_rows)
        self._plan.manual.append(self._without_default(column, where, old_rows))

    def _without_default(self, column: Column, where: str, old_rows: str | None) -> ManualChange:
        alter = f"{self._alter} ALTER COLUMN {quote(column.field.name)}"
        text = f"{where} is new and NOT NULL without a DEFAULT, so that a release without it cannot insert rows"
        if column.field.encrypted:
            return ManualChange(f"{text}; let it be `str | None` until all know it: SQL can make no ciphertext", "")
        if varies(column):
            return ManualChange(
                f"{text}: its class makes each record's value anew, which SQL must do, too, as in"
                " Default(sql='gen_random_uuid()') or Default(sql='now()'); or let it be NULL-able",
                "",
            )
        expression = old_rows or self._for_old_rows(column)
        return ManualChange(
            f"{text}; give the field a default in its class, or have the table one until all know it",
            "" if expression is None else f"{alter} SET DEFAULT {expression};",
        )

    def _cannot_add(self, column: Column, where: str) -> None:
        name = quote(column.field.name)
        how = "add it, fill it in every row, then set it NOT NULL"
        if column.field.encrypted:
            how = "let it be `str | None`, write every record, then take the None back: SQL can make no ciphertext"
        self._blocked(
            f"{where} is new and NOT NULL, and no value can be made up for the rows there are; {how}",
            f"{self._alter} ADD COLUMN {name} {column.field.sql_type};\n"
            f"-- when it is filled: {self._alter} ALTER COLUMN {name} SET NOT NULL;",
        )

    def _for_old_rows(self, column: Column) -> str | None:
        """The expression for rows that are there: what the class makes once, else the type's zero.

        None where there is none that could be read back: a nested class with required fields, say.
        """
        field = column.field
        if field.encrypted:
            return None
        if field.factory is not None:
            return ddl.literal(column.to_row(column.settle(field.factory())))
        assert field.kind is not None
        if is_record(field.annotation):
            try:
                return ddl.literal(column.to_row(column.settle(field.annotation())))
            except Exception:  # noqa: BLE001 the user's class, which may want arguments, or more
                return None
        zeros = [*map(column.to_row, field.choices.values())] if field.choices else [_ZEROS.get(field.kind)]
        for zero in ["{}", "[]"] if field.kind is Kind.JSONB else zeros:
            try:
                column.restore(zero)
            except DecodeError:
                continue
            return ddl.literal(zero)
        return None

    # -- there already ------------------------------------------------------------------------------------------

    def compare(self, column: Column, facts: ColumnFacts) -> None:
        """A column that is there, as it is and as it should be."""
        field, where = column.field, f"{self._table.name}.{column.field.name}"
        alter = f"{self._alter} ALTER COLUMN {quote(field.name)}"
        fits = takes(field, facts)
        if not fits or (not same_type(field, facts) and facts.sql_type == facts.base):  # no word about a domain
            hangs_on = dependents(self._conn, quote(self._table.name), field.name)
            change = retype(self._table.name, column, facts, hangs_on)
            self._plan.manual.append(change if fits else BlockingChange(*change))
        if facts.not_null and field.nullable and not field.stamped:
            self._blocked(f"{where} is NOT NULL, the model allows None", f"{alter} DROP NOT NULL;")
        if not facts.not_null and not field.nullable:
            self._by_hand(f"{where} may be NULL, the model wants a value", f"{alter} SET NOT NULL;")
        if fits and (why := misfit(field, facts)):
            self._blocked(f"{where} {why}", "")
        if fits and not facts.generated and not facts.identity and not field.primary_key:
            self._default(column, facts, where, alter)

    def _default(self, column: Column, facts: ColumnFacts, where: str, alter: str) -> None:
        wanted = ddl.default(column)
        if wanted is None:
            if facts.default is not None and not facts.default.startswith("nextval(") and not varies(column):
                self._by_hand(f"{where} has a DEFAULT, the model has none", f"{alter} DROP DEFAULT;")
        elif facts.default is None and self._takes(column, facts, wanted):
            self._plan.defaults.append(f"{alter} SET DEFAULT {wanted}")
        elif facts.default is None:
            self._by_hand(f"{where} is {shown(facts)}, which does not take the DEFAULT of the model, {wanted}", "")
        elif not self._same(column, facts.default, wanted):
            self._by_hand(f"{where} has another DEFAULT than the model", f"{alter} SET DEFAULT {wanted};")

    def _takes(self, column: Column, facts: ColumnFacts, wanted: str) -> bool:
        """Whether the column can hold the value: an enum may lack it, a domain forbid it, and no integer is a NaN."""
        default = default_of(column)
        if same_type(column.field, facts) or default is None or default.sql is not None:
            return True
        conn, inside = self._conn, self._conn.in_transaction
        if inside:
            conn.command("SAVEPOINT takes")
        try:
            conn.results(f"SELECT ({wanted})::{facts.sql_type}")
        except psycopg.Error as error:
            if (error.sqlstate or "")[:2] not in ("22", "23"):  # data exception, integrity constraint violation
                raise
            if inside:
                conn.command("ROLLBACK TO SAVEPOINT takes")
            return False
        return True

    def _same(self, column: Column, found: str, wanted: str) -> bool:
        default = default_of(column)
        if default is not None and default.sql is not None:
            return True  # two spellings of an expression cannot be told from two expressions
        if "(" in found and not found.startswith("'"):
            return False  # not a literal
        kind = column.field.sql_type
        sql = f"SELECT v::text, v IS NOT DISTINCT FROM ({wanted})::{kind} FROM (SELECT ({found})::{kind} AS v) AS f"
        row = self._conn.execute(sql.encode()).fetchone()
        if row is None or row[1]:
            return row is not None
        if default is None or column.field.kind is not Kind.JSONB:
            return False
        try:  # a set has no order, its JSON has
            return bool(column.restore(row[0]) == column.restore(default.value))
        except DecodeError:
            return False

    def _by_hand(self, text: str, sql: str) -> None:
        self._plan.manual.append(ManualChange(text, sql))

    def _blocked(self, text: str, sql: str) -> None:
        self._plan.manual.append(BlockingChange(text, sql))
