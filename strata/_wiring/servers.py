"""The servers that one store talks to: made so that their calls are timed, and that is said when they are away."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any, NoReturn

from strata._wiring.meanwhile import without_postgres, without_redis
from strata.addresses import masked
from strata.bound import Bound
from strata.config import Config
from strata.errors import InvalidConfigError
from strata.observe.log import SafeLogger
from strata.observe.metrics import SafeMetrics
from strata.observe.outages import Outage
from strata.observe.server_call import ServerCall
from strata.observe.tracing import SafeTracer
from strata.waits.clock import Clock

if TYPE_CHECKING:
    from strata.l2.client import RedisServer
    from strata.l3.pool import Database


class ServerFactory:
    """Makes them; who asks keeps them. Thread-safe: `outages`, what each is like as calls have found, is written by who
    makes one, in one call, and whoever goes through it makes a list first."""

    def __init__(
        self,
        config: Config,
        schemas: Mapping[str, Bound],
        clock: Clock,
        log: SafeLogger,
        metrics: SafeMetrics,
        tracer: SafeTracer,
    ) -> None:
        self._config = config
        self._schemas = schemas
        self._clock = clock
        self._log = log
        self._metrics = metrics
        self._tracer = tracer
        self.outages: dict[RedisServer | Database, tuple[Outage, Outage]] = {}

    @cached_property
    def nowhere(self) -> RedisServer:
        """What stands for a Redis where none is named: its calls raise `InvalidConfigError`."""
        from strata.l2.client import RedisServer

        return RedisServer(_no_redis, self._clock, self._config.keyspace)

    def cache(self) -> RedisServer | None:
        """The Redis of L2 and the bus, where one is named."""
        config = self._config
        if config.redis_client is not None:
            from strata.l2.address import adopt

            return self._watched(lambda: adopt(config.redis_client, config.l2_pool), "cache")
        return self._server(config.redis_addr, "cache") if config.redis_addr else None

    def _server(self, addr: str, name: str) -> RedisServer:
        from strata.l2.address import connect

        config = self._config
        password = config.redis_password or None

        def make() -> Any:
            return connect(addr, config.l2_pool, password=password, db=config.redis_db)

        return self._watched(make, name, masked(addr))

    def _watched(self, make: Callable[[], Any], name: str, place: str = "") -> RedisServer:
        from strata.l2.client import RedisServer
        from strata.l2.refusals import rights

        made = RedisServer(make, self._clock, self._config.keyspace, place, self._config.l2_pool.write_timeout)
        made.on_call = self._teller(made, "l2", "redis", name)
        keeps_ledger = name == "ledger" or not self._config.ledger_addr
        made.rights = rights(self._config.keyspace, self._config.invalidation_channel)

        def tell() -> Mapping[str, Any]:
            return {
                "server": name,
                "address": made.address,
                "meanwhile": without_redis(list(self._schemas.values()), made, ledger=keeps_ledger),
            }

        away = self._log.outage("Redis cannot be used", "Redis can be used again", name=name, tell=tell)
        refusing = self._log.outage("Redis refuses calls", "Redis refuses no calls any more", name=name, tell=tell)
        made.breaker.watcher, made.refusing = away, refusing
        self.outages[made] = away, refusing
        return made

    def ledger(self) -> RedisServer:
        """The Redis of `ledger_addr`."""
        return self._server(self._config.ledger_addr, "ledger")

    def database(self, dsn: str) -> Database:
        """The database of a DSN."""
        from strata.l3.pool import Database

        made = Database(dsn, self._config.l3_pool, clock=self._clock)
        name = self.role(dsn)
        made.on_call = self._teller(made, "l3", "postgresql", name)
        self._watch_database(made, name)
        return made

    def _watch_database(self, made: Database, name: str) -> None:
        def tell() -> Mapping[str, Any]:
            return {
                "server": name,
                "address": made.address,
                "meanwhile": without_postgres(list(self._schemas.values()), name),
            }

        where = f"{name} {made.address}"
        away = self._log.outage("PostgreSQL cannot be used", "PostgreSQL can be used again", name=where, tell=tell)
        refusing = self._log.outage(
            "PostgreSQL takes no writes", "PostgreSQL takes writes again", name=where, tell=tell
        )
        made.breaker.watcher, made.refusing = away, refusing
        self.outages[made] = away, refusing

    def role(self, dsn: str) -> str:
        """The name that metrics and the log have for a database."""
        if dsn == self._config.postgres_dsn:
            return "primary"
        return "direct" if dsn == self._config.postgres_direct_dsn else "replica"

    def _teller(
        self, made: RedisServer | Database, tier: str, system: str, name: str
    ) -> Callable[[ServerCall], None] | None:
        """Who is told of calls; None where nobody asked."""
        metrics, tracer = self._metrics, self._tracer
        if not (metrics.enabled or tracer.enabled):
            return None

        def tell(call: ServerCall) -> None:
            metrics.observe(f"strata_{tier}_seconds", call.seconds, server=name)
            tracer.call(f"strata.{tier}", call, system=system, server=name, address=made.address)

        return tell


def _no_redis() -> NoReturn:
    raise InvalidConfigError(
        "no Redis is named; set redis_addr (STRATA_REDIS_ADDR), or redis_client; for write-behind alone ledger_addr "
        "(STRATA_LEDGER_ADDR) does"
    )
