"""Real Celery workers for the tests."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests import nonsense
from tests.behind import client
from tests.forked import Forked
from tests.support import wait_until

ROOT = Path(__file__).parents[1]


def environment(dsn: str, redis_addr: str, **more: str) -> dict[str, str]:
    """What a process of the application is started with."""
    fixed = {
        "STRATA_APP": "tests.fleet_app:store",
        "STRATA_POSTGRES_DSN": dsn,
        "STRATA_REDIS_ADDR": redis_addr,
        "PYTHONPATH": str(ROOT),
    }
    return {**os.environ, **fixed, **more}


@contextmanager
def surroundings(env: Mapping[str, str]) -> Iterator[None]:
    """This process as one of the application, for a while."""
    before = dict(os.environ)
    os.environ.update(env)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def send_nonsense(app: Any, queue: str) -> None:
    """Messages to a queue of the fleet that are none, or none of a task."""
    with app.connection_for_write() as connection, connection.Producer() as producer:
        for number, (body, kind) in enumerate(nonsense.BODIES):
            producer.publish(
                body, routing_key=queue, content_type=kind, content_encoding="binary",
                headers={"task": queue, "id": f"odd-{number}"},
            )  # fmt: skip
        for number, odd in enumerate(nonsense.HEADERS):
            headers = {"task": queue, "id": f"header-{number}"} | odd
            producer.publish([["note", 0], {}, {}], routing_key=queue, serializer="msgpack", headers=headers)
        connection.default_channel.client.lpush(queue, *nonsense.ENVELOPES)


class Worker:
    """One worker with its own process group, so that it can be killed with its children."""

    def __init__(
        self, env: Mapping[str, str], log: Path, name: str = "one", *options: str, app: str = "strata.worker"
    ) -> None:
        self.log = log
        words = ["-m", "celery", "-A", app, "worker", "-c", "2", "-n", f"{name}@here", "--loglevel", "INFO"]
        start = subprocess.Popen if "-P" in options else Forked
        with log.open("a") as file:
            self.process = start(
                [sys.executable, *words, *options], cwd=ROOT, env=env, stdout=file, stderr=file, start_new_session=True
            )

    def ready(self) -> bool:
        """Whether it takes tasks."""
        assert self.process.poll() is None, self.log.read_text()
        return " ready." in self.log.read_text()

    def persisted(self) -> int:
        """How many records its tasks have persisted so far, by its log."""
        lines = [line for line in self.log.read_text().splitlines() if "strata.persist" in line and "succeeded" in line]
        return sum(int(line.rsplit(": ", 1)[1]) for line in lines)

    def kill(self) -> None:
        """SIGKILL to the worker and its children."""
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def stop(self) -> None:
        """An orderly end."""
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(20)
            except subprocess.TimeoutExpired:
                self.kill()


@contextmanager
def workers(env: Mapping[str, str], folder: Path, *options: str) -> Iterator[Worker]:
    """One worker that is ready and beats, for the length of a `with` block."""
    worker = Worker(env, folder / "worker.log", "one", *options)
    try:
        wait_until(worker.ready, timeout=40, what="a worker")
        wait_until(lambda: client(env["STRATA_REDIS_ADDR"]).exists("strata:{fleet}:alive"), what="the fleet's beat")
        yield worker
    finally:
        worker.stop()
