"""One process of a run of the checker, with every freshness option at work: short lives, and stale values kept."""

from __future__ import annotations

import sys
from typing import Any

from strata import DataStore, MemPolicy, PostgresPolicy, RedisPolicy, WriteMode
from strata.testing.history import Count
from tests.faults import history
from tests.stores import schema

# Fail-safe serves what is less than a TTL and its own time old, together below the checker's bound.
OPTIONS: dict[str, Any] = {
    "l1": MemPolicy(ttl=0.3, jitter=0.5, negative_ttl=1, eager_refresh=0.3, fail_safe=1),
    "l2": RedisPolicy(ttl=0.6, jitter=0.5, negative_ttl=1, eager_refresh=0.3, fail_safe=1, lease_wait=0.2),
    "l3": PostgresPolicy(soft_timeout=0.02, hard_timeout=2),
}


def register(store: DataStore, mode: WriteMode) -> None:
    """The checker's schema, with the options."""
    store.register(schema(Count, name="counts", write_mode=mode, **OPTIONS))


if __name__ == "__main__":
    history.register = register
    history.main(*sys.argv[1:])
