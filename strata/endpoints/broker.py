"""The broker, as Celery and kombu read it."""

from __future__ import annotations

from typing import Any
from urllib.parse import parse_qsl

import celery
from kombu.transport import TRANSPORT_ALIASES

from strata.addresses import PARAMETER_OF_A_BROKER, READ_BY_KOMBU, SCHEME
from strata.endpoints.urls import DATABASE, ENCODED, check_ports, hosts_of, is_database, split
from strata.errors import InvalidConfigError

_BROKER = "write scheme://user:password@host:port/..., with a scheme that Celery knows; several have a ; between them"


def check_broker(url: str, what: str) -> None:
    """Raise `InvalidConfigError` for what Celery could not use, or would take, and show, apart within a password."""
    for part in url.split(";"):
        scheme = SCHEME.match(part)
        if scheme is None or scheme[0].partition("://")[0].partition("+")[0] not in TRANSPORT_ALIASES:
            begins = f"begins with {scheme[0]}" if scheme else "has no scheme"
            raise InvalidConfigError(f"{what} {begins}; {_BROKER}, {ENCODED}")
        parts = split(part, what, _BROKER)
        check_ports(what, hosts_of(parts))
        if parts.scheme not in READ_BY_KOMBU:
            continue
        given = dict(parse_qsl(parts.query, keep_blank_values=True))
        if not all(name in ("username", "password") or PARAMETER_OF_A_BROKER.fullmatch(name) for name in given):
            raise InvalidConfigError(
                f"{what} has a parameter that Celery does not know; it may have username, password, and those that "
                "begin with ssl_"
            )
        if "amqp" not in parts.scheme and not is_database(parts.path):
            raise InvalidConfigError(f"{what} has a database that is no number; {DATABASE}")


def check_app(app: Any) -> None:
    """Raise `InvalidConfigError` for a `celery_app` that is none."""
    if not isinstance(app, celery.Celery):
        raise InvalidConfigError(f"celery_app is a {type(app).__name__}; it must be a celery.Celery")
