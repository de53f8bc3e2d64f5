"""A whole record, or a record in part, by the validators of its class and of those within it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any

from strata.errors import EncodeError
from strata.model.atoms import Unfit
from strata.model.columns import Column
from strata.model.compile import CALL, Function, Source, Step
from strata.model.pydantic_models import is_pydantic
from strata.model.unloaded import UNLOADED
from strata.model.validators import Validator

_SOME_TIME = datetime(2000, 1, 1, tzinfo=UTC)  # stands for a stamp that is still to come
Make = Callable[[Source, dict[str, str]], Function]


def validation_of(model: Any, columns: Sequence[Column], part: Function, make: Make) -> Function | None:
    """A function that gives a record as its validators have it, or raises `EncodeError`; None where there are none.

    `part` makes a record of some fields, `make` the function that ends with making one. Of a record in which some are
    UNLOADED, each of the others is validated by itself, and what concerns the whole is left out.
    """
    inner = {column.field.name: _within(column) for column in columns if column.form.inside is not None}
    if is_pydantic(model):
        return _of_pydantic(model, columns, part, inner)
    if not inner:
        return None
    source = Source("validated", "record")
    values = {}
    for column in columns:
        name = column.field.name
        source.line(f"v_{name} = record.{name}")
        values[name] = source.apply(Step(CALL, inner[name]) if name in inner else None, f"v_{name}")
    return make(source, values)


def _of_pydantic(model: Any, columns: Sequence[Column], part: Function, inner: dict[str, Function]) -> Function:
    validator = Validator(model)
    some = validator.parts()
    stamped = [column.field for column in columns if column.field.stamped]
    others = [column.field.name for column in columns if not column.field.stamped]

    def validated(record: Any) -> Any:
        held = record.__dict__
        values = {name: held[name] for name in validator.names if name in held}
        for name, within in inner.items():
            if values.get(name) is not None and values[name] is not UNLOADED:
                values[name] = within(values[name])
        for field in stamped:  # overwritten anyhow, and so not to be refused
            if not _is_moment(values.get(field.name)):
                values.pop(field.name, None)
                if field.factory is None:
                    values[field.name] = _SOME_TIME
        try:
            if any(values.get(name) is UNLOADED for name in others):
                return part(some({name: values[name] for name in others if values.get(name, UNLOADED) is not UNLOADED}))
            return validator.whole(values)
        except Unfit as problem:
            refused = str(problem)
        raise EncodeError(refused)

    return validated


def _is_moment(value: Any) -> bool:
    return isinstance(value, datetime) and value.tzinfo is not None


def _within(column: Column) -> Function:
    """A function that validates what is nested in a value of a column."""
    inside = column.form.inside
    assert inside is not None

    def within(value: Any) -> Any:
        try:
            return inside(value)
        except Unfit as problem:
            refused = f"{column.where} holds a value that cannot be stored: {problem}"
        except (AttributeError, RecursionError):
            return value  # a record without one of its fields, or endless: this is told where the column looks at it
        raise EncodeError(refused)

    return within
