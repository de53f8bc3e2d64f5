"""The DEFAULT that a column keeps in its table: the marker's, else the class's own.

A release that does not know a field yet, or not any more, inserts rows without its column. So what the class says of
such records stands in the table, too, where it is the same for all of them.
"""

from __future__ import annotations

from typing import Any

from strata.model.columns import Column
from strata.model.fields import Kind
from strata.model.hints import Constant
from strata.model.markers import Default
from strata.model.unloaded import UNLOADED

_CALLS = 8  # of a factory, which must give the same each time to count as constant
_TIMES = (Kind.TIMESTAMPTZ, Kind.DATE, Kind.TIME)


def default_of(column: Column) -> Default | None:
    """The DEFAULT of a column, its value in the form of a row; None where it has none.

    The key has none, which the database may give values of its own, nor has an encrypted column: its plaintext must
    not stand in the catalogue, and a ciphertext there would outlive its key.
    """
    field = column.field
    if field.default is not None:
        return field.default
    if field.primary_key or field.encrypted:
        return None
    if field.stamped:
        return None if field.nullable else Default(sql="now()")
    value = _constant(column)
    return None if value is None else Default(column.to_row(value))


def varies(column: Column) -> bool:
    """Whether the class makes the default anew for each record, so that no DEFAULT can say it."""
    return column.field.factory is not None and _settled(column) is None


def _constant(column: Column) -> Any:
    settled = _settled(column)
    return None if settled is None else settled[0]


def _settled(column: Column) -> tuple[Any] | None:
    """The class's own default as it is stored; None where there is none, or not one that lasts."""
    factory = column.field.factory
    if factory is None or (column.field.kind in _TIMES and not isinstance(factory, Constant)):
        return None  # a date is the same a whole day long
    try:
        value = column.settle(factory())
        same = isinstance(factory, Constant) or all(column.settle(factory()) == value for _ in range(_CALLS))
    except Exception:  # noqa: BLE001 the user's factory, or a default that only stands for "none given"
        return None
    return (value,) if same and value is not UNLOADED else None
