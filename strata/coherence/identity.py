"""Who this process is among its peers: a node id that no other live process has, and Redis's idea of the time.

The lease of a node id is `SET strata:{node}:<id> <instance> NX EX`. The first stamp of a process waits until node id
and time were asked for, whichever thread it is; afterwards the bus renews both in the background. Only where nobody
has renewed the lease for as long as it lasts (the process was frozen, or may start no thread) does a stamp wait once
more: another process may have the node id by then.
"""

from __future__ import annotations

import math
import threading

from strata.clock import Clock
from strata.errors import L2UnavailableError
from strata.l2.client import RedisServer
from strata.versions import L3_NODE, NODES, VersionClock

LEASE_SECONDS = 60
SURE_SECONDS = 50.0  # of a lease, counted from before it was asked for, in which nobody else can have the node id
RENEW_SECONDS = 10.0
DOUBT_SECONDS = 1.0  # between comparisons of the clock that versions from the far future ask for
ATTEMPTS = 64


class Identity:
    """Leases the node id and disciplines the version clock. Thread-safe.

    `_lock` is held by the one thread that asks Redis; those that need the answer wait for it, and `_leased` is theirs
    that hold it. `_until` (a monotonic and a wall time, since the former stands still while a machine is suspended),
    `_due` and `_compared` are written under it and read without. Where Redis does not answer, the node id is drawn at
    random and the clock is left as it is: versions then stay unique with high probability, by 11 random bits and a
    microsecond. After fork: `reset`.
    """

    def __init__(self, server: RedisServer | None, versions: VersionClock, instance: str, clock: Clock) -> None:
        self._server = server
        self._versions = versions
        self._clock = clock
        self.reset(instance)
        versions.reference = self

    def reset(self, instance: str) -> None:
        """In the child of a fork: another instance, with nothing leased yet."""
        self._lock = threading.Lock()
        self.instance = instance
        self._leased: int | None = None
        self._until = (-math.inf, -math.inf)
        self._due = -math.inf
        self._compared = -math.inf

    def ensure(self) -> None:
        """Before a stamp: have a node id and Redis's time, as far as they can be had without waiting twice."""
        if self._sure:
            return
        with self._lock:
            if self._sure:
                return
            if not self._renew():
                # Somebody else may hold what was leased; this one tries again in the background.
                self._leased = None
                self._versions.draw_node()
                self._until = self._after(SURE_SECONDS)

    def beat(self) -> None:
        """In the background, once in a while: renew what is due."""
        if self._clock.monotonic() >= self._due:
            with self._lock:
                self._renew()

    def compare(self) -> None:
        """Read Redis's time once more, at most once a second, since a version seems to be from the far future."""
        if self._server is None or self._clock.monotonic() < self._compared + DOUBT_SECONDS:
            return
        with self._lock:
            if self._clock.monotonic() < self._compared + DOUBT_SECONDS:
                return
            self._compared = self._clock.monotonic()
            try:
                self._discipline(self._server)
            except L2UnavailableError:
                pass  # the clock as it is has to do

    @property
    def _sure(self) -> bool:
        monotonic, wall = self._until
        return self._clock.monotonic() < monotonic and self._clock.wall() < wall

    def _after(self, seconds: float) -> tuple[float, float]:
        return self._clock.monotonic() + seconds, self._clock.wall() + seconds

    def _renew(self) -> bool:
        """Whether Redis answered; without one there is nothing to renew, ever."""
        if self._server is None:
            self._until, self._due = (math.inf, math.inf), math.inf
            return True
        until, due = self._after(SURE_SECONDS), self._clock.monotonic() + RENEW_SECONDS
        try:
            self._discipline(self._server)
            self._lease(self._server)
        except L2UnavailableError:
            return False
        self._until, self._due = until, due
        return True

    def _discipline(self, server: RedisServer) -> None:
        asked = self._clock.wall()
        self._versions.discipline(server.time_ms() / 1000, asked, self._clock.wall())

    def _lease(self, server: RedisServer) -> None:
        if self._leased is not None and self._renewed(server, self._leased):
            return
        self._leased = None
        node = self._versions.node
        for _ in range(ATTEMPTS):
            if node != L3_NODE and server.execute("SET", _key(server, node), self.instance, "NX", "EX", LEASE_SECONDS):
                self._leased = node
                self._versions.adopt_node(node)
                return
            node = (node * 5 + 101) % NODES  # a full cycle over all node ids (Hull and Dobell)
        self._versions.draw_node()

    def _renewed(self, server: RedisServer, node: int) -> bool:
        # GET then EXPIRE: between them the lease can only pass to another if it was about to expire unrenewed.
        if server.execute("GET", _key(server, node)) != self.instance.encode():
            return False
        return bool(server.execute("EXPIRE", _key(server, node), LEASE_SECONDS))


def _key(server: RedisServer, node: int) -> str:
    return server.keys.own("node", str(node))
