"""Servers, a worker and Flower as processes of one command, all of which end with it."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from strata.embedded import EmbeddedPostgres, EmbeddedValkey
from strata.embedded.process import ServerProcess, free_port


class Fleet:
    """PostgreSQL, Valkey, and whatever of workers and Flower is started on them; used as a context manager."""

    def __init__(self, app: str) -> None:
        self._app = app
        self._stack = contextlib.ExitStack()
        self._logs = Path(self._stack.enter_context(tempfile.TemporaryDirectory(prefix="strata-logs-")))
        self._started = 0
        self.postgres = EmbeddedPostgres()
        self.valkey = EmbeddedValkey({"appendonly": "yes"})

    @property
    def environment(self) -> dict[str, str]:
        """What an application needs to use these servers."""
        return {
            "STRATA_APP": self._app,
            "STRATA_POSTGRES_DSN": self.postgres.dsn,
            "STRATA_REDIS_ADDR": self.valkey.addr,
        }

    def start_worker(self) -> ServerProcess:
        """A Celery worker with two processes, ready to work."""
        self._started += 1
        name = f"demo{self._started}@localhost"
        log = self._logs / f"worker{self._started}.log"
        command = [
            sys.executable, "-m", "celery", "-A", "workers", "worker",
            "--concurrency", "2", "--loglevel", "INFO", "--hostname", name,
        ]  # fmt: skip
        process = self._celery(command, log)
        process.wait_ready(lambda: " ready." in log.read_text(errors="replace"), timeout=60)
        return process

    def start_flower(self) -> str:
        """Flower on loopback; returns its URL."""
        port = free_port()
        log = self._logs / "flower.log"
        command = [
            sys.executable, "-m", "celery", "-A", "workers", "flower",
            "--address=127.0.0.1", f"--port={port}", "--max-tasks=10000",
        ]  # fmt: skip
        process = self._celery(command, log)
        process.wait_ready(lambda: _listens(port), timeout=60)
        return f"http://127.0.0.1:{port}"

    def __enter__(self) -> Fleet:
        with contextlib.ExitStack() as starting:
            starting.push(self._stack)
            self._stack.enter_context(self.postgres)
            self._stack.enter_context(self.valkey)
            starting.pop_all()
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    def _celery(self, command: list[str], log: Path) -> ServerProcess:
        path = os.pathsep.join([os.getcwd(), *filter(None, [os.environ.get("PYTHONPATH")])])  # noqa: PTH109
        environment = {**os.environ, **self.environment, "PYTHONPATH": path, "PYTHONUNBUFFERED": "1"}
        process = ServerProcess(command, log, end=signal.SIGTERM, quick="kill", env=environment)
        self._stack.callback(process.stop, 20.0)
        return process


@contextlib.contextmanager
def terminating() -> Iterator[None]:
    """SIGTERM ends the command as Ctrl-C does, so that everything is stopped in order."""

    def interrupt(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _listens(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), 0.5).close()
        return True
    except OSError:
        return False
