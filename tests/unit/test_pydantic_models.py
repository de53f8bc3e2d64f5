"""pydantic models: validated when they are checked, made unchecked when they are read, and otherwise as any model."""

from __future__ import annotations

import copy
import enum
import functools
import logging
import pickle
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any, ClassVar, Generic, Literal, Self, TypeVar
from uuid import UUID

import msgspec
import pydantic
import pytest
from annotated_types import Len
from pydantic import (
    AliasChoices,
    AliasPath,
    AwareDatetime,
    BaseModel,
    ConfigDict,
    EmailStr,
    Field,
    PositiveInt,
    PrivateAttr,
    computed_field,
    conint,
    constr,
    field_validator,
    model_validator,
)
from pydantic_core import PydanticCustomError

import strata
from strata import Default, EncodeError, InvalidModelError, MissingPrimaryKeyError, PrimaryKey
from strata.codec import JSON, MsgPack
from strata.model import UNLOADED, AutoNow, AutoNowAdd, Encrypted, Ignore, ModelPlan, OmitCache, OmitL1, compile_model

ROOT = Path(__file__).parents[2]
NOW = datetime(2026, 1, 2, 3, 4, 5, 6, tzinfo=UTC)
SECRET = "hunter2"
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


# -- the model -------------------------------------------------------------------------------------------------------


def test_fields_are_columns_by_their_names_with_their_markers_and_all_else_is_none() -> None:
    plan = compile_model(Player)
    told = {item.name: (item.sql_type, item.nullable) for item in plan.columns}
    assert told == {
        "id": ("TEXT", False),
        "username": ("TEXT", False),
        "email": ("TEXT", True),
        "level": ("BIGINT", False),
        "tags": ("JSONB", False),
        "home": ("JSONB", True),
        "visits": ("JSONB", False),
        "made": ("TIMESTAMPTZ", True),
        "seen": ("TIMESTAMPTZ", True),
    }
    columns = {item.name: item for item in plan.columns}
    assert columns["id"].primary_key and columns["username"].unique and columns["email"].indexed
    default, factory = columns["level"].default, columns["tags"].factory
    assert default is not None and default.value == 1
    assert factory is not None and factory() == [] and factory() is not factory()
    assert columns["made"].auto_now_add and columns["seen"].auto_now


def test_types_of_pydantic_s_that_are_a_plain_type_with_rules_are_columns_of_the_plain_type() -> None:
    class Rules(BaseModel):
        id: Key
        count: PositiveInt
        code: constr(min_length=2, to_upper=True)  # type: ignore[valid-type]
        level: conint(ge=1)  # type: ignore[valid-type]
        email: EmailStr
        at: AwareDatetime
        born: pydantic.PastDate | None = None
        key: pydantic.UUID4 = UUID("7c9e6679-7425-40de-944b-e07fc1f90ae7")
        few: Annotated[list[EmailStr], Len(max_length=2)] = []
        price: Annotated[Decimal, Field(decimal_places=2)] = Decimal(0)

    plan = compile_model(Rules)
    kinds = [item.sql_type for item in plan.columns]
    assert kinds == "TEXT BIGINT TEXT BIGINT TEXT TIMESTAMPTZ DATE UUID JSONB NUMERIC".split()
    record = Rules(id="a", count=1, code="ab", level=1, email="a@example.com", at=NOW, born=date(2000, 1, 1))
    for way, back in ways(plan, stored(record)).items():
        assert back == record and back.code == "AB", way
    for name, value in {"count": 0, "code": "x", "email": "nobody", "few": ["x"], "price": Decimal("0.001")}.items():
        refused(record.model_copy(update={name: value}), f"Rules.{name}")


class Box(BaseModel, Generic[T]):
    id: Key
    content: T
    more: list[T] = []


class Base(BaseModel):
    id: Key
    count: int = 0


class Heir(Base):
    count: Annotated[int, Field(ge=5)] = 5
    name: str


def test_generic_and_inherited_models_are_models() -> None:
    plan = compile_model(Box[Address])
    record = Box[Address](id="a", content=address())
    assert [item.sql_type for item in plan.columns] == ["TEXT", "JSONB", "JSONB"]
    for way, back in ways(plan, stored(record)).items():
        assert back == record and type(back) is Box[Address], way
    heir = compile_model(Heir)
    assert heir.column_names == ("id", "count", "name")
    assert heir is not compile_model(Base)
    assert stored(Heir(id="a", name="n")) == Heir(id="a", name="n")
    refused(Heir.model_construct(id="a", name="n", count=4), "Heir.count", "greater than or equal to 5")
    with pytest.raises(InvalidModelError, match="content"):
        compile_model(Box)


