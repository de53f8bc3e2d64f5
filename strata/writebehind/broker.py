"""The Celery app with which a process hands work to the fleet, and the publishing of it.

Its settings are those of `strata.writebehind.settings`; the broker's address and the names of queues come from a
`Config`. An app of the user's is left as it is: whatever its routes and defaults are, a task goes to its own queue.
"""

from __future__ import annotations

import functools
import os
import ssl
from typing import Any
from urllib.parse import SplitResult, quote, urlsplit, urlunsplit

import celery
import kombu
from kombu.exceptions import KombuError
from kombu.serialization import prepare_accept_content, registry

from strata.config import Config
from strata.errors import InvalidConfigError, UnavailableError
from strata.keyspace import Keyspace
from strata.l2.address import sentinels_login
from strata.writebehind import settings

TASKS = ("strata.persist", "strata.redrive", "strata.warm", "strata.migrate", "strata.audit")
_OVER_TCP = ("redis", "rediss")
_SERIALIZERS = ("msgpack", "json", "yaml")  # of which the first that the workers accept is taken; never pickle


def broker_url(config: Config) -> str:
    """The broker by the settings: `broker_url`, else the ledger's Redis. Raises `InvalidConfigError` for a Cluster."""
    if config.broker_url:
        return config.broker_url
    address = config.ledger_addr or ("" if config.redis_client is not None else config.redis_addr)
    if not address:
        return settings.broker_from_environment()
    if "://" not in address:
        return _with_login(f"redis://{address}", config)
    scheme = address.split("://", 1)[0]
    if scheme in _OVER_TCP:
        return _with_login(address, config)
    if scheme == "unix":
        path = urlsplit(address).path
        return f"redis+socket://{path}?virtual_host={config.redis_db}"
    if scheme == "redis+sentinel":
        return _sentinels(address, config)
    raise InvalidConfigError(
        "the broker cannot be a Redis Cluster; set broker_url (STRATA_BROKER_URL) to a single Redis, or to RabbitMQ"
    )


def celery_app(config: Config) -> Any:
    """`Config.celery_app`, or the app for the settings' broker. Raises `InvalidConfigError` where there is none."""
    if config.celery_app is not None:
        return config.celery_app
    url = broker_url(config)
    if not url:
        raise InvalidConfigError(
            "the fleet needs a broker; set broker_url (STRATA_BROKER_URL), since it cannot be told from a redis_client"
        )
    return _app(url, _service(config), _sentinels_login(config), config.namespace)


class Broker:
    """Where a store's work for the fleet goes. Thread-safe: it keeps nothing but its settings."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._keys = config.keyspace

    @property
    def app(self) -> Any:
        """The Celery app. Raises `InvalidConfigError` where there is none."""
        return celery_app(self._config)

    def queue(self, task: str) -> Any:
        """The queue of a task: as the app declares it, else a direct one, to which one publishes without a binding
        that a flushed Redis would lose."""
        app, name = self.app, self._keys.queue(task)
        for declared in app.conf.task_queues or ():
            if isinstance(declared, kombu.Queue) and declared.name == name:  # type: ignore[attr-defined]
                return declared
        quorum = app.conf.get("task_default_queue_type") == "quorum"
        return kombu.Queue(name, routing_key=name, queue_arguments={"x-queue-type": "quorum"} if quorum else None)  # type: ignore[attr-defined, no-untyped-call]

    def publish(self, task: str, args: tuple[Any, ...], task_id: str | None = None, producer: Any = None) -> None:
        """Hand a task over to the fleet. Raises `UnavailableError` where the broker does not take it.

        The arguments are shown as they are: they are names and numbers, never anything of a record.
        """
        app = self.app
        try:
            app.send_task(
                task,
                args=args,
                task_id=task_id,
                queue=self.queue(task),
                router=_Straight,
                serializer=_serializer(app),
                producer=producer,
                ignore_result=True,
                retry=True,
                retry_policy=settings.task_publish_retry_policy,
                argsrepr=repr(args),
                kwargsrepr="{}",
            )
        except _errors_of(app) as error:
            raise UnavailableError(
                f"the broker did not take {task} ({type(error).__name__}); check that it runs and is reachable"
            ) from error


class _Straight:
    """A router that leaves a task's options as they are, whatever routes the app has."""

    @staticmethod
    def route(options: dict[str, Any], *_: Any) -> dict[str, Any]:
        return options


def _serializer(app: Any) -> str:
    accepted: Any = prepare_accept_content(app.conf.accept_content or ())  # type: ignore[no-untyped-call]
    for name in _SERIALIZERS:
        if registry.name_to_type.get(name) in accepted:
            return name
    raise InvalidConfigError("celery_app accepts neither msgpack nor json; add one of them to its accept_content")


def _errors_of(app: Any) -> tuple[type[Exception], ...]:
    """What the transport of this very broker raises, redis-py's errors for instance."""
    with app.connection_for_write() as connection:
        return (KombuError, OSError, *connection.connection_errors, *connection.channel_errors)


@functools.cache
def _app(url: str, service: str, login: tuple[tuple[str, str], ...], namespace: str) -> Any:
    keys = Keyspace(namespace)
    app: Any = celery.Celery("strata", set_as_current=False)
    app.config_from_object(settings)
    app.conf.broker_url = url
    app.conf.broker_transport_options = settings.transport_options(url, keys.broker)
    app.conf.task_default_queue = keys.queue(TASKS[0])
    app.conf.task_routes = {task: {"queue": keys.queue(task)} for task in TASKS}
    app.conf.control_exchange, app.conf.event_exchange = keys.queue("celery"), keys.queue("celeryev")
    app.conf.event_queue_prefix = keys.queue("celeryev")
    if service:
        app.conf.broker_transport_options["master_name"] = service
        app.conf.broker_transport_options["sentinel_kwargs"] = dict(login)
    if url.startswith("rediss://") and "ssl_" not in url:
        app.conf.broker_use_ssl = {"ssl_cert_reqs": ssl.CERT_REQUIRED}
    return app


# A child of a fork makes apps of its own: their connections are not to be shared with the parent.
os.register_at_fork(after_in_child=_app.cache_clear)


def _with_login(address: str, config: Config) -> str:
    url = urlsplit(address)
    place = url.netloc
    if config.redis_password and "@" not in place:
        place = f":{quote(config.redis_password, safe='')}@{place}"
    path = url.path if url.path not in ("", "/") else f"/{config.redis_db}"
    return urlunsplit((url.scheme, place, path, url.query, ""))


def _sentinels(address: str, config: Config) -> str:
    url = urlsplit(address)
    login, at, hosts = url.netloc.rpartition("@")
    if not at and config.redis_password:
        login, at = f":{quote(config.redis_password, safe='')}", "@"
    parts = [part for part in url.path.split("/") if part]
    database = parts[1] if len(parts) > 1 else str(config.redis_db)
    return ";".join(f"sentinel://{login}{at}{host}/{database}" for host in hosts.split(","))


def _service(config: Config) -> str:
    return next((part for part in _sentinel_url(config).path.split("/") if part), "")


def _sentinels_login(config: Config) -> tuple[tuple[str, str], ...]:
    return tuple(sentinels_login(_sentinel_url(config).query).items())


def _sentinel_url(config: Config) -> SplitResult:
    address = "" if config.broker_url else config.ledger_addr or config.redis_addr
    return urlsplit(address if address.startswith("redis+sentinel://") else "")
