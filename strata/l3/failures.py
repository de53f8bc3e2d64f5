"""What PostgreSQL's errors mean: the one place that turns those of the driver into Strata's.

A driver's message can carry a whole row (DETAIL, CONTEXT, the value in a "invalid input syntax"). What leaves this
module keeps SQLSTATE, condition, constraint, table and column, and the primary message only for conditions whose
message PostgreSQL makes of names; the driver's error, which becomes the `__cause__`, is reduced to the same words.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import psycopg
from psycopg import errors

from strata.errors import (
    ConstraintError,
    DecodeError,
    EncodeError,
    InvalidConfigError,
    L3UnavailableError,
    MigrationError,
    QueryError,
    StrataError,
    TxTimeoutError,
)

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
E = TypeVar("E", bound=BaseException)
WaitTimeout = errors._WaitTimeout  # raised by Connection.wait; psycopg has no public name for it


class Failure(enum.Enum):
    """What a failed statement asks of whoever sent it.

    OUTAGE: nobody is to blame, come back later. CONTENTION: send it again. TIMEOUT: send less at once. ORDER: what
    it needs may be one batch behind. PERMANENT: the record is wrong. NOT_READY: the table is not there yet.
    """

    OUTAGE = "outage"
    CONTENTION = "contention"
    TIMEOUT = "timeout"
    ORDER = "order"
    PERMANENT = "permanent"
    NOT_READY = "not_ready"
    UNKNOWN = "unknown"


PASSING = frozenset({Failure.OUTAGE, Failure.CONTENTION, Failure.TIMEOUT})
"""Failures that say nothing about the statement."""

# PostgreSQL manual, appendix "PostgreSQL Error Codes".
_BY_STATE = {
    "40001": Failure.CONTENTION,  # serialization_failure
    "40P01": Failure.CONTENTION,  # deadlock_detected
    "55P03": Failure.TIMEOUT,  # lock_not_available
    "57014": Failure.TIMEOUT,  # query_canceled
    "25P04": Failure.TIMEOUT,  # transaction_timeout
    "25P03": Failure.OUTAGE,  # idle_in_transaction_session_timeout
    "25006": Failure.OUTAGE,  # read_only_sql_transaction: a standby
    "23502": Failure.PERMANENT,  # not_null_violation
    "23514": Failure.PERMANENT,  # check_violation
    "23503": Failure.ORDER,  # foreign_key_violation
    "23505": Failure.ORDER,  # unique_violation
    "23P01": Failure.ORDER,  # exclusion_violation
    "42P01": Failure.NOT_READY,  # undefined_table
    "42703": Failure.NOT_READY,  # undefined_column
    "42501": Failure.NOT_READY,  # insufficient_privilege
    "3F000": Failure.NOT_READY,  # invalid_schema_name
}
_BY_CLASS = {
    "08": Failure.OUTAGE,  # connection exception
    "53": Failure.OUTAGE,  # insufficient resources
    "57": Failure.OUTAGE,  # operator intervention
    "28": Failure.OUTAGE,  # invalid authorization
    "3D": Failure.OUTAGE,  # invalid catalog name
    "22": Failure.PERMANENT,  # data exception
}
# Of a table that was changed while it was in use: another type, a computed column, no unique key, no table any more.
_MISFIT = frozenset({"42804", "42846", "42883", "428C9", "42P10", "42809"})
_NAMES_ONLY = frozenset({"08", "0A", "23", "25", "26", "28", "3D", "3F", "40", "42", "53", "54", "55", "57"})  # classes
_REFUSED_ROW = frozenset({"09", "23", "27", "44", "P0"})  # the last: RAISE in a trigger
_OF_COLUMN = frozenset({"23502", "428C9"})  # not_null_violation, generated_always
_COPY_LINE = re.compile(r"COPY [^,]+, \D*(\d+)")  # "COPY t, line 3, column c: ...", in any language
_QUERY_CLASSES = frozenset({"0A", "20", "21", "22", "42", "54"})


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """A failure without anything of a row. `line` is the row of a COPY that was refused, counted from 0."""

    failure: Failure
    sqlstate: str = ""
    constraint: str | None = None
    message: str = ""
    line: int | None = None


class BatchError(StrataError):
    """A batch was refused as a whole; `index` is the change to blame, where PostgreSQL told."""

    def __init__(self, diagnosis: Diagnosis, index: int | None = None) -> None:
        super().__init__(f"PostgreSQL refused a batch: {diagnosis.message}")
        self.diagnosis = diagnosis
        self.index = index

    def at(self, order: Sequence[int]) -> BatchError:
        """Itself, with the `index` of the sorted batch turned into that of the one that was given."""
        self.index = None if self.index is None else order[self.index]
        return self


def classify(sqlstate: str) -> Failure:
    """The class of an SQLSTATE; the empty one is that of an error which did not come from the server."""
    if not sqlstate:
        return Failure.OUTAGE
    return _BY_STATE.get(sqlstate) or _BY_CLASS.get(sqlstate[:2]) or Failure.UNKNOWN


def diagnose(error: psycopg.Error) -> Diagnosis:
    """What went wrong, in safe words; `error` itself says no more than that afterwards."""
    sqlstate = error.sqlstate or ""
    diag = error.diag
    failure = classify(sqlstate)
    if not sqlstate and _value_error(error):
        failure = Failure.PERMANENT
    line = _COPY_LINE.search(diag.context or "")
    message = _words(error, sqlstate)
    found = Diagnosis(failure, sqlstate, diag.constraint_name, message, int(line[1]) - 1 if line else None)
    error.args = (message,)
    error._info = None
    return found


def loss(error: psycopg.Error | None) -> str:
    """How a connection was lost, in safe words; asked before `diagnose`, as `lost` is."""
    if error is None:
        return "a connection to PostgreSQL was lost"
    return f"PostgreSQL did not answer: {_words(error, error.sqlstate or '')}"


def lost(error: psycopg.Error) -> bool:
    """Whether the server, or the way to it, is gone; asked before `diagnose`."""
    return not error.sqlstate and isinstance(error, errors.OperationalError | errors.InterfaceError)


def doubtful(error: BaseException) -> bool:
    """Whether PostgreSQL refused a value, or the want of one, in a column that may not be as it was seen."""
    cause = error if isinstance(error, psycopg.Error) else error.__cause__
    return isinstance(cause, psycopg.Error) and cause.sqlstate in _OF_COLUMN


def statement_error(error: psycopg.Error, *, outcome_unknown: bool = False) -> StrataError:
    """The error of a synchronous statement. `outcome_unknown`: the connection was lost after it was sent."""
    return _caused(_statement_error(diagnose(error), outcome_unknown), error)


def blames_query(error: psycopg.Error) -> bool:
    """Whether it is the user's condition, or an argument of it, that PostgreSQL or the driver refused."""
    sqlstate = error.sqlstate or ""
    if not sqlstate:
        return _value_error(error)
    return sqlstate[:2] in _QUERY_CLASSES and sqlstate not in ("42501", "42P01")


