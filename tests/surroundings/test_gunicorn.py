"""The example for Flask under gunicorn, over HTTP: each view that was answered is counted once, however workers end."""

from __future__ import annotations

import os
import re
import runpy
import subprocess
import sys
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psycopg
import pytest

from tests.fleet import ROOT, surroundings
from tests.support import wait_until
from tests.web import Gunicorn, Reader

pytestmark = [pytest.mark.faults, pytest.mark.in_turn]

EXAMPLE = ROOT / "examples" / "flask"
GUIDE = ROOT / "docs" / "flask.md"
KINDS = {
    "sync": ["-w", "2"],
    "gthread": ["-w", "2", "-k", "gthread", "--threads", "4"],
    "gevent": ["-w", "2", "-k", "gevent"],
    "sync, preloaded": ["-w", "2", "--preload"],
    "gevent, preloaded": ["-w", "2", "-k", "gevent", "--preload"],
    "gthread, preloaded": ["-w", "2", "-k", "gthread", "--threads", "4", "--preload"],
}


def among(*kinds: str) -> pytest.MarkDecorator:
    """Each kind of workers; those that are not named only where that is asked for."""
    given = [pytest.param(kind, marks=[] if kind in kinds else pytest.mark.long) for kind in KINDS]
    return pytest.mark.parametrize("kind", given)


@pytest.fixture
def environment(dsn: str, redis_addr: str) -> dict[str, str]:
    """Of an application whose tables are there. What it writes behind is flushed at the end or not at all: it hands
    nothing off before, and there is no worker."""
    given = {
        "STRATA_POSTGRES_DSN": dsn, "STRATA_REDIS_ADDR": redis_addr, "PYTHONPATH": str(ROOT),
        "STRATA_WRITE_BEHIND_FLUSH_INTERVAL": "600", "STRATA_WRITE_BEHIND_FLUSH_THRESHOLD": "100000",
    }  # fmt: skip
    env = {name: value for name, value in os.environ.items() if not name.startswith("STRATA_")} | given
    with surroundings(env), runpy.run_path(str(EXAMPLE / "app.py"))["store"] as store:
        store.migrate()
    return env


def counted(dsn: str) -> dict[str, int]:
    with psycopg.connect(dsn) as conn:
        return dict(conn.execute("SELECT article, count FROM views").fetchall())


@among("sync", "gthread", "gevent", "sync, preloaded")
def test_each_view_that_was_answered_is_counted_once_when_sigterm_comes_under_load(
    kind: str, environment: Mapping[str, str], dsn: str, tmp_path: Path
) -> None:
    articles = [f"a{number}" for number in range(6)]
    with Gunicorn(EXAMPLE, "app:app", environment, tmp_path / "log", *KINDS[kind]) as server:
        for article in articles:
            assert server.ask(f"/articles/{article}", "PUT", {"title": "A lamp"})[0] == 200
        readers = [Reader(server, f"/articles/{article}") for article in articles]
        wait_until(lambda: all(reader.answered > 20 for reader in readers), 60, "the load")
        assert counted(dsn) == {}, "nothing was flushed before the end"
    found = counted(dsn)
    for article, reader in zip(articles, readers, strict=True):
        reader.join(60)
        assert reader.answered <= found[article] <= reader.answered + reader.failed


@among("sync, preloaded")
def test_no_view_is_lost_by_workers_that_make_room_for_the_next_nor_by_a_restart(
    kind: str, environment: Mapping[str, str], dsn: str, tmp_path: Path
) -> None:
    options = [*KINDS[kind], "--max-requests", "15", "--max-requests-jitter", "5"]
    for views in (100, 200):
        with Gunicorn(EXAMPLE, "app:app", environment, tmp_path / "log", *options) as server:
            assert server.ask("/articles/a1", "PUT", {"title": "A lamp"})[0] == 200
            with ThreadPoolExecutor(4) as crowd:
                assert list(crowd.map(lambda _: server.ask("/articles/a1")[0], range(100))) == [200] * 100
        assert counted(dsn) == {"a1": views}
    assert server.log.read_text().count("Autorestarting worker") > 1  # of gevent, whose workers go on for a while, 3


def test_a_plain_wsgi_application_counts_as_its_guide_says(
    environment: Mapping[str, str], dsn: str, tmp_path: Path
) -> None:
    section = GUIDE.read_text().split("\n## Plain WSGI\n")[1].split("\n## ")[0]
    (program,) = re.findall(r"^```python\n(.*?)^```", section, re.MULTILINE | re.DOTALL)
    (tmp_path / "plain.py").write_text(program)
    command = [sys.executable, "-m", "strata.cli", "migrate", "--app", "plain:store"]
    subprocess.run(command, cwd=tmp_path, env=environment, check=True, capture_output=True, timeout=60)
    with Gunicorn(tmp_path, "plain:application", environment, tmp_path / "log", *KINDS["gthread"]) as server:
        readers = {path: Reader(server, path) for path in ("/a", "/b", "/c")}
        wait_until(lambda: all(reader.answered > 20 for reader in readers.values()), 60, "the load")
    with psycopg.connect(dsn) as conn:
        hits: dict[str, int] = dict(conn.execute("SELECT path, count FROM hits").fetchall())
    for path, reader in readers.items():
        reader.join(60)
        assert reader.answered <= hits[path] <= reader.answered + reader.failed
