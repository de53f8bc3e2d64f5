"""The driver's errors: the one place that turns them into Strata's, by what `strata.l3.sqlstates` says.

A driver's message can carry a whole row (DETAIL, CONTEXT, the value in a "invalid input syntax"). What leaves this
module keeps SQLSTATE, condition, constraint, table and column, and the primary message only for conditions whose
message PostgreSQL makes of names; the driver's error, which becomes the `__cause__`, is reduced to the same words.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace

import psycopg
from psycopg import errors

from strata.errors import (
    InvalidConfigError,
    L3UnavailableError,
    MigrationError,
    QueryError,
    StrataError,
    TxTimeoutError,
)
from strata.l3.diagnosis import BatchError, Diagnosis, caused, error_of
from strata.l3.sqlstates import Failure, classify
from strata.model.fields import Kind
from strata.observe.labels import OTHER

UNPREPARED = (
    "the DSN leads through a connection pooler that shares sessions among clients and does not keep their prepared "
    "statements apart (such as PgBouncer in transaction mode before 1.21, or with max_prepared_statements=0); set "
    "L3PoolConfig.prepared=False, or let the pooler keep them apart (PgBouncer 1.21+: max_prepared_statements=200), or "
    "use its session mode"
)
_UNSUPPORTED = "unsupported startup parameter"  # PgBouncer's words, in which no SQLSTATE comes along
_OPTIONS = (
    "the DSN has start-up parameters (options=...) that the connection pooler to which it leads does not take; set "
    "them for the role instead, ALTER ROLE ... SET ..., and leave them out of the DSN"
)
WaitTimeout = errors._WaitTimeout  # raised by Connection.wait; psycopg has no public name for it
_NAMES_ONLY = frozenset({"08", "0A", "23", "25", "26", "28", "3D", "3F", "40", "42", "53", "54", "55", "57"})  # classes
# "COPY t, line 3, column c: ...", in any language
_COPY_LINE = re.compile(r"COPY [^,]+, \D*(\d+)(?:, \S+ ([A-Za-z_][A-Za-z0-9_]*)(?=:|$))?", re.MULTILINE)
# "unnamed portal parameter $1 = '...'", in any language, and nothing of a function's, which may have a $1 of its own.
_ARGUMENT = re.compile(r"[^\n\"$]*\$(\d+)(?= = '|\Z)")
# The kinds of columns that refuse a value so: string_data_right_truncation, numeric_value_out_of_range.
_REFUSING = {
    "22001": frozenset({Kind.TEXT, Kind.BYTEA}),
    "22003": frozenset({Kind.BIGINT, Kind.DOUBLE, Kind.NUMERIC}),
}
_QUERY_CLASSES = frozenset({"0A", "20", "21", "22", "2F", "38", "39", "42", "54", "P0"})


def diagnose(error: psycopg.Error) -> Diagnosis:
    """What went wrong, in safe words; `error` itself says no more than that afterwards."""
    sqlstate = error.sqlstate or ""
    diag = error.diag
    failure = classify(sqlstate)
    if not sqlstate and _value_error(error):
        failure = Failure.PERMANENT
    line = _COPY_LINE.search(diag.context or "")
    message = _words(error, sqlstate, line[2] if line else None)
    found = Diagnosis(failure, sqlstate, diag.constraint_name, message, int(line[1]) - 1 if line else None)
    error.args = (message,)
    error._info = None
    return found


def label_of(sqlstate: str) -> str:
    """The label of metrics for a SQLSTATE that PostgreSQL itself has; empty where there was none."""
    if not sqlstate:
        return ""
    try:
        errors.lookup(sqlstate)
    except KeyError:
        return OTHER
    return sqlstate


def loss(error: psycopg.Error | None) -> str:
    """How a connection was lost, in safe words; asked before `diagnose`, as `lost` is."""
    if error is None:
        return "a connection to PostgreSQL was lost"
    return f"PostgreSQL did not answer: {_words(error, error.sqlstate or '')}"


def lost(error: psycopg.Error) -> bool:
    """Whether the server, or the way to it, is gone; asked before `diagnose`."""
    return not error.sqlstate and isinstance(error, errors.OperationalError | errors.InterfaceError)


def narrow(error: BaseException, columns: Mapping[str, Kind | None]) -> None:
    """Have the error of a value that was refused say where that may have been, of the `columns` that refuse some; where
    PostgreSQL says it by itself, or it is no such error, nothing is done."""
    diagnosis = error.diagnosis if isinstance(error, BatchError) else None
    sqlstate = diagnosis.sqlstate if diagnosis else getattr(error, "sqlstate", None) or ""
    said = diagnosis.message if diagnosis else ""
    if sqlstate[:2] != "22" or " column " in said or not columns:
        return
    kinds = _REFUSING.get(sqlstate, frozenset(Kind))
    names = [name for name, kind in columns.items() if kind in kinds] or list(columns)
    words = " or ".join(f"column {name!r}" for name in names)
    if isinstance(error, BatchError):
        error.diagnosis = replace(error.diagnosis, message=f"{said} {words}")
    elif isinstance(error, psycopg.Error):
        error.__dict__["narrowed"] = words


def statement_error(error: psycopg.Error, *, outcome_unknown: bool = False) -> StrataError:
    """The error of a synchronous statement. `outcome_unknown`: the connection was lost after it was sent."""
    return caused(error_of(diagnose(error), outcome_unknown), error)


def blames_query(error: psycopg.Error) -> bool:
    """Whether it is the user's condition, or an argument of it, that PostgreSQL or the driver refused."""
    sqlstate = error.sqlstate or ""
    if not sqlstate:
        return _value_error(error)
    return sqlstate == "53400" or (sqlstate[:2] in _QUERY_CLASSES and sqlstate not in ("42501", "42P01"))


