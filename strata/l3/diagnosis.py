"""What went wrong in PostgreSQL, without anything of a row, and the errors that are made of it. It needs no driver."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from strata.errors import (
    AlreadyExistsError,
    ConstraintError,
    EncodeError,
    L3RefusedError,
    L3TimeoutError,
    L3UnavailableError,
    MigrationError,
    StrataError,
)
from strata.l3.sqlstates import Failure, meaning

E = TypeVar("E", bound=BaseException)


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """A failure without anything of a row. `line` is the row of a COPY that was refused, counted from 0."""

    failure: Failure
    sqlstate: str = ""
    constraint: str | None = None
    message: str = ""
    line: int | None = None


class NoRowError(EncodeError):
    """A record with UNLOADED columns, which only a row could have filled, and there is none."""


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


def unfit(error: BatchError) -> StrataError:
    """The error of a synchronous write for a row that the driver could not send."""
    return caused(error_of(error.diagnosis, False), error.__cause__)


def suppressed(table: str) -> ConstraintError:
    """The error of writes or deletions of rows that a trigger or rule of the table made vanish."""
    return ConstraintError(f"{swallowed(table)}; nothing was written")


def already_there(schema: str, key: Any) -> AlreadyExistsError:
    """The error of an insert of a key that has a record."""
    return AlreadyExistsError(
        f"schema {schema!r} has a record of this key; update it, or set it whatever is there",
        sqlstate="23505",
        schema=schema,
        key=key,
    )


def swallowed(table: str) -> str:
    """Why L3 has not what was written, in words."""
    return f"a trigger or rule of table {table!r} kept the row from being written, or deleted"


def error_of(found: Diagnosis, outcome_unknown: bool) -> StrataError:
    """The error of a synchronous statement that failed so."""
    said, kind = found.message, meaning(found.sqlstate).error
    if found.failure is Failure.PERMANENT and kind is not ConstraintError:
        return EncodeError(f"a value does not fit its column: {said}")
    if kind is ConstraintError:
        return ConstraintError(
            f"PostgreSQL refused the row: {said}", sqlstate=found.sqlstate, constraint=found.constraint
        )
    if kind is MigrationError:
        return MigrationError(
            f"the database does not fit the registered schemas: {said}; run migrate(), and what its report leaves to "
            "others (`manual`)"
        )
    if kind is L3TimeoutError:
        return L3TimeoutError(
            f"PostgreSQL gave the statement up: {said}; see L3PoolConfig's timeouts", sqlstate=found.sqlstate
        )
    if kind is L3UnavailableError:
        return L3UnavailableError(f"PostgreSQL did not answer: {said}", outcome_unknown=outcome_unknown)
    return L3RefusedError(_refused(found), sqlstate=found.sqlstate)


def _refused(found: Diagnosis) -> str:
    if found.failure is Failure.CONTENTION:
        return f"the statement met others and was rolled back: {found.message}; try it again"
    if found.failure is Failure.NOT_READY:
        return f"the role may not do this: {found.message}; grant it the right"
    return f"PostgreSQL refused the statement: {found.message}"


def caused(made: E, cause: BaseException | None) -> E:
    """`made`, with the driver's error for its cause."""
    made.__cause__ = cause
    return made
