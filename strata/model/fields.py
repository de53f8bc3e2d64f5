"""A model's fields as plain frozen facts, which everything else reads."""

from __future__ import annotations

import enum
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from strata.errors import InvalidModelError, shown
from strata.model.hints import Constant
from strata.model.markers import Default
from strata.model.unloaded import UNLOADED

MAX_IDENTIFIER = 63  # bytes, and letters too, since all are ASCII
RESERVED = "_strata"
_IDENTIFIER = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\Z")


class Kind(enum.Enum):
    """How a column's values are stored; the value is the type's name in PostgreSQL."""

    TEXT = "TEXT"
    BIGINT = "BIGINT"
    DOUBLE = "DOUBLE PRECISION"
    BOOLEAN = "BOOLEAN"
    TIMESTAMPTZ = "TIMESTAMPTZ"
    BYTEA = "BYTEA"
    JSONB = "JSONB"
    UUID = "UUID"
    NUMERIC = "NUMERIC"
    DATE = "DATE"
    TIME = "TIME"
    INTERVAL = "INTERVAL"


_NUMBERS = {Kind.BIGINT: int, Kind.DOUBLE: float, Kind.NUMERIC: Decimal}


@dataclass(frozen=True, slots=True)
class Field:
    """One field of a model.

    `annotation` is bare: without `Annotated`, and without the `None` that `nullable` tells of. `kind` is None for
    ignored fields only. A key that is `generated` may be None until the database has assigned it, and is not
    `nullable`: no record that is stored has None there. `choices` are the members of an Enum or Literal by the text of
    their value. The value of `default` has the form it has in a row. `factory` makes the class's own default, where it
    has one.
    """

    name: str
    annotation: Any
    kind: Kind | None
    nullable: bool = False
    primary_key: bool = False
    generated: bool = False
    unique: bool = False
    indexed: bool = False
    default: Default | None = None
    omit_cache: bool = False
    omit_l1: bool = False
    auto_now: bool = False
    auto_now_add: bool = False
    encrypted: bool = False
    ignore: bool = False
    choices: Mapping[str, Any] | None = None
    factory: Callable[[], Any] | None = None

    @property
    def sql_type(self) -> str:
        """The column's type in PostgreSQL."""
        assert self.kind is not None
        return self.kind.value

    @property
    def number(self) -> type | None:
        """The type of its numbers, where they can be added to."""
        kind = None if self.kind is None or self.primary_key else _NUMBERS.get(self.kind)
        return kind if kind is self.annotation else None

    @property
    def left_to_database(self) -> bool:
        """Whether a record of the class lacks the value unless it is given, as that of a column which is computed."""
        return isinstance(self.factory, Constant) and self.factory.value is UNLOADED

    @property
    def stamped(self) -> bool:
        """Whether Strata writes the value, whatever the caller gave."""
        return self.auto_now or self.auto_now_add


def check_identifier(name: Any, what: str) -> str:
    """`name`, if it is a plain SQL identifier of at most 63 bytes. Raises `InvalidModelError` otherwise."""
    if not isinstance(name, str) or not _IDENTIFIER.match(name) or len(name) > MAX_IDENTIFIER:
        raise InvalidModelError(
            f"{what} {shown(name)} is not an identifier; it must be at most {MAX_IDENTIFIER} letters (a-z), digits and "
            "underscores, not beginning with a digit"
        )
    return name


def check_column_name(name: str, where: str) -> None:
    """Raise `InvalidModelError` where a field's name cannot be a column's."""
    check_identifier(name, f"the field of {where}")
    if name.lower().startswith(RESERVED):
        raise InvalidModelError(f"{where}.{name}: names that begin with {RESERVED} are Strata's own; choose another")
