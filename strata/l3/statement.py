"""A prepared statement with fixed parameter types, sent straight through libpq.

psycopg chooses a parameter's type by its value (int2 for 7, int8 for 70 000 000 000, none for None), which makes a
new statement to prepare of every mixture, and costs twice as much time as the round trip (measured: 30 µs for a
SELECT of one row through a cursor, 17 µs so).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar, overload

import psycopg
from psycopg import adapt, errors, generators, pq
from psycopg.abc import Buffer, PQGen, Transformer
from psycopg.adapt import PyFormat

from strata import waits
from strata.l3.connection import JSONB, Connection
from strata.l3.failures import moved
from strata.model.columns import UNHELD

T = TypeVar("T")

BOOL, BYTEA, INT8, INT2, INT4, TEXT, JSON, VARCHAR = 16, 17, 20, 21, 23, 25, 114, 1043  # OIDs, as in pg_type.dat
FLOAT8, DATE, TIME, TIMESTAMPTZ, INTERVAL, NUMERIC, UUID = 701, 1082, 1083, 1184, 1186, 1700, 2950
ARRAYS = {
    BOOL: 1000, BYTEA: 1001, INT4: 1007, TEXT: 1009, INT8: 1016, FLOAT8: 1022, DATE: 1182, TIME: 1183,
    TIMESTAMPTZ: 1185, INTERVAL: 1187, NUMERIC: 1231, UUID: 2951, JSONB: 3807,
}  # fmt: skip

_BINARY = pq.Format.BINARY
_UNNAMED = (b"", None)
_GOOD = (pq.ExecStatus.TUPLES_OK, pq.ExecStatus.COMMAND_OK)
_GONE = "26000"  # no such prepared statement
_CHANGED = "0A000"  # its result would be of another type
_OFTEN = 5  # times that a user's query is asked before it is prepared
PART = 500  # rows of an answer that are read in one go
_MANY = 500  # of these queries that are counted


class Statement:
    """SQL with `$1`, `$2`, ... of the `types` (OIDs) given. Shared by all threads; each connection prepares its own.

    Not `prepared` are joins with the stage, whose size the planner must look at each time. Immutable, but for
    `_prepared`, which any thread sets from true to false, and never back (`unprepare`); after fork it is as true.
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

        Raises `psycopg.Error`. UNHELD stands for a value that Python cannot hold.
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

    def prepared_on(self, conn: Connection) -> bool:
        """Whether the connection has it prepared, from an earlier use."""
        return self._prepared and conn.prepared.get(self, _UNNAMED)[0] != b""

    def unprepare(self) -> None:
        """Have it planned each time from now on."""
        self._prepared = False

    def start(self, conn: Connection, values: Sequence[Any] = ()) -> Started:
        """Send it, so that the server works while the caller does something else."""
        name, transformer = self._of(conn)
        self._send(conn, name, self._dump(transformer, conn, values))
        conn.wait(generators.send(conn.pgconn))  # all of it, which may be much
        return Started(conn, transformer)

    def _run(self, conn: Connection, values: Sequence[Any]) -> tuple[pq.abc.PGresult, Transformer]:
        name, transformer = self._of(conn)
        self._send(conn, name, self._dump(transformer, conn, values))
        result = conn.wait(generators.execute(conn.pgconn))[-1]
        if result.status in _GOOD:
            return result, transformer
        error = errors.error_from_result(result, "utf-8")
        if _refuse(conn, self, name, transformer, error):
            return self._run(conn, values)
        raise error

    def _send(self, conn: Connection, name: bytes, params: Sequence[Buffer | None] | None) -> None:
        try:
            if name:
                conn.pgconn.send_query_prepared(name, params, self._formats, _BINARY)
            else:
                conn.pgconn.send_query_params(self.sql.encode(), params, self.types, self._formats, _BINARY)
        except errors.OperationalError as error:
            raise _unsent(conn, error) from None

    def _dump(
        self, transformer: Transformer, conn: Connection, values: Sequence[Any]
    ) -> Sequence[Buffer | None] | None:
        return transformer.dump_sequence(values, self._py_formats) if self.types else None

    def _dumps(self) -> Sequence[int]:
        """The types of the values."""
        return self.types

    def _of(self, conn: Connection) -> tuple[bytes, Transformer]:
        """Its name on the connection, empty where it has none, and what dumps and loads its values."""
        return (self._prepared and conn.prepared.get(self)) or self._prepare(conn)

    def _prepare(self, conn: Connection) -> tuple[bytes, Transformer]:
        transformer: Transformer = adapt.Transformer(conn)
        if self._dumps():
            transformer.set_dumper_types(self._dumps(), _BINARY)
        return _prepared(conn, self, self.sql, self.types, transformer) if self._prepared else b"", transformer


