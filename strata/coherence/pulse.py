"""Signs of life: each proves that this instance can change L2 and tell of it, as any writer must be able to.

An echo alone proves less: a read-only replica, a full disk, or a user of the ACL without the right to publish from
scripts lets messages through, and keeps writers from telling. Whoever cannot tell may be sure of nothing, since it is
likely that others cannot either.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from strata.errors import WITHOUT_L2
from strata.l2.script import load
from strata.protocol.messages import Announcer

if TYPE_CHECKING:
    from strata.l2.client import RedisServer

INTERVAL_MS = 900  # from one look for repairs to the next, of whichever instance; beats come each half second

_beat = load("strata.l2.scripts", "beat")


class Pulse:
    """Thread-safe: it keeps no state. Methods raise `L2UnavailableError`."""

    def __init__(self, server: RedisServer, announcer: Announcer) -> None:
        self.server = server
        self._announcer = announcer

    @property
    def channel(self) -> str:
        """The instance's own channel, on which it hears its beats."""
        return f"{self._announcer.channel}:{self._announcer.source}"

    def prove(self) -> None:
        """A beat out of turn, which is no heartbeat."""
        self.beat(0, ())

    def beat(self, number: int, schemas: Sequence[str]) -> list[str]:
        """Send a heartbeat; returns those of the schemas in whose repairs it is this instance's turn to look."""
        if self.server.clustered:
            return self._beat_in_cluster(number, schemas)
        return self._run(number, schemas)

    def _beat_in_cluster(self, number: int, schemas: Sequence[str]) -> list[str]:
        # Each node tells everybody, and takes writes or not, by itself: one that is away says nothing of the others.
        self.server.execute("PUBLISH", self.channel, number)
        try:
            return self._run(0, schemas)
        except WITHOUT_L2:
            return list(schemas)

    def _run(self, number: int, schemas: Sequence[str]) -> list[str]:
        mine = self.server.run(
            _beat, [self.server.keys.own("fleet", "looks")], [self.channel, number, INTERVAL_MS, *schemas]
        )
        return [name.decode() for name in mine]
