"""pydantic models as models: their columns, their settings, and what is refused."""

from __future__ import annotations

import enum
import logging
import subprocess
import sys
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any, Literal
from uuid import UUID

import pydantic
import pytest
from annotated_types import Len
from pydantic import (
    AwareDatetime,
    BaseModel,
    ConfigDict,
    EmailStr,
    Field,
    PositiveInt,
    conint,
    constr,
)
from pydantic_core import core_schema

from strata import InvalidModelError
from strata.model import Encrypted, Ignore, compile_model
from tests.pydantic_records import (
    NOW,
    SECRET,
    Address,
    Box,
    Color,
    Key,
    Player,
    Visit,
    address,
    player,
    refused,
    stored,
    ways,
)

ROOT = Path(__file__).parents[2]


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


class Opaque(BaseModel):
    id: Key

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: Any) -> Any:
        return core_schema.no_info_plain_validator_function(lambda value: value)


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
        (Opaque, ["Opaque", "core schema"]),
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
warnings.simplefilter("ignore")  # of pydantic's, about its first versionfrom pydantic_core import core_schema

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
    with pytest.raises(InvalidModelError, match=r"pydantic 2\.9\.2; Strata takes 2\.12"):
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