def together(conn: Connection, asked: Sequence[tuple[Statement, Sequence[Any]]]) -> list[list[tuple[Any, ...]]]:
    """The rows of several statements, each with its values, in one round trip: libpq's pipeline, with one Sync, which a
    pooler does not part either. Raises `psycopg.Error`."""
    known = [statement._of(conn) for statement, _ in asked]  # prepared before, where they are not yet
    dumped = [
        statement._dump(transformer, conn, values)
        for (statement, values), (_, transformer) in zip(asked, known, strict=True)
    ]
    conn.pgconn.enter_pipeline_mode()
    for (statement, _), (name, _), params in zip(asked, known, dumped, strict=True):
        statement._send(conn, name, params)
    conn.pgconn.pipeline_sync()
    results = conn.wait(_piped(conn.pgconn, len(asked)))
    conn.pgconn.exit_pipeline_mode()
    if all(result.status in _GOOD for result in results):
        return [_load(loads, result, tuple) for (_, loads), result in zip(known, results, strict=True)]
    place = next(place for place, result in enumerate(results) if result.status not in _GOOD)
    (name, transformer), error = known[place], errors.error_from_result(results[place], "utf-8")
    if _refuse(conn, asked[place][0], name, transformer, error):
        return together(conn, asked)
    raise error


def _piped(pgconn: pq.abc.PGconn, count: int) -> PQGen[list[pq.abc.PGresult]]:
    """The result of each statement of a pipeline, which is at its end then."""
    yield from generators.send(pgconn)
    results = []
    for _ in range(count):
        results.append((yield from generators.fetch_many(pgconn))[-1])
    yield from generators.fetch_many(pgconn)  # the answer to Sync
    return results


def ask(conn: Connection, sql: str, args: Sequence[Any]) -> list[tuple[Any, ...]]:
    """The rows of a query whose parameters' types are those of the values; prepared where it is asked often.

    Raises `psycopg.Error`.
    """
    transformer: Transformer = adapt.Transformer(conn)
    params = transformer.dump_sequence(args, [PyFormat.AUTO] * len(args)) if args else None
    key = sql, transformer.types
    known = conn.prepared.get(key)
    name = _name_often_asked(conn, key, transformer) if known is None else known[0]
    try:
        if name:
            conn.pgconn.send_query_prepared(name, params, transformer.formats, _BINARY)
        else:
            conn.pgconn.send_query_params(sql.encode(), params, transformer.types, transformer.formats, _BINARY)
    except errors.OperationalError as unsent:
        raise _unsent(conn, unsent) from None
    result = _result(conn)
    if result.status in _GOOD:
        return _load(transformer, result, tuple)
    error = errors.error_from_result(result, "utf-8")
    if _refuse(conn, key, name, transformer, error):
        return ask(conn, sql, args)
    raise error


def unsendable(conn: Connection, args: Sequence[Any]) -> int:
    """The number of the first argument, from 1, that psycopg cannot send; 0 where it can send each."""
    for place, value in enumerate(args, 1):
        try:
            adapt.Transformer(conn).dump_sequence([value], [PyFormat.AUTO])
        except (psycopg.Error, ValueError, TypeError, OverflowError, AttributeError):
            return place
    return 0


