"""Models whose key has several fields, and keys of theirs that look like others."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

import strata

TEXTS = ["a", "b", "a/b", "/", "//", "~", "~0", "~1", "a~1b", "é 💥", "null", "0", " ", ":{}", "\\", '"', "%", "a\nb"]
KEYS = [(text, number) for text in TEXTS for number in (0, 1, -1, 2**63 - 1)]


@dataclass(kw_only=True)
class Line:
    """The key's fields are neither the first ones nor side by side."""

    amount: int = 0
    order: Annotated[str, strata.PrimaryKey]
    note: str = ""
    number: Annotated[int, strata.PrimaryKey]
    tags: list[str] | None = None


@dataclass
class Secret:
    tenant: Annotated[str, strata.PrimaryKey]
    number: Annotated[int, strata.PrimaryKey]
    text: Annotated[str, strata.Encrypted] = ""


def line(key: Any, turn: int) -> Line:
    return Line(order=key[0], number=key[1], amount=turn, note=f"turn {turn}", tags=["a"] * (turn % 3))