def query_error(error: psycopg.Error) -> QueryError:
    """The error of a query that is to blame."""
    found = diagnose(error)
    if not found.sqlstate:
        words = "an argument has a type, or a list mixed types, that no column has"
        return _caused(QueryError(f"the query was not sent ({found.message}): {words}"), error)
    hint = "; if it is a field of the model, run migrate()" if found.sqlstate == "42703" else ""
    return _caused(QueryError(f"PostgreSQL cannot run the query: {found.message}{hint}"), error)


def migration_error(error: psycopg.Error, what: str, *, whole: bool = True) -> StrataError:
    """The error of a step of a migration; `what` names it. Not `whole`: statements before it stay."""
    # Its author wrote the statement and has to see what PostgreSQL says of it; DETAIL, which holds rows, stays out.
    primary = error.diag.message_primary
    found = diagnose(error)
    said = f"{found.sqlstate} {primary}" if primary and found.sqlstate[:2] != "22" else found.message
    left = "nothing of it was applied" if whole else "what came before the statement was applied"
    return _caused(MigrationError(f"{what} failed: {said}; {left}"), error)


def batch_error(error: psycopg.Error) -> BatchError:
    """The error of a write-behind batch."""
    found = diagnose(error)
    return _caused(BatchError(found, found.line), error)


def row_error(error: psycopg.Error, index: int) -> BatchError:
    """The error of a row that the driver could not send."""
    return _caused(BatchError(diagnose(error), index), error)