def _unsent(conn: Connection, error: errors.OperationalError) -> psycopg.Error:
    """The error of a statement that libpq would not send: where the connection is as good as before, for its size, as
    with more parameters than the protocol counts. That is no outage."""
    return error if conn.pgconn.status != pq.ConnStatus.OK else errors.DataError(str(error))


def _refuse(conn: Connection, key: Any, name: bytes, transformer: Transformer, error: psycopg.Error) -> bool:
    """Whether the statement was refused, before it did anything, for its having been prepared; it has no name then.

    Raises `InvalidConfigError` where it is not there since a pooler gave this client another session.
    """
    if not name or error.sqlstate not in (_GONE, _CHANGED):
        return False
    if error.sqlstate == _GONE and (conn.shared or conn.in_transaction):
        raise moved(error)
    # Prepared anew it would be as before through a pooler, which knows a statement by its text.
    conn.prepared[key] = b"", transformer
    return not conn.in_transaction


def _name_often_asked(conn: Connection, key: tuple[str, tuple[int, ...] | None], transformer: Transformer) -> bytes:
    """The name of a query that is prepared now; empty where it was not asked often yet."""
    if len(conn.asked) >= _MANY:
        conn.asked.clear()
    conn.asked[key] = times = conn.asked.get(key, 0) + 1
    return _prepared(conn, key, key[0], key[1] or (), transformer) if times > _OFTEN else b""


def _prepared(conn: Connection, key: Any, sql: str, types: Sequence[int], transformer: Transformer) -> bytes:
    """The name of the statement that was prepared; empty where the connection prepares none."""
    name = conn.name_statement()
    if name:
        conn.prepare(name, sql, types)
        conn.prepared[key] = name.encode(), transformer
    return name.encode()


class Started:
    """A statement that was sent. Until its answer was taken, the connection takes no other."""

    def __init__(self, conn: Connection, transformer: Transformer) -> None:
        self._conn = conn
        self._transformer = transformer

    def wait(self) -> pq.abc.PGresult:
        """Wait for the answer. Raises `psycopg.Error`."""
        result = _result(self._conn)
        if result.status not in _GOOD:
            error = errors.error_from_result(result, "utf-8")
            raise moved(error) if error.sqlstate == _GONE else error
        return result

    def load(self, result: pq.abc.PGresult) -> list[tuple[Any, ...]]:
        """The rows of the answer."""
        return _load(self._transformer, result, tuple)


def _load(transformer: Transformer, result: pq.abc.PGresult, make: Callable[[Sequence[Any]], T]) -> list[T]:
    transformer.set_pgresult(result)
    count = result.ntuples
    try:
        if count <= PART:
            return transformer.load_rows(0, count, make)
        rows: list[T] = []
        for start in range(0, count, PART):
            rows += transformer.load_rows(start, min(start + PART, count), make)
            waits.give_way()
        return rows
    except UNLOADABLE:
        return load_cells(transformer, result, make)


# What psycopg raises of a value that Python does not have; the latter of text that is not UTF-8, as in SQL_ASCII.
UNLOADABLE = (errors.DataError, ValueError)


def load_cells(transformer: Transformer, result: pq.abc.PGresult, make: Callable[[Sequence[Any]], T]) -> list[T]:
    """The rows of an answer, value by value: UNHELD stands for what Python cannot hold, so that it harms no other."""
    loaders = [
        transformer.get_loader(result.ftype(place), _BINARY if result.fformat(place) else pq.Format.TEXT)
        for place in range(result.nfields)
    ]

    def load(row: int, place: int) -> Any:
        data = result.get_value(row, place)
        try:
            return None if data is None else loaders[place].load(data)
        except UNLOADABLE:
            return UNHELD

    return [make([load(row, place) for place in range(result.nfields)]) for row in range(result.ntuples)]


def _result(conn: Connection) -> pq.abc.PGresult:
    results: list[pq.abc.PGresult] = conn.wait(generators.execute(conn.pgconn))
    return results[-1]
