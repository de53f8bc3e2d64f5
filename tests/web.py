"""Applications under a real gunicorn, and readers that go on until it is gone."""

from __future__ import annotations

import http.client
import json
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tests.fleet import ROOT
from tests.support import wait_until


class Gunicorn:
    """An application, named as `module:app` and found in `folder`, from the beginning to the end of a `with` block."""

    def __init__(self, folder: Path, app: str, env: Mapping[str, str], log: Path, *options: str) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.log = log
        words = ["-b", f"127.0.0.1:{self.port}", "--no-control-socket", *options, app]
        with log.open("a") as file:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "gunicorn", *words],
                cwd=folder, env={**env, "PYTHONPATH": str(ROOT)}, stdout=file, stderr=file,
            )  # fmt: skip

    def __enter__(self) -> Self:
        try:
            wait_until(self._answers, 60, "an answer")
        except BaseException:
            self._process.kill()
            self._process.wait()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.send_signal(signal.SIGTERM)
        try:
            assert self._process.wait(60) == 0, self.log.read_text()
        finally:
            self._process.kill()
        assert "Traceback" not in self.log.read_text(), self.log.read_text()

    def ask(self, path: str, method: str = "GET", body: Any = None) -> tuple[int, Any]:
        """The status, and what came as JSON. Raises `OSError` or `http.client.HTTPException` where nothing came."""
        link = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        try:
            link.request(method, path, json.dumps(body), {"Content-Type": "application/json"})
            answer = link.getresponse()
            said = answer.read()
            return answer.status, json.loads(said) if answer.headers.get_content_type() == "application/json" else said
        finally:
            link.close()

    def _answers(self) -> bool:
        assert self._process.poll() is None, self.log.read_text()
        try:
            return bool(self.ask("/healthz")[0])
        except OSError:
            return False


class Reader(threading.Thread):
    """Asks for one path again and again, until nothing comes: `answered` with 200, and whether the last one `failed`,
    of which nobody knows whether it was done."""

    def __init__(self, server: Gunicorn, path: str) -> None:
        super().__init__(name=path, daemon=True)
        self._server = server
        self.path = path
        self.answered = 0
        self.failed = False
        self.start()

    def run(self) -> None:
        try:
            while self._server.ask(self.path)[0] == 200:
                self.answered += 1
        except (OSError, http.client.HTTPException):
            self.failed = True
