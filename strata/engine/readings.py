"""The numbers of a store: of each schema for `stats`, and all of them, with names and labels, for a recorder."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from strata.bound import Bound
from strata.coherence.inbox import Inbox
from strata.engine.context import Context
from strata.observe.counters import Counters
from strata.observe.feed import Reading
from strata.protocol.shards import SHARDS
from strata.runtime.breaker import Breaker
from strata.writebehind.ledger.lag import Seen

TIERS = {"l1_hits": "l1", "l2_hits": "l2", "l3_hits": "l3"}


def numbers_of(bound: Bound) -> dict[str, int]:
    """The counters of one schema."""
    numbers = {name: getattr(bound.counters, name) for name in Counters.__slots__}
    store = bound.l1.store
    if store is not None:
        hits = store.hits
        numbers["gets"] += hits
        numbers["l1_hits"] += hits
        numbers |= {"l1_entries": len(store), "evictions": store.evictions, "expirations": store.expirations}
    return numbers


def bus_numbers(context: Context, inbox: Inbox) -> dict[str, int]:
    """The counters of the invalidation bus."""
    resets = 0 if context.bus is None else context.bus.resets
    return {"bus_messages": inbox.messages, "bus_unreadable": inbox.unreadable, "bus_resets": resets}


def counts(schemas: Iterable[Bound], of_store: Mapping[str, int]) -> list[Reading]:
    """What only rises. An error is told at once, with its class, by whoever counts it."""
    found = [Reading(f"strata_{name}", (), value) for name, value in of_store.items()]
    for bound in schemas:
        of_schema = (("schema", bound.name),)
        for name, value in numbers_of(bound).items():
            if name in TIERS:
                found.append(Reading("strata_hits", (*of_schema, ("tier", TIERS[name])), value))
            elif name not in ("errors", "l1_entries"):
                found.append(Reading(f"strata_{name}", of_schema, value))
    return found


def gauges(schemas: Iterable[Bound], breakers: Mapping[str, Breaker], seen: Seen | None, now: float) -> list[Reading]:
    """What is as it is now, `now` by the monotonic clock. `seen` is what the ledger held; None is unknown."""
    found = [
        Reading("strata_breaker_open", (("server", server),), float(not breaker.closed))
        for server, breaker in breakers.items()
    ]
    for bound in schemas:
        if bound.l1.store is not None:
            found.append(Reading("strata_l1_entries", (("schema", bound.name),), len(bound.l1.store)))
    if seen is not None:
        found.append(Reading("strata_write_behind_ledger_age_seconds", (), max(0.0, now - seen.at)))
    for name, waiting in () if seen is None else seen.by_schema.items():
        of_schema = (("schema", name),)
        found.append(Reading("strata_write_behind_pending", of_schema, waiting.pending))
        found.append(Reading("strata_write_behind_oldest_seconds", of_schema, waiting.oldest_age))
        for shard in range(SHARDS):
            labels = (*of_schema, ("shard", str(shard)))
            found.append(Reading("strata_write_behind_shard_oldest_seconds", labels, waiting.ages.get(shard, 0.0)))
        found.append(Reading("strata_write_behind_dead", of_schema, waiting.dead))
    return found
