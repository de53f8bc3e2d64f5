"""From `redis_addr` or a client of the user's to a redis-py client with Strata's own time-outs.

redis-py retries a command ten times by default, which blocks for a minute on a frozen server and runs a script
twice when only its answer was lost. Strata's connections never retry: what may be asked again is decided above.
"""

from __future__ import annotations

from typing import Any

import redis
from redis.backoff import NoBackoff
from redis.cluster import ClusterNode, RedisCluster
from redis.retry import Retry
from redis.sentinel import Sentinel, SentinelConnectionPool

from strata.endpoints.redis import RedisAddress, Topology, check_client, read_redis
from strata.policies import L2PoolConfig


def connect(addr: str, pool: L2PoolConfig, *, password: str | None = None, db: int = 0) -> Any:
    """A client for `addr`; nothing is sent yet. Raises `InvalidConfigError` for an address it cannot read."""
    found = read_redis(addr, "redis_addr")
    options = _options(pool)
    if password:
        options["password"] = password
    if found.kind is Topology.SINGLE:
        return _single(addr, found, options, db)
    if found.username:
        options["username"] = found.username
    if found.password:
        options["password"] = found.password
    if found.kind is Topology.SENTINELS:
        return _sentinels(found, options, db)
    return _cluster([ClusterNode(*place) for place in found.places], options, pool)  # type: ignore[no-untyped-call]


def adopt(client: Any, pool: L2PoolConfig) -> Any:
    """A copy of the user's client that keeps its addresses and secrets, with Strata's time-outs and no retries."""
    check_client(client)
    if isinstance(client, RedisCluster):
        kwargs = {k: v for k, v in client.nodes_manager.connection_kwargs.items() if k not in _OWN}
        nodes = [ClusterNode(node.host, node.port) for node in client.nodes_manager.startup_nodes.values()]  # type: ignore[no-untyped-call]
        return _cluster(nodes, {**kwargs, **_options(pool)}, pool)
    old = client.connection_pool
    kwargs = {k: v for k, v in old.connection_kwargs.items() if k not in _OWN}
    kwargs |= _options(pool)
    kwargs.pop("max_connections", None)
    if isinstance(old, SentinelConnectionPool):
        fresh: Any = SentinelConnectionPool(  # type: ignore[no-untyped-call]
            old.service_name,
            old.sentinel_manager,
            is_master=old.is_master,
            connection_class=old.connection_class,
            max_connections=pool.pool_size,
            **kwargs,
        )
    else:
        fresh = redis.ConnectionPool(connection_class=old.connection_class, max_connections=pool.pool_size, **kwargs)
    return redis.Redis(connection_pool=fresh)


# Options of a foreign connection that are replaced by ours, or that belong to its pool and not to ours.
_OWN = frozenset(
    {
        "retry", "retry_on_timeout", "retry_on_error", "socket_timeout", "socket_connect_timeout", "decode_responses",
        "connection_pool", "protocol", "maint_notifications_config", "maint_notifications_pool_handler",
        "orig_host_address", "orig_socket_timeout", "orig_socket_connect_timeout",
        "oss_cluster_maint_notifications_handler",
        "host_port_remap", "event_dispatcher", "redis_connect_func", "himport_pool",
    }
)  # fmt: skip


def _options(pool: L2PoolConfig) -> dict[str, Any]:
    return {
        "retry": Retry(NoBackoff(), 0),
        "socket_timeout": pool.read_timeout,
        "socket_connect_timeout": pool.dial_timeout,
        "socket_keepalive": True,
        "max_connections": pool.pool_size,
        "protocol": 2,
    }


def _single(addr: str, found: RedisAddress, options: dict[str, Any], db: int) -> Any:
    if found.places:
        ((host, port),) = found.places
        return redis.Redis(host=host, port=port, db=db, **options)
    if addr.startswith("unix://"):
        options.pop("socket_keepalive")
    return redis.Redis.from_url(addr, **({"db": db} if db else {}), **options)


def _cluster(nodes: list[ClusterNode], options: dict[str, Any], pool: L2PoolConfig) -> Any:
    options = {k: v for k, v in options.items() if k not in ("db", "host", "port", "path")}
    return RedisCluster(startup_nodes=nodes, require_full_coverage=False, **options)


def _sentinels(found: RedisAddress, options: dict[str, Any], db: int) -> Any:
    quick = {k: options[k] for k in ("retry", "socket_timeout", "socket_connect_timeout", "socket_keepalive")}
    sentinel = Sentinel(list(found.places), sentinel_kwargs=quick | dict(found.login))  # type: ignore[no-untyped-call]
    number = db if found.database is None else found.database
    return sentinel.master_for(found.service, redis_class=redis.Redis, db=number, **options)  # type: ignore[no-untyped-call]
