"""The four ways, each as one would write it: a row as a dict, which the view makes JSON of."""

from __future__ import annotations

import json
from typing import Any

import redis
from django.conf import settings
from django.core.cache import cache
from django.core.serializers.json import DjangoJSONEncoder
from psycopg.rows import dict_row
from psycopg_pool import ConnectionPool

from tests.benchmarks.record import COLUMNS, TTL
from tests.benchmarks.site.models import Item
from tests.benchmarks.site.records import items

Row = dict[str, Any]

NAMES = COLUMNS.split(", ")
THREADS = 4  # of a worker, and so connections
SELECT = f"SELECT {COLUMNS} FROM items WHERE id = %s"
UPDATE = f"UPDATE items SET level = %s WHERE id = %s RETURNING {COLUMNS}"


class Strata:
    """The guide's way."""

    def get(self, id: int) -> Row:
        return self._shown(items.get(id))

    def put(self, id: int, level: int) -> Row:
        return self._shown(items.update(id, level=level))

    @staticmethod
    def _shown(record: Any) -> Row:
        return {name: getattr(record, name) for name in NAMES}


class ByHand:
    """Cache-aside with redis-py and psycopg's pool: JSON in Redis, and what is written is put there at once."""

    def __init__(self) -> None:
        self._client = redis.Redis.from_url(f"redis://{settings.REDIS}")
        kwargs = {"autocommit": True, "prepare_threshold": 0, "row_factory": dict_row}
        self._pool = ConnectionPool(settings.DSN, min_size=1, max_size=THREADS, kwargs=kwargs, open=True)

    def get(self, id: int) -> Row:
        raw: Any = self._client.get(f"hand:{id}")
        found: Row = self._kept(id, SELECT, id) if raw is None else json.loads(raw)
        return found

    def put(self, id: int, level: int) -> Row:
        return self._kept(id, UPDATE, level, id)

    def _kept(self, id: int, sql: str, *values: int) -> Row:
        with self._pool.connection() as conn:
            row: Any = conn.execute(sql, values).fetchone()
        self._client.set(f"hand:{id}", json.dumps(row, cls=DjangoJSONEncoder), ex=TTL)
        found: Row = row
        return found


class Plain:
    """The ORM, and no cache."""

    def get(self, id: int) -> Row:
        found: Row = Item.objects.values(*NAMES).get(pk=id)
        return found

    def put(self, id: int, level: int) -> Row:
        Item.objects.filter(pk=id).update(level=level)
        return Plain.get(self, id)


class DjangoCache(Plain):
    """`cache.get_or_set` over the ORM, with Django's RedisCache; what is written is removed."""

    def get(self, id: int) -> Row:
        found: Row = cache.get_or_set(f"item:{id}", lambda: Plain.get(self, id))
        return found

    def put(self, id: int, level: int) -> Row:
        row = super().put(id, level)
        cache.delete(f"item:{id}")
        return row
