"""What a database lacks of the registered schemas: statements that add it, and words for what is not an addition."""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from typing import Any

from strata.errors import InvalidModelError
from strata.l3 import ddl, outside
from strata.l3.catalog import exists, free_months, has_rows, table_facts
from strata.l3.changes import LateIndex, Plan, TableMonth
from strata.l3.columns import Columns
from strata.l3.connection import Connection
from strata.l3.fit import misfit, no_table
from strata.l3.indexes import wanted_indexes
from strata.l3.layout import VERSION, quote
from strata.l3.partition import Month, check_unique, months_from
from strata.l3.report import BlockingChange, ManualChange
from strata.l3.table import Table
from strata.model.fields import Field
from strata.policies import Index
from strata.schema import Schema


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
    plan.statements += ddl.later_columns(conn)
    seen: set[str] = set()
    for table, schema in tables:
        if table.name not in seen:  # schemas over one table have the same columns and partitions
            seen.add(table.name)
            part = Plan()
            comparison = _Comparison(conn, part, table, schema, months, managed=_managed(tables, table.name))
            needed = comparison.run()
            plan.add(part if comparison.managed else _told(table, part, needed=needed))
    _watch(conn, plan, tables)
    return plan


def _managed(tables: Sequence[tuple[Table, Schema[Any]]], name: str) -> bool:
    """Whether `migrate` may alter a table: all schemas over it must say so."""
    return all(schema.l3 is None or schema.l3.managed for table, schema in tables if table.name == name)


def _told(table: Table, part: Plan, *, needed: bool) -> Plan:
    """What is missing in a table that another tool manages, as words; `needed`: no record can do without it."""
    name = quote(table.name)
    months = [
        f"CREATE TABLE {ddl.partition_name(table.name, month)} PARTITION OF {name} {ddl.within(month)}"
        for _, month in part.months
    ]
    told = Plan(manual=[change for change in part.manual if isinstance(change, BlockingChange)])
    lacking = [*part.statements, *months]
    if lacking:
        kind = BlockingChange if needed else ManualChange
        text = f"{table.name} is managed by other means (managed=False), and lacks what its schema wants of it"
        told.manual.append(kind(text, ";\n".join(lacking) + ";"))
    return told


def _server_time(conn: Connection) -> datetime.datetime:
    row = conn.execute("SELECT now()").fetchone()
    assert row is not None
    at: datetime.datetime = row[0]
    return at


def _watch(conn: Connection, plan: Plan, tables: Sequence[tuple[Table, Schema[Any]]]) -> None:
    """What tables lack to tell of changes made outside, and those that tell although nobody asks them to."""
    watched = watched_tables(tables)
    for item in watched:
        additions = _watching(conn, tables, item)
        if _managed(tables, item.table):
            plan.statements += additions
        elif additions:
            # With what the triggers write to: this may be run on a database on which nobody has run `migrate` yet.
            text = f"{item.table} is managed by other means (managed=False), and {_untold(conn, item.table)}"
            plan.manual.append(BlockingChange(text, ";\n".join([*ddl.own_tables(), *additions]) + ";"))
    # Other tables may be another application's.
    unwatched = {table.name for table, _ in tables} - {item.table for item in watched}
    for name, sql in outside.leftovers(conn, unwatched):
        text = f"{name} tells of changes made outside, but no schema registered here has PostgresPolicy(watch=True)"
        plan.manual.append(ManualChange(text, sql))


def untold(conn: Connection, tables: Sequence[tuple[Table, Schema[Any]]]) -> list[tuple[str, str]]:
    """The watched tables that do not tell of all changes made outside, and why, in words that go on from the name."""
    return [(item.table, _untold(conn, item.table)) for item in watched_tables(tables) if _watching(conn, tables, item)]


def _watching(conn: Connection, tables: Sequence[tuple[Table, Schema[Any]]], item: outside.Watched) -> list[str]:
    """The statements that make a table tell of all changes made outside, as far as it does not yet."""
    return [*outside.additions(conn, item), *watch_partitions(conn, tables, item)]


def _untold(conn: Connection, table: str) -> str:
    if not outside.has_triggers(conn, table):
        return "does not tell of changes made outside, as PostgresPolicy(watch=True) wants: they would go unseen"
    return (
        "has triggers for other schemas over it, or of another release, such as from before a schema was written "
        "behind; with these, changes made outside may go unseen, or undo deferred writes"
    )


