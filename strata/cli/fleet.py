"""Celery workers and Flower as processes of one command, all of which end with it."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import sys
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Self

from strata.cli.signals import undisturbed
from strata.embedded.account import Account
from strata.embedded.directories import Scratch
from strata.embedded.process import ServerProcess, free_port
from strata.errors import StrataError

PATIENCE = 60.0  # seconds for a process to start
ATTEMPTS = 3  # with another port each
GRACE = 20.0  # seconds for a worker to finish its tasks
AWAY = "Cannot connect to "  # as Celery says it of a broker, which it names without its password
READ_IT = "let the application's settings read STRATA_REDIS_ADDR and STRATA_POSTGRES_DSN, where the servers here are"


class LocalFleet:
    """Workers and Flower on this machine; a context manager. `environment` is that of their processes."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        path = [os.getcwd(), environment.get("PYTHONPATH", "")]  # noqa: PTH109 as `python -m` does
        self._environment = {
            **environment,
            "PYTHONPATH": os.pathsep.join(filter(None, path)),
            "PYTHONUNBUFFERED": "1",
            "STRATA_WORKER_WAIT": "0",  # whoever started it by hand mends what is wrong and starts it again
        }
        self._stack = contextlib.ExitStack()
        self._processes: dict[str, ServerProcess] = {}
        self._workers = 0
        self.logs = Path()

    def __enter__(self) -> Self:
        self._scratch = Scratch("fleet", Account())
        self._stack.callback(self._scratch.remove)
        self.logs = self._scratch.path
        self._environment["TMPDIR"] = str(self.logs)  # a killed worker leaves files behind
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with undisturbed():
            self._stack.close()

    def start_worker(self) -> ServerProcess:
        """A worker with two processes, ready to work. Raises `StrataError` with its last words if it ends."""
        self._workers += 1
        name = f"worker{self._workers}"
        log = self.logs / f"{name}.log"
        process = self._start(name, log, "worker", "--concurrency=2", "--loglevel=INFO", f"--hostname={name}@localhost")
        _wait(process, log, "the worker", partial(_works, log))
        return process

    def start_flower(self) -> str:
        """Flower on loopback, without a password; returns its URL."""
        log = self.logs / "flower.log"
        for attempt in range(ATTEMPTS):
            port = free_port()
            options = ("--address=127.0.0.1", f"--port={port}", "--max-tasks=10000")
            process = self._start("Flower", log, "flower", *options)
            try:
                _wait(process, log, "Flower", partial(_listens, port))
                return f"http://127.0.0.1:{port}"
            except StrataError:
                if attempt == ATTEMPTS - 1:
                    raise
        raise AssertionError("unreachable")

    def ended(self) -> list[str]:
        """The processes that ended by themselves, each with its last words."""
        return [
            f"{name} ended: {last_words(self.logs / f'{name.lower()}.log')}"
            for name, process in self._processes.items()
            if not process.running
        ]

    def _start(self, name: str, log: Path, *arguments: str) -> ServerProcess:
        command = [sys.executable, "-m", "celery", "-A", "strata.worker", *arguments]
        process = ServerProcess(
            command, log, end=signal.SIGTERM, quick="kill", scratch=self._scratch, env=self._environment
        )
        self._stack.callback(process.stop, GRACE)
        self._processes[name] = process
        return process


def last_words(log: Path) -> str:
    """The line of a log that says why its process ended: the exception's, where there is one."""
    lines = [line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip()]
    raised = [line for line in lines if re.match(r"(Usage|Error|[\w.]+(Error|Exception|Exit)):", line)]
    away = [f"{AWAY}{line.partition(AWAY)[2]}; {READ_IT}" for line in lines if AWAY in line]
    return (raised or away or lines or ["it said nothing"])[-1]


def _wait(process: ServerProcess, log: Path, what: str, ready: Callable[[], bool]) -> None:
    try:
        process.wait_ready(ready, PATIENCE)
    except StrataError:
        raise StrataError(f"{what} did not start: {last_words(log)}") from None


def _works(log: Path) -> bool:
    """Raises `StrataError` where the worker looks for its broker in vain, which it goes on doing."""
    said = log.read_text(errors="replace")
    if AWAY in said:
        raise StrataError(AWAY)
    return " ready." in said


def _listens(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), 0.5).close()
        return True
    except OSError:
        return False
