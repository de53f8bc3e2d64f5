"""Columns of numbers: what may be added to them, and a record with it."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from decimal import Context, Decimal
from fractions import Fraction
from math import copysign, inf, isfinite
from typing import TYPE_CHECKING, Any

from strata.errors import EncodeError
from strata.model.atoms import BIGINT_MAX, BIGINT_MIN

if TYPE_CHECKING:
    from strata.model.plan import ModelPlan

Number = int | float | Decimal
_DIGITS, _PLACES = 131_072, 16_383  # of PostgreSQL's NUMERIC, before the point and after it
_EXACT = Context(prec=_DIGITS + _PLACES + 100)
_RATIO = re.compile(r"-?[0-9]+(?:/[0-9]+)?")
_TAKEN = {int: (int,), float: (float, int), Decimal: (Decimal, int)}


def exact(delta: Any) -> Any:
    """A number in the form in which totals are kept: those of floats are fractions, since a float's sum forgets what is
    small beside it for good."""
    return Fraction(delta) if type(delta) is float else delta


def exact_in(kind: type) -> Callable[[Any], Any]:
    """What makes a total of its text, for columns of numbers of a type. It raises `ValueError` or `ArithmeticError`."""
    return _fraction if kind is float else kind


def _fraction(text: str) -> Fraction:
    # Nothing but digits: of an exponent, which anybody could have put there, it would make as many of them.
    if not _RATIO.fullmatch(text):
        raise ValueError("the total of floats is no fraction")
    return Fraction(text)


def raised(value: Any, more: Any) -> Any:
    """What a column holds with a total on top; None counts from 0."""
    if type(more) is int or not isinstance(more, Fraction):  # whose ABC makes the question dear
        return plus(value or 0, more)
    if value is not None and not isfinite(value):
        return value
    sum_ = Fraction(value or 0) + more
    try:
        return float(sum_)
    except OverflowError:
        return copysign(inf, sum_)


def plus(one: Any, other: Any, sign: int = 1) -> Any:
    """The exact sum, or difference, of two numbers of one type; integers go with any."""
    if type(one) is int and type(other) is int:
        return one + other if sign > 0 else one - other
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
                f"what is added to {model}.{name} is of type {type(delta).__name__}; it must be of type "
                f"{' or '.join(taken.__name__ for taken in _TAKEN[kind])}"
            )
        if not (delta.is_finite() if isinstance(delta, Decimal) else isinstance(delta, int) or isfinite(delta)):
            raise EncodeError(f"{model}.{name} cannot have a number added to it that is not finite")
        if kind is int and not BIGINT_MIN <= delta <= BIGINT_MAX:
            raise EncodeError(f"{model}.{name} is BIGINT; what is added to it must be between -2^63 and 2^63 - 1")
        if isinstance(delta, Decimal) and delta and not -_PLACES <= _last_place(delta) <= delta.adjusted() < _DIGITS:
            raise EncodeError(
                f"{model}.{name} is NUMERIC; what is added to it may have {_DIGITS:,} digits before the point, and "
                f"{_PLACES:,} after it"
            )
        try:
            found[name] = kind(delta)
        except OverflowError:
            raise EncodeError(f"{model}.{name} is float; what is added to it must be below 1.8e308") from None
    return found


def _last_place(number: Decimal) -> int:
    return int(number.as_tuple().exponent)
