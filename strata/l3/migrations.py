"""Migrations: additive ones made from the schemas, and files written by hand.

Both run under one advisory lock, so that any number of processes may start at once, and are recorded in
`_strata_migrations`. Where nothing changed, only the catalog is read.
"""

from __future__ import annotations

import datetime
import hashlib
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import psycopg

from strata.errors import InvalidModelError, L3UnavailableError, MigrationError
from strata.l3 import ddl
from strata.l3.catalog import TableFacts, table_facts
from strata.l3.connection import Connection
from strata.l3.failures import lost, migration_error
from strata.l3.pool import Database
from strata.l3.table import Table
from strata.model.fields import Field
from strata.policies import Index, PostgresPolicy
from strata.schema import Schema

LOCK = 0x5354524154410001  # of pg_advisory_lock: "STRATA" and a number
PATIENCE_MS = 120_000  # for the lock, and for a statement that rewrites or indexes a table
_FILE = re.compile(r"(\d{3,})_[A-Za-z0-9][A-Za-z0-9_.-]*\.sql\Z")
_ALONE = "-- strata: no-transaction"


class ManualChange(NamedTuple):
    """A difference that `migrate` leaves alone: in words, and as the SQL to write."""

    text: str
    sql: str


@dataclass(frozen=True, slots=True)
class MigrationReport:
    """What `migrate` did (the statements), and what is left to be done by hand."""

    applied: tuple[str, ...] = ()
    manual: tuple[ManualChange, ...] = ()


class MigrationRecord(NamedTuple):
    """One row of `_strata_migrations`."""

    file_name: str
    applied_at: datetime.datetime
    checksum: str


