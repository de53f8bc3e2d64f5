"""Checks of Django's: whether the settings can work, and tables have what Strata needs in them."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from typing import Any

from django.conf import settings
from django.core.cache import InvalidCacheBackendError, caches
from django.core.checks import CheckMessage, Error, Warning
from django.db import connections

from strata.errors import StrataError
from strata.integrations.django.cache import StrataCache
from strata.integrations.django.operations import Raw
from strata.integrations.django.project import project, store, tables
from strata.integrations.django.settings import database
from strata.l3.catalog import table_facts
from strata.l3.layout import quote
from strata.l3.needs import needs


def check_settings(**_: Any) -> list[CheckMessage]:
    """What `manage.py check` says of `STRATA`, and of those of `CACHES` that are Strata's. Nothing is connected."""
    found: list[CheckMessage] = []
    try:
        if project.is_used:
            store()
    except StrataError as error:
        found.append(Error(str(error), id="strata.E002"))
    for alias in settings.CACHES:
        try:
            with suppress(InvalidCacheBackendError):  # somebody else's
                cache = caches[alias]
                if isinstance(cache, StrataCache):
                    cache.store  # noqa: B018 it is made of the settings
        except StrataError as error:
            found.append(Error(f"CACHES[{alias!r}]: {error}", id="strata.E003"))
    return found


def check_tables(*, databases: Iterable[str] | None = None, **_: Any) -> list[CheckMessage]:
    """What `manage.py check --database default`, and `migrate`, say of tables without `StrataFields`."""
    if databases is None:
        return []  # no database is to be asked
    try:
        alias, over = database(), tables()
    except StrataError as error:
        return [Error(str(error), id="strata.E001")]
    if alias not in databases:
        return []
    conn, found = Raw(connections[alias]), []
    for table in sorted({item.name for item, schema in over if schema.l3 is not None and not schema.l3.managed}):
        there = bool(table_facts(conn, quote(table)).kind)  # type: ignore[arg-type]
        if there and needs(conn, table, over):
            hint = "add StrataFields to a migration of its application (strata.integrations.django)"
            found.append(Warning(f"the table {table} lacks what Strata needs in it", hint=hint, id="strata.W001"))
    return found
