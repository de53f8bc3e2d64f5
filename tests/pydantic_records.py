"""pydantic models that tests share, and the ways on which their records are checked and made."""

from __future__ import annotations

import enum
import functools
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, Any, ClassVar, Generic, TypeVar

import pytest
from pydantic import (
    AwareDatetime,
    BaseModel,
    Field,
    PositiveInt,
    computed_field,
)

import strata
from strata import Default, EncodeError, PrimaryKey
from strata.codec import JSON, MsgPack
from strata.model import AutoNow, AutoNowAdd, ModelPlan, compile_model

NOW = datetime(2026, 1, 2, 3, 4, 5, 6, tzinfo=UTC)
SECRET = "hunter2"  # no message may hold it
T = TypeVar("T")
Key = Annotated[str, PrimaryKey]


class Color(enum.Enum):
    RED = "red"
    BLUE = "blue"


class Address(BaseModel):
    street: str
    zip: Annotated[str, Field(pattern=r"^\d{5}$", alias="postCode")]
    others: list[Address] = []


@dataclass
class Visit:
    at: datetime
    where: Address


class Player(BaseModel):
    id: Key
    username: Annotated[str, strata.Unique, strata.Indexed, Field(max_length=8)]
    email: Annotated[str | None, strata.Indexed] = None
    level: Annotated[PositiveInt, Default(1)] = 1
    tags: list[str] = Field(default_factory=list)
    home: Address | None = None
    visits: list[Visit] = []
    made: Annotated[datetime | None, AutoNowAdd] = None
    seen: Annotated[AwareDatetime | None, AutoNow] = None
    most: ClassVar[int] = 99

    @computed_field  # type: ignore[prop-decorator]
    @property
    def shout(self) -> str:
        return self.username.upper()

    @functools.cached_property
    def whisper(self) -> str:
        return self.username.lower()


class Box(BaseModel, Generic[T]):
    id: Key
    content: T
    more: list[T] = []


def address(zip: str = "12345", **fields: Any) -> Address:
    return Address.model_validate({"street": "s", "postCode": zip, **fields})


def player(**fields: Any) -> Player:
    home = address(others=[address(zip="54321")])
    return Player(**{"id": "a", "username": "andrew", "home": home, "visits": [Visit(NOW, home)], **fields})


def stored(record: Any) -> Any:
    plan = compile_model(type(record))
    return plan.prepare(plan.check(record), NOW)


def ways(plan: ModelPlan[Any], record: Any) -> dict[str, Any]:
    """The record by every way on which one is made."""
    row = plan.to_row(record, None)
    names, values = plan.unpack_row(plan.pack_row(row))
    return {
        "prepare": plan.prepare(plan.check(record), NOW),
        "copy": plan.copy(record),
        "thaw": plan.thaw(plan.freeze(record)),
        "merge": plan.merge(record, record),
        "row": plan.from_row(row, None),
        "packed": plan.from_row(values, None, names),
        "JSON": plan.decoder(JSON())(plan.encoder(JSON())(record)),
        "MsgPack": plan.decoder(MsgPack())(plan.encoder(MsgPack())(record)),
    }


def refused(record: Any, *words: str) -> EncodeError:
    """The error of a check; it tells these words, and nothing of a value."""
    with pytest.raises(EncodeError) as caught:
        compile_model(type(record)).check(record)
    error = caught.value
    assert [word for word in words if word not in str(error)] == []
    assert SECRET not in str(error)
    return error