class Migrator:
    """Compares schemas with the database and adds what is missing. Not thread-safe, but safe among processes."""

    def __init__(self, database: Database, tables: Sequence[tuple[Table, Schema]]) -> None:  # type: ignore[type-arg]
        self._database = database
        self._tables = list(tables)

    def migrate(self) -> MigrationReport:
        """Add what is missing, in one transaction. Raises `MigrationError` where a statement fails."""
        with self._reporting("migrate()"), self._database.connection() as conn:
            statements, manual = self._plan(conn)
            if not statements:
                return MigrationReport((), tuple(manual))
        with self._reporting("migrate()"), self._patient() as conn, conn.transaction():
            conn.execute("SELECT pg_advisory_xact_lock($1)", (LOCK,))
            statements, manual = self._plan(conn)  # another process may have been first
            for statement in statements:
                conn.command(statement)
            if statements:
                stamp = datetime.datetime.now(datetime.UTC).isoformat(timespec="microseconds")
                self._record(conn, f"migrate() {stamp}", _checksum("\n".join(statements).encode()))
        return MigrationReport(tuple(statements), tuple(manual))

    def migrate_from(self, directory: Path) -> list[str]:
        """Apply the files that were not applied yet, by number; returns their names.

        Raises `MigrationError` for a bad name, a number used twice, a file that changed after it was applied, or a
        statement that fails; nothing of the failing file is applied then.
        """
        files = _files(directory)
        applied: list[str] = []
        with self._reporting("migrate_from()"), self._patient() as conn:
            conn.execute("SELECT pg_advisory_lock($1)", (LOCK,))
            try:
                self._system_tables(conn)
                known = {record.file_name: record.checksum for record in _records(conn)}
                contents = {path: path.read_bytes() for path in files}
                _check_unchanged(contents, known)
                for path in files:
                    if path.name not in known:
                        self._apply(conn, path, contents[path])
                        applied.append(path.name)
            finally:
                if not conn.closed:
                    conn.execute("SELECT pg_advisory_unlock($1)", (LOCK,))
        return applied

    def migration_status(self) -> list[MigrationRecord]:
        """What was applied, in order; nothing where nothing ever was."""
        with self._database.connection() as conn:
            if not table_facts(conn, "_strata_migrations").columns:
                return []
            return _records(conn)

    def _apply(self, conn: Connection, path: Path, content: bytes) -> None:
        try:
            text = content.decode()
        except UnicodeDecodeError:
            raise MigrationError(f"{path.name} is not UTF-8; save it as UTF-8") from None
        with self._reporting(path.name):
            if text.lstrip().startswith(_ALONE):
                # Statement by statement: several in one message would be one transaction.
                for statement in _statements(text):
                    conn.command(statement)
                self._record(conn, path.name, _checksum(content))
                return
            with conn.transaction():
                conn.command(text)
                self._record(conn, path.name, _checksum(content))

    def _record(self, conn: Connection, name: str, checksum: str) -> None:
        conn.execute("INSERT INTO _strata_migrations (file_name, checksum) VALUES ($1, $2)", (name, checksum))

    def _system_tables(self, conn: Connection) -> None:
        for table, columns in ddl.SYSTEM_TABLES.items():
            if not table_facts(conn, table).columns:
                conn.command(f"CREATE TABLE IF NOT EXISTS {table} ({columns})")

    @contextmanager
    def _patient(self) -> Iterator[Connection]:
        """A connection that may wait for the lock, and for statements that take long."""
        with self._database.connection() as conn:
            patience, conn.patience = conn.patience, None
            before = [conn.execute(f"SHOW {name}").fetchone() for name in ("lock_timeout", "statement_timeout")]
            try:
                conn.command(f"SET lock_timeout = {PATIENCE_MS}; SET statement_timeout = {PATIENCE_MS}")
                yield conn
            finally:
                conn.patience = patience
                if not conn.closed:
                    values = [row[0] if row else "0" for row in before]
                    conn.command(f"SET lock_timeout = '{values[0]}'; SET statement_timeout = '{values[1]}'")

    @contextmanager
    def _reporting(self, what: str) -> Iterator[None]:
        try:
            yield
        except psycopg.Error as error:
            if lost(error):
                raise L3UnavailableError(f"PostgreSQL was lost during {what}; run it again") from error
            raise migration_error(error, what) from error

    # -- comparing ----------------------------------------------------------------------------------------------

    def _plan(self, conn: Connection) -> tuple[list[str], list[ManualChange]]:
        statements = [
            f"CREATE TABLE IF NOT EXISTS {table} ({columns})"
            for table, columns in ddl.SYSTEM_TABLES.items()
            if not table_facts(conn, table).columns
        ]
        manual: list[ManualChange] = []
        for table, schema in self._tables:
            facts = table_facts(conn, ddl.name(table.name))
            if facts.columns:
                self._extend(conn, table, facts, statements, manual)
            else:
                policy = schema.l3 or PostgresPolicy()
                statements += ddl.create_table(
                    table.name, table.plan.columns, table.plan.key, _partition_column(table, policy)
                )
            self._index(table, schema, facts, statements)
        return statements, manual

    def _extend(
        self, conn: Connection, table: Table, facts: TableFacts, statements: list[str], manual: list[ManualChange]
    ) -> None:
        filled: bool | None = None
        for column in table.plan.columns:
            if column.name in facts.columns:
                manual += _differences(conn, table, column, facts)
                continue
            if column.encrypted and not column.nullable:
                filled = _has_rows(conn, table) if filled is None else filled
                if filled:
                    sql = f"ALTER TABLE {ddl.name(table.name)} ADD COLUMN {ddl.name(column.name)} TEXT;"
                    manual.append(
                        ManualChange(
                            f"{table.name}.{column.name} is Encrypted and NOT NULL, and the table has rows, for which no "
                            "ciphertext can be made up; add it NULL-able, fill it, then set NOT NULL",
                            sql,
                        )
                    )
                    continue
            statements += ddl.add_column(table.name, column)
        if ddl.VERSION_COLUMN not in facts.columns:
            statements.append(
                f"ALTER TABLE {ddl.name(table.name)} ADD COLUMN {ddl.VERSION_COLUMN} BIGINT NOT NULL DEFAULT 0"
            )
        manual += _strangers(table, facts)

    def _index(self, table: Table, schema: Schema, facts: TableFacts, statements: list[str]) -> None:  # type: ignore[type-arg]
        uniques = [Index([column.name], unique=True) for column in table.plan.columns if column.unique]
        plain = [Index([column.name]) for column in table.plan.columns if column.indexed and not column.unique]
        for item in (*uniques, *plain, *schema.indexes):
            columns = tuple(item.fields)
            if facts.has_index(columns, unique=item.unique) or columns == (table.plan.key.name,):
                continue
            if item.unique:
                statements.append(ddl.unique(table.name, columns, item.name, deferrable=table.deferred))
            else:
                statements.append(ddl.index(table.name, item))


def _partition_column(table: Table, policy: PostgresPolicy) -> str | None:
    if policy.partition_by is None:
        return None
    if policy.partition_by != table.plan.key.name:
        raise InvalidModelError(
            f"table {table.name} cannot be partitioned by {policy.partition_by!r}: upserts by key need the key in every "
            f"partition's constraint; partition_by must be the key {table.plan.key.name!r}"
        )
    return policy.partition_by


