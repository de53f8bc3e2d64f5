"""Who this process is among its peers: a node id that no other live process has, and Redis's idea of the time.

The lease of a node id is `SET strata:{node}:<id> <instance> NX EX`, renewed by the bus; a process that lost its
lease takes another id before its next stamp.
"""

from __future__ import annotations

import threading

from strata.clock import Clock
from strata.coherence.versions import L3_NODE, NODES, VersionClock
from strata.errors import L2UnavailableError
from strata.l2.client import RedisServer

LEASE_SECONDS = 60
RENEW_SECONDS = 10.0
ATTEMPTS = 64


class Identity:
    """Leases the node id and disciplines the version clock; thread-safe, once a process.

    `_lock` guards `_ready` and `_renewed`. Without a Redis that answers, the node id stays the random one and the
    clock the machine's, and it is tried again at the next call after `RENEW_SECONDS`.
    """

    def __init__(self, server: RedisServer | None, versions: VersionClock, instance: str, clock: Clock) -> None:
        self._server = server
        self._versions = versions
        self._clock = clock
        self.instance = instance
        self.reset(instance)

    def reset(self, instance: str) -> None:
        """In the child of a fork: another instance, with nothing leased yet."""
        self._lock = threading.Lock()
        self.instance = instance
        self._leased: int | None = None
        self._due = 0.0

    def ensure(self) -> None:
        """Before a stamp: have a node id and Redis's time, as far as they can be had without waiting twice."""
        if self._clock.monotonic() < self._due:
            return
        with self._lock:
            now = self._clock.monotonic()
            if now < self._due:
                return
            self._due = now + RENEW_SECONDS
            if self._server is None:
                return
            try:
                self._discipline(self._server)
                self._lease(self._server)
            except L2UnavailableError:
                pass  # versions stay unique with high probability: 11 random bits and a microsecond

    def _discipline(self, server: RedisServer) -> None:
        asked = self._clock.wall()
        self._versions.discipline(server.time_ms() / 1000, asked, self._clock.wall())

    def _lease(self, server: RedisServer) -> None:
        if self._leased is not None and self._renewed(server, self._leased):
            return
        node = self._versions.node
        for _ in range(ATTEMPTS):
            if node != L3_NODE and server.execute("SET", _key(server, node), self.instance, "NX", "EX", LEASE_SECONDS):
                self._leased = node
                self._versions.adopt_node(node)
                return
            node = (node * 5 + 101) % NODES  # a full cycle over all node ids (Hull and Dobell)

    def _renewed(self, server: RedisServer, node: int) -> bool:
        # GET then EXPIRE: between them the lease can only pass to another if it was about to expire unrenewed.
        if server.execute("GET", _key(server, node)) != self.instance.encode():
            return False
        return bool(server.execute("EXPIRE", _key(server, node), LEASE_SECONDS))


def _key(server: RedisServer, node: int) -> str:
    return server.keys.own("node", str(node))
