"""Counters that all writers add to at once. Each incarnation adds to digits of its own, so that a sum shows how often
it was counted."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from typing import Annotated

import strata

NAME = "hits"
COUNT = 10  # counters
OFFSET = 1_000_000_000  # of their keys in diaries
DIGITS = 5  # of each incarnation


@dataclass
class Hits:
    """A counter, which all writers share."""

    id: Annotated[int, strata.PrimaryKey]
    n: Decimal = Decimal(0)


def one_of(place: int) -> Decimal:
    """What the incarnation at this place adds."""
    return Decimal(10 ** (DIGITS * place))


def counted(sum_: Decimal, place: int) -> int:
    """How often what the incarnation adds is in a sum."""
    return int(str(int(sum_)).rjust(DIGITS * (place + 1), "0")[-DIGITS * (place + 1) :][:DIGITS])


def key_in_diary(schema: str, key: int) -> int:
    """A key of any schema, as diaries have it."""
    return key + OFFSET if schema == NAME else key
