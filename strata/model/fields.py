"""A model's fields as plain frozen facts, which everything else reads."""

from __future__ import annotations

import enum
import re
from dataclasses import dataclass
from typing import Any

from strata.errors import InvalidModelError
from strata.model.markers import Default

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


@dataclass(frozen=True, slots=True)
class Field:
    """One field. `annotation` is bare: without Annotated and None. `choices` maps text to the members of an Enum or
    Literal; `default_factory` gives an ignored field its value."""

    name: str
    annotation: Any
    kind: Kind | None
    nullable: bool = False
    primary_key: bool = False
    unique: bool = False
    indexed: bool = False
    default: Default | None = None
    omit_cache: bool = False
    omit_l1: bool = False
    auto_now: bool = False
    auto_now_add: bool = False
    encrypted: bool = False
    ignore: bool = False
    choices: dict[str, Any] | None = None
    default_factory: Any = None

    @property
    def sql_type(self) -> str:
        """The column's type in PostgreSQL."""
        assert self.kind is not None
        return self.kind.value


def check_identifier(name: Any, what: str) -> str:
    """`name`, if it is a plain SQL identifier of at most 63 bytes. Raises `InvalidModelError` otherwise."""
    if not isinstance(name, str) or not _IDENTIFIER.match(name) or len(name) > 63:
        raise InvalidModelError(
            f"{what} {name!r} is not an identifier; it must be at most 63 letters (a-z), digits and underscores, "
            "not beginning with a digit"
        )
    return name
