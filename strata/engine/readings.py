"""The numbers of a store: of each schema for `stats`, and all of them, with names and labels, for a recorder."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from strata.bound import Bound
from strata.breaker import Breaker
from strata.coherence.inbox import Inbox
from strata.engine.context import Context
from strata.observe.counters import Counters
from strata.observe.feed import Reading
from strata.writebehind.facade import PendingStats

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


def counts(schemas: Iterable[Bound], bus: Mapping[str, int]) -> list[Reading]:
    """What only rises. An error is told at once, with its class, by whoever counts it."""
    found = [Reading(f"strata_{name}", (), value) for name, value in bus.items()]
    for bound in schemas:
        of_schema = (("schema", bound.name),)
        for name, value in numbers_of(bound).items():
            if name in TIERS:
                found.append(Reading("strata_hits", (*of_schema, ("tier", TIERS[name])), value))
            elif name not in ("errors", "l1_entries"):
                found.append(Reading(f"strata_{name}", of_schema, value))
    return found


def gauges(schemas: Iterable[Bound], breakers: Mapping[str, Breaker], lag: Mapping[str, PendingStats]) -> list[Reading]:
    """What is as it is now. `lag` is that of the write-behind schemas."""
    found = [
        Reading("strata_breaker_open", (("server", server),), float(not breaker.closed))
        for server, breaker in breakers.items()
    ]
    for bound in schemas:
        if bound.l1.store is not None:
            found.append(Reading("strata_l1_entries", (("schema", bound.name),), len(bound.l1.store)))
    for name, waiting in lag.items():
        of_schema = (("schema", name),)
        found.append(Reading("strata_write_behind_pending", of_schema, waiting.pending))
        found.append(Reading("strata_write_behind_oldest_seconds", of_schema, waiting.oldest_age))
        found.append(Reading("strata_write_behind_dead", of_schema, waiting.dead))
    return found
