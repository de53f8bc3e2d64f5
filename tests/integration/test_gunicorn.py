"""Prometheus under gunicorn and uvicorn, by the lines of the documentation as they stand there."""

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

from tests.served import served
from tests.support import wait_until

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "observability.md").read_text()
GUNICORN, UVICORN = (
    re.findall(r"^```(?:python)?\n(.*?)^```", part.split("\n## ")[0], re.MULTILINE | re.DOTALL)
    for part in PAGE.split("\n## Prometheus under ")[1:]
)
WSGI = """
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
ASGI = """
import os

from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from strata.integrations.prometheus import PrometheusRecorder

recorder = PrometheusRecorder()
app = Starlette()


def dirty(request):
    recorder.count("sets")
    recorder.gauge("strata_write_behind_dirty", 1)
    return PlainTextResponse(str(os.getpid()))


app.add_route("/dirty", dirty)
"""


def told(base: str, name: str) -> list[float]:
    """The samples of a metric."""
    try:
        families = text_string_to_metric_families(asked(f"{base}/metrics/"))
    except urllib.error.HTTPError:
        return []  # prometheus_client met a process's file while that was being made
    return [sample.value for family in families for sample in family.samples if sample.name == name]


def asked(url: str, method: str = "GET") -> str:
    with urllib.request.urlopen(urllib.request.Request(url, method=method), timeout=30) as answer:
        return str(answer.read().decode())


@pytest.mark.in_turn
def test_metrics_of_all_workers_are_served_by_the_lines_of_the_documentation(
    dsn: str, redis_addr: str, tmp_path: Path
) -> None:
    (tmp_path / "gunicorn.conf.py").write_text(GUNICORN[0])
    (tmp_path / "wsgi.py").write_text(f"{WSGI}\n\n{GUNICORN[1]}")
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

    def gauges(pid: str) -> list[Path]:
        """Of a worker, after a scrape."""
        wait_until(lambda: told(base, "strata_set_seconds_count") == [sum(puts.values())], 20, "a scrape")
        return list(tmp_path.glob(f"tmp*/gauge_*_{pid}.db"))

    with log, subprocess.Popen(command, cwd=tmp_path, env=os.environ | given, stdout=log, stderr=log) as server:
        try:
            wait_until(put, 60, "both workers")
            assert told(base, "strata_set_seconds_count") == [sum(puts.values())]
            wait_until(lambda: told(base, "strata_sets_total") == [sum(puts.values())], 20, "the counters of both")
            ended = next(iter(puts))
            assert gauges(ended)
            os.kill(int(ended), signal.SIGKILL)
            wait_until(lambda: not gauges(ended), 20, "its gauges to be forgotten, and nothing else")
        finally:
            server.terminate()
            server.wait(30)


@pytest.mark.in_turn
def test_a_worker_of_uvicorn_that_was_killed_has_no_pending_writes_any_more(tmp_path: Path) -> None:
    variable, words = UVICORN[0].strip().split(") ")
    assert variable == "PROMETHEUS_MULTIPROC_DIR=$(mktemp -d" and words.startswith("uvicorn app:app --workers ")
    (tmp_path / "app.py").write_text(f"{ASGI}\n\n{UVICORN[1]}")
    (shared := tmp_path / "shared").mkdir()
    env = os.environ | {"PYTHONPATH": f"{tmp_path}:{ROOT}", "PROMETHEUS_MULTIPROC_DIR": str(shared)}
    command = ["-m", *words.split()[:-1], "2", "--port", "{port}", "--log-level", "warning"]
    with served(command, env, tmp_path, live="/metrics/") as server:
        pids: set[str] = set()

        def both() -> bool:
            pids.add(asked(f"{server.url}/dirty"))
            return len(pids) == 2

        wait_until(both, 60, "both workers")
        assert told(server.url, "strata_write_behind_dirty") == [2]
        before = told(server.url, "strata_sets_total")
        os.kill(int(min(pids)), signal.SIGKILL)
        wait_until(lambda: told(server.url, "strata_write_behind_dirty") == [1], 20, "its gauge to be left out")
        assert told(server.url, "strata_sets_total") == before
        assert [file.name for file in shared.glob("gauge_livesum_*")] == [f"gauge_livesum_{max(pids)}.db"]
