"""`search`, `search_page`, `search_cached` and `count`: L3 as it is, found records filling the caches."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Generator, Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from strata import waits
from strata.bound import Bound, Rows
from strata.engine.context import Context
from strata.engine.orders import Orders
from strata.engine.rows import Filler, items_of
from strata.errors import WITHOUT_L2, ClosedError, DecodeError, L3UnavailableError, QueryError, shown
from strata.model import UNLOADED
from strata.paging import Bookmark, Page
from strata.query import Query
from strata.waits.seats import Turn, Turns

if TYPE_CHECKING:
    from strata.l3.pool import Database
    from strata.l3.table import Table

_pack = msgspec.msgpack.Encoder().encode
_unpack = msgspec.msgpack.Decoder(list[bytes]).decode
_SINCE = re.compile(rb"@([0-9]{16})")


class _Kept(NamedTuple):
    """How a result is kept: until `ends` at the latest (monotonic), with the `since` of the schema's markers before it
    was asked for in front of it, where markers concern it."""

    ends: float
    since: int | None


class FoundRows(NamedTuple):
    """Rows with the names of their columns, and whether they are the primary's."""

    names: tuple[str, ...]
    rows: Sequence[Any]
    primary: bool


class Records:
    """The records of one `search_iter`. Thread-safe: each goes to one of the threads that ask, which take `_turns`. It
    ends with its store, by `ClosedError`, and lets go of its connection then. After fork it is of no use:
    its transaction is the parent's."""

    def __init__(self, records: Generator[Any, None, None], check_open: Callable[[], None]) -> None:
        self._records = records
        self._check_open = check_open
        self._turns = Turns()
        self._busy = False  # written in a turn

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        turn = Turn()
        try:
            self._turns.take(turn)
            return self._next()
        finally:
            self._turns.leave(turn)

    def _next(self) -> Any:
        if self._busy:
            raise QueryError("a hook, or a handler, asks for the next record of the call that it is in; it cannot")
        try:
            self._busy = True
            self._check_open()
            return next(self._records)
        except ClosedError:
            self._records.close()
            raise
        finally:
            self._busy = False

    def close(self) -> None:
        """No more records; the connection is free."""
        turn = Turn()
        try:
            self._turns.take(turn)
            self._records.close()
        finally:
            self._turns.leave(turn)


