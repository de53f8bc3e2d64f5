"""What the project's settings say of the store: `STRATA`, and of the database `DATABASES`."""

from __future__ import annotations

import os
from typing import Any, cast

from django.conf import settings
from django.db import DEFAULT_DB_ALIAS, connections
from psycopg.conninfo import make_conninfo
from psycopg.pq import Conninfo

from strata.config import CONFIG_FIELDS, Config
from strata.environment import fields_of, variable
from strata.errors import InvalidConfigError

POSTGRES = "django.db.backends.postgresql"


def config() -> Config:
    """The settings of the store, as they are now. Raises `InvalidConfigError`."""
    given = _given()
    given.pop("database", None)
    if "postgres_dsn" in given:
        raise InvalidConfigError(
            "the setting STRATA has POSTGRES_DSN; the database is one of DATABASES, which STRATA['DATABASE'] names"
        )
    return Config.from_env(**{"postgres_dsn": _dsn(database())} | given)


def flushes_on_sigterm() -> bool:
    """Whether a process is to flush when it is ended by the signal. Raises `InvalidConfigError`."""
    name = "flush_on_sigterm"
    said = {given: value for given, value in _given().items() if given == name}
    return bool(said or variable(name) in os.environ) and Config.from_env(**said).flush_on_sigterm


def database() -> str:
    """The alias of the database. Raises `InvalidConfigError`."""
    alias: str = _given().get("database", DEFAULT_DB_ALIAS)
    return alias


def names() -> dict[str, str]:
    """The databases' names, as they are now, by alias: a test runner changes them."""
    configured = cast("dict[str, dict[str, Any]]", connections.settings)  # by a cached_property, without types
    return {alias: str(given.get("NAME")) for alias, given in configured.items()}


def _given() -> dict[str, Any]:
    return fields_of(getattr(settings, "STRATA", {}), "the setting STRATA", CONFIG_FIELDS, {"database"})


def _dsn(alias: str) -> str:
    """Where Django's connection leads to."""
    if alias not in names():
        raise InvalidConfigError(f"STRATA names the database {alias!r}, of which DATABASES knows nothing")
    connection = connections[alias]
    if connection.vendor != "postgresql":
        raise InvalidConfigError(
            f"the database {alias!r} is {connection.vendor}; Strata's tier below the caches is PostgreSQL ({POSTGRES})"
        )
    known = {item.keyword.decode() for item in Conninfo.get_defaults()} - {"client_encoding"}
    params = connection.get_connection_params().items()
    return make_conninfo(**{name: str(value) for name, value in params if name in known and value})
