"""What is read from one table: by key, in the order of the keys, and by a user's query."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import psycopg

from strata.errors import QueryError
from strata.l3 import failures
from strata.l3.connection import Connection
from strata.l3.keyset import Stretch, columns_of, stretches, whole
from strata.l3.layout import VERSION, Layout
from strata.l3.statement import INT8, UNLOADABLE, Statement, ask, load_cells, unsendable
from strata.query import Order, Query, check_columns

MOST_ARGUMENTS = 65_533  # the protocol counts parameters in 16 bits, and limit and offset are two of them
_MAX_BIGINT = (1 << 63) - 1
_cursor_numbers = itertools.count()


class Row(NamedTuple):
    """A row as L3 holds it: its version, and its values in the order of the plan's columns."""

    version: int
    values: tuple[Any, ...]


class PageRows(NamedTuple):
    """A page of a query: the names of its columns, None all of them, its rows, and, if there are more, what the last of
    them has in the columns of the order, as PostgreSQL writes it."""

    names: tuple[str, ...] | None
    rows: list[Row]
    last: tuple[str | None, ...] | None


class Reads:
    """The reading statements of a table. Thread-safe: it keeps no state of its own.

    Methods take a connection in autocommit mode or in a transaction, and raise `psycopg.Error`, which the
    connection's context manager turns into Strata's errors.
    """

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self._keys = layout.plan.key.names
        key, table = layout.key, layout.table
        found, order = f"{key.of()} = {key.given()}", key.ordered(table)
        self._whole = f"SELECT {VERSION}, {layout.shown(layout.names)} FROM {table}"
        self._get = layout.statement(f"{self._whole} WHERE {found}", *key.oids)
        self._hold = layout.statement(f"{self._whole} WHERE {found} FOR UPDATE", *key.oids)
        self._get_many = layout.statement(self._many(), *key.arrays)
        self._exists = layout.statement(f"SELECT 1 FROM {table} WHERE {found}", *key.oids)
        self._pages = self._stretches(self._whole, order)
        self._key_pages = self._stretches(f"SELECT {VERSION}, {layout.shown_key()} FROM {table}", order)
        self._bounds = [
            layout.statement(f"SELECT {layout.shown_key()} FROM {table} ORDER BY {key.ordered(table, way)} LIMIT 1")
            for way in ("ASC", "DESC")
        ]

    def _stretches(self, select: str, order: str) -> tuple[Statement, Statement, Statement, Statement]:
        """From the first row on, from beyond one, and both up to one."""
        key, statement = self._layout.key, self._layout.statement
        width, beyond, up_to = key.width, f"{key.of()} > {key.given()}", f"{key.of()} <= {key.given()}"
        both = f"{beyond} AND {key.of()} <= {key.given(width + 1)}"
        return (
            statement(f"{select} ORDER BY {order} LIMIT $1", INT8),
            statement(f"{select} WHERE {beyond} ORDER BY {order} LIMIT ${width + 1}", *key.oids, INT8),
            statement(f"{select} WHERE {up_to} ORDER BY {order} LIMIT ${width + 1}", *key.oids, INT8),
            statement(f"{select} WHERE {both} ORDER BY {order} LIMIT ${2 * width + 1}", *key.oids, *key.oids, INT8),
        )

    def _many(self) -> str:
        layout, key = self._layout, self._layout.key
        if key.width == 1:
            return f"{self._whole} WHERE {key.among()}"
        # Looked up one by one, in one partition each: the planner would read a divided table whole for a hundred keys.
        return (
            f"SELECT r.{VERSION}, {layout.shown(layout.names, 'r')} FROM {key.unnested('k')},"
            f" LATERAL (SELECT * FROM {layout.table} t WHERE {key.same('t', 'k')} OFFSET 0) r"
        )

    def get(self, conn: Connection, id: Any) -> Row | None:
        """The row of a key."""
        row = self._get.row(conn, self._layout.key.parts(id))
        return None if row is None else Row(row[0], row[1:])

    def hold(self, conn: Connection, id: Any) -> Row | None:
        """As `get`; nobody else changes the row until the transaction ends."""
        row = self._hold.row(conn, self._layout.key.parts(id))
        return None if row is None else Row(row[0], row[1:])

    def get_many(self, conn: Connection, ids: Sequence[Any]) -> dict[Any, Row]:
        """The rows found, by key."""
        if len(ids) == 1:
            row = self.get(conn, ids[0])
            return {} if row is None else {ids[0]: row}
        return self.keyed(self._get_many.rows(conn, self._layout.key.columns(ids)))

    def asking(self, conn: Connection, ids: Sequence[Any]) -> tuple[Statement, Sequence[Any]]:
        """What `get_many` asks, for several tables at once."""
        return self._get_many, self._layout.key.columns(ids)

    def keyed(self, rows: Sequence[tuple[Any, ...]]) -> dict[Any, Row]:
        """What `get_many` makes of the answer."""
        key_of_row = self._layout.key_of_row
        return {key_of_row(row.values): row for row in map(_row, rows)}

    def exists(self, conn: Connection, id: Any) -> bool:
        """Whether there is a row of this key."""
        return self._exists.row(conn, self._layout.key.parts(id)) is not None

    def page(self, conn: Connection, after: Any, limit: int, last: Any = None) -> list[Row]:
        """Up to `limit` rows in the order of their keys, from the first one beyond `after` (None: from the start), and
        up to `last` (None: to the end)."""
        statement, args = self._stretch(self._pages, after, last)
        return statement.rows(conn, (*args, limit), _row)

    def keys(self, conn: Connection, after: Any, limit: int, last: Any = None) -> list[tuple[Any, int]]:
        """As `page`, the keys of the rows with their versions alone."""
        statement, args = self._stretch(self._key_pages, after, last)
        split = self._layout.key.split
        return [(split(row[1:])[0], row[0]) for row in statement.rows(conn, (*args, limit))]

    def _stretch(self, stretches: Sequence[Statement], after: Any, last: Any) -> tuple[Statement, tuple[Any, ...]]:
        parts = self._layout.key.parts
        if after is None:
            return (stretches[0], ()) if last is None else (stretches[2], (*parts(last),))
        return (stretches[1], (*parts(after),)) if last is None else (stretches[3], (*parts(after), *parts(last)))

    def key_bounds(self, conn: Connection) -> tuple[Any, Any] | None:
        """The first and the last key; None where the table is empty."""
        first, last = (statement.row(conn) for statement in self._bounds)
        split = self._layout.key.split
        return None if first is None or last is None else (split(first)[0], split(last)[0])

    # -- queries ------------------------------------------------------------------------------------------------

    def check(self, query: Query, further: int = 0) -> None:
        """Raise `QueryError` for what the table cannot be asked, before anybody is. `further`: arguments to come."""
        check_columns(query, self._layout.names, self._layout.schema_name)
        most = MOST_ARGUMENTS - further
        if len(query.args) > most:
            raise QueryError(
                f"the query has {len(query.args)} arguments, and PostgreSQL takes {most}; give a list as one "
                "of them, as in id = ANY($1)"
            )
        for item in query.order:
            if self._layout.field(item.column).encrypted:
                raise QueryError(
                    f"order_by names {item.column!r}, which is Encrypted; only its ciphertext could be sorted"
                )

    def search(self, conn: Connection, query: Query) -> tuple[tuple[str, ...] | None, list[Row]]:
        """The names of the columns asked for (None: all of them), and the rows found, in order.

        Raises `QueryError` for a condition that PostgreSQL refuses.
        """
        names = self._names(query)
        place = len(query.args)
        order = self._order(query)
        sql = f"{self._select(names)}{_where(query)}{order} LIMIT ${place + 1} OFFSET ${place + 2}"
        with _Blame(conn, query):
            found = ask(conn, sql, [*_args(query), query.limit_rows, query.offset])
        return names, [Row(row[0], row[1:]) for row in found]

    def order(self, query: Query) -> list[Order]:
        """What the rows of a page are sorted by, to the end: the columns asked for, then the key."""
        return whole(query.order, self._keys)

    def search_page(self, conn: Connection, query: Query, after: Sequence[str | None] | None) -> PageRows:
        """As `search`, the page that follows the row which has `after` in the columns of the order (None: the first).

        These are PostgreSQL's own texts of the values: exact, whatever type a column has.
        """
        names, order = self._names(query), self.order(query)
        columns = columns_of(self._layout, order)
        texts = "".join(f", {column.sql}::text" for column in columns)
        select = f"SELECT {VERSION}, {self._layout.shown(names or self._layout.names)}{texts} FROM {self._layout.table}"
        terms = f" ORDER BY {', '.join(column.term for column in columns)}"
        width, keys = len(columns), [place for place, item in enumerate(order) if item.column in self._keys]
        wanted = min(query.limit_rows + 1, _MAX_BIGINT)  # one more tells whether there are more
        found: dict[tuple[Any, ...], tuple[Any, ...]] = {}  # by key: a row may move from one stretch to the next
        for stretch in [Stretch("", ())] if after is None else stretches(columns, after, len(query.args) + 1):
            args = [*_args(query), *stretch.args]
            sql = f"{select}{_where(query, stretch.condition)}{terms} LIMIT ${len(args) + 1}"
            with _Blame(conn, query):
                for row in ask(conn, sql, [*args, wanted - len(found)]):
                    found.setdefault(tuple(row[place - width] for place in keys), row)
            if len(found) >= wanted:
                break
        rows = list(found.values())[: query.limit_rows]
        last = rows[-1][-width:] if len(found) > len(rows) else None
        return PageRows(names, [Row(row[0], row[1:-width]) for row in rows], last)

    def lock(self, conn: Connection, query: Query, keys: Sequence[Any]) -> list[Any]:
        """Those of the keys whose rows fit the condition as they are now: nobody else changes them until the
        transaction ends. Locked in the order in which Python has keys, as by whoever writes several."""
        layout, key = self._layout, self._layout.key
        among = key.among(first=len(query.args) + 1, typed=True)
        select = f"SELECT {layout.shown_key()} FROM {layout.table}{_where(query, among)}"
        joined = key.width > 1
        if joined:
            # Else PostgreSQL 18 loses rows of a divided table, or crashes: where it has to wait for a changed row,
            # and leaves out partitions as it joins.
            conn.command("SET LOCAL enable_partition_pruning = off")
        with _Blame(conn, query):
            found = ask(conn, f"{select} ORDER BY {key.as_python()} FOR UPDATE", [*_args(query), *key.columns(keys)])
        if joined:
            conn.command("SET LOCAL enable_partition_pruning TO DEFAULT")
        return [key.split(row)[0] for row in found]

    def count(self, conn: Connection, query: Query) -> int:
        """How many rows fit the condition; order, limit and offset do not matter."""
        with _Blame(conn, query):
            sql = f"SELECT count(*) FROM {self._layout.table}{_where(query)}"
            found = ask(conn, sql, _args(query))
        return int(found[0][0])

    def stream(self, conn: Connection, query: Query, chunk: int = 1000) -> Iterator[tuple[tuple[str, ...] | None, Row]]:
        """As `search`, one row at a time through a server-side cursor, and without a limit unless one was asked for.

        Needs a transaction, which sees the table as it was at the start for as long as it is open.
        """
        names = self._names(query)
        order = self._order(query) if query.order or query.limit or query.offset else ""
        sql = f"{self._select(names)}{_where(query)}{order} OFFSET ${len(query.args) + 1}"
        args = [*_args(query), query.offset]
        if query.limit:
            sql += f" LIMIT ${len(args) + 1}"
            args.append(query.limit)
        conn.command("SET LOCAL idle_in_transaction_session_timeout = 0")  # the reader may take its time
        with _Blame(conn, query), _Cursor(conn, f"strata_stream_{next(_cursor_numbers)}") as cursor:
            cursor.execute(sql.encode(), args, binary=True)
            while rows := _fetch(cursor, chunk):
                for row in rows:
                    yield names, row

    def _names(self, query: Query) -> tuple[str, ...] | None:
        self.check(query)
        return tuple(dict.fromkeys(query.fields)) or None

    def _select(self, names: tuple[str, ...] | None) -> str:
        if names is None:
            return self._whole
        return f"SELECT {VERSION}, {self._layout.shown(names)} FROM {self._layout.table}"

    def _order(self, query: Query) -> str:
        columns = columns_of(self._layout, self.order(query))
        return f" ORDER BY {', '.join(column.term for column in columns)}"