def test_names_of_a_function_are_known_to_its_models() -> None:
    class Leaf(BaseModel):
        branch: Branch | None = None

    class Tree(BaseModel):
        id: Key
        leaf: Leaf
        color: Inner

        class Inner(enum.Enum):
            A = "a"

    class Branch(BaseModel):
        leaves: list[Leaf] = []

    plan = compile_model(Tree)
    record = Tree(id="a", leaf=Leaf(branch=Branch(leaves=[Leaf()])), color=Tree.Inner.A)
    for way, back in ways(plan, stored(record)).items():
        assert back == record, way


class Allows(BaseModel):
    model_config = ConfigDict(extra="allow")
    id: Key


class Holds(BaseModel):
    id: Key
    inner: Allows


class Root(pydantic.RootModel[list[int]]):
    pass


def of(annotation: Any) -> Any:
    arbitrary = pydantic.create_model("Arbitrary", __config__=ConfigDict(arbitrary_types_allowed=True))
    return pydantic.create_model("Made", __base__=arbitrary, id=(Key, ...), value=(annotation, ...))


@pytest.mark.parametrize(
    ("model", "words"),
    [
        (Allows, ["Allows", "extra", "ignore"]),
        (Holds, ["Allows", "extra"]),
        (Root, ["Root", "RootModel"]),
        (of(Root), ["Root", "RootModel"]),
        (of(pydantic.SecretStr), ["Made.value", "SecretStr"]),
        (of(list[pydantic.SecretStr]), ["Made.value", "SecretStr"]),
        (of(pydantic.AnyUrl), ["Made.value", "AnyUrl"]),
        (of(pydantic.HttpUrl), ["Made.value", "HttpUrl"]),
        (of(pydantic.IPvAnyAddress), ["Made.value", "IPvAnyAddress"]),
        (of(pydantic.FilePath), ["Made.value", "Path"]),
        (of(pydantic.Json), ["Made.value", "Json"]),
        (of(pydantic.Json[list[int]]), ["Made.value", "Json", "another form"]),
        (of(list[pydantic.Base64Str]), ["Made.value", "EncodedStr", "another form"]),
        (of(pydantic.Base64Bytes | None), ["Made.value", "EncodedBytes"]),
        (of(pydantic.ByteSize), ["Made.value", "ByteSize"]),
        (of(complex), ["Made.value", "complex"]),
        (of(object), ["Made.value", "object"]),
        (of(Address | Visit), ["Made.value"]),
        (of(Annotated[int, Ignore]), ["Made.value", "Ignore", "default"]),
        (of(Annotated[int, Encrypted]), ["Made.value", "Encrypted"]),
    ],
)
def test_what_no_column_can_hold_is_refused_when_the_model_is_read(model: Any, words: list[str]) -> None:
    with pytest.raises(InvalidModelError) as caught:
        compile_model(model)
    assert [word for word in words if word not in str(caught.value)] == []


def test_annotations_that_cannot_be_resolved_are_refused() -> None:
    class Lost(BaseModel):
        id: Key
        other: Nowhere  # type: ignore[name-defined] # noqa: F821

    with pytest.raises(InvalidModelError, match="annotations of Lost"):
        compile_model(Lost)


def test_base_model_itself_is_no_model() -> None:
    with pytest.raises(InvalidModelError, match="not a model"):
        compile_model(BaseModel)


def test_a_model_of_version_1_is_refused_by_its_version() -> None:
    program = """
import warnings
warnings.simplefilter("ignore")  # of pydantic's, about its first version
import strata
from pydantic.v1 import BaseModel

class Old(BaseModel):
    id: str

try:
    strata.DataStore(strata.Config()).register(strata.Schema(Old, l1=strata.MemPolicy()))
except strata.InvalidModelError as error:
    print(error)
"""
    assert "Old is a model of pydantic.v1" in output_of(program)


def test_a_pydantic_that_is_too_old_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pydantic, "VERSION", "2.9.2")
    with pytest.raises(InvalidModelError, match=r"pydantic 2\.9\.2; Strata takes 2\.11"):
        compile_model(of(str))


def output_of(program: str) -> str:
    """What a process of its own prints."""
    words = [sys.executable, "-c", program]
    run = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert run.returncode == 0, run.stderr
    return run.stdout


