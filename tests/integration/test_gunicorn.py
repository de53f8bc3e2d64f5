"""Prometheus under gunicorn, by the lines of the documentation as they stand there."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.support import wait_until

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "observability.md").read_text()
SECTION = PAGE.split("\n## Prometheus under gunicorn\n")[1].split("\n## ")[0]
CONFIGURED, SERVED = re.findall(r"^```python\n(.*?)^```", SECTION, re.MULTILINE | re.DOTALL)
APPLICATION = """
import os

from flask import Flask

from strata import Config, DataStore
from strata.integrations.prometheus import PrometheusRecorder
from tests.models import Note
from tests.stores import schema

store = DataStore(Config.from_env(metrics=PrometheusRecorder()))
notes = store.register(schema(Note))
app = Flask(__name__)


@app.put("/notes/<int:id>")
def put(id):
    store.migrate()
    notes.set(id, Note(id, "a"))
    return str(os.getpid())
"""


def asked(url: str, method: str = "GET") -> str:
    with urllib.request.urlopen(urllib.request.Request(url, method=method), timeout=30) as answer:
        return str(answer.read().decode())


@pytest.mark.in_turn
def test_metrics_of_all_workers_are_served_by_the_lines_of_the_documentation(
    dsn: str, redis_addr: str, tmp_path: Path
) -> None:
    (tmp_path / "gunicorn.conf.py").write_text(CONFIGURED)
    (tmp_path / "wsgi.py").write_text(f"{APPLICATION}\n\n{SERVED}")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        base = f"http://127.0.0.1:{free.getsockname()[1]}"
    servers = {"STRATA_POSTGRES_DSN": dsn, "STRATA_REDIS_ADDR": redis_addr}
    given = {**servers, "PYTHONPATH": f"{tmp_path}:{ROOT}", "TMPDIR": str(tmp_path)}
    command = [sys.executable, "-m", "gunicorn", "-w", "2", "-b", base.removeprefix("http://"), "wsgi:app"]
    log = (tmp_path / "log").open("w")
    puts: dict[str, int] = {}

    def put() -> bool:
        """Two workers have answered."""
        try:
            pid = asked(f"{base}/notes/{sum(puts.values())}", "PUT")
        except urllib.error.URLError:
            assert server.poll() is None, (tmp_path / "log").read_text()
            return False
        puts[pid] = puts.get(pid, 0) + 1
        return len(puts) == 2

    def told(name: str) -> list[float]:
        try:
            families = text_string_to_metric_families(asked(f"{base}/metrics"))
        except urllib.error.HTTPError:
            return []  # prometheus_client met a process's file while that was being made
        return [sample.value for family in families for sample in family.samples if sample.name == name]

    with log, subprocess.Popen(command, cwd=tmp_path, env=os.environ | given, stdout=log, stderr=log) as server:
        try:
            wait_until(put, 60, "both workers")
            assert told("strata_set_seconds_count") == [sum(puts.values())]
            wait_until(lambda: told("strata_sets_total") == [sum(puts.values())], 20, "the counters of both")
            ended = next(iter(puts))
            assert list(tmp_path.glob(f"tmp*/gauge_livesum_{ended}.db"))
            os.kill(int(ended), signal.SIGKILL)
            wait_until(lambda: not list(tmp_path.glob(f"tmp*/gauge_*_{ended}.db")), 20, "its gauges to be forgotten")
            assert told("strata_set_seconds_count") == [sum(puts.values())]
        finally:
            server.terminate()
            server.wait(30)