def _differences(conn: Connection, table: Table, column: Field, facts: TableFacts) -> list[ManualChange]:
    found, where = facts.columns[column.name], f"{table.name}.{column.name}"
    alter = f"ALTER TABLE {ddl.name(table.name)} ALTER COLUMN {ddl.name(column.name)}"
    changes = []
    if found.sql_type.upper() != _canonical(column.sql_type):
        changes.append(
            ManualChange(
                f"{where} is {found.sql_type.upper()}, the model wants {column.sql_type}",
                f"{alter} TYPE {column.sql_type} USING {ddl.name(column.name)}::{column.sql_type};",
            )
        )
    if found.not_null and column.nullable:
        changes.append(ManualChange(f"{where} is NOT NULL, the model allows None", f"{alter} DROP NOT NULL;"))
    if not found.not_null and not column.nullable:
        changes.append(ManualChange(f"{where} may be NULL, the model wants a value", f"{alter} SET NOT NULL;"))
    wanted = ddl.default(column)
    if wanted is None and found.default is not None:
        changes.append(ManualChange(f"{where} has a DEFAULT, the model has none", f"{alter} DROP DEFAULT;"))
    elif wanted is not None and not _same_default(conn, found.default, wanted, column):
        changes.append(
            ManualChange(f"{where} has another DEFAULT than the model", f"{alter} SET DEFAULT {wanted};")
        )
    return changes


def _same_default(conn: Connection, found: str | None, wanted: str, column: Field) -> bool:
    if found is None:
        return False
    if column.default is not None and column.default.sql is not None:
        return True  # two spellings of an expression cannot be told apart from two expressions
    # Both are literals: PostgreSQL compares them, whatever it made of their spelling.
    row = conn.execute(
        f"SELECT ({found})::{column.sql_type} IS NOT DISTINCT FROM ({wanted})::{column.sql_type}"
    ).fetchone()
    return bool(row and row[0])


def _strangers(table: Table, facts: TableFacts) -> list[ManualChange]:
    known = {*table.plan.column_names, ddl.VERSION_COLUMN}
    changes = []
    for column in facts.columns.values():
        if column.name in known:
            continue
        where, target = f"{table.name}.{column.name}", f"ALTER TABLE {ddl.name(table.name)}"
        if column.not_null and column.default is None:
            text = f"{where} is not in the model and is NOT NULL without a DEFAULT, so that no row can be inserted"
            changes.append(ManualChange(text, f"{target} ALTER COLUMN {ddl.name(column.name)} DROP NOT NULL;"))
        else:
            text = f"{where} is not in the model; its values stay"
            changes.append(ManualChange(text, f"{target} DROP COLUMN {ddl.name(column.name)};"))
    return changes


def _canonical(sql_type: str) -> str:
    return {"TIMESTAMPTZ": "TIMESTAMP WITH TIME ZONE", "TIME": "TIME WITHOUT TIME ZONE"}.get(sql_type, sql_type)


def _has_rows(conn: Connection, table: Table) -> bool:
    row = conn.execute(f"SELECT EXISTS (SELECT FROM {ddl.name(table.name)})").fetchone()
    return bool(row and row[0])


def _records(conn: Connection) -> list[MigrationRecord]:
    rows = conn.execute("SELECT file_name, applied_at, checksum FROM _strata_migrations ORDER BY applied_at, file_name")
    return [MigrationRecord(*row) for row in rows.fetchall()]


def _files(directory: Path) -> list[Path]:
    if not directory.is_dir():
        raise MigrationError(f"{directory} is not a directory; name the one that holds the NNN_description.sql files")
    numbered: dict[int, Path] = {}
    for path in sorted(directory.glob("*.sql")):
        match = _FILE.match(path.name)
        if match is None:
            raise MigrationError(f"{path.name} is not a migration's name; it must be like 001_create_users.sql")
        number = int(match[1])
        if number in numbered:
            raise MigrationError(f"{path.name} and {numbered[number].name} have the same number; give one another")
        numbered[number] = path
    return [numbered[number] for number in sorted(numbered)]


def _check_unchanged(contents: dict[Path, bytes], known: dict[str, str]) -> None:
    for path, content in contents.items():
        if path.name in known and known[path.name] != _checksum(content):
            raise MigrationError(f"{path.name} was changed after it was applied; put it back, and write a new file")


def _checksum(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _statements(text: str) -> list[str]:
    # Semicolons outside quotes, dollar quotes and comments end a statement.
    statements, current = [], ""
    pattern = re.compile(r"'(?:[^']|'')*'|\"[^\"]*\"|\$(?P<tag>\w*)\$.*?\$(?P=tag)\$|--[^\n]*|/\*.*?\*/|;|.", re.DOTALL)
    for match in pattern.finditer(text):
        piece = match.group()
        if piece == ";":
            statements.append(current)
            current = ""
        elif not piece.startswith(("--", "/*")):
            current += piece
    return [statement.strip() for statement in (*statements, current) if statement.strip()]
