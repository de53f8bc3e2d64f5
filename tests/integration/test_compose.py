"""The parts of `docker-compose.yml` as plain processes: their commands, with passwords as nobody should have them."""

from __future__ import annotations

import base64
import os
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest
import redis

from strata.embedded import EmbeddedPostgres
from strata.embedded.installation import valkey_binary
from strata.embedded.process import ServerProcess, free_port
from tests.compose import ROOT, rendered
from tests.support import wait_until
from tests.surroundings.installed import found, listens

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]
PASSWORD = "p@ss:/?#[]%40 '\"\\;,$é"
ASCII = PASSWORD.removesuffix("é")  # Flower compares no others
SECRETS = dict.fromkeys(("STRATA_DB_PASSWORD", "REDIS_PASSWORD", "POSTGRES_PASSWORD"), PASSWORD) | {
    "FLOWER_PASSWORD": ASCII
}
WRITE = """
from strata.cli.example import Note, notes, store
notes.set("a", Note("a", "hello"))
store.flush_dirty(20)
store.close()
"""


@contextmanager
def running(command: list[str], log: Path, ready: Callable[[], bool], env: dict[str, str]) -> Iterator[None]:
    """The process, once it is `ready`."""
    process = ServerProcess(command, log, end=signal.SIGTERM, quick="kill", env=env, cwd=str(log.parent))
    try:
        process.wait_ready(ready)
        yield
    finally:
        process.stop(20.0)


@contextmanager
def valkey(service: dict[str, Any], place: Path, name: str) -> Iterator[int]:
    """A server as the compose file starts it, on a port of its own."""
    programs = place / "programs"
    programs.mkdir(exist_ok=True)
    if not (programs / "valkey-server").exists():
        (programs / "valkey-server").symlink_to(valkey_binary())
    port, data = free_port(), place / name
    data.mkdir()
    script = ROOT / "ops" / "compose" / "valkey"
    command = ["sh", str(script), *service["command"], "--port", str(port), "--bind", "127.0.0.1", "--dir", str(data)]
    env = {
        **service["environment"],
        "PATH": f"{programs}:{os.environ['PATH']}",
        "TMPDIR": str(data),
        "LC_ALL": "C.UTF-8",
    }
    with running(command, place / f"{name}.log", lambda: listens(port), env=env):
        yield port


@pytest.mark.in_turn
def test_its_commands_work_with_any_password(own_postgres: EmbeddedPostgres, tmp_path: Path) -> None:
    psql = str(found("psql", "postgresql-client"))
    services = rendered(SECRETS)
    place = tmp_path
    with ExitStack() as stack:
        made = [psql, "-X", "-v", "ON_ERROR_STOP=1", "-f", str(ROOT / "ops" / "compose" / "role.sql"), own_postgres.dsn]
        given = {**os.environ, "STRATA_DB_PASSWORD": services["postgres"]["environment"]["STRATA_DB_PASSWORD"]}
        subprocess.run(made, env=given, check=True, capture_output=True)
        ports = {name: stack.enter_context(valkey(services[name], place, name)) for name in ("cache", "ledger")}
        ports |= {"postgres": own_postgres.port}

        def environment(name: str) -> dict[str, str]:
            service = {**services[name]["environment"], "PROMETHEUS_MULTIPROC_DIR": "", "STRATA_METRICS_ADDR": ""}
            for host, inside in (("cache", 6379), ("ledger", 6379), ("postgres", 5432)):
                service = {k: v.replace(f"{host}:{inside}", f"127.0.0.1:{ports[host]}") for k, v in service.items()}
            path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
            return {"PATH": path, "PYTHONPATH": str(ROOT), "HOME": str(place), "HOSTNAME": _host(), **service}

        def run(name: str, command: list[str]) -> subprocess.CompletedProcess[str]:
            env = environment(name)
            return subprocess.run(command, env=env, cwd=place, capture_output=True, text=True, timeout=60, check=False)

        migrated = run("migrate", [sys.executable, "-m", "strata.cli", *services["migrate"]["command"][1:]])
        assert migrated.returncode == 0, migrated.stderr
        with psycopg.connect(own_postgres.dsn_of("strata")) as conn:
            assert conn.execute("SELECT rolsuper FROM pg_roles WHERE rolname = 'strata'").fetchone() == (False,)
            assert conn.execute("SELECT tableowner FROM pg_tables WHERE tablename = 'notes'").fetchone() == ("strata",)
        with redis.Redis(port=ports["ledger"]) as stranger, pytest.raises(redis.AuthenticationError):
            stranger.ping()
        log, flower_log, port = place / "worker.log", place / "flower.log", free_port()
        worker = services["worker-persist"]["command"]
        flower = [word.replace("5555", str(port)) for word in services["flower"]["command"]]
        flower = [
            word.replace("/etc/strata", str(ROOT / "ops" / "compose")).replace("0.0.0.0", "127.0.0.1")
            for word in flower
        ]
        stack.enter_context(
            running(worker, log, lambda: " ready." in log.read_text(), env=environment("worker-persist"))
        )
        stack.enter_context(running(flower, flower_log, lambda: listens(port), env=environment("flower")))
        written = run("worker-persist", [sys.executable, "-c", WRITE])
        assert written.returncode == 0, written.stderr
        with psycopg.connect(own_postgres.dsn_of("strata")) as conn:
            assert conn.execute("SELECT text FROM notes").fetchall() == [("hello",)]
        healthy = run("worker-persist", ["sh", "-c", services["worker-persist"]["healthcheck"]["test"][1]])
        assert healthy.returncode == 0, healthy.stdout + healthy.stderr
        assert urllib.request.urlopen(f"http://127.0.0.1:{port}/healthcheck", timeout=10).status == 200
        for word, status in ((ASCII, 200), (ASCII.partition(",")[0], 401)):
            wait_until(lambda word=word, status=status: _status(port, word) == status, what="Flower's answer")  # type: ignore[misc]
        for told in (log.read_text(), flower_log.read_text(), migrated.stdout + migrated.stderr):
            assert "p@ss" not in told and "p%40ss" not in told


def _host() -> str:
    return os.uname().nodename


def _status(port: int, password: str) -> int:
    login = base64.b64encode(f"strata:{password}".encode()).decode()
    asked = urllib.request.Request(f"http://127.0.0.1:{port}/", headers={"Authorization": f"Basic {login}"})
    try:
        return int(urllib.request.urlopen(asked, timeout=10).status)
    except urllib.error.HTTPError as error:
        return error.code
