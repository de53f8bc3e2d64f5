"""A check of Django's: whether tables have what Strata needs in them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from django.core.checks import CheckMessage, Error, Warning
from django.db import connections

from strata.errors import StrataError
from strata.integrations.django.operations import Raw
from strata.integrations.django.project import database, tables
from strata.l3.catalog import table_facts
from strata.l3.layout import quote
from strata.l3.needs import needs


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