def watch_new_partitions(conn: Connection, tables: Sequence[tuple[Table, Schema[Any]]]) -> list[str]:
    """What partitions that were made just now lack to tell of changes made outside."""
    mine = [item for item in watched_tables(tables) if _managed(tables, item.table)]
    return [statement for item in mine for statement in watch_partitions(conn, tables, item)]


def watched_tables(tables: Sequence[tuple[Table, Schema[Any]]]) -> list[outside.Watched]:
    watched = {table.name: table for table, schema in tables if schema.l3 is not None and schema.l3.watch}
    found = []
    for name, table in watched.items():
        over = [(other, schema) for other, schema in tables if other.name == name]
        cached = tuple(other.mark for other, schema in over if schema.l2 is not None)
        deferred = tuple(other.mark for other, _ in over if other.deferred)
        divided = any(schema.l3 is not None and schema.l3.partition_by for _, schema in over)
        found.append(outside.Watched(name, table.plan.key, cached, deferred, divided))
    return found


def watch_partitions(conn: Connection, tables: Sequence[tuple[Table, Schema[Any]]], item: outside.Watched) -> list[str]:
    facts = table_facts(conn, quote(item.table))
    partitioned = any(schema.l3 and schema.l3.partition_by for table, schema in tables if table.name == item.table)
    if facts.kind == "p" or (not facts.kind and partitioned):
        return outside.partitions(conn, item, new=not facts.kind)
    return []


