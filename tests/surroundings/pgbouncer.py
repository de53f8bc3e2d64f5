"""PgBouncer in front of a server of the tests, in the mode that a test asks for."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from strata.embedded.process import free_port
from tests.surroundings.installed import folder, found, listens, running

OTHER = "STRATA_TEST_PGBOUNCER"  # names another program than the installed one, such as a newer release


@dataclass(frozen=True)
class Release:
    """One PgBouncer; protocol-level prepared statements came with 1.21."""

    program: Path
    version: tuple[int, int]

    @property
    def prepares(self) -> bool:
        return self.version >= (1, 21)


def releases() -> list[Release]:
    """The releases that this machine has; the test is skipped where there is none."""
    programs = [found("pgbouncer", "pgbouncer")]
    if os.environ.get(OTHER):
        programs.append(Path(os.environ[OTHER]))
    return [Release(program, _version(program)) for program in programs]


def preparing() -> Release:
    """A release with protocol-level prepared statements; the test is skipped where there is none."""
    for release in releases():
        if release.prepares:
            return release
    pytest.skip(
        f"PgBouncer is {'.'.join(map(str, releases()[0].version))}, and protocol-level prepared statements came with "
        f"1.21: they are not tried; name a newer one in {OTHER}"
    )


class Bouncer:
    """A running PgBouncer, which can be killed and started again."""

    def __init__(self, command: Sequence[str], log: Path, port: int, dsn: str) -> None:
        self.dsn = dsn
        self._command, self._log, self._port = command, log, port
        self._stack = ExitStack()
        self.start()

    def start(self) -> None:
        """Start it, and wait until it listens."""
        self._process = self._stack.enter_context(running(self._command, self._log, lambda: listens(self._port)))

    def kill(self) -> None:
        """SIGKILL."""
        self._process.kill()

    def stop(self) -> None:
        """End it, in order."""
        self._stack.close()


@contextmanager
def pgbouncer(dsn: str, mode: str, *, release: Release | None = None, size: int = 3, **settings: str) -> Iterator[str]:
    """The DSN that leads to `dsn` through a PgBouncer of `size` server connections a database.

    Protocol-level prepared statements are off where the release has them, unless `max_prepared_statements` says more.
    """
    with bouncer(dsn, mode, release=release, size=size, **settings) as server:
        yield server.dsn


@contextmanager
def bouncer(
    dsn: str, mode: str, *, release: Release | None = None, size: int = 3, **settings: str
) -> Iterator[Bouncer]:
    """As `pgbouncer`, for tests that kill it."""
    release = release or releases()[0]
    to = conninfo_to_dict(dsn)
    port = free_port()
    lines = {
        "listen_addr": "127.0.0.1",
        "listen_port": str(port),
        "unix_socket_dir": "",
        "auth_type": "any",
        "pool_mode": mode,
        "default_pool_size": str(size),
        "max_client_conn": "200",
        **({"max_prepared_statements": "0"} if release.prepares else {}),
        **settings,
    }
    server = " ".join(f"{name}={to[name]}" for name in ("host", "port", "user", "password") if to.get(name))
    with folder("pgbouncer") as place:
        file = place / "pgbouncer.ini"
        text = [f"[databases]\n* = {server}\n[pgbouncer]", *(f"{name} = {value}" for name, value in lines.items())]
        file.write_text("\n".join(text) + "\n")
        through = make_conninfo(dsn, host="127.0.0.1", port=port, sslmode="disable")
        bouncer = Bouncer([str(release.program), str(file)], place / "log", port, through)
        try:
            yield bouncer
        finally:
            bouncer.stop()


def sessions(dsn: str) -> list[tuple[int, str]]:
    """The backends of the database but for the caller's, with their application names."""
    with psycopg.connect(dsn, autocommit=True) as conn:
        return conn.execute(
            "SELECT pid, application_name FROM pg_stat_activity"
            " WHERE datname = current_database() AND pid <> pg_backend_pid() AND backend_type = 'client backend'"
        ).fetchall()


def _version(program: Path) -> tuple[int, int]:
    said = subprocess.run([program, "--version"], capture_output=True, text=True, check=True).stdout
    major, minor = said.split()[1].split(".")[:2]
    return int(major), int(minor)
