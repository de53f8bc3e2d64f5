"""Web servers in processes of their own, which serve an application until they are asked to stop."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import httpx

from tests.support import wait_until

UVICORN = ("-m", "uvicorn", "--port", "{port}", "--log-level", "warning")
GUNICORN = (
    "-m", "gunicorn", "--bind", "127.0.0.1:{port}", "--worker-class", "uvicorn_worker.UvicornWorker",
    "--no-control-socket", "--log-level", "warning",
)  # fmt: skip


class Served:
    """One server, and what it has started itself. `live` is a path that answers 200 as soon as it is there."""

    def __init__(self, words: Sequence[str], env: Mapping[str, str], folder: Path, live: str) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self._live = live
        filled = [word.format(port=self.port) for word in words]
        self.process = subprocess.Popen([sys.executable, *filled], cwd=folder, env=env, start_new_session=True)

    def answers(self) -> bool:
        """Whether it serves."""
        assert self.process.poll() is None, f"the server ended with {self.process.returncode}"
        try:
            return httpx.get(self.url + self._live).status_code == 200
        except httpx.TransportError:
            return False

    def ask_to_stop(self) -> None:
        """SIGTERM, as from an operator."""
        self.process.send_signal(signal.SIGTERM)

    def stop(self) -> None:
        """An orderly end."""
        self.ask_to_stop()
        self.process.wait(40)


@contextmanager
def served(words: Sequence[str], env: Mapping[str, str], folder: Path, live: str = "/livez") -> Iterator[Served]:
    """A server that answers, for the length of a `with` block, if it is not stopped in it."""
    server = Served(words, env, folder, live)
    try:
        wait_until(server.answers, timeout=60, what="the server")
        yield server
        if server.process.poll() is None:
            server.stop()
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(server.process.pid, signal.SIGKILL)
        server.process.wait()
