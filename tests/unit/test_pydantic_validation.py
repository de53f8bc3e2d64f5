"""Records of pydantic models are validated when they are checked, whole or in part, and no message holds a value."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Annotated, Any, Self

import msgspec
import pydantic
import pytest
from pydantic import (
    AliasChoices,
    AliasPath,
    BaseModel,
    ConfigDict,
    Field,
    PrivateAttr,
    field_validator,
    model_validator,
)
from pydantic_core import PydanticCustomError

from strata import MissingPrimaryKeyError, PrimaryKey
from strata.model import UNLOADED, AutoNowAdd, Ignore, OmitCache, OmitL1, compile_model
from tests.pydantic_records import (
    NOW,
    SECRET,
    Address,
    Box,
    Key,
    Player,
    Visit,
    address,
    player,
    refused,
    stored,
    ways,
)


def test_a_record_is_validated_as_it_is_now() -> None:
    changed = player()
    changed.level = -1
    error = refused(changed, "Player.level", "greater than 0", "greater_than")
    assert error.__cause__ is None and error.__context__ is None  # pydantic's own holds the input
    refused(Player.model_construct(id="a", username=SECRET * 2), "Player.username", "at most 8 characters")
    refused(Player.model_construct(id="a"), "Player.username", "missing")
    refused(player().model_copy(update={"tags": [SECRET, 5]}), "Player.tags", "valid string")
    refused(player().model_copy(update={"level": SECRET, "username": SECRET * 2}), "Player.level", "Player.username")
    with pytest.raises(MissingPrimaryKeyError):
        compile_model(Player).check(player().model_copy(update={"id": ""}))


def test_what_a_column_cannot_hold_is_refused_though_the_model_allows_it() -> None:
    refused(player(email="nul\0"), "Player.email", "NUL")
    refused(player().model_copy(update={"level": 1 << 63}), "Player.level", "BIGINT")


@pytest.mark.parametrize(
    "damage",
    [
        lambda it: setattr(it.home, "zip", SECRET),
        lambda it: setattr(it.home.others[0], "zip", SECRET),
        lambda it: it.home.others.append(Address.model_construct(street="s", zip=SECRET)),
        lambda it: setattr(it.visits[0].where, "zip", SECRET),
    ],
)
def test_nested_models_are_validated_too(damage: Callable[[Any], None]) -> None:
    record = player(visits=[Visit(NOW, address())])
    damage(record)
    refused(record, "Player.", "Address.zip", "match pattern")


def test_a_nested_record_may_be_given_as_the_model_s_constructor_takes_it() -> None:
    given = player().model_copy(update={"home": {"street": "s", "postCode": "12345"}})
    assert stored(given).home == address()
    refused(player().model_copy(update={"home": {"street": "s", "postCode": SECRET}}), "Player.home")


@dataclass
class Diary:
    id: Key
    visits: dict[str, Visit]
    last: tuple[Address, ...] = ()
    scratch: Annotated[list[int], Ignore] = field(default_factory=list)


class Log(msgspec.Struct):
    id: Annotated[int, PrimaryKey]
    home: Address


def test_models_within_dataclasses_and_structs_are_validated_and_come_back_unchecked() -> None:
    there = address()
    for record in (Diary("a", {"x": Visit(NOW, there)}, (there,)), Log(1, there)):
        plan = compile_model(type(record))
        for way, back in ways(plan, stored(record)).items():
            assert back == record, way
    bad = Address.model_construct(street="s", zip=SECRET, others=[])
    refused(Diary("a", {"x": Visit(NOW, bad)}), "Diary.visits", "Address.zip")
    refused(Diary("a", {}, (there, bad)), "Diary.last", "Address.zip")
    refused(Log(1, bad), "Log.home", "Address.zip")
    unset = Visit(NOW, there)
    del unset.where
    refused(Diary("a", {"x": unset}), "Diary.visits")
    refused(Diary("a", [there]), "Diary.visits")  # type: ignore[arg-type]


class Normal(BaseModel):
    id: Key
    email: str
    words: list[str] = []
    low: int = 0
    high: int = 0

    @field_validator("email")
    @classmethod
    def lower(cls, email: str) -> str:
        if "@" not in email:
            raise ValueError(f"{email} is no address")
        return email.lower()

    @field_validator("words", mode="before")
    @classmethod
    def split(cls, words: Any) -> Any:
        return words.split() if isinstance(words, str) else words

    @model_validator(mode="before")
    @classmethod
    def named(cls, given: Any) -> Any:
        assert isinstance(given, dict)
        return {**given, "email": given["email"].strip()}

    @model_validator(mode="after")
    def ordered(self) -> Self:
        if self.low > self.high:
            raise PydanticCustomError("not_ordered", "{low} is above", {"low": self.low, SECRET: SECRET})
        return self


def test_what_validators_return_is_what_is_stored() -> None:
    given = Normal.model_construct(id="a", email=" A@B ", words="one two", low=0, high=0)
    assert stored(given) == Normal(id="a", email="a@b", words=["one", "two"])
    assert given.email == " A@B "
    refused(given.model_copy(update={"email": SECRET}), "Normal.email", "value_error")
    refused(given.model_copy(update={"low": 5}), "Normal is refused", "not_ordered")
    error = refused(
        given.model_copy(update={"email": 5}), "Normal", "raises AttributeError", "test_pydantic_validation"
    )
    assert error.__context__ is None


class Odd(BaseModel):
    id: Key
    count: int = 0

    @model_validator(mode="wrap")
    @classmethod
    def other(cls, given: Any, handler: Any) -> Any:
        made = handler(given)
        return {"id": "a"} if made.count else made


def test_a_validator_that_makes_something_else_of_the_record_is_told() -> None:
    assert stored(Odd(id="a")) == Odd(id="a")
    refused(Odd.model_construct(id="a", count=1), "Odd", "makes a dict")


class Aliased(BaseModel):
    """Aliases that are names of others, paths and choices."""

    model_config = ConfigDict(extra="forbid")
    id: Key
    one: int = Field(alias="two")
    two: int = Field(alias="one")
    deep: str = Field(validation_alias=AliasPath("deeper", 0))
    some: str = Field(validation_alias=AliasChoices("a", "b"), serialization_alias="c")


class Named(BaseModel):
    model_config = ConfigDict(validate_by_name=True, validate_by_alias=False)
    id: Key
    one: int = Field(alias="uno")


def aliased() -> Aliased:
    return Aliased.model_validate({"id": "k", "two": 1, "one": 2, "deeper": ["d"], "a": "s"})


def test_columns_have_the_names_of_fields_whatever_the_aliases() -> None:
    for record in (aliased(), Named.model_validate({"id": "a", "one": 1}), Box[Address](id="a", content=address())):
        plan = compile_model(type(record))
        assert plan.column_names == tuple(type(record).model_fields)
        for way, back in ways(plan, stored(record)).items():
            assert back == record, way
    assert stored(aliased()).one == 1


class Spanish(BaseModel):
    id: Key
    name: str = Field(alias="nombre")

    def __init__(self, **given: Any) -> None:
        super().__init__(**{**given, "nombre": given["nombre"].title()})

    @model_validator(mode="before")
    @classmethod
    def seen(cls, given: Any) -> Any:
        assert "nombre" in given
        return given


def test_validators_that_run_before_see_what_the_constructor_is_given() -> None:
    assert stored(Spanish.model_construct(id="a", nombre="ana")).name == "Ana"


def test_what_is_overwritten_is_not_validated() -> None:
    given = player().model_copy(update={"made": SECRET, "seen": datetime(2026, 1, 1)})
    assert (stored(given).made, stored(given).seen) == (NOW, NOW)
    required = pydantic.create_model("Required", id=(Key, ...), made=(Annotated[datetime, AutoNowAdd], ...))
    assert stored(required.model_construct(id="a", made=None)).made == NOW


def test_of_a_record_in_part_the_fields_that_are_there_are_validated() -> None:
    plan = compile_model(Player)
    part = plan.part({"id": "a", "level": 5, "home": address()})
    assert part.username is UNLOADED and part.model_fields_set == {"id", "level", "home"}
    for found in (plan.check(part), plan.prepare(plan.check(part), NOW), plan.copy(part), copy.deepcopy(part)):
        assert found.level == 5 and found.username is UNLOADED
        assert found.model_fields_set - {"seen"} == {"id", "level", "home"}
    assert pickle.loads(pickle.dumps(part)) == part
    assert part.model_dump(exclude_unset=True, exclude={"shout"}).keys() == {"id", "level", "home"}
    refused(plan.part({"id": "a", "level": -1}), "Player.level", "greater than 0")
    refused(plan.part({"id": "a", "username": SECRET * 2}), "Player.username")
    refused(plan.part({"id": "a", "home": Address.model_construct(street="s", zip=SECRET)}), "Address.zip")


def test_rules_of_fields_hold_in_part_and_rules_of_the_whole_do_not() -> None:
    plan = compile_model(Normal)
    assert plan.check(plan.part({"id": "a", "email": "A@B", "words": "x y"})).email == "a@b"
    assert plan.check(plan.part({"id": "a", "words": "x y"})).words == ["x", "y"]
    refused(plan.part({"id": "a", "email": SECRET}), "Normal.email")
    plan.check(plan.part({"id": "a", "low": 5}))
    assert compile_model(Aliased).check(compile_model(Aliased).part({"id": "k", "deep": "d"})).deep == "d"
    recursive = compile_model(Box[Address])
    recursive.check(recursive.part({"id": "a", "more": [address()]}))


class Private(BaseModel):
    id: Key
    name: str
    secret: Annotated[str | None, OmitCache] = None
    text: Annotated[list[str] | None, OmitL1] = None
    scratch: Annotated[list[int], Ignore] = []
    hidden: str = Field(default="", exclude=True)
    _count: int = PrivateAttr(default=3)
    _items: list[int] = PrivateAttr(default_factory=list)
    _unset: int


def test_private_and_ignored_fields_have_their_defaults_and_what_is_excluded_is_stored() -> None:
    plan = compile_model(Private)
    given = Private.model_validate(
        {"id": "a", "name": "n", "secret": "s", "text": ["t"], "scratch": [1], "hidden": "h"}
    )
    given._count, given._unset = 5, 6
    given._items.append(1)
    for way, back in ways(plan, stored(given)).items():
        assert (back._count, back._items, back.scratch, back.hidden) == (3, [], [], "h"), way
        assert not hasattr(back, "_unset") and "scratch" not in back.model_fields_set, way
    first, second = plan.copy(given), plan.copy(given)
    first._items.append(1)
    first.scratch.append(1)
    assert second._items == second.scratch == [] and given._items == [1]
    thawed = plan.thaw(plan.freeze(given))
    assert (thawed.secret, thawed.text) == (UNLOADED, UNLOADED)
    assert thawed.model_fields_set == {"id", "name", "hidden"}
    assert plan.cached(given).model_fields_set == {"id", "name", "hidden", "text"}
