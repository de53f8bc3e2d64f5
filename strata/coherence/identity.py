"""Who this process is among its peers: a node id that no other live process has, and Redis's idea of the time.

The lease of a node id is `SET strata:{node}:<id> <instance> NX EX`. The first stamp of a process waits until node id
and time were asked for, whichever thread it is; afterwards the bus renews both in the background. Only where nobody
has renewed the lease for as long as it lasts (the process was frozen, or may start no thread), or where the machine's
clock was set, or it slept, does a stamp wait once more: another process may have the node id by then, or time be
another one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from strata.errors import WITHOUT_L2
from strata.protocol.versions import LEASED, NODES, VersionClock
from strata.waits.clock import Clock
from strata.waits.seats import Turn, Turns

if TYPE_CHECKING:
    from strata.l2.client import RedisServer

LEASE_SECONDS = 60
SURE_SECONDS = 50.0  # of a lease, counted from before it was asked for, in which nobody else can have the node id
RENEW_SECONDS = 10.0
STEP_SECONDS = 1.0  # by which wall and monotonic time may part; more, and the clock was set, or the machine slept
DOUBT_SECONDS = 1.0  # between comparisons of the clock that versions from the far future ask for, and tries that fail
ATTEMPTS = 64


class Identity:
    """Leases the node id and disciplines the version clock. Thread-safe.

    `servers` are those of Redis that there are, that of the caches first: the time is that of the first one that
    answers, and node ids are leased at the first. Whoever has the turn of `_turns` asks them, while those that need the
    answer wait; `_leased` belongs to it. `_sure` (the monotonic time up to which, and the bounds between which the wall
    clock is ahead of it), `_due` and `_compared` (by the steady clock) are written in a turn and read without.

    Where Redis does not answer, the node id is drawn at random and the clock goes on as it did: versions then stay
    unique with high probability, by 11 random bits and a microsecond. After fork: `reset`.
    """

    def __init__(
        self, servers: Callable[[], Sequence[RedisServer]], versions: VersionClock, instance: str, clock: Clock
    ) -> None:
        self._servers = servers
        self._versions = versions
        self._clock = clock
        self.reset(instance)
        versions.reference = self

    def reset(self, instance: str) -> None:
        """In the child of a fork: another instance, with nothing leased yet."""
        self._turns = Turns()
        self.instance = instance
        self._leased: int | None = None
        self._sure = (-math.inf, 0.0, 0.0)
        self._due = -math.inf
        self._compared = -math.inf

    def ensure(self) -> None:
        """Before a stamp: have a node id and Redis's time, as far as they can be had without waiting twice."""
        sure = until, least, most = self._sure
        now = self._clock.monotonic()
        if now < until and least < self._clock.wall() - now < most:
            return
        turn = Turn()
        try:
            self._turns.take(turn)
            if self._sure != sure:
                return  # another one was here meanwhile
            if not self._renew():
                # Somebody else may hold what was leased; this one tries again in the background.
                self._leased = None
                self._versions.draw_node()
                self._sure = self._from_now()
        finally:
            self._turns.leave(turn)

    def beat(self) -> None:
        """In the background, once in a while: renew what is due."""
        if self._clock.steady() < self._due:
            return
        turn = Turn()
        try:
            self._turns.take(turn)
            if not self._renew():
                self._due = self._clock.steady() + DOUBT_SECONDS
        finally:
            self._turns.leave(turn)

    def compare(self) -> None:
        """Read Redis's time once more, at most once a second, since a version seems to be from the far future."""
        if self._clock.steady() < self._compared + DOUBT_SECONDS:
            return
        turn = Turn()
        try:
            self._turns.take(turn)
            if self._clock.steady() < self._compared + DOUBT_SECONDS:
                return
            self._discipline(self._servers())
            self._compared = self._clock.steady()  # last: who comes meanwhile waits for what is found
        finally:
            self._turns.leave(turn)

    def _from_now(self) -> tuple[float, float, float]:
        now = self._clock.monotonic()
        ahead = self._clock.wall() - now
        return now + SURE_SECONDS, ahead - STEP_SECONDS, ahead + STEP_SECONDS

    def _renew(self) -> bool:
        """Whether time and node id could be had, or there is nobody to ask."""
        sure, due = self._from_now(), self._clock.steady() + RENEW_SECONDS
        servers = self._servers()
        if servers:
            try:
                disciplined = self._discipline(servers)
                self._lease(servers[0])
            except WITHOUT_L2:
                return False
            if not disciplined:
                return False
        self._sure, self._due = sure, due
        return True

    def _discipline(self, servers: Sequence[RedisServer]) -> bool:
        """Whether somebody said what time it is."""
        self._versions.awoke()
        for server in servers:
            asked = self._clock.monotonic()
            try:
                now = server.time_ms() / 1000
            except WITHOUT_L2:
                continue
            self._versions.discipline(now, asked, self._clock.monotonic())
            return True
        return False

    def _lease(self, server: RedisServer) -> None:
        if self._leased is not None and self._renewed(server, self._leased):
            return
        self._leased = None
        node = self._versions.node
        for _ in range(ATTEMPTS):
            free = node in LEASED
            if free and server.execute("SET", _key(server, node), self.instance, "NX", "EX", LEASE_SECONDS):
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
