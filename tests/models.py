"""The models that the tests share."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from typing import Annotated

import strata


@dataclass
class Player:
    """The player of the contract."""

    id: Annotated[str, strata.PrimaryKey]
    username: Annotated[str, strata.Unique, strata.Indexed]
    email: Annotated[str | None, strata.Indexed] = None
    level: Annotated[int, strata.Default(1)] = 1
    created_at: Annotated[datetime | None, strata.AutoNowAdd] = None
    updated_at: Annotated[datetime | None, strata.AutoNow] = None


@dataclass
class Note:
    """Nested and mutable, with an int key."""

    id: Annotated[int, strata.PrimaryKey]
    text: str = ""
    tags: list[str] = field(default_factory=list)
    meta: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Point:
    """Immutable: handed out without a copy."""

    id: Annotated[str, strata.PrimaryKey]
    x: int = 0
    y: int = 0


@dataclass
class Account:
    """Fields that not every tier holds."""

    id: Annotated[str, strata.PrimaryKey]
    name: str
    secret: Annotated[str | None, strata.OmitCache] = None
    biography: Annotated[str | None, strata.OmitL1] = None
    token: Annotated[str | None, strata.Encrypted] = None
    scratch: Annotated[int, strata.Ignore] = 0