def test_strata_neither_imports_pydantic_nor_needs_it() -> None:
    program = """
import sys
from dataclasses import dataclass
from typing import Annotated
if {absent}:
    sys.modules["pydantic"] = sys.modules["pydantic_core"] = None  # as where it is not installed
import strata

@dataclass
class Note:
    id: Annotated[str, strata.PrimaryKey]
    text: str = ""

with strata.DataStore(strata.Config()) as store:
    store.register(strata.Schema(Note, l1=strata.MemPolicy()))
    store.set(Note, "a", Note("a", "hello"))
    assert store.get(Note, "a") == Note("a", "hello")
print([name for name, module in sys.modules.items() if name.startswith("pydantic") and module])
"""
    for absent in ("True", "False"):
        assert output_of(program.replace("{absent}", absent)).strip() == "[]"


# -- on the way in ---------------------------------------------------------------------------------------------------


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
    error = refused(given.model_copy(update={"email": 5}), "Normal", "raises AttributeError", "test_pydantic_models")
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


# -- in part ---------------------------------------------------------------------------------------------------------


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


# -- on the way out --------------------------------------------------------------------------------------------------

calls: list[str] = []


class Guarded(BaseModel):
    """Whatever of it runs is noted."""

    model_config = ConfigDict(validate_assignment=True)
    id: Key
    level: PositiveInt = 1
    inner: Inside

    def model_post_init(self, context: Any) -> None:
        calls.append("post init")

    def __setattr__(self, name: str, value: Any) -> None:
        calls.append("setattr")
        super().__setattr__(name, value)

    @field_validator("level")
    @classmethod
    def seen(cls, level: int) -> int:
        calls.append("field")
        return level


class Inside(BaseModel):
    level: PositiveInt = 1

    @model_validator(mode="before")
    @classmethod
    def seen(cls, given: Any) -> Any:
        calls.append("inside")
        return given


def test_nothing_of_the_model_s_own_runs_on_the_way_out() -> None:
    plan = compile_model(Guarded)
    record = stored(Guarded(id="a", inner=Inside()))
    calls.clear()
    record = plan.copy(record)
    row = (*plan.to_row(record, None)[:1], -5, '{"level": -7}')  # as other programs leave it
    for back in (plan.thaw(plan.freeze(record)), plan.merge(record, record), plan.from_row(row, None)):
        assert type(back) is Guarded and type(back.inner) is Inside
    assert (back.level, back.inner.level) == (-5, -7)
    for codec in (JSON(), MsgPack()):
        assert plan.decoder(codec)(plan.encoder(codec)(back)) == back
    assert calls == []
    refused(back, "Guarded.inner", "Inside.level")


class Slotted(BaseModel):
    __slots__ = ("extra",)
    id: Key
    count: int = 0


def test_a_model_with_slots_of_its_own_is_made_too() -> None:
    record = Slotted(id="a", count=5)
    for way, back in ways(compile_model(Slotted), record).items():
        assert back == record and type(back) is Slotted, way


def test_what_comes_out_is_as_what_the_constructor_makes() -> None:
    plan, record = compile_model(Player), stored(player())
    again = Player(**{name: getattr(record, name) for name in Player.model_fields})
    for way, back in ways(plan, record).items():
        assert back == record == again and back is not record, way
        assert list(back.__dict__) == list(Player.model_fields), way
        assert back.model_dump() == again.model_dump() and back.model_dump_json() == again.model_dump_json(), way
        assert back.model_fields_set == set(Player.model_fields), way
        assert back.model_extra is None and repr(back) == repr(again), way
        assert pickle.loads(pickle.dumps(back)) == back and copy.deepcopy(back) == back, way
        changed = back.model_copy(update={"level": 7})
        assert (changed.level, back.level) == (7, 1), way
        back.level = 8
        assert back.whisper == "andrew" and back.level == 8, way


def test_a_copy_shares_nothing_that_can_change() -> None:
    plan, record = compile_model(Player), stored(player())
    frozen = plan.freeze(record)
    copies = [*ways(plan, record).values(), plan.thaw(frozen)]
    record.tags.append("changed")
    record.home.others.clear()
    record.model_fields_set.clear()
    for back in [*copies, plan.thaw(frozen)]:
        assert back.tags == [] and len(back.home.others) == 1 and "id" in back.model_fields_set
    assert Player(id="b", username="b").tags == []


def test_what_is_computed_and_kept_in_the_instance_is_not_stored() -> None:
    plan, given = compile_model(Player), player()
    assert given.whisper == "andrew" and "whisper" in given.__dict__
    for way, back in ways(plan, stored(given)).items():
        assert "whisper" not in back.__dict__, way


class Point(BaseModel):
    model_config = ConfigDict(frozen=True)
    id: Key
    x: int = 0
    path: tuple[Corner, ...] = ()


class Corner(BaseModel):
    model_config = ConfigDict(frozen=True)
    y: int = 0


class Cached(Point):
    @functools.cached_property
    def words(self) -> list[str]:
        return []


