"""`search`, `search_cached` and `count`: L3 as it is, found records filling the caches."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import msgspec

from strata.bound import Bound
from strata.engine.context import Context
from strata.engine.rows import Filler, Item
from strata.errors import L2UnavailableError, L3UnavailableError, QueryError
from strata.l3.pool import Database
from strata.l3.table import Table
from strata.query import Query

_pack = msgspec.msgpack.Encoder().encode
_unpack = msgspec.msgpack.Decoder(list[bytes]).decode


class Searcher:
    """Queries of one or many rows. Thread-safe: it keeps no state of its own."""

    def __init__(self, context: Context, filler: Filler) -> None:
        self._context = context
        self._filler = filler

    def search(self, bound: Bound, query: Query) -> list[Any]:
        """The records found, in order; whole ones of the primary also fill L1 and L2."""
        table, _ = tables(bound)
        table.check(query)
        self._context.listen()
        bound.counters.searches += 1
        names, rows = self._rows(bound, query)
        records = [bound.plan.from_row(row.values, bound.cipher, names) for row in rows]
        self._fill(bound, query, rows, records)
        return [bound.hooks.after_get(record) for record in records]

    def count(self, bound: Bound, query: Query | None) -> int:
        """How many rows there are; order, limit and offset do not matter."""
        table, database = tables(bound)
        query = query or Query()
        table.check(query)
        with (bound.replica or database).connection() as conn:
            return table.count(conn, query)

    def search_cached(self, bound: Bound, query: Query) -> list[Any]:
        """As `search`, but from L2 where the same query was asked before, until its TTL ends."""
        table, _ = tables(bound)
        table.check(query)
        if bound.l2 is None or query.force_l3:
            return self.search(bound, query)
        key = bound.l2.search_key(query.fingerprint())
        kept = self._kept(bound, key)
        if kept is not None:
            bound.counters.l2_hits += 1
            return [bound.hooks.after_get(record) for record in kept]
        names, rows = self._rows(bound, query)
        records = [bound.plan.from_row(row.values, bound.cipher, names) for row in rows]
        self._keep(bound, key, names, rows)
        self._fill(bound, query, rows, records)
        return [bound.hooks.after_get(record) for record in records]

    def iterate(self, bound: Bound, query: Query, chunk: int) -> Iterator[Any]:
        """The records of a query without a limit, through a server-side cursor; nothing is filled."""
        table, database = tables(bound)
        table.check(query)
        if chunk < 1:
            raise QueryError(f"chunk is {chunk}; it must be 1 or more")
        return self._iterate(bound, table, bound.replica or database, query, chunk)

    def _iterate(self, bound: Bound, table: Table, database: Database, query: Query, chunk: int) -> Iterator[Any]:
        with database.transaction() as conn:
            for names, row in table.stream(conn, query, chunk):
                yield bound.hooks.after_get(bound.plan.from_row(row.values, bound.cipher, names))

    def _rows(self, bound: Bound, query: Query) -> tuple[tuple[str, ...] | None, Sequence[Any]]:
        table, database = tables(bound)
        with (bound.replica or database).connection() as conn:
            return table.search(conn, query)

    def _fill(self, bound: Bound, query: Query, rows: Sequence[Any], records: Sequence[Any]) -> None:
        # A projection lacks columns, and a replica may lag behind: neither may fill a cache.
        if query.fields or bound.replica is not None:
            return
        items = []
        for row, record in zip(rows, records, strict=True):
            key = bound.plan.key_of(record)
            items.append(Item(key, bound.plan.key_text(key), row.version, record))
        self._filler.fill(bound, items)

    def _kept(self, bound: Bound, key: str) -> list[Any] | None:
        assert bound.l2 is not None
        try:
            data = bound.l2.server.execute("GET", key)
            if data is None:
                return None
            unpacked = [bound.plan.unpack_row(packed) for packed in _unpack(data)]
            return [bound.plan.from_row(values, bound.cipher, names) for names, values in unpacked]
        except L2UnavailableError:
            return None
        except Exception:  # noqa: BLE001 an entry that cannot be read is a miss, and is replaced
            bound.counters.corrupt += 1
            return None

    def _keep(self, bound: Bound, key: str, names: tuple[str, ...] | None, rows: Sequence[Any]) -> None:
        """Rows as the ledger keeps them: ciphertext stays ciphertext, and OmitCache columns stay away."""
        assert bound.l2 is not None
        names = bound.plan.column_names if names is None else names
        hidden = {column.name for column in bound.plan.columns if column.omit_cache}
        shown = [place for place, name in enumerate(names) if name not in hidden]
        kept = tuple(names[place] for place in shown)
        packed = _pack([bound.plan.pack_row(tuple(row.values[place] for place in shown), kept) for row in rows])
        px = bound.l2.fresh_px()
        try:
            bound.l2.server.execute("SET", key, packed, *(("PX", px) if px else ()))
        except L2UnavailableError:
            pass


def tables(bound: Bound) -> tuple[Table, Database]:
    """The schema's L3. Raises `L3UnavailableError` where it has none."""
    if bound.table is None or bound.database is None:
        raise L3UnavailableError(f"schema {bound.name!r} has no L3, which this call asks; give it a PostgresPolicy")
    return bound.table, bound.database


def chunks(bound: Bound, limit: int, size: int) -> Iterator[Sequence[Any]]:
    """All rows in the order of their keys, `size` at a time, each chunk in a query of its own; 0 = no limit."""
    table, database = tables(bound)
    after: Any = None
    left = limit or None
    while left is None or left > 0:
        step = size if left is None else min(size, left)
        with database.connection() as conn:
            rows = table.page(conn, after, step)
        if rows:
            yield rows
        if len(rows) < step:
            return
        after = bound.plan.key_of(bound.plan.from_row(rows[-1].values, bound.cipher))
        left = None if left is None else left - len(rows)
