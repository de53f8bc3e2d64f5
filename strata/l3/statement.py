"""A prepared statement with fixed parameter types, sent straight through libpq.

psycopg chooses a parameter's type by its value (int2 for 7, int8 for 70 000 000 000, none for None), which makes a
new statement to prepare of every mixture, and costs twice as much time as the round trip (measured: 30 µs for a
SELECT of one row through a cursor, 17 µs so).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar, overload

from psycopg import adapt, errors, generators, pq
from psycopg.abc import Transformer
from psycopg.adapt import PyFormat

from strata.l3.connection import Connection
from strata.l3.failures import unreadable

T = TypeVar("T")

BOOL, BYTEA, INT8, INT2, INT4, TEXT, JSON, VARCHAR = 16, 17, 20, 21, 23, 25, 114, 1043  # OIDs, as in pg_type.dat
FLOAT8, DATE, TIME, TIMESTAMPTZ, INTERVAL, NUMERIC, UUID = 701, 1082, 1083, 1184, 1186, 1700, 2950
ARRAYS = {BOOL: 1000, INT4: 1007, INT8: 1016, TEXT: 1009, UUID: 2951}

_BINARY = pq.Format.BINARY
_GOOD = (pq.ExecStatus.TUPLES_OK, pq.ExecStatus.COMMAND_OK)
_STALE = ("26000", "0A000")  # no such prepared statement (a pooler); its result would change its type


class Statement:
    """SQL with `$1`, `$2`, ... of the `types` (OIDs) given. Immutable and shared; each connection prepares its own.

    Not `prepared` are joins with the staging table, whose size the planner must look at each time.
    """

    __slots__ = ("_formats", "_prepared", "_py_formats", "sql", "types")

    def __init__(self, sql: str, types: Sequence[int] = (), *, prepared: bool = True) -> None:
        self.sql = sql
        self.types = tuple(types)
        self._prepared = prepared
        self._formats = [_BINARY] * len(self.types)
        self._py_formats = [PyFormat.BINARY] * len(self.types)

    @overload
    def rows(self, conn: Connection, values: Sequence[Any] = ...) -> list[tuple[Any, ...]]: ...
    @overload
    def rows(self, conn: Connection, values: Sequence[Any], make: Callable[[Sequence[Any]], T]) -> list[T]: ...
    def rows(self, conn: Connection, values: Sequence[Any] = (), make: Callable[[Sequence[Any]], Any] = tuple) -> Any:
        """Run it; the rows of the answer, each as `make` makes it of a sequence.

        Raises `psycopg.Error`, or `DecodeError` for a value that Python cannot hold.
        """
        result, transformer = self._run(conn, values)
        return _load(transformer, result, make)

    def row(self, conn: Connection, values: Sequence[Any] = ()) -> tuple[Any, ...] | None:
        """Run it; the first row of the answer. Raises `psycopg.Error`."""
        result, transformer = self._run(conn, values)
        return _load(transformer, result, tuple)[0] if result.ntuples else None

    def execute(self, conn: Connection, values: Sequence[Any] = ()) -> int:
        """Run it; the number of rows it touched. Raises `psycopg.Error`."""
        result, _ = self._run(conn, values)
        return result.command_tuples or 0

    def start(self, conn: Connection, values: Sequence[Any] = ()) -> Started:
        """Send it, so that the server works while the caller does something else."""
        name, transformer = conn.prepared.get(self) or self._prepare(conn)
        self._send(conn, name, transformer, values)
        conn.pgconn.flush()
        return Started(conn, transformer)

    def _run(self, conn: Connection, values: Sequence[Any]) -> tuple[pq.abc.PGresult, Transformer]:
        known = conn.prepared.get(self)
        name, transformer = known or self._prepare(conn)
        self._send(conn, name, transformer, values)
        result = _result(conn)
        if result.status in _GOOD:
            return result, transformer
        error = errors.error_from_result(result, "utf-8")
        if known is None or error.sqlstate not in _STALE or conn.in_transaction:
            raise error
        del conn.prepared[self]  # refused before it did anything: once more, prepared anew
        return self._run(conn, values)

    def _send(self, conn: Connection, name: bytes, transformer: Transformer, values: Sequence[Any]) -> None:
        params = transformer.dump_sequence(values, self._py_formats) if self.types else None
        if self._prepared:
            conn.pgconn.send_query_prepared(name, params, self._formats, _BINARY)
        else:
            conn.pgconn.send_query_params(self.sql.encode(), params, self.types, self._formats, _BINARY)

    def _prepare(self, conn: Connection) -> tuple[bytes, Transformer]:
        transformer: Transformer = adapt.Transformer(conn)
        if self.types:
            transformer.set_dumper_types(self.types, _BINARY)
        if not self._prepared:
            return b"", transformer
        name = conn.name_statement()
        conn.pgconn.send_prepare(name, self.sql.encode(), self.types)
        result = _result(conn)
        if result.status not in _GOOD:
            raise errors.error_from_result(result, "utf-8")
        conn.prepared[self] = name, transformer
        return name, transformer


class Started:
    """A statement that was sent. Until its answer was taken, the connection takes no other."""

    def __init__(self, conn: Connection, transformer: Transformer) -> None:
        self._conn = conn
        self._transformer = transformer

    def wait(self) -> pq.abc.PGresult:
        """Wait for the answer. Raises `psycopg.Error`."""
        result = _result(self._conn)
        if result.status not in _GOOD:
            raise errors.error_from_result(result, "utf-8")
        return result

    def load(self, result: pq.abc.PGresult) -> list[tuple[Any, ...]]:
        """The rows of the answer."""
        return _load(self._transformer, result, tuple)


def _load(transformer: Transformer, result: pq.abc.PGresult, make: Callable[[Sequence[Any]], T]) -> list[T]:
    transformer.set_pgresult(result)
    try:
        return transformer.load_rows(0, result.ntuples, make)
    except errors.DataError as error:
        raise unreadable(error)  # noqa: B904 the cause is set


def _result(conn: Connection) -> pq.abc.PGresult:
    results: list[pq.abc.PGresult] = conn.wait(generators.execute(conn.pgconn))
    return results[-1]
