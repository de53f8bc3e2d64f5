"""An address of Redis, and a client of the user's, as redis-py reads them: the one place that takes them apart."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple
from urllib.parse import SplitResult, parse_qsl, unquote

import redis
from redis._parsers import Encoder
from redis.cluster import RedisCluster

from strata.addresses import SCHEME, is_place
from strata.endpoints.urls import DATABASE, ENCODED, check_ports, host_and_port, hosts_of, is_database, split, unknown
from strata.errors import InvalidConfigError

_REDIS = (
    "write host:port, redis://, rediss://, unix:///path, redis+cluster://a:1,b:2 or redis+sentinel://a:1,b:2/service/0"
)
_SENTINELS = {"sentinel_username": "username", "sentinel_password": "password"}


class Topology(enum.Enum):
    """What an address leads to."""

    SINGLE = enum.auto()
    CLUSTER = enum.auto()
    SENTINELS = enum.auto()


class HostAndPort(NamedTuple):
    """Host and port."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclass(frozen=True, slots=True)
class RedisAddress:
    """What an address says; None where it leaves that to `redis_db`, `redis_password`, or nobody.

    `places` are empty for the URL of a single server, which redis-py reads by itself. `service` and `login` are for
    Sentinels: whose master is asked for, and by which arguments of redis-py's one logs in to themselves.
    """

    kind: Topology
    places: tuple[HostAndPort, ...] = ()
    username: str | None = None
    password: str | None = field(default=None, repr=False)
    database: int | None = None
    service: str = ""
    login: Mapping[str, str] = field(default_factory=dict, repr=False)


def read_redis(addr: str, what: str) -> RedisAddress:
    """What an address of Redis says. Raises `InvalidConfigError`; `what` names the setting."""
    scheme = SCHEME.match(addr)
    if scheme is None:
        if not is_place(addr):
            raise InvalidConfigError(f"{what} is neither host:port nor a URL; {_REDIS}, {ENCODED}")
        check_ports(what, [addr])
        return RedisAddress(Topology.SINGLE, (_place(addr),))
    kinds = {
        "redis://": _single,
        "rediss://": _single,
        "unix://": _single,
        "redis+cluster://": _cluster,
        "redis+sentinel://": _sentinels,
    }
    if scheme[0] not in kinds:
        raise InvalidConfigError(f"{what} begins with {scheme[0]}; {_REDIS}")
    return kinds[scheme[0]](addr, split(addr, what, _REDIS), what)


def check_client(client: Any) -> None:
    """Raise `InvalidConfigError` for a `redis_client` that cannot be adopted; nothing is sent."""
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


def _single(addr: str, url: SplitResult, what: str) -> RedisAddress:
    hosts = hosts_of(url)
    if url.scheme == "unix":
        if not url.path:
            raise InvalidConfigError(f"{what} names no socket; write unix:///path/to/socket")
    else:
        if len(hosts) > 1:
            raise InvalidConfigError(f"{what} names several hosts, but no redis+cluster:// or redis+sentinel://")
        _check_hosts(what, hosts)
        if not is_database(url.path):
            raise InvalidConfigError(f"{what} has a database that is no number; {DATABASE}")
    options = _options(addr, what)
    number = options.get("db")
    if number is not None and number < 0:
        raise InvalidConfigError(f"{what} has a database below 0; {DATABASE}")
    return RedisAddress(Topology.SINGLE, (), options.get("username"), options.get("password"), number)


def _cluster(addr: str, url: SplitResult, what: str) -> RedisAddress:
    places = _places(what, hosts_of(url))
    if url.path not in ("", "/", "/0") or url.query:
        raise InvalidConfigError(f"{what} has more than hosts; a Cluster has database 0 only, and no options here")
    return RedisAddress(Topology.CLUSTER, places, *_credentials(url), 0)


def _sentinels(addr: str, url: SplitResult, what: str) -> RedisAddress:
    places = _places(what, hosts_of(url))
    service, _, database = url.path.strip("/").partition("/")
    if not service or not is_database(database):
        raise InvalidConfigError(f"{what} names no service, or no database by number; write .../service/0 at its end")
    login = _login(url.query)
    if login is None:
        raise InvalidConfigError(f"{what} has an option that is none; it may have {' and '.join(_SENTINELS)}")
    number = int(database) if database else None
    return RedisAddress(Topology.SENTINELS, places, *_credentials(url), number, service, login)


def _login(query: str) -> dict[str, str] | None:
    """How one logs in to the Sentinels themselves, by a URL's query; None for any other thing."""
    try:
        given = dict(parse_qsl(query, keep_blank_values=True, strict_parsing=bool(query)))
    except ValueError:
        return None
    return {_SENTINELS[name]: value for name, value in given.items()} if given.keys() <= _SENTINELS.keys() else None


def _options(addr: str, what: str) -> dict[str, Any]:
    options, refusal = _by_redis_py(addr)
    if "argument" in refusal:
        raise unknown(what, refusal.rpartition("argument ")[2].strip("'"), addr, [])
    if refusal:
        raise InvalidConfigError(f"{what} has an option whose value cannot be one; see redis.Redis.from_url")
    return options


def _by_redis_py(addr: str) -> tuple[dict[str, Any], str]:
    """What redis-py reads in a URL, and why it cannot. A connection is made, which takes the options apart, and opened
    by nobody. Why may hold a part of a password, so that nothing is raised where it would be the context."""
    try:
        pool = redis.ConnectionPool.from_url(addr)
        pool.make_connection()
        return pool.connection_kwargs, ""
    except TypeError as error:
        return {}, str(error)  # "... got an unexpected keyword argument 'name'"
    except (ValueError, redis.RedisError):
        return {}, "value"


def _check_hosts(what: str, hosts: list[str]) -> None:
    if not all(host_and_port(host)[0] for host in hosts):
        raise InvalidConfigError(f"{what} names no host; {_REDIS}")
    check_ports(what, hosts)


def _places(what: str, hosts: list[str]) -> tuple[HostAndPort, ...]:
    _check_hosts(what, hosts)
    if not all(host_and_port(host)[1] for host in hosts):
        raise InvalidConfigError(f"{what} has a host without a port; {_REDIS}")
    return tuple(map(_place, hosts))


def _place(text: str) -> HostAndPort:
    host, port = host_and_port(text)
    return HostAndPort(host.strip("[]"), int(port))


def _credentials(url: SplitResult) -> tuple[str | None, str | None]:
    user, _, secret = url.netloc.rpartition("@")[0].partition(":")
    return unquote(user) or None, unquote(secret) or None
