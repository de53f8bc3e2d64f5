"""Who leaves a full store: one file a policy, all of one shape."""

from __future__ import annotations

from strata.l1.eviction.base import Eviction
from strata.l1.eviction.fifo import Fifo
from strata.l1.eviction.lfu import Lfu
from strata.l1.eviction.lru import Lru
from strata.l1.eviction.unbounded import Unbounded
from strata.policies import EvictionPolicy


def policy_for(eviction: EvictionPolicy, capacity: int) -> Eviction:
    """The policy of a store of `capacity` entries; 0 is a store that never has to choose."""
    if not capacity:
        return Unbounded()
    if eviction is EvictionPolicy.LFU:
        return Lfu(capacity)
    return Fifo() if eviction is EvictionPolicy.FIFO else Lru()
