"""The tiers of one schema, built from its policies."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from strata.aging import Aging
from strata.bound import Bound, Callbacks
from strata.config import Config
from strata.contracts import Codec
from strata.errors import InvalidConfigError, InvalidModelError
from strata.l1.claims import Claims
from strata.l1.store import MemStore
from strata.l1.sweeper import Sweeper
from strata.l1.tier import L1Tier
from strata.l1.trust import ALWAYS, Trust
from strata.l2.content import Contents
from strata.l2.kept import NotKept, Searches
from strata.l2.lifetimes import Lifetimes
from strata.model import check_identifier
from strata.model.hints import spelled
from strata.model.plan import ModelPlan
from strata.observe.counters import Counters
from strata.observe.log import SafeLogger
from strata.policies import EvictionPolicy, MemPolicy, RedisPolicy, SearchExpiry, WriteMode
from strata.protocol.markers import SchemaMarkers
from strata.protocol.versions import VersionClock
from strata.schema import Schema
from strata.waits.clock import Clock
from strata.waits.locks import memory_lock

if TYPE_CHECKING:
    from strata._wiring.servers import ServerFactory
    from strata.l2.client import RedisServer
    from strata.l2.tier import L2Tier

SHARDS = 256  # of L1, in which `max_entries` is counted
ABSENCES = 65_536  # remembered in L1 a schema


@dataclass(frozen=True, slots=True, kw_only=True)
class Tiers:
    """Builds L1 and L2 of schemas. `schemas` are those that are registered already; `server` is L2's, None where none
    is named, whose calls then are those of `Servers.nowhere`."""

    config: Config
    schemas: Mapping[str, Bound]
    server: RedisServer | None
    servers: ServerFactory
    clock: Clock
    versions: VersionClock
    log: SafeLogger
    trust: Trust
    sweeper: Sweeper

    def lacking(self, schema: Schema[Any], mode: WriteMode) -> str:
        """What address its first use would miss; empty where it has all."""
        config, name = self.config, f"schema {schema.name!r}"
        if schema.l3 is not None and not config.postgres_dsn:
            return f"{name} has an L3, but no database; set postgres_dsn (STRATA_POSTGRES_DSN)"
        if schema.l2 is not None and self.server is None:
            return f"{name} has an L2, but no Redis; set redis_addr (STRATA_REDIS_ADDR), or redis_client"
        if mode is not WriteMode.WRITE_BEHIND:
            return ""
        if self.server is None and not config.ledger_addr:
            return (
                f"{name} is written behind, but there is no Redis for the ledger; set redis_addr (STRATA_REDIS_ADDR) "
                "or ledger_addr (STRATA_LEDGER_ADDR)"
            )
        from strata.writebehind.fleet.broker import celery_app

        try:
            celery_app(config)
        except InvalidConfigError as error:
            return f"{name} is written behind: {error}"
        return ""

    def check(self, schema: Schema[Any], plan: ModelPlan[Any], mode: WriteMode) -> None:
        name = schema.name
        if schema.l1 is None and schema.l2 is None and schema.l3 is None:
            raise InvalidConfigError(f"schema {name!r} has no tier; give it at least one of l1, l2 and l3")
        if mode is WriteMode.WRITE_BEHIND and schema.l3 is None:
            raise InvalidConfigError(f"schema {name!r} is written behind but has no L3 to write to; give it l3")
        if plan.key.generated and schema.l3 is None:
            raise InvalidModelError(
                f"{plan.model.__name__}.{plan.key.names[0]} is Generated and of type {spelled(plan.key.kinds[0])} | "
                f"None, but schema {name!r} has no L3 to assign it"
            )
        for column in plan.columns:
            if column.omit_cache and schema.l3 is None:
                raise InvalidModelError(
                    f"{plan.model.__name__}.{column.name} is OmitCache, but schema {name!r} has no L3 to hold it"
                )
            if column.omit_l1 and schema.l2 is None and schema.l3 is None:
                raise InvalidModelError(
                    f"{plan.model.__name__}.{column.name} is OmitL1, but schema {name!r} has no other tier to hold it"
                )

    def l1(self, schema: Schema[Any], hooks: Callbacks, *, alone: bool, marks: SchemaMarkers) -> L1Tier:
        lock, versions = memory_lock(), self.versions
        claims = Claims(lock)
        trust = ALWAYS if alone else self.trust
        if schema.l1 is None:
            return L1Tier(None, claims, trust, hooks.evicted, versions, marks=marks)
        policy, pool = schema.l1, self.config.l1_pool
        store = MemStore(
            capacity=SHARDS * (pool.max_entries if policy.max_entries is None else policy.max_entries),
            ttl=_given(policy.ttl, self.config.default_l1_ttl),
            eviction=policy.eviction or pool.eviction,
            clock=self.clock,
            lock=lock,
            aging=_aging(policy),
        )
        self.sweeper.register(store, hooks.evicted)
        absences = None
        if policy.negative_ttl:
            # Of their own, so that asking for what is not there evicts nothing that is.
            absences = MemStore(
                capacity=ABSENCES, ttl=policy.negative_ttl, eviction=EvictionPolicy.LRU, clock=self.clock,
                lock=lock,
            )  # fmt: skip
            self.sweeper.register(absences, lambda gone: None)
        return L1Tier(store, claims, trust, hooks.evicted, versions, absences, marks)

    def l2(
        self, schema: Schema[Any], plan: ModelPlan[Any], codec: Codec, counters: Counters, marks: SchemaMarkers
    ) -> L2Tier | None:
        if schema.l2 is None:
            return None
        from strata.l2.tier import L2Tier

        prefix = self._prefix(schema)

        def corrupt(entries: int) -> None:
            counters.corrupt += entries
            self.log.warning(
                "L2 entries could not be read, being damaged or another release's; they are loaded anew",
                schema=schema.name,
                count=entries,
            )

        versions = self.versions
        lifetimes = self._lifetimes(schema.l2)
        contents = Contents(
            plan.encoder(codec),
            plan.decoder(codec),
            lifetimes,
            versions,
            self.clock,
            plan.texts_of,
            marks,
        )
        return L2Tier(self.server or self.servers.nowhere, prefix, contents, lifetimes, versions, corrupt)

    def _lifetimes(self, policy: RedisPolicy) -> Lifetimes:
        return Lifetimes(_given(policy.ttl, self.config.default_l2_ttl), _aging(policy), policy.negative_ttl)

    def searches(self, schema: Schema[Any], l2: L2Tier | None) -> Searches:
        if l2 is None or schema.l2 is None or schema.l3 is None:
            return NotKept()
        from strata.l2.searches import MOST_KEPT, UntilTtl, UntilWrite

        prefix, places = schema.l2.key_prefix or schema.name, schema.l2.max_searches
        lifetimes = self._lifetimes(schema.l2)
        # What never expires would be as old as the first one that asked, if no write ended it.
        if not lifetimes.fresh_px() or schema.l2.search_expiry is SearchExpiry.ON_WRITE:
            return UntilWrite(l2.server, prefix, places, lambda: lifetimes.fresh_px() or MOST_KEPT, l2.token)
        return UntilTtl(l2.server, prefix, places, lifetimes.fresh_px)

    def _prefix(self, schema: Schema[Any]) -> str:
        assert schema.l2 is not None
        prefix = schema.l2.key_prefix or schema.name
        check_identifier(prefix, "key_prefix")
        for other in self.schemas.values():
            if other.schema.l2 is not None and (other.schema.l2.key_prefix or other.name) == prefix:
                raise InvalidConfigError(
                    f"schema {schema.name!r} would share the key prefix {prefix!r} with schema {other.name!r}; "
                    "give one of them another RedisPolicy.key_prefix"
                )
        return prefix


def _aging(policy: MemPolicy | RedisPolicy) -> Aging:
    return Aging(policy.jitter, policy.eager_refresh, policy.fail_safe)


def _given(own: float | None, default: float) -> float:
    return default if own is None else own
