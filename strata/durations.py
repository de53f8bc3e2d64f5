"""Durations: seconds or a `timedelta` where users give them, `float` seconds everywhere else."""

from __future__ import annotations

import math
from datetime import timedelta
from typing import Any, Generic, TypeVar

from strata.errors import InvalidConfigError, shown

Duration = float | timedelta
LONGEST = timedelta.max.total_seconds()  # beyond it, milliseconds since 1970 do not fit Redis's 64 bits

S = TypeVar("S", bound=float | None)


def seconds(value: Duration | None, what: str) -> float | None:
    """`value` as seconds. Raises `InvalidConfigError` for what is negative, no number, or beyond `timedelta.max`."""
    if value is None:
        return None
    number = value.total_seconds() if isinstance(value, timedelta) else value  # a NaN is within nothing
    if isinstance(number, bool) or not isinstance(number, int | float) or not 0 <= number <= LONGEST:
        said = "too large" if isinstance(number, int) and number > LONGEST else shown(value)
        wanted = "seconds (0 or more) or a timedelta, at most timedelta.max"
        raise InvalidConfigError(f"{what} is {said}; it must be {wanted}")
    return float(number)


def life(ttl: Duration | None) -> float | None:
    """The seconds that one record is to live in L1 and L2, infinity being for ever; None: as its policies say.

    Raises as `seconds` does.
    """
    given = None if ttl is None else seconds(ttl, "ttl")
    return math.inf if given == 0 else given


class Seconds(Generic[S]):
    """A field of a frozen dataclass: set to seconds or a `timedelta`, checked there, and read as seconds ever after.

    Raises `InvalidConfigError` where it is set. Its default is a `duration`.

    >>> from dataclasses import dataclass
    >>> @dataclass(frozen=True)
    ... class Patience:
    ...     wait: Seconds[float] = duration(1.5)
    >>> Patience().wait, Patience(timedelta(minutes=1)).wait
    (1.5, 60.0)
    """

    def __init__(self, default: S, positive: bool) -> None:
        self._default = default
        self._positive = positive
        self._name = self._what = ""

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name
        self._what = f"{owner.__name__}.{name}"

    def __get__(self, owner: Any, kind: type | None = None) -> S:
        if owner is None:
            return self._default  # which the dataclass takes for the field's
        value: S = vars(owner)[self._name]
        return value

    def __set__(self, owner: Any, value: S | timedelta) -> None:
        number = seconds(value, self._what)
        if number is None and self._default is not None:
            raise InvalidConfigError(f"{self._what} is None; it must be seconds or a timedelta")
        if number == 0 and self._positive:
            raise InvalidConfigError(f"{self._what} is {shown(value)}; it must be more than 0 seconds")
        vars(owner)[self._name] = number


def duration(default: float | None, *, positive: bool = False) -> Any:
    """A default for a field of `Seconds`: where it is None, None may be given; where it is `positive`, 0 may not.

    To type checkers it is of any type, as the result of `dataclasses.field` is.
    """
    return Seconds(default, positive)
