"""Django's ORM on the database of a test, and a model over a table of Strata's."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import django
from django.conf import settings
from django.db import connections, models
from psycopg.conninfo import conninfo_to_dict

BACKEND = "django.db.backends.postgresql"

if not settings.configured:
    settings.configure(
        DATABASES={"default": {"ENGINE": BACKEND}}, INSTALLED_APPS=[], USE_TZ=True, SECRET_KEY="of the tests"
    )
    django.setup()


class Article(models.Model):  # type: ignore[misc]
    """What the tests change by the ORM."""

    id = models.BigIntegerField(primary_key=True)
    title = models.TextField()
    views = models.BigIntegerField(default=0)

    class Meta:
        app_label = "tests"
        managed = False
        db_table = "article"


@contextmanager
def django_on(dsn: str) -> Iterator[None]:
    """Django's default connection, of this thread, leads to this database."""
    parts = conninfo_to_dict(dsn)
    names = {"NAME": "dbname", "HOST": "host", "PORT": "port", "USER": "user", "PASSWORD": "password"}
    wanted: dict[str, Any] = {name: parts.get(part, "") for name, part in names.items()}
    connections["default"].close()
    connections["default"].settings_dict.update(wanted)
    try:
        yield
    finally:
        connections["default"].close()
