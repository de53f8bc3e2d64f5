"""What health and readiness routes answer, whichever framework has them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from strata.datastore import DataStore
from strata.errors import ClosedError
from strata.observe.health import Health, TierHealth, TierState


@dataclass(frozen=True, slots=True)
class ProbeReport:
    """`body` is what JSON has, without addresses, and without why: whoever asks may be a stranger.

    `status` is "up", "degraded" where some of the tiers are down, since the others go on, and "down" where all below
    memory are, or the store was closed: then nothing can be served, and others should be asked.
    """

    status: str
    body: dict[str, Any]

    @property
    def http_status(self) -> int:
        """200, or 503 where it is down."""
        return 503 if self.status == "down" else 200


def report(store: DataStore) -> ProbeReport:
    """What is known, without asking any server, in under a millisecond."""
    try:
        health = store.health()
    except ClosedError:
        return ProbeReport("down", {"status": "down"})
    tiers = {"l1": health.l1, "l2": health.l2, "l3": health.l3, "bus": health.bus, "ledger": health.ledger}
    status = _status(health)
    parts = {name: _told(tier) for name, tier in tiers.items()}
    return ProbeReport(status, {"status": status, "tiers": parts, "pending": health.pending, "dirty": health.dirty})


def _status(health: Health) -> str:
    below = [tier.state for tier in (health.l2, health.l3) if tier.state is not TierState.OFF]
    if below and all(state is TierState.DOWN for state in below):
        return "down"
    return "up" if health.ok else "degraded"


def _told(tier: TierHealth) -> dict[str, Any]:
    state = None if tier.state is None else tier.state.value
    return {"state": state} | ({} if tier.since is None else {"since": tier.since.isoformat()})
