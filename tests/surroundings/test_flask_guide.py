"""The guide for Flask: its source is the example's, and its commands, its factory and its tests do what it says."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.fleet import ROOT
from tests.support import wait_until

GUIDE = (ROOT / "docs" / "flask.md").read_text()


def section(title: str) -> str:
    return GUIDE.split(f"\n## {title}\n")[1].split("\n## ")[0]


def blocks(title: str, language: str = "python") -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", section(title), re.MULTILINE | re.DOTALL)


def environment(**more: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("STRATA_")}
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return kept | {"PYTHONPATH": str(ROOT), "PATH": path} | more


def test_the_source_of_the_example_is_the_text_of_its_guide() -> None:
    assert [(ROOT / "examples" / "flask" / "app.py").read_text()] == blocks("The first ten minutes")


@pytest.mark.in_turn
def test_the_tests_of_the_guide_pass_on_its_factory(tmp_path: Path) -> None:
    conftest, test = blocks("Testing")
    (tmp_path / "shop.py").write_text(blocks("Application factories")[0])
    (tmp_path / "conftest.py").write_text(conftest)
    (tmp_path / "test_shop.py").write_text(test)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_shop.py"]
    ran = subprocess.run(
        command, cwd=tmp_path, env=environment(), capture_output=True, text=True, timeout=100, check=False
    )
    assert ran.returncode == 0 and "2 passed" in ran.stdout, ran.stdout + ran.stderr


@pytest.mark.in_turn
def test_a_function_is_memoized_for_each_application_of_the_factory(tmp_path: Path, dsn: str, redis_addr: str) -> None:
    shop, counting = blocks("Application factories")
    (tmp_path / "shop.py").write_text(shop)
    program = f"""{counting}
for _ in range(2):
    app = create_counting_app()
    with app.app_context():
        tiers.store.migrate()
        print(app.test_client().get("/how-many").text)
        tiers.store.set(Product, "p1", Product("p1", "A lamp"))
        print(app.test_client().get("/how-many").text)
        app.extensions["how_many"].invalidate()
        tiers.store.close()
"""
    servers = {"STRATA_POSTGRES_DSN": dsn, "STRATA_REDIS_ADDR": redis_addr}
    command = [sys.executable, "-c", program]
    ran = subprocess.run(
        command, cwd=tmp_path, env=environment(**servers), capture_output=True, text=True, timeout=60, check=False
    )
    assert (ran.returncode, ran.stdout.split()) == (0, ["0", "0", "1", "1"]), ran.stderr


@pytest.mark.in_turn
def test_workers_find_the_store_of_the_factory(tmp_path: Path, dsn: str, redis_addr: str) -> None:
    assert "STRATA_APP=shop:worker_store celery" in section("Application factories")
    (tmp_path / "shop.py").write_text(blocks("Application factories")[0])
    servers = {"STRATA_POSTGRES_DSN": dsn, "STRATA_REDIS_ADDR": redis_addr, "STRATA_APP": "shop:worker_store"}
    command = [sys.executable, "-m", "strata.cli", "migrate"]
    ran = subprocess.run(
        command, cwd=tmp_path, env=environment(**servers), capture_output=True, text=True, timeout=60, check=False
    )
    assert ran.returncode == 0 and 'CREATE TABLE "products"' in ran.stdout, ran.stderr


@pytest.mark.long
@pytest.mark.skipif(shutil.which("curl") is None, reason="the commands ask by curl")
def test_the_first_ten_minutes_go_as_the_guide_says(tmp_path: Path) -> None:
    serve, ask, _ = blocks("The first ten minutes", "sh")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    # In the place of gunicorn's own port, which may be somebody's.
    options = {"GUNICORN_CMD_ARGS": f"--bind=127.0.0.1:{port} --pid={tmp_path / 'pid'} --no-control-socket"}
    log = tmp_path / "log"
    with log.open("w") as file:
        serving = subprocess.Popen(
            f"exec {serve}", shell=True, cwd=ROOT / "examples" / "flask", env=environment(**options),
            stdout=file, stderr=file,
        )  # fmt: skip
    try:
        wait_until(lambda: serving.poll() is not None or "Booting worker" in log.read_text(), 90, "gunicorn")
        lines = ask.replace(":8000", f":{port}").replace("curl", "curl --silent --fail --retry 20 --retry-connrefused")
        said = subprocess.run(lines, shell=True, capture_output=True, text=True, timeout=60, check=True).stdout
        lamp = {"id": "a1", "text": "", "title": "A lamp"}
        *articles, views, health = map(json.loads, said.splitlines())
        assert (articles, views, health["status"]) == ([lamp, lamp], {"article": "a1", "count": 1}, "up")
        os.kill(int((tmp_path / "pid").read_text()), signal.SIGTERM)
        assert serving.wait(60) == 0, log.read_text()
    finally:
        serving.terminate()
        serving.wait(60)
