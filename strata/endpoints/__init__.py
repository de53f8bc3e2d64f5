"""What a `Config` names servers by, read when it is made and without any I/O: addresses, a client, an app of Celery.

Each error names the setting, what is wrong with it and what would be right. Of an address it shows nothing that could
be part of a password, which may stand anywhere in one that is written wrong. What an address means is its driver's to
say. So a driver is imported here, and not before, by the first address of its kind.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from strata.endpoints.redis import RedisAddress


def read_dsn(dsn: str, what: str) -> dict[str, Any]:
    """The parameters of a DSN of PostgreSQL. Raises `InvalidConfigError`; `what` names the setting."""
    from strata.endpoints import postgres

    return postgres.read_dsn(dsn, what)


def read_redis(addr: str, what: str) -> RedisAddress:
    """What an address of Redis says. Raises `InvalidConfigError`; `what` names the setting."""
    from strata.endpoints import redis

    return redis.read_redis(addr, what)


def check_client(client: Any) -> None:
    """Raise `InvalidConfigError` for a `redis_client` that cannot be adopted; nothing is sent."""
    from strata.endpoints import redis

    redis.check_client(client)


def check_broker(url: str, what: str) -> None:
    """Raise `InvalidConfigError` for what Celery could not use, or would take, and show, apart within a password."""
    from strata.endpoints import broker

    broker.check_broker(url, what)


def check_app(app: Any) -> None:
    """Raise `InvalidConfigError` for a `celery_app` that is none."""
    from strata.endpoints import broker

    broker.check_app(app)
