"""The only place that builds concrete parts from settings and schemas."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Callable, Mapping
from typing import Any, NoReturn

from redis.cluster import RedisCluster

from strata.aging import Aging
from strata.bound import Bound, Callbacks
from strata.clock import Clock, SystemClock
from strata.coherence.bus import Bus
from strata.coherence.certainty import ALWAYS, Certainty
from strata.coherence.guard import Guard
from strata.coherence.identity import Identity
from strata.coherence.inbox import Inbox
from strata.coherence.lineage import Lineage
from strata.coherence.memory import Memory
from strata.coherence.messages import Announcer
from strata.coherence.outside import Outside
from strata.coherence.ownership import Ownership
from strata.coherence.pulse import Pulse
from strata.coherence.repairs import Repairs
from strata.config import Config, masked
from strata.crypto import TableCipher, keys_from
from strata.engine import readings
from strata.engine.background import Background
from strata.engine.context import Context
from strata.engine.unfinished import Unfinished
from strata.errors import InvalidConfigError, InvalidModelError
from strata.freshness import freshness_of
from strata.l1.store import MemStore
from strata.l1.sweeper import Sweeper
from strata.l2.address import adopt, check, connect
from strata.l2.client import RedisServer
from strata.l2.refusals import Refusal, rights
from strata.l2.searches import MOST_KEPT, NotKept, Searches, UntilTtl, UntilWrite
from strata.l2.tier import L2Tier
from strata.l3.indexes import wanted_indexes
from strata.l3.listener import Listener
from strata.l3.partition import check_unique
from strata.l3.pool import Database
from strata.l3.table import Table
from strata.model import check_identifier, compile_model
from strata.model.plan import ModelPlan
from strata.observe.complaints import Complaints
from strata.observe.counters import Counters
from strata.observe.feed import Feed, Reading
from strata.observe.log import SafeLogger
from strata.observe.metrics import SafeMetrics
from strata.policies import EvictionPolicy, MemPolicy, RedisPolicy, SearchExpiry, WriteMode
from strata.schema import Schema
from strata.versions import VersionClock
from strata.writebehind import WriteBehind
from strata.writebehind.broker import Broker, celery_app

SHARDS = 256  # of L1, in which `max_entries` is counted
ABSENCES = 65_536  # remembered in L1 a schema
MARGIN = 2.0  # seconds beyond the server's time-outs after which a commit has surely ended


class Wiring:
    """The shared parts of one store, built on demand. Used under the store's lock, but for `after_fork`."""

    def __init__(self, config: Config, schemas: Mapping[str, Bound]) -> None:
        self.config = config
        self.clock: Clock = SystemClock()
        self.log = SafeLogger(config.logger)
        self.metrics = SafeMetrics(config.metrics)
        self.instance = uuid.uuid4().hex
        self.certainty = Certainty()
        self.sweeper = Sweeper(logger=config.logger)
        self.databases: dict[str, Database] = {}
        self._schemas = schemas
        self._keys = keys_from(config.encryption_key)
        self.keys = config.keyspace
        self._ledger: RedisServer | None = None
        self._complaints = Complaints(self.log, self.clock)
        self._nowhere = RedisServer(_no_redis, self.clock, self.keys)
        self.server = self._redis()
        versions = VersionClock(self.clock)
        channel = self.keys.channel(config.invalidation_channel)
        announcer = Announcer(channel, self.instance, self._database())
        self.inbox = Inbox(schemas, self.instance, versions, lambda: self.context.writebehind)
        pulse = None if self.server is None else Pulse(self.server, announcer)
        repairs = Repairs(
            schemas,
            pulse,
            lambda: self.context.announcer,
            self.log,
            self.clock,
            lambda bound, versions: self.writebehind().hear_floor(bound, versions),
        )
        self.outside = Outside(schemas, repairs, versions, lambda: self.context.writebehind)
        pool = config.l3_pool
        background = Background(pool.max_conns, self.log)
        self.context = Context(
            clock=self.clock,
            versions=versions,
            identity=Identity(self._references, versions, self.instance, self.clock),
            announcer=announcer,
            repairs=repairs,
            lasting=float(pool.statement_timeout) + float(pool.lock_timeout) + MARGIN,  # type: ignore[arg-type]
            background=background,
            unfinished=Unfinished(background, repairs.clear, self.log, flushes_on_sigterm=config.flush_on_sigterm),
            server=self.server,
        )
        self.feed = self.context.feed = Feed(self.metrics, self._counts, self._gauges, self.log)
        if self.server is not None and pulse is not None:
            lineage = Lineage(self.server, repairs.replaced, self.clock)
            identity = self.context.identity

            def beat(number: int) -> None:
                repairs.look(pulse.beat(number, repairs.turns()))
                identity.beat()
                lineage.look()

            self.context.bus = Bus(
                self.server,
                channel,
                self.inbox,
                self.certainty,
                self.clock,
                self.log,
                beat,
                on_return=repairs.wake,
                on_loss=repairs.replaced,
            )

    @property
    def schemas(self) -> list[Bound]:
        """What is registered now."""
        return list(self._schemas.values())

    def bind(self, schema: Schema[Any]) -> Bound:
        """Check a schema and build its parts. Raises `InvalidModelError` or `InvalidConfigError`."""
        check_identifier(schema.name, "schema name")
        plan = compile_model(schema.model)
        mode = schema.write_mode or self.config.default_write_mode
        self._check(schema, plan, mode)
        counters = Counters()
        hooks = Callbacks(schema.name, schema.hooks, plan, counters, self.log)
        table, database, replica = self._l3(schema, plan, mode)
        l2 = self._l2(schema, plan, counters)
        l1 = self._l1(schema, hooks, alone=l2 is None and table is None)
        cipher = None if self._keys is None or table is None else TableCipher(self._keys, table.name)
        bound = Bound(
            name=schema.name,
            schema=schema,
            plan=plan,
            mode=mode,
            hooks=hooks,
            l1=l1,
            l2=l2,
            searches=self._searches(schema, l2),
            table=table,
            database=database,
            replica=replica,
            cipher=cipher,
            counters=counters,
            clock=self.clock,
            freshness=freshness_of(schema),
            lacking=self._lacking(schema, mode),
        )
        if schema.l3 is not None and schema.l3.watch and self.config.postgres_dsn:
            self._listen()
        if bound.deferred:
            deferred = self.writebehind()
            deferred.register(bound)
            l1.own = lambda key: deferred.peek(bound, key)
        return bound

    def writebehind(self) -> WriteBehind:
        """The store's write-behind, built for the first schema that needs it."""
        if self.context.writebehind is None:
            server = self.ledger()
            self.context.writebehind = WriteBehind(
                self.config,
                server,
                same_server_as_l2=server is self.server,
                clock=self.clock,
                versions=self.context.versions,
                announcer=self.context.announcer,
                logger=self.log,
                metrics=self.metrics,
                publisher=self.server,
                repairs=self.context.repairs,
            )
        return self.context.writebehind

    def _listen(self) -> None:
        """The store's listener for changes made outside, built for the first schema that asks for it."""
        direct = self.config.postgres_direct_dsn
        if self.context.listener is None:
            if not direct:
                self.database(self.config.postgres_dsn).listens()
            self.context.listener = Listener(
                direct or self.config.postgres_dsn,
                self.config.l3_pool,
                self.clock,
                self.log,
                self.outside.changed,
                self.outside.returned,
                self.context.repairs.wake,
            )

    def ledger(self) -> RedisServer:
        """The Redis of ledger, jobs and doorbells. Where there is none, its methods raise `InvalidConfigError`."""
        if self._ledger is None:
            if self.config.ledger_addr:
                self._ledger = self._server(self.config.ledger_addr, "ledger")
                if self.context.ownership is not None:
                    self.context.ownership.guard(self._ledger)
            elif self.server is not None:
                self._ledger = self.server
            else:
                self._ledger = self._nowhere
        return self._ledger

    def _references(self) -> list[RedisServer]:
        """Whose clock versions follow."""
        return [server for server in dict.fromkeys((self.server, self._ledger)) if server is not None]

    def publish(self, task: str, args: tuple[Any, ...], task_id: str | None) -> None:
        """Hand a job over to the fleet. Raises `UnavailableError` where the broker does not answer."""
        Broker(self.config).publish(task, args, task_id)

    def after_fork(self) -> None:
        """In the child: another instance, with connections, threads and caches of its own."""
        self.instance = uuid.uuid4().hex
        context = self.context
        context.versions.reset()
        context.identity.reset(self.instance)
        context.announcer.source = self.instance
        self.inbox.rename(self.instance)
        for server in self.redis_servers():
            server.after_fork()
        for database in self.databases.values():
            database.after_fork()
        if context.bus is not None:
            context.bus.reset()
        if context.listener is not None:
            context.listener.reset()
        context.repairs.reset()
        context.background.reset()
        context.unfinished.reset()
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

    def disconnect(self) -> None:
        """Close the connections; whoever needs one opens it anew."""
        for database in self.databases.values():
            database.close()
        for server in self.redis_servers():
            server.close()

    @property
    def begun(self) -> bool:
        """Whether this process has threads of the store's, or writes that are not in L3."""
        context = self.context
        parts = (context.bus, context.listener, context.background, context.writebehind)
        started = self.sweeper.started or self.feed.started or context.repairs.started
        return started or any(part is not None and part.begun for part in parts)

    def _counts(self) -> list[Reading]:
        return readings.counts(list(self._schemas.values()), readings.bus_numbers(self.context, self.inbox))

    def _gauges(self) -> list[Reading]:
        deferred = self.context.writebehind
        breakers = {name: server.breaker for name, server in self._servers().items()}
        return readings.gauges(list(self._schemas.values()), breakers, {} if deferred is None else deferred.lag())

    def redis_servers(self) -> list[RedisServer]:
        """Each Redis of the store once."""
        return list({id(item): item for item in (self.server, self._ledger) if item is not None}.values())

    def _own(self, database: Database) -> None:
        """From now on the store's Redis servers are used only where they are this database's."""
        if self.context.ownership is None and (self.server is not None or self.config.ledger_addr):
            ownership = Ownership(self.config.postgres_dsn, database, self.redis_servers, self.log)
            for server in self.redis_servers():
                ownership.guard(server)
            self.context.ownership = ownership

    def _servers(self) -> dict[str, RedisServer | Database]:
        """What this store talks to, by the names that metrics have for it."""
        servers: dict[str, RedisServer | Database] = {}
        if self.server is not None:
            servers["cache"] = self.server
        if self._ledger is not None and self._ledger is not self.server:
            servers["ledger"] = self._ledger
        for dsn, database in self.databases.items():
            servers["primary" if dsn == self.config.postgres_dsn else "replica"] = database
        return servers

    def _timer(self, name: str, server: str) -> Callable[[float], None] | None:
        """Who is told how long calls take; None where nobody asked."""
        if not self.metrics.enabled:
            return None
        metrics = self.metrics
        return lambda seconds: metrics.observe(name, seconds, server=server)

    def _redis(self) -> RedisServer | None:
        config = self.config
        if config.redis_client is not None:
            check(config.redis_client)
            return self._watched(lambda: adopt(config.redis_client, config.l2_pool), "cache")
        return self._server(config.redis_addr, "cache") if config.redis_addr else None

    def _database(self) -> int:
        """The logical database that messages are about, as the client has it: a URL, or a client, may name another than
        `redis_db`. A Cluster has one only, and is not to be asked for it yet."""
        config = self.config
        clustered = config.redis_addr.startswith("redis+cluster://") or isinstance(config.redis_client, RedisCluster)
        return 0 if self.server is None or clustered else self.server.database

    def _server(self, addr: str, name: str) -> RedisServer:
        config = self.config
        password = config.redis_password or None

        def make() -> Any:
            return connect(addr, config.l2_pool, password=password, db=config.redis_db)

        if not addr.startswith("redis+cluster://"):
            make()  # nothing is sent, but an address that cannot be read is found now
        return self._watched(make, name, masked(addr))

    def _watched(self, make: Callable[[], Any], name: str, place: str = "") -> RedisServer:
        made = RedisServer(make, self.clock, self.keys, place)
        made.on_call = self._timer("strata_l2_seconds", name)
        made.rights = rights(self.keys, self.config.invalidation_channel)

        def refused(refusal: Refusal) -> None:
            self._complaints.say(
                "Redis refuses, and is not used meanwhile",
                refusal.found,
                server=name,
                address=made.address,
                advice=refusal.advice,
            )

        made.on_refusal = refused
        return made

    def _lacking(self, schema: Schema[Any], mode: WriteMode) -> str:
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
        try:
            celery_app(config)
        except InvalidConfigError as error:
            return f"{name} is written behind: {error}"
        return ""

    def _check(self, schema: Schema[Any], plan: ModelPlan[Any], mode: WriteMode) -> None:
        name = schema.name
        if schema.l1 is None and schema.l2 is None and schema.l3 is None:
            raise InvalidConfigError(f"schema {name!r} has no tier; give it at least one of l1, l2 and l3")
        if mode is WriteMode.WRITE_BEHIND and schema.l3 is None:
            raise InvalidConfigError(f"schema {name!r} is written behind but has no L3 to write to; give it l3")
        for column in plan.columns:
            if column.omit_cache and schema.l3 is None:
                raise InvalidModelError(
                    f"{plan.model.__name__}.{column.name} is OmitCache, but schema {name!r} has no L3 to hold it"
                )
            if column.omit_l1 and schema.l2 is None and schema.l3 is None:
                raise InvalidModelError(
                    f"{plan.model.__name__}.{column.name} is OmitL1, but schema {name!r} has no other tier to hold it"
                )

    def _l1(self, schema: Schema[Any], hooks: Callbacks, *, alone: bool) -> Memory:
        lock, versions = threading.RLock(), self.context.versions
        guard = Guard(lock)
        certainty = ALWAYS if alone else self.certainty
        if schema.l1 is None:
            return Memory(None, guard, certainty, self.clock, hooks.evicted, versions)
        policy, pool = schema.l1, self.config.l1_pool
        store = MemStore(
            capacity=SHARDS * (pool.max_entries if policy.max_entries is None else policy.max_entries),
            ttl=_seconds(policy.ttl, self.config.default_l1_ttl),
            eviction=policy.eviction or pool.eviction,
            clock=self.clock,
            lock=lock,
            aging=_aging(policy),
        )
        self.sweeper.register(store, hooks.evicted)
        memory = Memory(store, guard, certainty, self.clock, hooks.evicted, versions)
        if policy.negative_ttl:
            # Of their own, so that asking for what is not there evicts nothing that is.
            memory.absences = MemStore(
                capacity=ABSENCES, ttl=_seconds(policy.negative_ttl, 0), eviction=EvictionPolicy.LRU, clock=self.clock,
                lock=lock,
            )  # fmt: skip
            self.sweeper.register(memory.absences, lambda gone: None)
        return memory

    def _l2(self, schema: Schema[Any], plan: ModelPlan[Any], counters: Counters) -> L2Tier | None:
        if schema.l2 is None:
            return None
        prefix = self._prefix(schema)

        def corrupt(entries: int) -> None:
            counters.corrupt += entries
            said = "L2 entries could not be read, being damaged or another release's; they are loaded anew"
            self._complaints.say(said, f"schema {schema.name!r}", so_far=counters.corrupt)

        codec = self.config.codec
        ttl = _seconds(schema.l2.ttl, self.config.default_l2_ttl)
        return L2Tier(
            self.server or self._nowhere,
            prefix,
            ttl,
            plan.encoder(codec),
            plan.decoder(codec),
            corrupt,
            self.context.versions,
            _aging(schema.l2),
            _seconds(schema.l2.negative_ttl, 0),
            lambda record: plan.key_text(plan.key_of(record)),
        )

    def _searches(self, schema: Schema[Any], l2: L2Tier | None) -> Searches:
        if l2 is None or schema.l2 is None or schema.l3 is None:
            return NotKept()
        prefix = schema.l2.key_prefix or schema.name
        # What never expires would be as old as the first one that asked, if no write ended it.
        endless = not _seconds(schema.l2.ttl, self.config.default_l2_ttl)
        if endless or schema.l2.search_expiry is SearchExpiry.ON_WRITE:
            return UntilWrite(l2.server, prefix, lambda: l2.fresh_px() or MOST_KEPT, l2.token)
        return UntilTtl(l2.server, prefix, l2.fresh_px)

    def _prefix(self, schema: Schema[Any]) -> str:
        assert schema.l2 is not None
        prefix = schema.l2.key_prefix or schema.name
        check_identifier(prefix, "key_prefix")
        for other in self._schemas.values():
            if other.schema.l2 is not None and (other.schema.l2.key_prefix or other.name) == prefix:
                raise InvalidConfigError(
                    f"schema {schema.name!r} would share the key prefix {prefix!r} with schema {other.name!r}; "
                    "give one of them another RedisPolicy.key_prefix"
                )
        return prefix

    def _l3(
        self, schema: Schema[Any], plan: ModelPlan[Any], mode: WriteMode
    ) -> tuple[Table | None, Database | None, Database | None]:
        if schema.l3 is None:
            return None, None, None
        name = schema.l3.table_name or schema.name
        check_identifier(name, "table name")
        by = schema.l3.partition_by
        table = Table(plan, name, schema_name=schema.name, deferred=mode is WriteMode.WRITE_BEHIND, partition_by=by)
        check_unique(plan, name, table.partition, wanted_indexes(plan, schema))
        replica = schema.l3.read_replica
        database = self.database(self.config.postgres_dsn)
        if self.config.postgres_dsn:
            self._own(database)
        return table, database, self.database(replica) if replica else None

    def database(self, dsn: str) -> Database:
        if dsn not in self.databases:
            made = self.databases[dsn] = Database(dsn, self.config.l3_pool, clock=self.clock)
            made.on_call = self._timer("strata_l3_seconds", "primary" if dsn == self.config.postgres_dsn else "replica")
        return self.databases[dsn]


def _no_redis() -> NoReturn:
    raise InvalidConfigError(
        "no Redis is named; set redis_addr (STRATA_REDIS_ADDR), or redis_client; for write-behind alone ledger_addr "
        "(STRATA_LEDGER_ADDR) does"
    )


def _aging(policy: MemPolicy | RedisPolicy) -> Aging:
    return Aging(policy.jitter, policy.eager_refresh, _seconds(policy.fail_safe, 0))


def _seconds(own: Any, default: Any) -> float:
    return float(default if own is None else own)