class _Comparison:
    """One table, as it is and as it should be."""

    def __init__(
        self,
        conn: Connection,
        plan: Plan,
        table: Table,
        schema: Schema[Any],
        months: Sequence[Month],
        *,
        managed: bool,
    ) -> None:
        self._conn = conn
        self._plan = plan
        self._table = table
        self._name = quote(table.name)
        self._alter = f"ALTER TABLE {self._name}"
        self._months = months
        self.managed = managed
        self._wanted = wanted_indexes(table.plan, schema)
        self._facts = table_facts(conn, self._name)
        self._filled = bool(self._facts.kind in ("r", "p") and has_rows(conn, self._name))

    def run(self) -> bool:
        """Whether there is something to do without which no record can be written."""
        table, facts = self._table, self._facts
        check_unique(table.plan, table.name, table.partition, self._wanted)
        if not facts.kind:
            self._plan.statements += ddl.create_table(
                table.name, table.plan.forms, table.plan.key.names, table.partition, self._months
            )
        elif why := no_table(facts.kind):
            raise InvalidModelError(f"{table.name!r} is there already and {why}")
        else:
            self._extend()
        if table.plan.key.generated:
            self._assign(table.plan.key.fields[0])
        needed = bool(self._plan.statements or self._plan.late)
        if facts.kind:
            self._divided()
        for item in self._wanted:
            self._index(item)
        return needed

    def _extend(self) -> None:
        columns = Columns(self._conn, self._plan, self._table)
        for column in self._table.plan.forms:
            facts = self._facts.columns.get(column.field.name)
            if facts is None:
                columns.add(column, filled=self._filled)
            else:
                columns.compare(column, facts)
        if VERSION not in self._facts.columns:
            self._plan.statements.append(f"{self._alter} ADD COLUMN {VERSION} BIGINT NOT NULL DEFAULT 0")
        self._strangers()
        self._key()

    def _assign(self, key: Field) -> None:
        """Of what the database makes a key. A DEFAULT that is there stays, whatever it is."""
        facts, server = self._facts.columns.get(key.name), self._conn.pgconn.server_version
        if facts is not None and (facts.default is not None or facts.identity or misfit(key, facts)):
            return
        partitioned = self._facts.kind == "p" or (not self._facts.kind and self._table.partition is not None)
        steps = ddl.assign_key(self._table.name, key, server=server, partitioned=partitioned, filled=self._filled)
        if facts is None or facts.not_null:
            self._plan.statements += steps
            return
        where, alter = f"{self._table.name}.{key.name}", f"{self._alter} ALTER COLUMN {quote(key.name)}"
        self._blocked(
            f"{where} may be NULL and has no DEFAULT, so that no key can be made for a record without one",
            ";\n".join([f"{alter} SET NOT NULL", *steps]) + ";",
        )

    def _strangers(self) -> None:
        known = {*self._table.plan.column_names, VERSION}
        for column in self._facts.columns.values():
            if column.name in known:
                continue
            where = f"{self._table.name}.{column.name}"
            if column.demanding and self.managed:  # else it is as meant: rows are inserted by others
                self._blocked(
                    f"{where} is not in the model and is NOT NULL without a DEFAULT, so that no row can be inserted; "
                    "let it be NULL, or SET DEFAULT",
                    f"{self._alter} ALTER COLUMN {quote(column.name)} DROP NOT NULL;",
                )
            else:
                self._by_hand(
                    f"{where} is not in the model; its values stay. Drop it when no release that has it runs any more",
                    f"{self._alter} DROP COLUMN {quote(column.name)};",
                )

    def _index(self, item: Index) -> None:
        columns = tuple(item.fields)
        keys = self._table.plan.key.names
        held = [found.columns for found in self._facts.unique_indexes(keys)]
        if columns == keys and (keys in held or not held):
            return  # the primary key
        found = self._facts.index_over(columns, unique=item.unique)
        deferrable = self._table.deferred and sorted(columns) != sorted(keys)  # no upsert works beside one of the key
        if found is None and item.unique:
            self._unique(item, deferrable=deferrable)
        elif found is None:
            self._plain(item)
        elif item.unique and found.immediate and deferrable:
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
        return self._filled and self._facts.kind == "r" and self.managed

    def _late_index(self, item: Index, create: str, afterwards: str, manual: ManualChange) -> LateIndex:
        name = ddl.index_name(self._table.name, item)
        leftover = f"DROP INDEX CONCURRENTLY {quote(name)}" if self._facts.broken_index(name) else ""
        return LateIndex(name, leftover, create, afterwards, manual)

    # -- partitions ---------------------------------------------------------------------------------------------

    def _divided(self) -> None:
        """What a table lacks of its partitions; one that is divided in another way is left to be done by hand."""
        facts, partition, table = self._facts, self._table.partition, self._table
        if partition is None:
            if facts.kind == "p" and set(facts.divided_by) - set(table.plan.key.names):
                by = ", ".join(column or "an expression" for column in facts.divided_by)
                self._blocked(
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
        create = ddl.create_table(table.name, table.plan.forms, table.plan.key.names, partition, self._months)
        if table.plan.key.generated:
            server = self._conn.pgconn.server_version
            create += ddl.assign_key(
                table.name, table.plan.key.fields[0], server=server, partitioned=partition is not None, filled=False
            )
        mine = (*table.plan.column_names, VERSION)
        copied = [name for name in mine if name in self._facts.columns and not self._facts.columns[name].computed]
        monthly = partition is not None and partition.monthly
        return ddl.repartition(table.name, create, copied, partition.column if partition and monthly else None)

    def _key(self) -> None:
        """The constraint that upserts go by, or, by month, the index in which writers look for the key."""
        keys, partition, facts = self._table.plan.key.names, self._table.partition, self._facts
        if facts.kind == "p" and set(facts.divided_by) - set(keys):
            if partition is not None and partition.monthly and facts.divided_by == (partition.column,):
                both = Index([*keys, partition.column], unique=True)
                if facts.index_over((*keys, partition.column), unique=True) is None:
                    self._unique(both, deferrable=False)
            return  # nothing less than that can be unique in it
        found = facts.unique_indexes(keys)
        if not found:
            self._unique(Index(list(keys), unique=True), deferrable=False)
        elif not found[0].immediate:
            drop = f"{self._alter} DROP CONSTRAINT {quote(found[0].name)};"
            add = f" {ddl.unique(self._table.name, Index(list(keys), unique=True), deferrable=False)};"
            self._blocked(
                f"the key of {self._table.name} has a deferrable constraint, beside which no upsert works",
                drop if found[-1].immediate else drop + add,
            )
        elif facts.index_over(keys, unique=False) is None and keys not in {tuple(item.fields) for item in self._wanted}:
            self._by_hand(
                f"the key of {self._table.name} is kept by an index of another order ({', '.join(found[0].columns)}), "
                "so that what goes through the table by keys, such as warming, sorts it for each page",
                ddl.index(self._table.name, Index(list(keys)), concurrently=facts.kind == "r") + ";",
            )

    def _by_hand(self, text: str, sql: str) -> None:
        self._plan.manual.append(ManualChange(text, sql))

    def _blocked(self, text: str, sql: str) -> None:
        self._plan.manual.append(BlockingChange(text, sql))
