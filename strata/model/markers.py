"""Markers that ride in `typing.Annotated`."""

from __future__ import annotations

from typing import Any

from strata.errors import InvalidModelError, shown


class Marker:
    """A word about one field; used as a class or as an instance."""

    __slots__ = ()

    def __repr__(self) -> str:
        return type(self).__name__


class PrimaryKey(Marker):
    """The key of the record: a field that is a `str`, an `int` or a `UUID`, or several of these."""


class Generated(Marker):
    """A key that may be None at `insert`: then the database assigns it. `int | None` and `UUID | None` only."""


class Unique(Marker):
    """A UNIQUE constraint."""


class Indexed(Marker):
    """A plain index."""


class OmitCache(Marker):
    """Neither in L1 nor in L2, PostgreSQL only."""


class OmitL1(Marker):
    """Not in L1, still in L2."""


class AutoNowAdd(Marker):
    """Stamped at the first insert (UTC, aware); overwrites what the caller gave."""


class AutoNow(Marker):
    """Stamped at every write (UTC, aware); overwrites what the caller gave."""


class Encrypted(Marker):
    """AES-256-GCM at rest; `str` and `str | None` only."""


class Ignore(Marker):
    """Not a column, not cached; needs a default."""


class Default(Marker):
    """DDL `DEFAULT`: a literal, safely quoted, or with `sql=` an expression.

    >>> Default(1), Default(sql="now()")
    (Default(1), Default(sql='now()'))
    """

    __slots__ = ("sql", "value")

    def __init__(self, *value: Any, sql: str | None = None) -> None:
        if len(value) + (sql is not None) != 1:
            raise TypeError("Default takes one literal, or sql=")
        if sql is not None and (not isinstance(sql, str) or not sql.strip()):
            raise InvalidModelError(f"Default(sql=...) takes an expression of SQL as a str, not {shown(sql)}")
        self.value = value[0] if value else None
        self.sql = sql

    def __repr__(self) -> str:
        return f"Default({shown(self.value)})" if self.sql is None else f"Default(sql={shown(self.sql)})"
