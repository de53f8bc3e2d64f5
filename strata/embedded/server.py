"""What the embedded servers have in common: a port, a place for their files, a life."""

from __future__ import annotations

import os
import time
from abc import abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import Self

from strata.embedded.account import Account
from strata.embedded.directories import Scratch
from strata.embedded.given import folder_of, port_of
from strata.embedded.lifetime import Lifetime
from strata.embedded.process import ServerProcess, free_port
from strata.errors import StrataError

ATTEMPTS = 10
PAUSE = 0.2  # seconds until a port that must be this one is tried again
TAKEN = "Address already in use"


class EmbeddedServer(Lifetime):
    """Listens on a free port of 127.0.0.1, or on `port`, with its files in a temporary directory, or in `directory`.

    A context manager. It ends with this process, however that ends; not thread-safe, but it may be started in one
    thread and stopped in another.
    """

    def __init__(self, kind: str, account: Account, port: int | None, directory: Path | str | None) -> None:
        self._kind = kind
        self._account = account
        self._chosen = port_of(port)
        self._given = folder_of(directory)
        self._scratch: Scratch | None = None
        self._process: ServerProcess | None = None
        self._owner = 0
        self.port = port or 0

    @property
    def addr(self) -> str:
        """`127.0.0.1:port`."""
        return f"127.0.0.1:{self.port}"

    @property
    def pid(self) -> int:
        """The server's process id. Raises `StrataError` where it was not started."""
        return self._running().pid

    @property
    def directory(self) -> Path:
        """Where its files are; gone after `stop`, where it was not given. Raises `StrataError` while there is none."""
        return self._given or self._temporary().path

    def start(self) -> Self:
        """Start it and wait until it answers.

        Raises `InvalidConfigError` where its wheel is not installed, `StrataError` with the end of its log where it
        does not start.
        """
        if self._process is not None:
            raise StrataError(f"this {self._kind} was started before; use restart()")
        self._owner = os.getpid()
        self._scratch = Scratch(self._kind, self._account)
        try:
            if self._given is not None:
                self._given.mkdir(0o711 if self._account.switch else 0o700, parents=True, exist_ok=True)
            self._prepare()
            self._launch(self._port_for_start)
        except BaseException:
            self.stop()
            raise
        return self

    def stop(self) -> None:
        """Stop it; a temporary directory is removed. Stopping what does not run is no error."""
        if self._owner != os.getpid():
            return  # a forked child leaves a `with` of its parent
        if self._process is not None:
            self._process.stop()
            self._clean()
            self._process = None
        if self._scratch is not None:
            self._scratch.remove()
            self._scratch = None

    def kill(self) -> None:
        """SIGKILL, to it and all its children; `restart` starts it again on its port and files.

        Raises `StrataError` where it was not started.
        """
        self._running().kill()

    def restart(self) -> None:
        """Stop it if it runs, and start it again on its port and files.

        Raises `StrataError` where it was not started, or does not start.
        """
        self._running().stop()
        self._clean()
        self._launch(self._port_for_restart)

    def freeze(self) -> None:
        """SIGSTOP, to it and all its children: connections stay, nothing is answered. Raises `StrataError` where it was
        not started."""
        self._running().freeze()

    def thaw(self) -> None:
        """SIGCONT: it goes on. Raises `StrataError` where it was not started."""
        self._running().thaw()

    def wait_ready(self, timeout: float = 30.0) -> None:
        """Wait until it answers. Raises `StrataError` where it does not in `timeout` seconds, and kills it."""
        self._running().wait_ready(self._answers, timeout)

    @abstractmethod
    def _prepare(self) -> None:
        """Make what it needs for its first start."""

    @abstractmethod
    def _process_on(self, log: Path) -> ServerProcess:
        """The started process."""

    @abstractmethod
    def _answers(self) -> bool:
        """Whether this very process answers: another server may have taken the port."""

    @abstractmethod
    def _clean(self) -> None:
        """Remove what a killed server left outside its directory."""

    def _running(self) -> ServerProcess:
        if self._process is None:
            raise StrataError(f"this {self._kind} was not started; call start() first")
        return self._process

    def _temporary(self) -> Scratch:
        if self._scratch is None:
            raise StrataError(f"this {self._kind} was not started; call start() first")
        return self._scratch

    def _launch(self, choose_port: Callable[[int], None]) -> None:
        for attempt in range(ATTEMPTS):
            choose_port(attempt)
            try:
                self._process = self._process_on(self._temporary().path / "server.log")
                self._process.wait_ready(self._answers)
                return
            except StrataError as error:
                if TAKEN not in str(error) or attempt == ATTEMPTS - 1:
                    raise

    def _port_for_start(self, attempt: int) -> None:
        if not self.port or (attempt and self._chosen is None):
            self.port = free_port()
        else:
            self._port_for_restart(attempt)

    def _port_for_restart(self, attempt: int) -> None:
        # A client's socket may hold the port for a moment, even one that connects to itself while nobody listens.
        if attempt:
            time.sleep(PAUSE)
