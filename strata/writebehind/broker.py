"""The Celery app through which a process reaches the fleet, and the sending of one message."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from urllib.parse import quote

import celeryconfig
from celery import Celery
from kombu.exceptions import KombuError
from redis.exceptions import RedisError

from strata.config import Config
from strata.errors import InvalidConfigError, UnavailableError


def celery_app(config: Config) -> Any:
    """The user's app, or one with the settings of `celeryconfig` and the broker that the `Config` names.

    Raises `InvalidConfigError` where no broker can be told.
    """
    if config.celery_app is not None:
        return config.celery_app
    url = broker_url(config)
    app = Celery("strata", set_as_current=False)
    app.config_from_object(celeryconfig)
    app.conf.update(broker_url=url, broker_transport_options=celeryconfig.transport_options(url))
    return app


def broker_url(config: Config) -> str:
    """`Config.broker_url`, else the environment's, else the ledger's Redis, else the cache's."""
    if config.broker_url:
        return config.broker_url
    address = config.ledger_addr or config.redis_addr
    if not address:
        address = celeryconfig.broker_from_environment()
    if not address or address.startswith("redis+cluster://"):
        raise InvalidConfigError("no broker can be told from the settings; set broker_url")
    if "://" not in address:
        login = f":{quote(config.redis_password, safe='')}@" if config.redis_password else ""
        return f"redis://{login}{address}/{config.redis_db}"
    return address


def publish(app: Any, task: str, args: Sequence[Any], task_id: str | None = None) -> None:
    """Send one message. Raises `UnavailableError` where the broker does not take it in time.

    The representations of the arguments are fixed: making them costs more than the message, and Flower shows them.
    """
    try:
        app.send_task(task, args=tuple(args), task_id=task_id, argsrepr="(...)", kwargsrepr="{}", ignore_result=True)
    except (KombuError, RedisError, OSError) as error:
        raise UnavailableError(f"the broker did not take a message ({type(error).__name__}); check broker_url") from error
