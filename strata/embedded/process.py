"""A server as a child process: ended by its id only, and never left behind."""

from __future__ import annotations

import atexit
import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

from strata.embedded import guard
from strata.embedded.directories import Scratch, private
from strata.errors import StrataError
from strata.forks.living import Living

QUICK = {"quit": signal.SIGQUIT, "kill": signal.SIGKILL}
PATIENCE = 10.0  # seconds for what was killed to be gone
# The server tells the guard its id before it is the server, so that a parent killed at any moment leaves nothing.
ANNOUNCE = 'echo $$ >&0; exec "$@" </dev/null'
# Written by who starts and ends servers, in any thread; read at exit, and in the child of a fork.
_live: Living[ServerProcess] = Living()


class ServerProcess:
    """Starts, waits for, freezes and ends one server. Not thread-safe.

    `end` is the signal that ends it in order; `quick` how the guard ends it when this process died: "quit" is
    SIGQUIT, "kill" SIGKILL. `scratch` goes with it then, and at the exit of this process. A forked child
    of this process has no say over the server. `options` are those of `subprocess.Popen`.
    """

    def __init__(
        self,
        command: Sequence[str],
        log: Path,
        *,
        end: signal.Signals,
        quick: Literal["quit", "kill"],
        scratch: Scratch | None = None,
        **options: Any,
    ) -> None:
        self._log = log
        self._name = Path(command[0]).name
        self._end = end
        reading, writing = os.pipe()
        self._line = os.fdopen(writing, "wb", buffering=0)
        _live.add(self)
        # Sessions of their own: Ctrl-C at the terminal reaches us, and we end the server in order.
        try:
            self._guard = subprocess.Popen(
                [
                    sys.executable,
                    "-I",
                    "-S",
                    guard.__file__,
                    str(int(QUICK[quick])),
                    str(scratch.path if scratch else ""),
                ],
                stdin=reading,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
            )
        finally:
            os.close(reading)
        try:
            with open(log, "ab", opener=private) as out:
                self._process = subprocess.Popen(
                    ["/bin/sh", "-c", ANNOUNCE, "sh", *command],
                    stdin=self._line,
                    stdout=out,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                    **options,
                )
        except OSError:
            self._release()
            raise
        self.pid = self._process.pid
        if scratch is not None:
            scratch.note(self.pid)

    def wait_ready(self, ready: Callable[[], bool], timeout: float = 60.0) -> None:
        """Wait until `ready`. Raises `StrataError` with the end of the log where the server ends or takes too long."""
        deadline = time.monotonic() + timeout
        while not ready():
            if not self.running or time.monotonic() > deadline:
                self.kill()
                self._release()
                raise StrataError(f"{self._name} did not start: {self._tail()}")
            time.sleep(0.02)

    @property
    def running(self) -> bool:
        """Whether the process is there."""
        return self._process.poll() is None

    def stop(self, timeout: float = 10.0) -> None:
        """End it in order; by force after `timeout` seconds."""
        if not self._line.closed:
            self._finish(timeout)
            self._release()

    def abandon(self, timeout: float = 5.0) -> None:
        """End it as `stop` does, and let the guard remove its directory."""
        if not self._line.closed:
            self._finish(timeout)
            self._release(farewell=b"")

    def kill(self) -> None:
        """SIGKILL, to the server and the children it has; returns when they are gone."""
        self._halt()
        family = [(pid, guard.birth(pid)) for pid in self._family()]
        for pid, _ in family:
            _signal(pid, signal.SIGKILL)
        self._process.wait(PATIENCE)
        # Whoever still has the shared memory mapped would keep the next server on these files from starting.
        for pid, born in family:
            guard.ended(pid, born, PATIENCE)

    def freeze(self) -> None:
        """SIGSTOP, to it and its children: it keeps its connections and answers nothing from the return on."""
        self._halt()
        family = self._family()
        for pid in family:
            _signal(pid, signal.SIGSTOP)
        for pid in family:
            _wait_stopped(pid)

    def thaw(self) -> None:
        """SIGCONT."""
        for pid in reversed(self._family()):
            _signal(pid, signal.SIGCONT)

    def disown(self) -> None:
        """In a forked child: the server is the parent's, and so is the pipe by which the guard knows it lives."""
        self._line.close()

    def _family(self) -> list[int]:
        # Only while it runs is the id its own.
        return [self.pid, *children(self.pid)] if self.running else []

    def _halt(self) -> None:
        # First and alone: from then on it has no new children that would be missed.
        self._signal(signal.SIGSTOP)
        _wait_stopped(self.pid)

    def _signal(self, number: signal.Signals) -> None:
        if self.running:
            _signal(self.pid, number)

    def _finish(self, timeout: float) -> None:
        if self.running:
            self.thaw()
            self._signal(self._end)
            try:
                self._process.wait(timeout)
            except subprocess.TimeoutExpired:
                self.kill()

    def _release(self, farewell: bytes = b"done\n") -> None:
        _live.discard(self)
        with contextlib.suppress(BrokenPipeError):
            self._line.write(farewell)
        self._line.close()
        self._guard.wait()

    def _tail(self) -> str:
        return self._log.read_text(errors="replace")[-800:].strip() or "it said nothing"


def children(pid: int) -> list[int]:
    """The processes whose parent is `pid`."""
    try:
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        listed = subprocess.run(["pgrep", "-P", str(pid)], capture_output=True, text=True, check=False).stdout
        return [int(child) for child in listed.split()]


def free_port() -> int:
    """A TCP port on 127.0.0.1 that nobody listens on now; another process may take it first, so callers try again."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _signal(pid: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


def _wait_stopped(pid: int) -> None:
    deadline = time.monotonic() + PATIENCE
    while guard.status(pid)[0] not in ("T", "") and time.monotonic() < deadline:
        time.sleep(0.001)


def _abandon_all() -> None:
    for process in _live.all():
        process.abandon()


def _disown_all() -> None:
    for process in _live.all():
        process.disown()
    _live.clear()


atexit.register(_abandon_all)
os.register_at_fork(after_in_child=_disown_all)
