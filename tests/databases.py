"""Databases for the tests: each is empty and has a name of its own.

They are used again, since PostgreSQL takes ten times as long to make one as to empty it. A store of an earlier test
that still runs knows it by a name that is gone.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import itertools
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import psycopg
import pytest
from psycopg import sql

from strata.embedded import THROWAWAY, EmbeddedPostgres

VERSIONS = (18, 16)
# For fixtures of tests of which a few ask for each version by `parametrize(..., VERSIONS, indirect=True)`.
NEWEST = [VERSIONS[0], *(pytest.param(version, marks=pytest.mark.long) for version in VERSIONS[1:])]
QUICK = {**THROWAWAY, "max_connections": "200"}
USES = 50  # of a database: each leaves dead rows in its catalogue
_numbers = itertools.count()

_END_SESSIONS = "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE datname = %s"
_EMPTY = """
DO $$ DECLARE schema text; BEGIN
    FOR schema IN SELECT nspname FROM pg_namespace WHERE nspname NOT LIKE 'pg\\_%' AND nspname <> 'information_schema'
    LOOP EXECUTE format('DROP SCHEMA %I CASCADE', schema); END LOOP;
END $$;
CREATE SCHEMA public;
GRANT USAGE ON SCHEMA public TO PUBLIC;
"""
_OWNER = "ALTER SCHEMA public OWNER TO pg_database_owner"
_OLD = "GRANT ALL ON SCHEMA public TO PUBLIC"  # before PostgreSQL 15
_IN_NO_SCHEMA = """
SELECT EXISTS (SELECT FROM pg_event_trigger) OR EXISTS (SELECT FROM pg_publication)
    OR EXISTS (SELECT FROM pg_default_acl) OR EXISTS (SELECT FROM pg_foreign_data_wrapper)
    OR EXISTS (SELECT FROM pg_largeobject_metadata) OR EXISTS (SELECT FROM pg_extension WHERE extname <> 'plpgsql')
    OR EXISTS (SELECT FROM pg_cast WHERE oid >= 16384)
    OR EXISTS (SELECT FROM pg_prepared_xacts WHERE database = datname)
    OR EXISTS (SELECT FROM pg_db_role_setting WHERE setdatabase = d.oid)
    OR datacl IS NOT NULL OR datdba <> (SELECT oid FROM pg_roles WHERE rolname = current_user)
FROM pg_database d WHERE datname = current_database()
"""


class Files(NamedTuple):
    """Of a server that never ran, and its superuser's password."""

    data: Path
    password: str


class ThrowawayPostgres(EmbeddedPostgres):
    """A server whose files are a copy: initdb takes twenty times as long. All of a version have one system identifier,
    and differ in their ports."""

    _made: dict[int, Files] = {}  # by version

    def __init__(self, version: int = VERSIONS[0]) -> None:
        super().__init__(version, settings=QUICK)

    def _initdb(self) -> None:
        files = self._made.get(self.version)
        if files is None:
            super()._initdb()
            folder = Path(tempfile.mkdtemp(prefix="strata-tests-"))
            atexit.register(shutil.rmtree, folder, ignore_errors=True)
            self._made[self.version] = files = Files(folder / "data", self._password)
            _copy(self._data, files.data)
        else:
            self._password = files.password
            _copy(files.data, self._data)


def _copy(data: Path, to: Path) -> None:
    """With its owner and rights; `to` may be there, and empty."""
    subprocess.run(["cp", "-a", f"{data}/.", f"{to}/"], check=True)


@functools.cache
def server(version: int = VERSIONS[0]) -> str:
    """A PostgreSQL of this version that all tests of the process share, or the one that the environment names."""
    given = os.environ.get("STRATA_POSTGRES_DSN")
    if given:
        if version != VERSIONS[0]:
            pytest.skip("the tests run on the server of STRATA_POSTGRES_DSN only")
        return given
    started = ThrowawayPostgres(version).start()
    atexit.register(started.stop)
    return started.dsn


@contextmanager
def fresh(version: int = VERSIONS[0], *, collation: str = "C") -> Iterator[str]:
    """The DSN of an empty database on the server of this version."""
    with _databases(version, collation).one() as dsn:
        yield dsn


@functools.cache
def _databases(version: int, collation: str) -> Databases:
    return Databases(server(version), collation)


def login(dsn: str) -> sql.Composed:
    """What makes a role one that may log in, with the password that `dsn` has: `make_conninfo(dsn, user=...)`."""
    return sql.SQL("LOGIN PASSWORD {}").format(psycopg.conninfo.conninfo_to_dict(dsn).get("password"))


class Databases:
    """Those of one server that sort in one way. Not thread-safe: tests of a process run one after the other."""

    def __init__(self, dsn: str, collation: str) -> None:
        self._dsn = dsn
        self._collation = collation
        self._kept: psycopg.Connection | None = None  # to the database `postgres`
        self._empty: list[tuple[str, int]] = []  # name, and how often it was used
        atexit.register(self.close)

    def close(self) -> None:
        """Close the connection that is kept."""
        if self._kept is not None:
            self._kept.close()

    @contextmanager
    def one(self) -> Iterator[str]:
        """The DSN of an empty database, taken back afterwards."""
        name = f"test_{os.getpid()}_{next(_numbers)}"
        known, uses = self._empty.pop() if self._empty else ("", 0)
        conn = self._connection()
        if known:
            self._rename(conn, known, name)
        else:
            self._make(conn, name)
        yield self._dsn_of(name)
        conn = self._connection()
        conn.execute(_END_SESSIONS, [name])
        emptied = f"empty_{name}"
        try:
            self._rename(conn, name, emptied)
            reusable = uses < USES and self._empties(emptied)
        except psycopg.Error:
            reusable = False
        if reusable:
            self._empty.append((emptied, uses + 1))
            return
        for left in (name, emptied):
            conn.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(left)))

    def _connection(self) -> psycopg.Connection:
        """The one that is kept, or another where a test has ended it."""
        with contextlib.suppress(psycopg.Error):
            if self._kept is not None:
                self._kept.execute("")
                return self._kept
        self._kept = psycopg.connect(self._dsn, autocommit=True)
        return self._kept

    def _dsn_of(self, name: str) -> str:
        return psycopg.conninfo.make_conninfo(self._dsn, dbname=name)

    def _make(self, conn: psycopg.Connection, name: str) -> None:
        made = "CREATE DATABASE {} TEMPLATE template0 LC_COLLATE {collation} LC_CTYPE {collation}"
        if conn.info.server_version >= 150000:
            made += " STRATEGY file_copy"  # a third of the time of what they call wal_log
        conn.execute(sql.SQL(made).format(sql.Identifier(name), collation=sql.Literal(self._collation)))

    def _rename(self, conn: psycopg.Connection, name: str, to: str) -> None:
        conn.execute(sql.SQL("ALTER DATABASE {} RENAME TO {}").format(sql.Identifier(name), sql.Identifier(to)))

    def _empties(self, name: str) -> bool:
        """Drop whatever is in it; whether nothing else of an earlier use is left."""
        with psycopg.connect(self._dsn_of(name), autocommit=True) as conn:
            row = conn.execute(_IN_NO_SCHEMA).fetchone()
            assert row is not None
            if row[0]:
                return False
            conn.execute(_EMPTY)
            conn.execute(_OWNER if conn.info.server_version >= 150000 else _OLD)
        return True
