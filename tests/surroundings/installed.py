"""Servers of the operating system's packages, for the length of a test: unprivileged, on loopback, in a folder of
their own. Tests that miss one say so and are skipped."""

from __future__ import annotations

import shutil
import signal
import socket
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from strata.embedded.account import Account
from strata.embedded.process import ServerProcess


def found(program: str, package: str) -> Path:
    """The program on PATH, or in Debian's place for servers; the test is skipped where it is in neither."""
    path = shutil.which(program) or shutil.which(program, path="/usr/sbin:/usr/local/sbin")
    if path is None:
        pytest.skip(f"{program} is not installed (Debian's package {package}): this surrounding is not tried")
    return Path(path)


@contextmanager
def folder(name: str) -> Iterator[Path]:
    """A folder that belongs to the unprivileged user who runs the server; removed with all that is in it."""
    made = Path(tempfile.mkdtemp(prefix=f"strata-{name}-"))
    try:
        Account.unprivileged().give(made)
        yield made
    finally:
        shutil.rmtree(made, ignore_errors=True)


@contextmanager
def running(command: Sequence[str], log: Path, ready: Callable[[], bool]) -> Iterator[ServerProcess]:
    """The server as the unprivileged user, once it is `ready`; ended by SIGTERM. It may write into its folder only."""
    process = ServerProcess(
        command, log, end=signal.SIGTERM, quick="kill", cwd=str(log.parent), **Account.unprivileged().switch
    )
    try:
        process.wait_ready(ready, 20.0)
        yield process
    finally:
        process.stop(3.0)


def listens(port: int) -> bool:
    """Whether something takes connections on a port of 127.0.0.1."""
    try:
        socket.create_connection(("127.0.0.1", port), 0.5).close()
        return True
    except OSError:
        return False
