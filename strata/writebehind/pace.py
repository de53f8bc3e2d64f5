"""How fast write-behind goes, and how long it waits: all its times and sizes in one place."""

from __future__ import annotations

import random
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Pace:
    """Seconds, unless a name says otherwise. Tests take shorter ones; users need none of them.

    `lease` is renewed by whoever works on what it claimed, and by nobody once that one is gone. It is longer than any
    pause of a process that is to live on, since a claim taken over counts as a crash of its holder.
    """

    lease: float = 15.0  # for which a worker holds what it claimed, and has not renewed
    bell: float = 5.0  # after which a doorbell that nobody answered may be rung again
    at_it: float = 1.0  # after which it may also be rung where somebody came, and has not come back for more
    poll: float = 0.1  # between looks at the outcomes, while some are awaited
    sweep: float = 1.0  # between looks at the oldest due times
    overdue: float = 1.0  # after which a due entry's doorbell counts as lost
    dead: float = 3.0  # after which a fleet that persists nothing counts as dead, so that others drain in its place
    stalled: float = 10.0  # after which a write that L3 does not have is worth a warning
    fleet: float = 5.0  # for which a beat of the fleet counts
    alive: float = 20.0  # for which a beat of an instance counts
    probe: float = 2.0  # after which it is asked what became of an entry whose outcome did not come
    budget: float = 2.0  # after which one task makes room for others
    full: float = 5.0  # for which a writer waits for room in a full buffer
    exit: float = 5.0  # for which the end of the process is held up
    outcomes_kept: int = 86_400
    handoff: int = 250  # records a script: a longer one keeps a single-threaded Redis from everybody else
    handoff_round: int = 2_000  # records a round trip, so that it ends within a time-out
    handoff_sort: int = 8_000  # records that are sent shard by shard, so that workers find many of one shard at once
    claim: int = 1_000  # records a transaction
    claim_bytes: int = 4 << 20
    most: int = 62_500  # entries of one shard (a million a schema); beyond it the ledger counts as full
    outage_first: float = 0.5
    outage_longest: float = 30.0
    order_first: float = 0.2
    order_longest: float = 5.0
    permanent: float = 0.1

    def after_outage(self, outages: int) -> float:
        """The pause before the next try, with jitter; `outages` counts from 1."""
        return _backoff(self.outage_first, self.outage_longest, outages)

    def after_order(self, attempts: int) -> float:
        """As `after_outage`, where what a record needs may be on its way."""
        return _backoff(self.order_first, self.order_longest, attempts)


def _backoff(first: float, longest: float, count: int) -> float:
    pause = min(first * 2.0 ** min(count - 1, 30), longest)
    return pause * random.uniform(0.8, 1.2)  # noqa: S311 jitter
