"""What the module imports."""

from __future__ import annotations

from collections.abc import Sequence

from strata.cli.inspect_table.fields import FieldSource

_ANNOTATED = "from typing import Annotated"
_FUTURE = "from __future__ import annotations\n"
_STRATA = """
import strata
from strata import Config, DataStore, MemPolicy, PostgresPolicy, RedisPolicy, Schema"""
NAMES = frozenset(
    "Annotated Any Config DataStore Decimal MemPolicy PostgresPolicy RedisPolicy Schema StrEnum UUID dataclasses dt "
    "strata".split()
)
"""What may be imported, and is no name for anything else."""


def imports(fields: Sequence[FieldSource]) -> list[str]:
    """The lines that these fields, and the schema, need."""
    lines = {"import dataclasses", *(item.line for item in fields if item.line)}
    if not any(line.startswith(_ANNOTATED) for line in lines):
        lines.add(_ANNOTATED)
    ordered = sorted(lines, key=lambda line: (line.startswith("from"), line))
    return [*([_FUTURE] if _hides(fields) else []), *ordered, _STRATA]


def _hides(fields: Sequence[FieldSource]) -> bool:
    """Whether a field has the name of a type. With a default it would hide that from the hints below it, unless these
    are read later, when nothing of the class's body is in their way."""
    types = {item.hint.partition("[")[0].partition(".")[0] for item in fields}
    return any(item.name in types | NAMES for item in fields)
