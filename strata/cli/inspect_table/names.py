"""Names in Python, made of those that PostgreSQL allows, which may be any text."""

from __future__ import annotations

import keyword
import re
from collections.abc import Iterable

from strata.model.fields import RESERVED

_WORDS = re.compile(r"[A-Za-z0-9]+")


class Names:
    """The names of one scope, of which none is given twice."""

    def __init__(self, taken: Iterable[str] = ()) -> None:
        self._taken = set(taken)

    def take(self, wanted: str) -> str:
        """The name, with a number behind it where it is taken or a keyword."""
        name, number = wanted, 2
        while name in self._taken or keyword.iskeyword(name):
            name, number = f"{wanted}_{number}", number + 1
        self._taken.add(name)
        return name


def of_class(text: str) -> str:
    """`blog_article` as `BlogArticle`."""
    return _sound("".join(word[0].upper() + word[1:] for word in _WORDS.findall(text)), "Type")


def of_member(label: str) -> str:
    """`in progress` as `IN_PROGRESS`."""
    return _sound("_".join(_WORDS.findall(label)).upper(), "VALUE_").rstrip("_")


def _sound(name: str, otherwise: str) -> str:
    return name if name.isidentifier() else otherwise + name


def is_field(column: str) -> bool:
    """Whether a field of a record may have the column's name: Python itself changes those that begin with `__`."""
    sound = column.isascii() and column.isidentifier() and not keyword.iskeyword(column)
    return sound and not column.startswith("__") and not column.lower().startswith(RESERVED)
