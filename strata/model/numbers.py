"""Columns of numbers: what may be added to them, and a record with it."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Context, Decimal
from math import isfinite
from typing import Any

from strata.errors import EncodeError
from strata.model.atoms import BIGINT_MAX, BIGINT_MIN
from strata.model.markers import UNLOADED
from strata.model.plan import ModelPlan

Number = int | float | Decimal
_EXACT = Context(prec=100_000)  # of more digits than PostgreSQL's NUMERIC has on either side of the point together
_TAKEN = {int: (int,), float: (float, int), Decimal: (Decimal, int)}


def plus(one: Any, other: Any, sign: int = 1) -> Any:
    """The exact sum, or difference, of two numbers of one type; integers go with any."""
    if isinstance(one, Decimal) or isinstance(other, Decimal):
        return _EXACT.add(one, other) if sign > 0 else _EXACT.subtract(one, other)
    return one + other if sign > 0 else one - other


def deltas_of(plan: ModelPlan[Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """What is added to each column, in its type. Raises `EncodeError` for what cannot be."""
    model = plan.model.__name__
    if not given:
        raise EncodeError("increment was given no field; name those that are to be added to, as in likes=1")
    found: dict[str, Any] = {}
    for name, delta in given.items():
        kind = plan.numbers.get(name)
        if kind is int and type(delta) is int and BIGINT_MIN <= delta <= BIGINT_MAX:
            found[name] = delta
            continue
        if kind is None:
            countable = ", ".join(plan.numbers) or "none"
            raise EncodeError(f"{model} has no number {name!r} that could be added to; it has: {countable}")
        if type(delta) not in _TAKEN[kind]:
            raise EncodeError(
                f"{model}.{name} is {kind.__name__}, and a {type(delta).__name__} cannot be added to it; give a "
                f"{' or '.join(taken.__name__ for taken in _TAKEN[kind])}"
            )
        if not (delta.is_finite() if isinstance(delta, Decimal) else isinstance(delta, int) or isfinite(delta)):
            raise EncodeError(f"{model}.{name} cannot have a number added to it that is not finite")
        if kind is int and not BIGINT_MIN <= delta <= BIGINT_MAX:
            raise EncodeError(f"{model}.{name} is BIGINT; what is added to it must be between -2^63 and 2^63 - 1")
        try:
            found[name] = kind(delta)
        except OverflowError:
            raise EncodeError(f"{model}.{name} is float; what is added to it must be below 1.8e308") from None
    return found


def counted(plan: ModelPlan[Any], record: Any, deltas: Mapping[str, Any], part: Any = None) -> Any:
    """The record with this added, and with what `part` has of it, privately; a column that is None counts from 0, one
    that is UNLOADED stays so. None where a column could not hold it."""
    fields: dict[str, Any] = {plan.key.name: getattr(record, plan.key.name)}
    if part is not None:
        fields |= {name: getattr(part, name) for name in plan.loaded(part)}
    for name, delta in deltas.items():
        held = getattr(record, name)
        if held is not UNLOADED:
            fields[name] = value = delta if held is None else plus(held, delta)
            if type(value) is int and not BIGINT_MIN <= value <= BIGINT_MAX:
                return None
    return plan.merge(record, plan.part(fields))
