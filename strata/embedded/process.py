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
import weakref
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from strata.errors import StrataError

# The guard waits for the end of a pipe that only this process holds open. When this process dies, however it dies,
# the guard ends the server. It is a process of its own, since a server that changes its user loses PR_SET_PDEATHSIG.
_GUARD = """
import os, signal, sys
try:
    os.read(0, 1)
except KeyboardInterrupt:
    pass
pid, start = int(sys.argv[1]), sys.argv[2]
try:
    with open(f"/proc/{pid}/stat") as f:
        if f.read().rsplit(")", 1)[1].split()[19] != start:
            sys.exit()
except OSError:
    if sys.platform == "linux":
        sys.exit()
try:
    os.kill(pid, signal.SIGCONT)
    os.kill(pid, signal.SIGQUIT if sys.argv[3] == "quit" else signal.SIGKILL)
except OSError:
    pass
"""
_live: weakref.WeakSet[ServerProcess] = weakref.WeakSet()


class ServerProcess:
    """Starts, waits for, freezes and ends one server. Not thread-safe."""

    def __init__(self, command: Sequence[str], log: Path, *, end: signal.Signals, quick: str, **options: Any) -> None:
        # A session of its own: Ctrl-C at the terminal reaches us, and we end the server in order.
        with log.open("ab") as out:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                **options,
            )
        self.pid = self._process.pid
        self._log = log
        self._name = Path(command[0]).name
        self._end = end
        self._guard = subprocess.Popen(
            [sys.executable, "-S", "-c", _GUARD, str(self.pid), _started(self.pid), quick],
            stdin=subprocess.PIPE,
            start_new_session=True,
        )
        _live.add(self)

    def wait_ready(self, ready: Callable[[], bool], timeout: float = 30.0) -> None:
        """Wait until `ready`. Raises `StrataError` with the end of the log where the server ends or takes too long."""
        deadline = time.monotonic() + timeout
        while not ready():
            if self._process.poll() is not None or time.monotonic() > deadline:
                self.kill()
                raise StrataError(f"{self._name} did not start: {self._tail()}")
            time.sleep(0.02)

    @property
    def running(self) -> bool:
        """Whether the process is there."""
        return self._process.poll() is None

    def stop(self, timeout: float = 10.0) -> None:
        """End it in order; by force after `timeout` seconds."""
        if self.running:
            self._signal(signal.SIGCONT)
            self._signal(self._end)
            try:
                self._process.wait(timeout)
            except subprocess.TimeoutExpired:
                self.kill()
        self._release()

    def kill(self) -> None:
        """SIGKILL, to the server and the children it has."""
        for pid in (*children(self.pid), self.pid):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self._process.wait(10)
        self._release()

    def freeze(self) -> None:
        """SIGSTOP: it keeps its connections and answers nothing."""
        for pid in (self.pid, *children(self.pid)):
            os.kill(pid, signal.SIGSTOP)

    def thaw(self) -> None:
        """SIGCONT."""
        for pid in (*children(self.pid), self.pid):
            os.kill(pid, signal.SIGCONT)

    def _signal(self, number: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            self._process.send_signal(number)

    def _release(self) -> None:
        _live.discard(self)
        if self._guard.stdin is not None:
            self._guard.stdin.close()
        self._guard.wait(10)

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


def _started(pid: int) -> str:
    # The start time tells a process from a later one of the same id.
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[19]
    except OSError:
        return "-"


def _stop_all() -> None:
    for process in list(_live):
        process.stop(5.0)


atexit.register(_stop_all)
