"""The Python type of a column: the first of those whose values Strata keeps in it."""

from __future__ import annotations

import datetime
import uuid
from collections.abc import Mapping
from decimal import Decimal
from typing import Any, NamedTuple

from strata.l3.catalog import ColumnFacts
from strata.l3.fit import takes
from strata.model.atoms import ATOMS
from strata.model.fields import Field, Kind
from strata.model.keys import KEYS


class Spelling(NamedTuple):
    """A type as source, and the line that imports it."""

    text: str
    line: str = ""


_DT = "import datetime as dt"
_ANY = "from typing import Annotated, Any"  # in one line, since every record has a marker
SPELLED: Mapping[type, Spelling] = {  # the narrow ones first: an INTEGER would do for a Decimal, too
    str: Spelling("str"),
    int: Spelling("int"),
    Decimal: Spelling("Decimal", "from decimal import Decimal"),
    float: Spelling("float"),
    bool: Spelling("bool"),
    datetime.date: Spelling("dt.date", _DT),
    datetime.datetime: Spelling("dt.datetime", _DT),
    datetime.time: Spelling("dt.time", _DT),
    datetime.timedelta: Spelling("dt.timedelta", _DT),
    uuid.UUID: Spelling("UUID", "from uuid import UUID"),
    bytes: Spelling("bytes"),
    dict: Spelling("dict[str, Any]", _ANY),
    list: Spelling("list[Any]", _ANY),
}
_JSON = {frozenset({"object"}): dict, frozenset({"array"}): list}


def type_of(facts: ColumnFacts, *, key: bool) -> type | None:
    """The type whose values the column holds, as a part of the key or not; None where there is none."""
    return next(
        (python for python in (KEYS if key else SPELLED) if takes(_field(facts.name, python, key), facts)), None
    )


def json_type(facts: ColumnFacts, held: frozenset[str]) -> type | None:
    """That of a JSON column by what it holds ("object", "array"), or while it is empty by its DEFAULT; None for several
    of them, and for others."""
    if not held:
        return list if (facts.default or "").startswith("'[") else dict
    return _JSON.get(held)


def _field(name: str, python: Any, key: bool) -> Field:
    kind = ATOMS[python].kind if python in ATOMS else Kind.JSONB
    return Field(name, python, kind, primary_key=key)
