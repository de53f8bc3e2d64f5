"""From `redis_addr` or a client of the user's to a redis-py client with Strata's own time-outs.

redis-py retries a command ten times by default, which blocks for a minute on a frozen server and runs a script
twice when only its answer was lost. Strata's connections never retry: what may be asked again is decided above.
"""

from __future__ import annotations

from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

import redis
from redis._parsers import Encoder
from redis.backoff import NoBackoff
from redis.cluster import ClusterNode, RedisCluster
from redis.retry import Retry
from redis.sentinel import Sentinel, SentinelConnectionPool

from strata.errors import InvalidConfigError
from strata.policies import L2PoolConfig

FORMS = "host:port, redis://, rediss://, unix://, redis+cluster://a:1,b:2 or redis+sentinel://a:1,b:2/service/0"


def connect(addr: str, pool: L2PoolConfig, *, password: str | None = None, db: int = 0) -> Any:
    """A client for `addr`; nothing is sent yet. Raises `InvalidConfigError` for an address it cannot read."""
    options = _options(pool)
    if password:
        options["password"] = password
    try:
        return _by_scheme(addr, options, db)
    except (ValueError, TypeError, redis.RedisError):
        raise InvalidConfigError(f"redis_addr cannot be read; it must be {FORMS}") from None


def check(client: Any) -> None:
    """Raise `InvalidConfigError` for a client of the user's that cannot be adopted; nothing is sent."""
    kind = f"{type(client).__module__}.{type(client).__qualname__}"
    if not isinstance(client, redis.Redis | RedisCluster):
        raise InvalidConfigError(
            f"redis_client is a {kind}; it must be a redis.Redis or redis.cluster.RedisCluster, which are not asyncio's"
        )
    pool: Any = client.nodes_manager if isinstance(client, RedisCluster) else client.connection_pool
    connection = getattr(pool, "connection_class", redis.Connection)
    own = _overridden(type(client), "execute_command") or _overridden(connection, *_SPEAKS)
    own = own or next((name for name in _ENCODES if pool.connection_kwargs.get(name) not in (None, Encoder)), None)
    if own is not None:
        raise InvalidConfigError(
            f"redis_client is a {kind} with a {own} of its own, which Strata would go around: it speaks to a real "
            "server over connections of its own, and scripts name their keys; use a plain client (Config.namespace and "
            "RedisPolicy.key_prefix give keys another beginning)"
        )


_SPEAKS = ("send_command", "send_packed_command", "pack_command", "read_response")
_ENCODES = ("encoder_class", "command_packer")


def _overridden(kind: type, *names: str) -> str | None:
    """The first of the methods that a class outside of redis-py defines; libraries that patch redis-py's are none."""
    for name in names:
        by = next((base for base in kind.__mro__ if name in vars(base)), None)
        if by is not None and by.__module__.partition(".")[0] != "redis":
            return name
    return None


def adopt(client: Any, pool: L2PoolConfig) -> Any:
    """A copy of the user's client that keeps its addresses and secrets, with Strata's time-outs and no retries."""
    check(client)
    if isinstance(client, RedisCluster):
        kwargs = {k: v for k, v in client.nodes_manager.connection_kwargs.items() if k not in _OWN}
        nodes = [ClusterNode(node.host, node.port) for node in client.nodes_manager.startup_nodes.values()]  # type: ignore[no-untyped-call]
        return _cluster(nodes, {**kwargs, **_options(pool)})
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
        "socket_timeout": max(float(pool.read_timeout), float(pool.write_timeout)),  # type: ignore[arg-type]
        "socket_connect_timeout": pool.dial_timeout,
        "socket_keepalive": True,
        "max_connections": pool.pool_size,
        "protocol": 2,
    }


def _by_scheme(addr: str, options: dict[str, Any], db: int) -> Any:
    if "://" not in addr:
        host, colon, port = addr.rpartition(":")
        if not colon or not host or not port.isdigit():
            raise ValueError(addr)
        return redis.Redis(host=host.strip("[]"), port=int(port), db=db, **options)
    scheme = addr.split("://", 1)[0]
    if scheme == "redis+cluster":
        url, hosts = _hosts(addr)
        _credentials(url, options)
        return _cluster([ClusterNode(host, port) for host, port in hosts], options)  # type: ignore[no-untyped-call]
    if scheme == "redis+sentinel":
        return _sentinel(addr, options, db)
    if scheme not in ("redis", "rediss", "unix"):
        raise ValueError(scheme)
    if scheme == "unix":
        options.pop("socket_keepalive")
    return redis.Redis.from_url(addr, **({"db": db} if db else {}), **options)


def _cluster(nodes: list[ClusterNode], options: dict[str, Any]) -> Any:
    options = {k: v for k, v in options.items() if k not in ("db", "host", "port", "path")}
    # Redirections are followed all the same; a retry would send a script twice whose answer was lost.
    return RedisCluster(startup_nodes=nodes, require_full_coverage=False, **options)


def _sentinel(addr: str, options: dict[str, Any], db: int) -> Any:
    url, hosts = _hosts(addr)
    parts = [part for part in url.path.split("/") if part]
    if not parts or len(parts) > 2:
        raise ValueError("service")
    _credentials(url, options)
    quick = {k: options[k] for k in ("retry", "socket_timeout", "socket_connect_timeout", "socket_keepalive")}
    quick |= sentinels_login(url.query)
    sentinel = Sentinel(hosts, sentinel_kwargs=quick)  # type: ignore[no-untyped-call]
    number = int(parts[1]) if len(parts) == 2 else db
    return sentinel.master_for(parts[0], redis_class=redis.Redis, db=number, **options)  # type: ignore[no-untyped-call]


def sentinels_login(query: str) -> dict[str, str]:
    """How one logs in to the Sentinels themselves, by a URL's query. Raises `ValueError` for any other thing."""
    names = {"sentinel_username": "username", "sentinel_password": "password"}
    given = dict(parse_qsl(query, keep_blank_values=True, strict_parsing=bool(query)))
    if not given.keys() <= names.keys():
        raise ValueError("query")
    return {names[name]: value for name, value in given.items()}


def _credentials(url: Any, options: dict[str, Any]) -> None:
    user, _, secret = url.netloc.rpartition("@")[0].partition(":")
    if user:
        options["username"] = unquote(user)
    if secret:
        options["password"] = unquote(secret)


def _hosts(addr: str) -> tuple[Any, list[tuple[str, int]]]:
    url = urlsplit(addr)
    pairs = [item.rpartition(":") for item in url.netloc.rpartition("@")[2].split(",")]
    if not all(host and port.isdigit() for host, _, port in pairs):
        raise ValueError("hosts")
    return url, [(host.strip("[]"), int(port)) for host, _, port in pairs]
