"""The times and sizes of the ledger, and of those who persist from it; `Limits` has those of the dirty buffer."""

from __future__ import annotations

from dataclasses import dataclass

from strata import waits


@dataclass(frozen=True, slots=True)
class Timing:
    """Seconds, unless a name says otherwise. Tests take shorter ones; users need none of them.

    `lease` is renewed by whoever works on what it claimed, and by nobody once that one is gone. It is longer than any
    pause of a process that is to live on, since a claim taken over counts as a crash of its holder; and than any pause
    after a failure, so that nothing waits for longer once its cause is gone.

    A batch stops trying after `tries`, and each transaction has its time-outs, so that it ends before `held` is over.
    """

    lease: float = 15.0  # for which a worker holds what it claimed, and has not renewed
    held: float = 60.0  # for which a lease is renewed: what then goes on is no work, and others may claim what it held
    ahead: float = 60.0  # how far a due time may lie ahead: further than those of any lease or pause, of any release
    tries: float = 20.0  # after which a batch of which parts meet locks, or take too long, is tried no further for now
    bell: float = 5.0  # after which a doorbell that nobody answered may be rung again
    at_it: float = 1.0  # after which it may also be rung where somebody came, and has not come back for more
    poll: float = 0.1  # between looks at the outcomes, while some are awaited
    sweep: float = 1.0  # between looks at the oldest due times
    overdue: float = 1.0  # after which a due entry's doorbell counts as lost
    dead: float = 3.0  # after which a fleet that persists nothing counts as dead, so that others drain in its place
    stalled: float = 5.0  # after which a write that L3 does not have is odd; after a lease more it is worth a warning
    fleet: float = 5.0  # for which a beat of the fleet counts
    alive: float = 20.0  # for which a beat of an instance counts
    probe: float = 2.0  # after which it is asked what became of an entry whose outcome did not come
    budget: float = 2.0  # after which one task makes room for others
    linger: float = 0.06  # for which a task that has persisted something waits for more
    glance: float = 0.02  # between its looks meanwhile
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
    outage_longest: float = 12.0
    outage_told: float = 120.0  # for which an outage that was told of is remembered after its last failed batch
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
    return pause * waits.uniform(0.8, 1.2)
