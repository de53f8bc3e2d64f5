"""The shared parts of one store."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from strata import waits
from strata._wiring.health import Present, known_health
from strata._wiring.servers import ServerFactory
from strata._wiring.tiers import Tiers
from strata.bound import Bound, Callbacks, Rows, Tagger
from strata.coherence.identity import Identity
from strata.coherence.inbox import Inbox
from strata.coherence.marking import Marking
from strata.coherence.mender import Mender
from strata.coherence.outside import Outside
from strata.coherence.pulse import Pulse
from strata.coherence.repairs import Repairs
from strata.config import Config
from strata.contracts import Codec
from strata.encryption_keys import EncryptionKeys, keys_from
from strata.engine import readings
from strata.engine.background import Background
from strata.engine.context import Context
from strata.engine.unfinished import Unfinished
from strata.errors import InvalidConfigError
from strata.freshness import freshness_of
from strata.l1.sweeper import Sweeper
from strata.l1.trust import Trust
from strata.maintenance.housekeeping import Housekeeping
from strata.model import check_identifier, compile_model
from strata.model.plan import ModelPlan
from strata.observe.counters import Counters
from strata.observe.feed import Feed, Reading
from strata.observe.health import Health
from strata.observe.log import SafeLogger, StandardLogger
from strata.observe.metrics import SafeMetrics
from strata.observe.outages import Outage, outages_of
from strata.observe.tracing import SafeTracer
from strata.policies import WriteMode
from strata.protocol.markers import UNMARKED, SchemaMarkers
from strata.protocol.messages import Announcer
from strata.protocol.versions import VersionClock
from strata.runtime.daemon import Daemon
from strata.schema import Schema
from strata.waits import hub
from strata.waits.locks import memory_lock
from strata.writebehind.ledger.lag import Lag
from strata.writebehind.ledger.timing import Timing

if TYPE_CHECKING:
    from strata.l2.client import RedisServer
    from strata.l3.migrations import Migrator
    from strata.l3.pool import Database
    from strata.writebehind.service import WriteBehind

DEAF = 3.0  # seconds without bus or listener, while their servers are there, that are worth a line
MARGIN = 2.0  # seconds beyond the server's time-outs after which a commit has surely ended


class Wiring:
    """The shared parts of one store, some of them built on demand.

    Thread-safe: `_building` guards what is built on demand, so that each is built once, also where the fleet's threads
    and callers of the user's come at the same time; readers need no lock. In the child of a fork, where nobody else is
    left, `after_fork` replaces it, and what belongs to the parent.
    """

    def __init__(self, config: Config, schemas: Mapping[str, Bound]) -> None:
        self.config = config
        self.clock = hub.current().clock
        self.log = SafeLogger(config.logger or StandardLogger(), self.clock)
        self.metrics = SafeMetrics(config.metrics)
        self.tracer = SafeTracer(config.tracer)
        self.instance = waits.token(16)
        self.trust = Trust()
        self.sweeper = Sweeper(log=self.log)
        self.databases: dict[str, Database] = {}  # whoever goes through it makes a list first, in one call
        self._schemas = schemas
        self._keys = keys_from(config.encryption_key)
        self.keys = config.keyspace
        self._building = memory_lock()
        self._ledger: RedisServer | None = None
        self._servers = ServerFactory(config, schemas, self.clock, self.log, self.metrics, self.tracer)
        self.server = self._servers.cache()
        versions = VersionClock(self.clock)
        channel = self.keys.channel(config.invalidation_channel)
        announcer = Announcer(channel, self.instance, self._database())
        marking = Marking(self.server, schemas, announcer, versions, self.trust, self.clock)
        self.inbox = Inbox(schemas, self.instance, versions, self._deferred, marking)
        pulse = None if self.server is None else Pulse(self.server, announcer)
        mender = Mender(pulse, announcer, self._hear_floor, self._hear_persisted, marking)
        repairs = Repairs(schemas, pulse, mender, self.log, self.clock)
        self.outside = Outside(schemas, repairs, versions, self._deferred)
        pool = config.l3_pool
        background = Background(pool.max_conns, self.log)
        self.context = Context(
            clock=self.clock,
            versions=versions,
            identity=Identity(self._references, versions, self.instance, self.clock),
            announcer=announcer,
            repairs=repairs,
            lasting=pool.statement_timeout + pool.lock_timeout + MARGIN,
            background=background,
            unfinished=Unfinished(
                background, repairs.clear, self.log, self.clock, flushes_on_sigterm=config.flush_on_sigterm
            ),
            marking=marking,
            server=self.server,
        )
        self._tiers = Tiers(
            config=config,
            schemas=schemas,
            server=self.server,
            servers=self._servers,
            clock=self.clock,
            versions=versions,
            log=self.log,
            trust=self.trust,
            sweeper=self.sweeper,
        )
        self.housekeeping = Housekeeping(self.context, schemas, self.ledger, config.retention, self.log)
        self.feed = self.context.feed = Feed(self.metrics, self._counts, self._gauges, self.log)
        if self.server is not None and pulse is not None:
            from strata._wiring.rhythm import BusRhythm
            from strata.coherence.bus import Bus
            from strata.coherence.lineage import Lineage

            lineage = Lineage(self.server, repairs.replaced, self.clock)
            rhythm = BusRhythm(pulse, repairs, self.context.identity, lineage, self.housekeeping, marking, self.log)
            deaf = self._deaf(self.server)
            self.context.bus = Bus(self.server, channel, self.inbox, self.trust, self.log, deaf, rhythm)

    @property
    def schemas(self) -> list[Bound]:
        """What is registered now."""
        return list(self._schemas.values())

    def bind(self, schema: Schema[Any], *, remade: bool, codec: Codec) -> Bound:
        """Check a schema and build its parts; `remade` is as `Bound` has it, and `codec` is of what L2 holds of it.
        Raises `InvalidModelError` or `InvalidConfigError`."""
        plan = compile_model(schema.model)
        mode = schema.write_mode or self.config.default_write_mode
        self._tiers.check(schema, plan, mode)
        counters = Counters()
        hooks = Callbacks(schema.name, schema.hooks, plan, counters, self.log)
        l3 = self._l3(schema, plan, mode)
        tagger = None if schema.tags is None else Tagger(schema, plan, counters, self.log)
        marks = SchemaMarkers(self.context.marking.markers, schema.name, tagger)
        # Nothing outdates what stands in the lowest tier.
        l2 = self._tiers.l2(schema, plan, codec, counters, marks if l3 is not None or remade else UNMARKED)
        alone = l2 is None and l3 is None
        kept = SchemaMarkers(self.context.marking.markers, schema.name, None if tagger is None else tagger.of_kept)
        l1 = self._tiers.l1(schema, hooks, alone=alone, marks=UNMARKED if alone and not remade else kept)
        cipher = None if self._keys is None or l3 is None else _cipher(self._keys, l3.table.name)
        bound = Bound(
            name=schema.name,
            schema=schema,
            plan=plan,
            mode=mode,
            hooks=hooks,
            l1=l1,
            l2=l2,
            searches=self._tiers.searches(schema, l2),
            l3=l3,
            codec=codec,
            cipher=cipher,
            counters=counters,
            clock=self.clock,
            freshness=freshness_of(schema),
            log=self.log,
            tagger=tagger,
            remade=remade,
            lacking=self._tiers.lacking(schema, mode),
        )
        if schema.l3 is not None and schema.l3.watch and self.config.postgres_dsn:
            self._listen()
        if bound.deferred:
            deferred = self.writebehind()
            deferred.register(bound)
            l1.own, l1.holds = partial(deferred.peek, bound), partial(deferred.holds, bound)
        return bound

    def _deferred(self) -> WriteBehind | None:
        """The store's write-behind, where a schema has needed it."""
        return self.context.writebehind

    def _hear_floor(self, bound: Bound, versions: Mapping[str, int]) -> None:
        self.writebehind().hear_floor(bound, versions)

    def _hear_persisted(self, bound: Bound, versions: Mapping[str, int]) -> None:
        self.writebehind().hear_persisted(bound, versions)

    def writebehind(self) -> WriteBehind:
        """The store's write-behind, built for the first schema that needs it."""
        with self._building:
            return self.context.writebehind or self._make_writebehind()

    def _make_writebehind(self, timing: Timing | None = None) -> WriteBehind:
        from strata.l2.refusals import rights
        from strata.writebehind.fleet.broker import rings_there
        from strata.writebehind.ledger.ledger import Ledger
        from strata.writebehind.process import Shared
        from strata.writebehind.service import WriteBehind

        server = self.ledger()
        if rings_there(self.config):
            server.rights = rights(self.keys, self.config.invalidation_channel, broker=True)
        schemas: dict[str, Bound] = {}
        ledger = Ledger(server, timing or Timing(), self.context.versions.reference_ms, self._stray)
        self.context.writebehind = made = WriteBehind(
            Shared(
                config=self.config,
                ledger=ledger,
                lag=Lag(ledger, schemas, self.clock),
                publisher=self.server,
                schemas=schemas,
                versions=self.context.versions,
                announcer=self.context.announcer,
                repairs=self.context.repairs,
                clock=self.clock,
                log=self.log,
                metrics=self.metrics,
                tracer=self.tracer,
                live=self.housekeeping.beat,
            )
        )
        return made

    def _stray(self, key: str, kind: str) -> None:
        self.metrics.count("strata_write_behind_unreadable", schema="")
        self.log.error("a key of Strata's was of another type than it has; it was renamed", key=key, type=kind)

    def _listen(self) -> None:
        """The store's listener for changes made outside, built for the first schema that asks for it."""
        direct = self.config.postgres_direct_dsn
        if self.context.listener is None:
            from strata.l3.listener import Listener

            if not direct:
                self.database(self.config.postgres_dsn).listens()
            self.context.listener = Listener(
                direct or self.config.postgres_dsn,
                self.config.l3_pool,
                self.clock,
                self.log,
                self.outside,
                self.log.outage(
                    "changes made outside are not heard of",
                    "changes made outside are heard of again",
                    tell=lambda: {"meanwhile": "what is cached may be older than they are, until they are heard of"},
                    because=lambda: outages_of([database.breaker for database in list(self.databases.values())]),
                    patience=DEAF,
                ),
            )

    def ledger(self) -> RedisServer:
        """The Redis of ledger, jobs and doorbells. Where there is none, its methods raise `InvalidConfigError`."""
        with self._building:
            if self._ledger is None:
                self._ledger = self._make_ledger()
            return self._ledger

    def _make_ledger(self) -> RedisServer:
        if not self.config.ledger_addr:
            return self.server or self._servers.nowhere
        made = self._servers.ledger()
        if self.context.ownership is not None:
            self.context.ownership.guard(made)
        return made

    def _references(self) -> list[RedisServer]:
        """Whose clock versions follow."""
        return [server for server in dict.fromkeys((self.server, self._ledger)) if server is not None]

    def publish(self, task: str, args: tuple[Any, ...], task_id: str | None) -> None:
        """Hand a job over to the fleet. Raises `UnavailableError` where the broker does not answer."""
        from strata.writebehind.fleet.broker import Broker

        Broker(self.config).publish(task, args, task_id)

    def after_fork(self) -> None:
        """In the child: another instance, with connections, threads and caches of its own."""
        self._building = memory_lock()
        self.instance = waits.token(16)
        self.log.reset()
        context = self.context
        context.versions.reset()
        context.identity.reset(self.instance)
        context.announcer.source = self.instance
        self.inbox.rename(self.instance)
        for server in self.redis_servers():
            server.after_fork()
        for database in list(self.databases.values()):
            database.after_fork()
        if context.bus is not None:
            context.bus.reset()
        if context.listener is not None:
            context.listener.reset()
        context.repairs.reset()
        context.background.reset()
        context.unfinished.reset()
        context.marking.after_fork()
        self.sweeper.after_fork()
        for bound in self._schemas.values():
            bound.l1.after_fork()
            if bound.l2 is not None:
                bound.l2.reset_tokens()
        if context.writebehind is not None:
            context.writebehind.after_fork()
        self.feed.after_fork()

    def close(self) -> None:
        """Stop the threads and close the connections; what is written behind was flushed before."""
        self.feed.stop()
        if self.context.bus is not None:
            self.context.bus.stop()
        self.context.unfinished.stop()
        self.context.background.stop()
        if self.context.listener is not None:
            self.context.listener.stop()
        self.context.repairs.stop()
        self.sweeper.stop()
        self.disconnect()
        self.log.remind(now=True)

    def disconnect(self) -> None:
        """Close the connections; whoever needs one opens it anew."""
        for database in list(self.databases.values()):
            database.close()
        for server in self.redis_servers():
            server.close()

    @property
    def daemons(self) -> list[Daemon]:
        """The store's threads, started or not."""
        context = self.context
        parts = (context.bus, context.listener, context.repairs, self.sweeper, self.feed)
        pools = (context.background, context.writebehind)
        own = [part.daemon for part in parts if part is not None]
        return own + [daemon for pool in pools if pool is not None for daemon in pool.daemons]

    @property
    def begun(self) -> bool:
        """Whether this process has threads of the store's, or writes that are not in L3."""
        deferred = self.context.writebehind
        pending = deferred is not None and deferred.dirty_count() > 0
        return pending or any(daemon.started for daemon in self.daemons)

    def numbers(self) -> dict[str, int]:
        """The counters of the bus and of the threads."""
        failures = sum(daemon.failures + daemon.refusals for daemon in self.daemons)
        return readings.bus_numbers(self.context, self.inbox) | {"thread_failures": failures}

    def _counts(self) -> list[Reading]:
        return readings.counts(self.schemas, self.numbers())

    def _gauges(self) -> list[Reading]:
        lag = None if self.context.writebehind is None else self.context.writebehind.lag
        if lag is not None:
            lag.look(wanted=True)
        breakers = {name: server.breaker for name, server in self._by_name().items()}
        seen = None if lag is None else lag.seen
        return readings.gauges(self.schemas, breakers, seen, self.clock.monotonic())

    def health(self) -> Health:
        """What is known of all parts, without a question to any of them."""
        primary = self.databases.get(self.config.postgres_dsn)
        return known_health(
            self.context, self.schemas, Present(self.server, self._ledger, primary, self._servers.outages)
        )

    def redis_servers(self) -> list[RedisServer]:
        """Each Redis of the store once."""
        return list({id(item): item for item in (self.server, self._ledger) if item is not None}.values())

    def _own(self, database: Database) -> None:
        """From now on the store's Redis servers are used only where they are this database's."""
        if self.context.ownership is None and (self.server is not None or self.config.ledger_addr):
            from strata.coherence.ownership import Ownership

            ownership = Ownership(self.config.postgres_dsn, database, self.redis_servers, self.log)
            for server in self.redis_servers():
                ownership.guard(server)
            self.context.ownership = ownership

    def _by_name(self) -> dict[str, RedisServer | Database]:
        """What this store talks to, by the names that metrics have for it."""
        servers: dict[str, RedisServer | Database] = {}
        if self.server is not None:
            servers["cache"] = self.server
        if self._ledger is not None and self._ledger is not self.server:
            servers["ledger"] = self._ledger
        for dsn, database in list(self.databases.items()):
            servers[self._servers.role(dsn)] = database
        return servers

    def _database(self) -> int:
        """The logical database that messages are about, as the client has it: a URL, or a client, may name another than
        `redis_db`. A Cluster has one only, and is not to be asked for it yet."""
        if self.server is None:
            return 0
        from redis.cluster import RedisCluster

        config = self.config
        clustered = config.redis_addr.startswith("redis+cluster://") or isinstance(config.redis_client, RedisCluster)
        return 0 if clustered else self.server.database

    def _deaf(self, server: RedisServer) -> Outage:
        """That the bus is cut off where Redis is there."""
        meanwhile = "memory serves for a second at most what it has read"
        return self.log.outage(
            "changes of other processes are not heard",
            "changes of other processes are heard again",
            tell=lambda: {"address": server.address, "meanwhile": meanwhile},
            because=lambda: [self._servers.outages[server][0]],
            patience=DEAF,
        )

    def _l3(self, schema: Schema[Any], plan: ModelPlan[Any], mode: WriteMode) -> Rows | None:
        if schema.l3 is None:
            return None
        from strata.l3.indexes import wanted_indexes
        from strata.l3.partition import check_unique
        from strata.l3.table import Table, check_shared

        name = schema.l3.table_name or schema.name
        check_identifier(name, "table name")
        by = schema.l3.partition_by
        table = Table(plan, name, schema_name=schema.name, deferred=mode is WriteMode.WRITE_BEHIND, partition_by=by)
        check_unique(plan, name, table.partition, wanted_indexes(plan, schema))
        check_shared(table, [bound.rows.table for bound in self.schemas if bound.l3 is not None])
        replica = schema.l3.read_replica
        database = self.database(self.config.postgres_dsn)
        if self.config.postgres_dsn:
            self._own(database)
        return Rows(table, database, self.database(replica) if replica else None)

    def migrator(self) -> Migrator:
        """What brings the database to the schemas. Raises `InvalidConfigError` where there is no database."""
        from strata.l3.migrations import Migrator

        config = self.config
        if not config.postgres_dsn:
            raise InvalidConfigError("migrations need a database; set postgres_dsn (STRATA_POSTGRES_DSN)")
        database = self.database(config.postgres_direct_dsn or config.postgres_dsn)
        return Migrator(database, [(bound.rows.table, bound.schema) for bound in self.schemas if bound.l3 is not None])

    def database(self, dsn: str) -> Database:
        """The database of a DSN, made once."""
        with self._building:
            if dsn not in self.databases:
                self.databases[dsn] = self._servers.database(dsn)
            return self.databases[dsn]


def _cipher(keys: EncryptionKeys, table: str) -> Any:
    from strata.crypto import TableCipher

    return TableCipher(keys, table)
