"""Migrations: additive ones made from the schemas, partitions of months to come, and files written by hand.

Both run under one advisory lock, so that any number of processes may start at once, and are recorded in
`_strata_migrations`. Where nothing changed, only the catalog is read.
"""

from __future__ import annotations

import datetime
import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
from psycopg import pq

from strata import waits
from strata.errors import MigrationError
from strata.l3 import ddl, failures
from strata.l3.catalog import exists, is_broken
from strata.l3.changes import LateIndex, Plan
from strata.l3.compare import compare, watch_new_partitions
from strata.l3.connection import Connection
from strata.l3.files import MigrationFile, read_files
from strata.l3.layout import quote
from strata.l3.months import make_months
from strata.l3.pool import Database
from strata.l3.report import MigrationRecord, MigrationReport
from strata.l3.table import Table
from strata.schema import Schema

LOCK = 0x5354524154410001  # of pg_try_advisory_xact_lock: "STRATA" and a number
LOCK_PATIENCE = 300.0  # seconds to wait for another process's migration
LOCK_PAUSE = 0.05
TABLE_PATIENCE = "2s"  # for a table's lock: whoever comes after us in its queue waits as well
TABLE_TRIES = 10


class Migrator:
    """Compares schemas with the database and adds what is missing. Safe among threads and processes."""

    def __init__(
        self,
        database: Database,
        tables: Sequence[tuple[Table, Schema[Any]]],
        *,
        now: datetime.datetime | None = None,
    ) -> None:
        """`now` decides which months partitions are made for; without it the server's clock does."""
        self._database = database
        self._tables = list(tables)
        self._now = now

    def migrate(self) -> MigrationReport:
        """Add what is missing: in one transaction, but for indexes on tables that have rows, which come after it.

        Raises `MigrationError` where a statement fails, `InvalidModelError` for schemas that no database can have.
        """
        with self._database.session() as conn:
            plan = compare(conn, self._tables, self._now)
        if not plan:
            return MigrationReport((), tuple(plan.manual))
        with self._alone() as conn:
            with conn.settled():
                plan = compare(conn, self._tables, self._now)  # another process may have been first
            applied = self._in_transaction(conn, plan)
            applied += self._months(conn, plan)
            for index in plan.late:
                applied += self._late(conn, index, plan)
            if applied:
                self._note(conn, applied)
        return MigrationReport(tuple(applied), tuple(plan.manual))

    def make_partitions(self) -> MigrationReport:
        """Make the partitions of the months ahead, as `migrate` does, and nothing else.

        Tables that are not there yet are left alone. Raises as `migrate` does.
        """
        divided = [(table, schema) for table, schema in self._tables if table.monthly]
        if not divided:
            return MigrationReport()
        with self._database.session() as conn:
            if not compare(conn, divided, self._now).months:
                return MigrationReport()
        with self._alone() as conn:
            with conn.settled():
                plan = compare(conn, divided, self._now)
            plan.manual.clear()
            applied = self._months(conn, plan)
            if applied:
                self._note(conn, applied)
        return MigrationReport(tuple(applied), tuple(plan.manual))

    def migrate_from(self, directory: Path) -> list[str]:
        """Apply the files that were not applied yet, by number; returns their names.

        Raises `MigrationError` for a bad name, a number used twice, a file that changed after it was applied, or a
        statement that fails; nothing of the failing file is applied then.
        """
        files = read_files(directory)
        with self._database.session() as conn:
            if exists(conn, ddl.MIGRATIONS) and not _pending(files, _records(conn)):
                return []
        with self._alone() as conn:
            with conn.settled():
                for statement in ddl.system_table(ddl.MIGRATIONS):
                    conn.command(statement)
                pending = _pending(files, _records(conn))
            for file in pending:
                self._apply(conn, file)
        return [file.name for file in pending]

    def migration_status(self) -> list[MigrationRecord]:
        """What was applied, in order; nothing where nothing ever was."""
        with self._database.session() as conn:
            return _records(conn) if exists(conn, ddl.MIGRATIONS) else []

    # -- schemas ------------------------------------------------------------------------------------------------

    def _in_transaction(self, conn: Connection, plan: Plan) -> list[str]:
        """Run the statements. A table in use is not waited for long, but tried again."""
        statements = [*plan.statements, *plan.defaults]
        if not statements:
            return []
        for left in reversed(range(TABLE_TRIES)):
            statement = ""
            try:
                conn.command(_patient(conn))
                for statement in statements:
                    conn.command(statement)
                conn.command("COMMIT")
                return statements
            except psycopg.Error as error:
                _roll_back(conn)
                if error.sqlstate != "55P03" or not left:
                    raise failures.migration_error(error, f"migrate(), at {statement!r},")  # noqa: B904
                waits.sleep(LOCK_PAUSE * 4)
        return []

    def _months(self, conn: Connection, plan: Plan) -> list[str]:
        applied, left = make_months(conn, plan.months)
        plan.manual += left
        if applied:
            conn.command(_patient(conn))
            for statement in watch_new_partitions(conn, self._tables):
                conn.command(statement)
                applied.append(statement)
            conn.command("COMMIT")
        return applied

    def _late(self, conn: Connection, index: LateIndex, plan: Plan) -> list[str]:
        """Make one index; what rows forbid is left to be done by hand."""
        steps = index.statements
        try:
            for step in steps:
                conn.command(step)
        except psycopg.Error as error:
            if conn.closed:
                raise
            if is_broken(conn, quote(index.name)):
                conn.command(f"DROP INDEX CONCURRENTLY {quote(index.name)}")
            if error.sqlstate != "23505" or not index.manual.text:
                raise failures.migration_error(error, f"migrate(), at {index.create!r},")  # noqa: B904
            plan.manual.append(index.manual)
            return []
        return steps

    def _note(self, conn: Connection, applied: Sequence[str]) -> None:
        stamp = datetime.datetime.fromtimestamp(waits.wall(), datetime.UTC).isoformat(timespec="microseconds")
        _record(conn, f"migrate() {stamp}", hashlib.sha256("\n".join(applied).encode()).hexdigest())

    # -- files --------------------------------------------------------------------------------------------------

    def _apply(self, conn: Connection, file: MigrationFile) -> None:
        """Over a connection of its own: what a file sets in its session is no other file's, nor that of the records."""
        with self._database.apart() as own:
            _unhurried(own)
            try:
                if file.alone:
                    self._apply_alone(own, file)
                    _record(conn, file.name, file.checksum)
                else:
                    self._apply_whole(own, file)
            except psycopg.Error as error:
                if own.closed or conn.closed:
                    raise
                raise failures.migration_error(error, file.name, whole=not file.alone)  # noqa: B904

    def _apply_whole(self, conn: Connection, file: MigrationFile) -> None:
        for left in reversed(range(TABLE_TRIES)):
            try:
                conn.command(_patient(conn))
                _record(conn, file.name, file.checksum)  # first: the file may leave another search_path or role
                for statement in file.statements:
                    _run(conn, statement, file)
                conn.command("COMMIT")
                return
            except psycopg.Error as error:
                if conn.closed:
                    raise
                _roll_back(conn)
                if error.sqlstate != "55P03" or not left:
                    raise
                waits.sleep(LOCK_PAUSE * 4)

    def _apply_alone(self, conn: Connection, file: MigrationFile) -> None:
        for statement in file.statements:
            _run(conn, statement, file)
        if conn.in_transaction:
            raise MigrationError(f"{file.name} begins a transaction that it does not end; end it with COMMIT")

    # -- alone --------------------------------------------------------------------------------------------------

    @contextmanager
    def _alone(self) -> Iterator[Connection]:
        """A connection whose statements may take their time, while another one holds the lock.

        The lock belongs to a transaction, which a pooler cannot leave behind in a session; one that is open and idle
        holds no snapshot, for whose end CREATE INDEX CONCURRENTLY would wait. So it is asked for again and again, and
        not waited for in the server. Neither connection is used for anything else afterwards.
        """
        with self._database.apart() as holder, self._database.apart() as conn:
            _take_lock(holder)
            _unhurried(conn)
            try:
                yield conn
            finally:
                for table, _ in self._tables:
                    table.changed()
            holder.command("COMMIT")