class Secretive(Point):
    _private: list[int] = PrivateAttr(default_factory=list)


class Listed(Point):
    z: list[int] = []


class Loose(Point):
    model_config = ConfigDict(frozen=False)


def test_a_frozen_model_of_immutable_fields_is_handed_out_as_it_is() -> None:
    plan, record = compile_model(Point), Point(id="a", path=(Corner(y=1),))
    assert plan.immutable
    assert plan.freeze(record) is record and plan.thaw(record) is record and plan.copy(record) is record
    assert plan.prepare(plan.check(record), NOW) == record
    with pytest.raises(pydantic.ValidationError):
        plan.from_row(plan.to_row(record, None), None).x = 5
    assert hash(stored(record)) == hash(record)
    assert stored(pydantic.create_model("Many", id=(Key, ...), all=(set[Corner], ...))(id="a", all={Corner()})).all


@pytest.mark.parametrize("model", [Cached, Secretive, Listed, Loose])
def test_what_can_change_is_not_shared(model: Any) -> None:
    plan, record = compile_model(model), model(id="a")
    assert not plan.immutable
    for way, back in ways(plan, record).items():
        assert back == record and back is not record, way


# -- settings of the model -------------------------------------------------------------------------------------------


class Valued(BaseModel):
    model_config = ConfigDict(use_enum_values=True)
    id: Key
    color: Color = Color.RED
    maybe: Annotated[Color | None, Field(description="any")] = None
    many: dict[str, list[Color]] = {}


def test_where_enums_are_kept_by_value_values_come_back() -> None:
    plan = compile_model(Valued)
    assert [item.annotation for item in plan.columns[1:3]] == [Literal["red", "blue"]] * 2
    given = Valued(id="a", maybe=Color.BLUE, many={"x": [Color.RED]})
    for way, back in ways(plan, stored(given)).items():
        assert (back.color, back.maybe, back.many) == ("red", "blue", {"x": ["red"]}), way
    refused(given.model_copy(update={"maybe": SECRET}), "Valued.maybe", "'red' or 'blue'")


class Strict(BaseModel):
    model_config = ConfigDict(strict=True, str_strip_whitespace=True, validate_default=True, hide_input_in_errors=True)
    id: Key
    at: date
    key: UUID
    color: Color
    name: str = " n "
    home: Address | None = None


def test_a_strict_model_takes_what_it_kept_itself() -> None:
    plan = compile_model(Strict)
    home = address()
    given = Strict(id="a", at=date(2026, 1, 1), key=UUID(int=5), color=Color.RED, home=home)
    for way, back in ways(plan, stored(given)).items():
        assert back == given and back.name == "n", way
    refused(given.model_copy(update={"at": "2026-01-01"}), "Strict.at")
    refused(plan.part({"id": "a", "key": str(UUID(int=5))}), "Strict.key")
    assert plan.check(plan.part({"id": "a", "name": " x "})).name == "x"


class Deferred(BaseModel):
    model_config = ConfigDict(defer_build=True)
    id: Key
    level: PositiveInt = 1


def test_a_model_that_is_built_at_its_first_use_is_built() -> None:
    refused(Deferred.model_construct(id="a", level=0), "Deferred.level")
    assert stored(Deferred(id="a")) == Deferred(id="a")


def test_defaults_are_defaults_of_the_columns_where_they_last() -> None:
    from strata.model.defaults import default_of

    class Filled(BaseModel):
        id: Key
        level: int = 5
        at: datetime = NOW
        tags: list[str] = ["x"]
        token: UUID = Field(default_factory=lambda: UUID(int=7))
        later: datetime = Field(default_factory=lambda: datetime.now(UTC))
        home: Address = address()
        twice: int = Field(default_factory=lambda data: 2 * data["level"])

    found = {column.field.name: default_of(column) for column in compile_model(Filled).forms}
    values = {name: item.value for name, item in found.items() if item is not None}
    home = '{"street":"s","zip":"12345","others":[]}'
    assert values == {"level": 5, "at": NOW, "tags": '["x"]', "token": UUID(int=7), "home": home}


class Grown(BaseModel):
    home: str
    words: list[str] = ["new"]
    pieces: int = 3


def test_a_nested_model_may_grow() -> None:
    plan = compile_model(pydantic.create_model("Grower", id=(Key, ...), inner=(Grown, ...)))
    back: Any = plan.from_row(("a", '{"home": "h"}'), None)
    assert back.inner == Grown(home="h")
    back.inner.words.append("changed")
    assert Grown(home="h").words == ["new"]


def test_nothing_is_logged_or_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG):
        stored(player())
    assert caplog.records == []
