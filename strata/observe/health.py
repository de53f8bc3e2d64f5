"""`Health`: what a store knows, without asking anybody, of what it leans on."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from datetime import UTC, datetime

from strata.observe.outages import Away, Outage
from strata.runtime.breaker import Breaker


class TierState(enum.StrEnum):
    """How a tier is. `OFF`: no schema has it, or nothing of the kind is set."""

    UP = "up"
    DOWN = "down"
    OFF = "off"


@dataclass(frozen=True, slots=True)
class TierHealth:
    """How one tier, server or connection is.

    Attributes:
        state: Up, down or off; None where nobody has asked it yet.
        since: When it was found down (UTC). Default: None, it is not.
        why: Why it is down. Default: "", it is not.
        address: Where it is, without passwords. Default: "".
        age: Seconds since it last answered this process; None where it never did, or is asked nothing. Default: None.
    """

    state: TierState | None
    since: datetime | None = None
    why: str = ""
    address: str = ""
    age: float | None = None


OFF = TierHealth(TierState.OFF)


@dataclass(frozen=True, slots=True)
class Health:
    """What one process knows of its tiers and of the fleet; whatever is unknown is None.

    Attributes:
        l1: Memory.
        l2: The Redis of the caches.
        l3: The primary PostgreSQL.
        bus: Whether changes of other processes are heard.
        ledger: The Redis that deferred writes go through, that of the caches or one of its own. Default: off, nothing
            is written behind.
        replicas: The read replicas. Default: none.
        workers_seen: Whether a worker was there, at the last look; None also where nothing is written behind. Default:
            None.
        pending: Deferred writes in the ledger, `ledger_age` seconds ago, whichever process wrote them. Default: 0.
        oldest_pending: Seconds that the oldest of them had waited then. Default: 0.
        dead_letters: Writes that were given up, as of then. Default: 0.
        ledger_age: Seconds since the ledger was looked at. Default: None.
        dirty: Deferred writes of this process that PostgreSQL is not known to have. Default: 0.
    """

    l1: TierHealth
    l2: TierHealth
    l3: TierHealth
    bus: TierHealth
    ledger: TierHealth = OFF
    replicas: tuple[TierHealth, ...] = ()
    workers_seen: bool | None = None
    pending: int | None = 0
    oldest_pending: float | None = 0.0
    dead_letters: int | None = 0
    ledger_age: float | None = None
    dirty: int = 0

    @property
    def ok(self) -> bool:
        """Whether nothing is known to be down."""
        parts = (self.l1, self.l2, self.l3, self.bus, self.ledger, *self.replicas)
        return all(part.state is not TierState.DOWN for part in parts)


def down(away: Away, address: str = "", age: float | None = None) -> TierHealth:
    """It is away."""
    return TierHealth(TierState.DOWN, datetime.fromtimestamp(away.since, UTC), away.cause, address, age)


def of_server(breaker: Breaker, outages: tuple[Outage, ...], address: str, now: float) -> TierHealth:
    """A server, by what calls have found; `now` is the monotonic time."""
    answered = breaker.answered_at
    age = None if answered is None else max(0.0, now - answered)
    for outage in outages:
        if (away := outage.away) is not None:
            return down(away, address, age)
    return TierHealth(None if answered is None else TierState.UP, address=address, age=age)
