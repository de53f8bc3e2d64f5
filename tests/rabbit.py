"""RabbitMQ from the operating system's package, as a server of the test's own; nothing where it is not installed."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import kombu

from strata.embedded.process import free_port
from tests.support import wait_until


def installed() -> Path | None:
    """The server's own script. The one in the PATH is Debian's, which starts the system's service only."""
    found = sorted(Path("/usr/lib/rabbitmq/lib").glob("rabbitmq_server-*/sbin/rabbitmq-server"))
    return found[-1] if found else None


class RabbitMQ:
    """One node, on 127.0.0.1 only, with an epmd of its own. Not thread-safe."""

    def __init__(self, script: Path, folder: Path) -> None:
        self._script = script
        self._folder = folder
        self._port, distribution, self._epmd_port = free_port(), free_port(), free_port()
        place = {
            "HOME": folder, "RABBITMQ_MNESIA_BASE": folder / "data", "RABBITMQ_LOG_BASE": folder / "log",
            "RABBITMQ_CONFIG_FILE": folder / "none", "RABBITMQ_CONF_ENV_FILE": os.devnull,
            "RABBITMQ_ENABLED_PLUGINS_FILE": folder / "plugins", "RABBITMQ_GENERATED_CONFIG_DIR": folder / "conf",
        }  # fmt: skip
        self._env = os.environ | {name: str(value) for name, value in place.items()} | {
            "ERL_EPMD_PORT": str(self._epmd_port), "ERL_EPMD_ADDRESS": "127.0.0.1", "LANG": "C.UTF-8",
            "RABBITMQ_NODENAME": f"strata{self._port}@localhost", "RABBITMQ_NODE_IP_ADDRESS": "127.0.0.1",
            "RABBITMQ_NODE_PORT": str(self._port), "RABBITMQ_DIST_PORT": str(distribution),
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "-kernel inet_dist_use_interface {127,0,0,1}",
        }  # fmt: skip
        self._processes: list[subprocess.Popen[bytes]] = []

    @property
    def url(self) -> str:
        return f"amqp://guest:guest@127.0.0.1:{self._port}//"

    def start(self) -> None:
        """Start it, and wait until it takes connections: half a minute on a busy machine."""
        self._run("epmd", "-port", str(self._epmd_port), "-address", "127.0.0.1")
        node = self._run(str(self._script))

        def answers() -> bool:
            assert node.poll() is None, (self._folder / "out").read_text()[-2000:]
            try:
                with kombu.Connection(self.url, connect_timeout=2) as connection:  # type: ignore[attr-defined, no-untyped-call]
                    connection.connect()
                return True
            except OSError:
                return False

        wait_until(answers, timeout=120, what="RabbitMQ")

    def kill(self) -> None:
        """SIGKILL to all of it."""
        for process in self._processes:
            try:
                os.killpg(process.pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
            process.wait()
        self._processes.clear()

    def _run(self, *command: str) -> subprocess.Popen[bytes]:
        with (self._folder / "out").open("ab") as out:
            process = subprocess.Popen(command, env=self._env, stdout=out, stderr=out, start_new_session=True)
        self._processes.append(process)
        return process


@contextmanager
def rabbitmq(script: Path, folder: Path) -> Iterator[RabbitMQ]:
    """A server for the length of a `with` block."""
    server = RabbitMQ(script, folder)
    try:
        server.start()
        yield server
    finally:
        server.kill()
