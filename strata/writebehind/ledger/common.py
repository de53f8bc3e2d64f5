"""What every part of write-behind works with."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from strata.bound import Bound
from strata.observe.log import SafeLogger
from strata.observe.metrics import SafeMetrics
from strata.observe.outages import Outage, outages_of
from strata.observe.tracing import SafeTracer
from strata.protocol.messages import Announcer
from strata.protocol.versions import VersionClock
from strata.waits.clock import Clock
from strata.writebehind.ledger.lag import Lag

if TYPE_CHECKING:
    from strata.l2.client import RedisServer
    from strata.writebehind.ledger.ledger import Ledger


@dataclass(frozen=True, slots=True, kw_only=True)
class Common:
    """The ledger, the bus, the schemas, and the means to stamp, to time and to tell; the same before and after a fork.

    `publisher` is where the bus is, None where there is none. `schemas` is written by `WriteBehind.register`, under the
    store's lock; whoever goes through it makes a list first, in one call.
    """

    ledger: Ledger
    lag: Lag
    publisher: RedisServer | None
    schemas: dict[str, Bound]
    versions: VersionClock
    announcer: Announcer
    clock: Clock
    log: SafeLogger
    metrics: SafeMetrics
    tracer: SafeTracer

    @property
    def together(self) -> bool:
        """Whether ledger, L2 and bus are on one server, which is not a Cluster: one script reaches all, or none."""
        return self.publisher is self.ledger.server and not self.ledger.server.clustered

    def ledger_away(self) -> list[Outage]:
        """That the ledger's Redis is away."""
        return outages_of([self.ledger.server.breaker])

    def postgres_away(self) -> list[Outage]:
        """That a PostgreSQL of the schemas is away."""
        databases = {bound.l3.primary for bound in list(self.schemas.values()) if bound.l3 is not None}
        return outages_of([database.breaker for database in databases])