def query_error(error: psycopg.Error, own: int, unsendable: int = 0) -> QueryError:
    """The error of a query that is to blame. `own`: how many arguments it has, what follows them being its page's;
    `unsendable`: the number of the one that the driver cannot send."""
    argument = _ARGUMENT.match(error.diag.context or "")
    found = diagnose(error)
    if not found.sqlstate:
        which = f"the argument of ${unsendable}" if unsendable else "an argument"
        words = f"{which} has a type, or is a list of mixed types, that no column has"
        return caused(QueryError(f"the query was not sent ({found.message}): {words}"), error)
    hint = "; if it is a field of the model, run migrate()" if found.sqlstate == "42703" else ""
    if hint and "_strata_" in found.message:
        hint = "; run migrate(), and then what its report leaves (`manual`)"
    if argument is not None and int(argument[1]) > own:
        hint = "; after holds a value that its column does not take; begin with the first page"
    elif argument is not None:
        hint = f"; it cannot read the argument of ${argument[1]} as the type that is wanted there"
    return caused(QueryError(f"PostgreSQL cannot run the query: {found.message}{hint}"), error)


def migration_error(error: psycopg.Error, what: str, *, whole: bool = True) -> StrataError:
    """The error of a step of a migration; `what` names it. Not `whole`: statements before it stay."""
    # Its author wrote the statement and has to see what PostgreSQL says of it; DETAIL, which holds rows, stays out.
    primary = error.diag.message_primary
    found = diagnose(error)
    said = f"{found.sqlstate} {primary}" if primary and found.sqlstate[:2] != "22" else found.message
    left = "nothing of it was applied" if whole else "what came before the statement was applied"
    return caused(MigrationError(f"{what} failed: {said}; {left}"), error)


def batch_error(error: psycopg.Error) -> BatchError:
    """The error of a write-behind batch."""
    found = diagnose(error)
    return caused(BatchError(found, found.line), error)


def row_error(error: psycopg.Error, index: int) -> BatchError:
    """The error of a row that the driver could not send."""
    return caused(BatchError(diagnose(error), index), error)


def unavailable(error: psycopg.Error) -> StrataError:
    """The error of a connection that could not be made: an outage, but for what a pooler will never take."""
    found = diagnose(error)
    if _UNSUPPORTED in found.message:
        return caused(InvalidConfigError(_OPTIONS), error)
    if found.failure is not Failure.OUTAGE:  # it let us in, and refused the first statement
        return caused(error_of(found, False), error)
    return caused(
        L3UnavailableError(f"PostgreSQL cannot be reached: {found.message}; check the server and the address"), error
    )


def moved(error: psycopg.Error) -> InvalidConfigError:
    """The error of a prepared statement that is not there: this client was given another session."""
    diagnose(error)
    return caused(InvalidConfigError(UNPREPARED), error)


def deadline_error(timeout: float, cause: BaseException | None = None) -> TxTimeoutError:
    """The error of a transaction that did not end in time."""
    return caused(TxTimeoutError(f"the transaction did not end within {timeout:g} s and was rolled back"), cause)


def _value_error(error: psycopg.Error) -> bool:
    # Without an SQLSTATE: the driver met a value that it could not send, or read.
    return isinstance(error, errors.DataError | errors.ProgrammingError | errors.NotSupportedError)


def _words(error: psycopg.Error, sqlstate: str, column: str | None = None) -> str:
    if not sqlstate:
        # libpq's own words: addresses and reasons, no values. A value's dumper is another matter.
        kind = type(error).__name__.lstrip("_")
        return kind if _value_error(error) or not str(error) else f"{kind}: {' '.join(str(error).split())}"
    diag = error.diag
    words = [f"{sqlstate} {type(error).__name__}"]
    raised = diag.source_function == "exec_stmt_raise"  # PL/pgSQL's RAISE, whose text may be made of a row
    if sqlstate[:2] in _NAMES_ONLY and diag.message_primary and not raised:
        words.append(f"({diag.message_primary})")
    for what, name in (
        ("constraint", diag.constraint_name),
        ("table", diag.table_name),
        ("column", diag.column_name or column),
    ):
        if name:
            words.append(f"{what} {name!r}")
    narrowed = error.__dict__.get("narrowed")
    if narrowed and not column:
        words.append(narrowed)
    if sqlstate == "23502":
        words.append("(where the model has no such column: it must be NULL-able, or have a DEFAULT)")
    return " ".join(words)
