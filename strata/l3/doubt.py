"""A table that may not be as it was seen, since another tool may have changed it: writes to it are tried once more."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from strata.errors import L3RefusedError, StrataError

T = TypeVar("T")

_OF_COLUMN = frozenset({"23502", "428C9"})  # not_null_violation, generated_always


class OutdatedError(L3RefusedError):
    """A table turned out not to be as it was seen, and what was done by that is to be rolled back and done anew."""

    def __init__(self, table: str) -> None:
        super().__init__(f"table {table!r} was changed while it was written to; try it again", sqlstate="40001")


def doubtful(error: BaseException) -> bool:
    """Whether the table may not be as it was seen, as where PostgreSQL refused a value, or the want of one, in a
    column: by the driver's error, or one of Strata's that has it for its cause."""
    said = error.__cause__ if isinstance(error, StrataError) else error
    return isinstance(error, OutdatedError) or getattr(said, "sqlstate", None) in _OF_COLUMN


def adapting(write: Callable[[], T]) -> T:
    """What `write` returns, which is a whole transaction; run once more where another tool may have changed a table
    since it was looked at, and again where it turns out that it did."""
    try:
        return write()
    except StrataError as error:
        if not doubtful(error):
            raise
    try:
        return write()
    except OutdatedError:
        return write()