class Searcher:
    """Queries of one or many rows. Thread-safe, as `Orders` is, which is all the state that it has."""

    def __init__(self, context: Context, filler: Filler) -> None:
        self._context = context
        self._filler = filler
        self._orders = Orders(context)

    def search(self, bound: Bound, query: Query) -> list[Any]:
        """The records found, in order; whole ones of the primary also fill L1 and L2."""
        rows = rows_of(bound)
        rows.table.check(query)
        self._context.listen()
        bound.counters.searches += 1
        found = self._found(bound, query, rows.replica)
        return [_given(bound, record) for record in self._filled(bound, query, found)[0]]

    def search_page(self, bound: Bound, query: Query, after: str | None) -> Page[Any]:
        """As `search`, the page that begins where the one before has said; its size is the query's limit."""
        rows = rows_of(bound)
        order = rows.table.order(query)
        rows.table.check(query, len(order))
        if query.offset:
            raise QueryError("search_page takes no offset; give it Page.next of the page before, as after")
        bookmark = Bookmark(bound.name, query, order)
        values = None if after is None else bookmark.values(after)
        self._context.listen()
        bound.counters.searches += 1
        with (rows.replica or rows.primary).session() as conn:
            page = rows.table.search_page(conn, query, values)
        self._orders.asked(bound, query)
        names = bound.plan.column_names if page.names is None else page.names
        records, _ = self._filled(bound, query, FoundRows(names, page.rows, rows.replica is None))
        next = None if page.last is None else bookmark.text(page.last)
        return Page([_given(bound, record) for record in records], next)

    def count(self, bound: Bound, query: Query | None) -> int:
        """How many rows there are; order, limit and offset do not matter."""
        rows = rows_of(bound)
        query = query or Query()
        rows.table.check(query)
        with (rows.replica or rows.primary).session() as conn:
            return rows.table.count(conn, query)

    def search_cached(self, bound: Bound, query: Query) -> list[Any]:
        """As `search`, but from L2 where the same query was asked before, until the result's time is up."""
        rows = rows_of(bound)
        rows.table.check(query)
        self._context.listen()  # before L2 is judged: the first use proves whether it can be trusted
        if query.force_l3 or self._context.repairs.concern(bound):
            return self.search(bound, query)
        bound.counters.searches += 1
        fingerprint, since = query.fingerprint(bound.plan.outline), None if bound.l2 is None else bound.l2.since
        kept, generation = self._kept(bound, query, fingerprint)
        if kept is not None:
            bound.counters.l2_hits += 1
            return [_given(bound, record) for record in kept]
        # A replica that lags would give a result that is older than the write which dropped the last one.
        found = self._found(bound, query, None if bound.searches.drops else rows.replica)
        records, ends = self._filled(bound, query, found)  # first: what cannot be read is not kept
        if generation is not None:
            self._keep(bound, fingerprint, generation, found, _Kept(ends, since))
        return [_given(bound, record) for record in records]

    def iterate(self, bound: Bound, query: Query, chunk: int) -> Iterator[Any]:
        """The records of a query without a limit, through a server-side cursor; nothing is filled."""
        rows = rows_of(bound)
        rows.table.check(query)
        if isinstance(chunk, bool) or not isinstance(chunk, int) or chunk < 1:
            raise QueryError(f"chunk is {shown(chunk)}; it must be a whole number, 1 or more")
        database = rows.replica or rows.primary
        return Records(self._iterate(bound, rows.table, database, query, chunk), self._context.check_open)

    def _iterate(
        self, bound: Bound, table: Table, database: Database, query: Query, chunk: int
    ) -> Generator[Any, None, None]:
        with database.transaction() as conn:
            for names, row in table.stream(conn, query, chunk):
                yield _given(bound, bound.record(row.values, names))

    def _found(self, bound: Bound, query: Query, replica: Database | None) -> FoundRows:
        with (replica or bound.rows.primary).session() as conn:
            names, rows = bound.rows.table.search(conn, query)
        return FoundRows(bound.plan.column_names if names is None else names, rows, replica is None)

    def _filled(self, bound: Bound, query: Query, found: FoundRows) -> tuple[list[Any], float]:
        """The records, and when the first life of its own ends that a cache's copy of one has (monotonic)."""
        # A projection lacks columns, and a replica may lag behind: neither may fill a cache.
        if query.fields or not found.primary:
            return [bound.record(row.values, found.names) for row in waits.in_turns(found.rows)], math.inf
        items = items_of(bound, found.rows)
        ends = self._filler.fill(bound, items)
        return [item.record for item in items], ends

    def _kept(self, bound: Bound, query: Query, fingerprint: str) -> tuple[list[Any] | None, bytes | None]:
        """The records that were kept, and the generation under which others may be kept in their place.

        Releases whose models differ keep their results side by side: the model is part of the fingerprint.
        """
        try:
            data, generation = bound.searches.find(fingerprint)
            if data is None or bound.l2 is None:
                return None, generation
            marks, since = bound.l2.marks, None
            marks.renew()
        except WITHOUT_L2:
            bound.counters.l2_skips += 1
            return None, None
        if (head := _SINCE.match(data)) is not None:
            data, since = data[head.end() :], int(head[1])
        if marks.outdated_result(since):
            return None, generation
        wanted = set(_shown(bound, query.fields or bound.plan.column_names))
        try:
            unpacked = [bound.plan.unpack_row(packed) for packed in waits.in_turns(_unpack(data))]
            if not all(wanted.issubset(names) for names, _ in unpacked):
                raise DecodeError("a kept result lacks a column that is asked for")
            return [bound.record(values, names) for names, values in waits.in_turns(unpacked)], generation
        except Exception:  # noqa: BLE001 an entry that cannot be read is a miss, and is replaced
            bound.counters.corrupt += 1
            return None, generation

    def _keep(self, bound: Bound, fingerprint: str, generation: bytes, found: FoundRows, kept: _Kept) -> None:
        """Rows as the ledger keeps them: ciphertext stays ciphertext, and OmitCache columns stay away."""
        names = _shown(bound, found.names)
        places = [found.names.index(name) for name in names]
        packed = [
            bound.plan.pack_row(tuple(row.values[place] for place in places), names)
            for row in waits.in_turns(found.rows)
        ]
        try:
            life = kept.ends - self._context.clock.monotonic()
            head = b"" if kept.since is None else b"@%016d" % kept.since  # no list of msgpack begins so
            bound.searches.keep(fingerprint, generation, head + _pack(packed), life)
        except WITHOUT_L2:
            bound.counters.l2_skips += 1


def _shown(bound: Bound, names: Sequence[str]) -> tuple[str, ...]:
    """Those of the columns that a cache may hold."""
    hidden = {column.name for column in bound.plan.columns if column.omit_cache}
    return tuple(name for name in names if name not in hidden)


def _given(bound: Bound, record: Any) -> Any:
    """The record as the caller gets it, after the hooks of reading; where its key was not loaded, or not all of it, no
    id is told."""
    if not bound.hooks.get_given:
        return record
    key = bound.plan.key_of(record)
    if UNLOADED not in bound.plan.key.parts(key):
        bound.hooks.before_get(key)
    return bound.hooks.after_get(record)


def rows_of(bound: Bound) -> Rows:
    """The schema's L3. Raises `L3UnavailableError` where it has none."""
    if bound.l3 is None:
        raise L3UnavailableError(f"schema {bound.name!r} has no L3, which this call asks; give it a PostgresPolicy")
    return bound.l3
