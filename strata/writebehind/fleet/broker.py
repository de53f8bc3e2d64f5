"""The Celery app with which a process hands work to the fleet, and the publishing of it.

Its settings are those of `strata.writebehind.fleet.settings`; the broker's address and the names of queues come from a
`Config`. An app of the user's is left as it is: whatever its routes and defaults are, a task goes to its own queue.
"""

from __future__ import annotations

import contextlib
import functools
import os
import ssl
from collections.abc import Mapping
from typing import Any
from urllib.parse import parse_qsl, quote, urlencode, urlsplit, urlunsplit

import celery
import kombu
from kombu.exceptions import KombuError
from kombu.serialization import prepare_accept_content, registry

from strata.addresses import HIDDEN, masked
from strata.config import Config
from strata.endpoints.broker import check_broker
from strata.endpoints.redis import RedisAddress, read_redis
from strata.errors import InvalidConfigError, UnavailableError
from strata.l2.refusals import Refusal, refusal_within, rights
from strata.protocol.keyspace import Keyspace
from strata.writebehind.fleet import settings

TASKS = ("strata.persist", "strata.redrive", "strata.warm", "strata.migrate", "strata.audit")
_OVER_TCP = ("redis", "rediss")
_SERIALIZERS = ("msgpack", "json", "yaml")  # of which the first that the workers accept is taken; never pickle


def broker_url(config: Config) -> str:
    """The broker by the settings: `broker_url`, else the ledger's Redis.

    Raises `InvalidConfigError` for a Cluster, and for what Celery would take, and show, apart in the middle of a
    password.
    """
    url = _broker_url(config)
    if not url:
        return ""
    check_broker(url, "broker_url" if url == config.broker_url else "the broker's URL, which is that of the Redis,")
    return ";".join(map(_logged_in, url.split(";")))


def rings_there(config: Config) -> bool:
    """Whether the ledger's Redis is the broker, too."""
    return not (config.celery_app or config.broker_url) and bool(config.ledger_addr or config.redis_client is None)


def _broker_url(config: Config) -> str:
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
        url = urlsplit(_logged_in(address))
        return f"redis+socket://{_with_password(url.netloc, config)}{url.path}?virtual_host={config.redis_db}"
    if (found := _by_sentinels(config)) is not None:
        return _sentinels(found, config)
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
    found = _by_sentinels(config)
    service, login = ("", ()) if found is None else (found.service, tuple(found.login.items()))
    return _app(url, service, login, config.namespace)


class Broker:
    """Where a store's work for the fleet goes. Thread-safe: it keeps nothing but its settings."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._keys = config.keyspace

    @property
    def app(self) -> Any:
        """The Celery app. Raises `InvalidConfigError` where there is none."""
        return celery_app(self._config)

    @property
    def address(self) -> str:
        """Where it is, to be shown: without any secret."""
        try:
            connection = self.app.connection_for_write()
        except Exception:  # noqa: BLE001 settings that cannot be read are told elsewhere
            return "broker_url"
        place = f"{connection.hostname}:{connection.port}" if connection.port else connection.hostname
        return f"{connection.transport_cls}://{place}"

    def refusal(self, error: BaseException | None) -> Refusal | None:
        """What the Redis that is the broker refused, with what it is to be told; None where it is none, or did not."""
        found = refusal_within(error)
        if found is None:
            return None
        needed = rights(self._keys, self._config.invalidation_channel, broker=True)
        user = self.app.connection_for_write().userid or "default"
        return found._replace(advice=found.advice.format(user=user, rights=needed))

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

        Without a producer over a connection for this alone: the app's pool would be inherited by forked children. The
        arguments are shown as they are: they are names and numbers, never anything of a record.
        """
        app = self.app
        with app.connection_for_write() if producer is None else contextlib.nullcontext() as connection:
            try:
                app.send_task(
                    task,
                    args=args,
                    task_id=task_id,
                    queue=self.queue(task),
                    router=_Straight,
                    serializer=serializer(app),
                    connection=connection,
                    producer=producer,
                    ignore_result=True,
                    retry=True,
                    retry_policy=settings.task_publish_retry_policy,
                    argsrepr=repr(args),
                    kwargsrepr="{}",
                )
            except _errors_of(app) as error:
                said = f" ({type(error).__name__}); check that it runs and is reachable"
                if (refusal := self.refusal(error)) is not None:
                    said = f". {refusal.found}; {refusal.advice}"
                raise UnavailableError(f"the broker did not take {task}{said}") from error


def without_secrets(info: Mapping[str, Any]) -> dict[str, Any]:
    """What kombu tells of a connection (`info()`), without what logs in there."""
    shown = {
        name: value for name, value in info.items() if name not in ("password", "alternates", "credential_provider")
    }
    host, options = str(shown.get("hostname") or ""), shown.get("transport_options")
    if "://" in host:
        shown["hostname"] = masked(host)
    if isinstance(options, dict) and "sentinel_kwargs" in options:
        shown["transport_options"] = options | {"sentinel_kwargs": HIDDEN}
    return shown


class _Straight:
    """A router that leaves a task's options as they are, whatever routes the app has."""

    @staticmethod
    def route(options: dict[str, Any], *_: Any) -> dict[str, Any]:
        return options


def serializer(app: Any) -> str:
    """By which messages are written that its workers read. Raises `InvalidConfigError` where there is none."""
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
    url = urlsplit(_logged_in(address))
    place = _with_password(url.netloc, config)
    path = url.path if url.path not in ("", "/") else f"/{config.redis_db}"
    return urlunsplit((url.scheme, place, path, url.query, ""))


def _with_password(netloc: str, config: Config) -> str:
    """A login and hosts, with `redis_password` where they have no password of their own; there may be a user."""
    login, _, hosts = netloc.rpartition("@")
    if not config.redis_password or ":" in login:
        return netloc
    return f"{login}:{quote(config.redis_password, safe='')}@{hosts}"


def _logged_in(url: str) -> str:
    """The URL with its login where Celery looks for it, and where everybody hides it: among the parameters it knows
    none."""
    parts = urlsplit(url)
    given = dict(parse_qsl(parts.query, keep_blank_values=True))
    logs_in = "password" in given or "username" in given
    user, secret = (quote(given.pop(name, ""), safe="") for name in ("username", "password"))
    if not logs_in:
        return url
    place = parts.netloc if "@" in parts.netloc else f"{user}:{secret}@{parts.netloc}"
    return urlunsplit((parts.scheme, place, parts.path, urlencode(given), ""))


def _sentinels(found: RedisAddress, config: Config) -> str:
    password = config.redis_password if found.password is None else found.password
    user = quote(found.username or "", safe="")
    login = f"{user}:{quote(password, safe='')}@" if password else f"{user}@" if user else ""
    database = config.redis_db if found.database is None else found.database
    return ";".join(f"sentinel://{login}{place}/{database}" for place in found.places)


def _by_sentinels(config: Config) -> RedisAddress | None:
    """The Sentinels that name the broker; None where no address of theirs is it."""
    address = "" if config.broker_url else config.ledger_addr or config.redis_addr
    if not address.startswith("redis+sentinel://"):
        return None
    return read_redis(address, "ledger_addr" if config.ledger_addr else "redis_addr")
