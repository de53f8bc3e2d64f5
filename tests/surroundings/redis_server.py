"""A Redis of Debian's package, with users of its ACL and whatever else a test wants of its configuration."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import redis

from strata.embedded.process import free_port
from tests.surroundings.installed import folder, found, listens, running


class Server:
    """A running Redis. `admin` may do everything, by a user of its own."""

    def __init__(self, port: int, place: Path, scheme: str = "redis") -> None:
        self.port = port
        self.place = place
        self.addr = f"127.0.0.1:{port}"
        self._scheme = scheme
        self.admin: Any = redis.Redis(port=port, username="admin", password="admin", decode_responses=True)

    def url(self, user: str, password: str = "pw") -> str:
        """The address for a user."""
        return f"{self._scheme}://{user}:{password}@{self.addr}/0"

    def grant(self, user: str, *rules: str) -> None:
        """ACL SETUSER, the rules as on one line."""
        self.admin.execute_command("ACL", "SETUSER", user, *" ".join(rules).split())


@contextmanager
def redis_server(*lines: str) -> Iterator[Server]:
    """A server with these lines of configuration; the test is skipped where the package is not installed."""
    program, port = found("redis-server", "redis-server"), free_port()
    own = [f"port {port}", "bind 127.0.0.1", 'save ""', "appendonly no", "user admin on >admin ~* &* +@all"]
    with folder("redis") as place:
        (place / "redis.conf").write_text("\n".join([*own, f"dir {place}", *lines]) + "\n")
        with running([str(program), str(place / "redis.conf")], place / "log", lambda: listens(port)):
            server = Server(port, place)
            try:
                yield server
            finally:
                server.admin.close()
