"""In which orders pages are asked for, noted in Redis where no index has them: `strata doctor` names it."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import msgspec

from strata.bound import Bound
from strata.engine.context import Context
from strata.errors import StrataError
from strata.query import Query

if TYPE_CHECKING:
    from strata.l2.client import RedisServer

AGAIN = 86_400.0  # seconds after which a process looks again whether there is an index by now
KEPT = 30 * 86_400  # seconds that a note is kept after the last process that has looked
MOST = 100  # orders of a store that a process remembers, and of a schema that are noted
_pack = msgspec.json.Encoder().encode
_unpack = msgspec.json.Decoder(tuple[bool, list[tuple[str, bool, bool | None]]]).decode


class Orders:
    """Thread-safe: of `_looked` each use is one call, and two that look at the same time do no harm. After fork the
    child knows what the parent has looked at."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._looked: dict[Any, float] = {}  # until when (monotonic) an order is not looked at again

    def asked(self, bound: Bound, query: Query) -> None:
        """A page was asked for: whether there is an index is looked at in the background, once a day and order."""
        key, now = (bound.name, bool(query.where), query.order), self._context.clock.monotonic()
        until = self._looked.get(key)
        full = until is None and len(self._looked) >= MOST
        if full or self._context.server is None or not query.order or (until is not None and now < until):
            return
        self._looked[key] = now + AGAIN
        self._context.background.submit(key, partial(self._look, self._context.server, bound, query))

    def _look(self, server: RedisServer, bound: Bound, query: Query) -> None:
        rows, key = bound.rows, _key(server, bound.name)
        try:
            missing = (rows.replica or rows.primary).read(rows.table.missing_index, query)
            if missing is not None and server.execute("HLEN", key) < MOST:
                note = _pack((bool(query.where), query.order))
                seen = round(self._context.clock.wall())
                server.pipeline([("HSET", key, note, seen), ("EXPIRE", key, KEPT)])
        except StrataError:
            pass  # another process notes it, or this one tomorrow


def noted(server: RedisServer, schema_name: str, now: float) -> list[Query]:
    """The orders that were noted of a schema and are still asked for, as queries. Raises `L2UnavailableError`."""
    held = server.execute("HGETALL", _key(server, schema_name))
    found = []
    for note, seen in zip(held[::2], held[1::2], strict=True):
        try:
            where, order = _unpack(note)
            if int(seen) > now - KEPT:
                columns, desc, nulls_first = zip(*order, strict=True)
                found.append(Query("true" if where else "", (), columns, desc, nulls_first=nulls_first))
        except (ValueError, msgspec.MsgspecError, StrataError):
            continue  # nobody's, or a newer release's
    return found


def _key(server: RedisServer, schema_name: str) -> str:
    return server.keys.own("pages", schema_name)