def _unhurried(conn: Connection) -> None:
    """Its statements may take for ever."""
    conn.command("SELECT")  # before that: is there a session for it?
    conn.patience = None
    if not conn.shared:
        # CREATE INDEX CONCURRENTLY waits for the transactions of others, and must not be ended in the middle.
        conn.command("SET statement_timeout = 0; SET lock_timeout = 0")


def _run(conn: Connection, statement: str, file: MigrationFile) -> None:
    """One statement, and no other that might end the transaction: the server sees to that."""
    try:
        conn.single(statement)
    except psycopg.Error as error:
        if conn.pgconn.transaction_status == pq.TransactionStatus.ACTIVE:  # COPY waits for what nobody will send
            conn.close()
            raise MigrationError(
                f"{file.name} copies from, or to, its client, and nobody is there; write INSERT, or COPY from a file "
                "of the server"
            ) from error
        raise


def _take_lock(holder: Connection) -> None:
    """Open the transaction that has the lock."""
    deadline = waits.monotonic() + LOCK_PATIENCE
    while True:
        holder.command(f"{holder.begin}; SET LOCAL idle_in_transaction_session_timeout = 0")
        # By the simple protocol: the portal of the other one would keep its snapshot until the next statement.
        if holder.results(f"SELECT pg_try_advisory_xact_lock({LOCK})")[-1].get_value(0, 0) == b"t":
            return
        holder.command("ROLLBACK")
        if waits.monotonic() >= deadline:
            raise MigrationError(f"another process has been migrating for {LOCK_PATIENCE:g} s; try again later")
        waits.sleep(LOCK_PAUSE)


def _patient(conn: Connection) -> str:
    """Opens a transaction whose statements may take their time, but do not wait long for a table in use."""
    return f"{conn.begin}; SET LOCAL statement_timeout = 0; SET LOCAL lock_timeout = '{TABLE_PATIENCE}'"


def _roll_back(conn: Connection) -> None:
    if conn.in_transaction and not conn.closed:
        conn.command("ROLLBACK")


def _record(conn: Connection, name: str, checksum: str) -> None:
    with conn.settled():
        conn.execute(f"INSERT INTO {ddl.MIGRATIONS} (file_name, checksum) VALUES ($1, $2)", (name, checksum))


def _records(conn: Connection) -> list[MigrationRecord]:
    rows = conn.execute(f"SELECT file_name, applied_at, checksum FROM {ddl.MIGRATIONS} ORDER BY applied_at, file_name")
    return [MigrationRecord(*row) for row in rows.fetchall()]


def _pending(files: Sequence[MigrationFile], records: Sequence[MigrationRecord]) -> list[MigrationFile]:
    """The files that were not applied. Raises `MigrationError` where one was, and then changed."""
    known = {record.file_name: record.checksum for record in records}
    for file in files:
        if known.get(file.name, file.checksum) != file.checksum:
            raise MigrationError(f"{file.name} was changed after it was applied; put it back, and write a new file")
    return [file for file in files if file.name not in known]
