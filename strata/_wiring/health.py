"""`DataStore.health`: what is known of the servers and of what is pending."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from strata.bound import Bound
from strata.engine.context import Context
from strata.observe.health import OFF, Health, TierHealth, TierState, down, of_server
from strata.observe.outages import Outage
from strata.writebehind.ledger.lag import together

if TYPE_CHECKING:
    from strata.l2.client import RedisServer
    from strata.l3.pool import Database


@dataclass(frozen=True, slots=True)
class Present:
    """The servers of a store that are there by now, and what each is like, as calls have found."""

    cache: RedisServer | None
    ledger: RedisServer | None
    primary: Database | None
    outages: Mapping[RedisServer | Database, tuple[Outage, Outage]]


def known_health(context: Context, schemas: Sequence[Bound], servers: Present) -> Health:
    """What is known of all parts, without a question to any of them."""
    primary = servers.primary if any(bound.l3 for bound in schemas) else None
    caches = servers.cache if any(bound.l2 is not None for bound in schemas) else None
    rows = [bound.l3 for bound in schemas if bound.l3 is not None]
    replicas = {each.replica for each in rows if each.replica is not None}
    health = Health(
        l1=TierHealth(TierState.UP) if any(bound.l1.store is not None for bound in schemas) else OFF,
        l2=_redis(context, servers, caches),
        l3=_postgres(context, servers, primary),
        bus=_bus(context, servers),
        replicas=tuple(_postgres(context, servers, replica) for replica in replicas),
    )
    deferred = context.writebehind
    names = [bound.name for bound in schemas if bound.deferred]
    if deferred is None or not names:
        return health
    held = together([deferred.lag.fields(name) for name in names])
    return replace(
        health,
        ledger=_redis(context, servers, servers.ledger),
        workers_seen=deferred.workers_seen,
        pending=held["pending"],
        oldest_pending=held["oldest_age"],
        dead_letters=held["dead_letters"],
        ledger_age=held["ledger_age"],
        dirty=deferred.dirty_count(),
    )


def _redis(context: Context, servers: Present, server: RedisServer | None) -> TierHealth:
    if server is None or server not in servers.outages:
        return OFF
    found = of_server(server.breaker, servers.outages[server], server.address, context.clock.monotonic())
    ownership = context.ownership
    if found.state is not TierState.DOWN and ownership is not None and ownership.refused:
        return replace(found, state=TierState.DOWN, why="it holds what belongs to another database")
    return found


def _postgres(context: Context, servers: Present, database: Database | None) -> TierHealth:
    if database is None:
        return OFF
    return of_server(database.breaker, servers.outages[database], database.address, context.clock.monotonic())


def _bus(context: Context, servers: Present) -> TierHealth:
    bus = context.bus
    if bus is None:
        return OFF
    if (away := bus.outage.away) is not None:
        of_redis = (
            servers.outages[servers.cache][0].away if servers.cache else None
        )  # of which it is a consequence then
        return down(away if of_redis is None else away._replace(cause=of_redis.cause))
    return TierHealth(TierState.UP if bus.connected else None)