class _Cursor(psycopg.RawServerCursor[tuple[Any, ...]]):
    """A cursor that is dropped with its connection, where the walk was broken off: psycopg's would warn of that."""

    def __del__(self, *_: Any) -> None:
        """Nothing: the server has closed it with the transaction."""


class _Blame:
    """Turns the errors that a user's condition causes into `QueryError`; lets those of the server pass."""

    def __init__(self, conn: Connection, query: Query) -> None:
        self._conn = conn
        self._query = query

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, ValueError | TypeError | OverflowError | AttributeError):
            # psycopg met an argument that it cannot send; what Python says of it holds the value.
            raise self._error(psycopg.DataError(type(error).__name__), self._unsendable()) from None
        if isinstance(error, psycopg.Error) and failures.blames_query(error):
            raise self._error(error, 0 if error.sqlstate else self._unsendable())

    def _error(self, error: psycopg.Error, unsendable: int) -> QueryError:
        return failures.query_error(error, len(self._query.args), unsendable)

    def _unsendable(self) -> int:
        return unsendable(self._conn, _args(self._query))


def _fetch(cursor: psycopg.RawServerCursor[tuple[Any, ...]], count: int) -> list[Row]:
    try:
        return [Row(row[0], row[1:]) for row in cursor.fetchmany(count)]
    except UNLOADABLE as error:
        if getattr(error, "sqlstate", None) or cursor.pgresult is None:
            raise  # the server's: a cursor runs the condition as it is fetched from
        return load_cells(cursor._tx, cursor.pgresult, _row)


def _row(values: Sequence[Any]) -> Row:
    return Row(values[0], tuple(values[1:]))


def _where(query: Query, further: str = "") -> str:
    # On lines of its own, so that a comment in it ends where it does.
    conditions = [f"(\n{query.where}\n)"] if query.where else []
    conditions += [f"({further})"] if further else []
    return f" WHERE {' AND '.join(conditions)}" if conditions else ""


def _args(query: Query) -> list[Any]:
    return [_listed(value) for value in query.args]


def _listed(value: Any) -> Any:
    return [_listed(item) for item in value] if isinstance(value, tuple) else value