def unfit(error: BatchError) -> StrataError:
    """The error of a synchronous write for a row that the driver could not send."""
    return _caused(_statement_error(error.diagnosis, False), error.__cause__)


def unreadable(error: psycopg.Error) -> DecodeError:
    """The error of a value that PostgreSQL has and Python has not: a date beyond the year 9999, say."""
    diagnose(error)
    return _caused(DecodeError("a row has a value that Python cannot hold, such as a date beyond the year 9999"), error)


def suppressed(table: str) -> ConstraintError:
    """The error of rows that a trigger or rule of the table made vanish."""
    return ConstraintError(f"a trigger or rule of table {table!r} kept rows from being written; nothing was written")


def unavailable(error: psycopg.Error) -> StrataError:
    """The error of a connection that could not be made: an outage, but for what a pooler will never take."""
    found = diagnose(error)
    if _UNSUPPORTED in found.message:
        return _caused(InvalidConfigError(_OPTIONS), error)
    return _caused(
        L3UnavailableError(f"PostgreSQL cannot be reached: {found.message}; check the server and the address"), error
    )


def moved(error: psycopg.Error) -> InvalidConfigError:
    """The error of a prepared statement that is not there: this client was given another session."""
    diagnose(error)
    return _caused(InvalidConfigError(UNPREPARED), error)


def deadline_error(timeout: float, cause: BaseException | None = None) -> TxTimeoutError:
    """The error of a transaction that did not end in time."""
    return _caused(TxTimeoutError(f"the transaction did not end within {timeout:g} s and was rolled back"), cause)


def _statement_error(found: Diagnosis, outcome_unknown: bool) -> StrataError:
    said, group = found.message, found.sqlstate[:2]
    if group in _REFUSED_ROW:
        return ConstraintError(
            f"PostgreSQL refused the row: {said}", sqlstate=found.sqlstate, constraint=found.constraint
        )
    if found.failure is Failure.PERMANENT:
        return EncodeError(f"a value does not fit its column: {said}")
    if found.failure is Failure.CONTENTION:
        return L3UnavailableError(f"the statement met others and was rolled back: {said}; try it again")
    if found.failure is Failure.TIMEOUT:
        return L3UnavailableError(f"PostgreSQL gave the statement up: {said}; see L3PoolConfig's timeouts")
    if found.sqlstate == "42501":
        return L3UnavailableError(f"the role may not do this: {said}; grant it the right")
    if found.failure is Failure.NOT_READY or found.sqlstate in _MISFIT:
        return MigrationError(
            f"the database does not fit the registered schemas: {said}; run migrate(), whose report says what it leaves"
        )
    if found.failure is Failure.OUTAGE:
        return L3UnavailableError(f"PostgreSQL did not answer: {said}", outcome_unknown=outcome_unknown)
    return L3UnavailableError(f"PostgreSQL refused the statement: {said}")


def _value_error(error: psycopg.Error) -> bool:
    # Without an SQLSTATE: the driver met a value that it could not send, or read.
    return isinstance(error, errors.DataError | errors.ProgrammingError | errors.NotSupportedError)


def _words(error: psycopg.Error, sqlstate: str) -> str:
    if not sqlstate:
        # libpq's own words: addresses and reasons, no values. A value's dumper is another matter.
        kind = type(error).__name__.lstrip("_")
        return kind if _value_error(error) or not str(error) else f"{kind}: {' '.join(str(error).split())}"
    diag = error.diag
    words = [f"{sqlstate} {type(error).__name__}"]
    raised = diag.source_function == "exec_stmt_raise"  # PL/pgSQL's RAISE, whose text may be made of a row
    if sqlstate[:2] in _NAMES_ONLY and diag.message_primary and not raised:
        words.append(f"({diag.message_primary})")
    for what, name in (("constraint", diag.constraint_name), ("table", diag.table_name), ("column", diag.column_name)):
        if name:
            words.append(f"{what} {name!r}")
    if sqlstate == "23502":
        words.append("(where the model has no such column: it must be NULL-able, or have a DEFAULT)")
    return " ".join(words)


def _caused(made: E, cause: BaseException | None) -> E:
    made.__cause__ = cause
    return made
