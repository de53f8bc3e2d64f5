"""A model is read from its class, and refused with class, field and type where it cannot be."""

from __future__ import annotations

import abc
import dataclasses
import enum
import typing
from dataclasses import KW_ONLY, InitVar, dataclass, field
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from typing import Annotated, Any, ClassVar, Literal, NewType, Optional, TypeAlias
from uuid import UUID

import msgspec
import pytest

from strata.errors import InvalidModelError, NoPrimaryKeyError
from strata.model import (
    AutoNow,
    AutoNowAdd,
    Default,
    Encrypted,
    Field,
    Ignore,
    Indexed,
    Kind,
    OmitCache,
    OmitL1,
    PrimaryKey,
    Unique,
    check_identifier,
    compile_model,
)

Name = NewType("Name", str)


class Color(enum.Enum):
    RED = "red"
    BLUE = "blue"


class Level(enum.IntEnum):
    LOW = 1
    HIGH = 2


@dataclass
class Address:
    street: str
    zip: int = 0


def of(annotation: Any, **options: Any) -> Field:
    """The field `value` of a model that has it beside its key."""
    made = dataclasses.make_dataclass("Made", [("id", Annotated[str, PrimaryKey]), ("value", annotation)], **options)
    return compile_model(made).fields[1]


@pytest.mark.parametrize(
    ("annotation", "kind"),
    [
        (str, "TEXT"),
        (int, "BIGINT"),
        (float, "DOUBLE PRECISION"),
        (bool, "BOOLEAN"),
        (datetime, "TIMESTAMPTZ"),
        (bytes, "BYTEA"),
        (UUID, "UUID"),
        (Decimal, "NUMERIC"),
        (date, "DATE"),
        (time, "TIME"),
        (timedelta, "INTERVAL"),
        (Color, "TEXT"),
        (Level, "BIGINT"),
        (Literal["a", "b"], "TEXT"),
        (Literal[1, 2], "BIGINT"),
        (Name, "TEXT"),
        (Address, "JSONB"),
        (dict, "JSONB"),
        (list, "JSONB"),
        (set, "JSONB"),
        (tuple, "JSONB"),
        (typing.List, "JSONB"),  # noqa: UP006 people still write it
        (dict[str, Any], "JSONB"),
        (dict[int, list[Address | None]], "JSONB"),
        (list[int | str | None], "JSONB"),
        (tuple[int, str], "JSONB"),
        (tuple[float, ...], "JSONB"),
        (set[int], "JSONB"),
        (frozenset[str], "JSONB"),
    ],
)
def test_each_type_has_its_column_and_optional_makes_it_nullable(annotation: Any, kind: str) -> None:
    plain = of(annotation)
    assert (plain.sql_type, plain.nullable) == (kind, False)
    for optional in (
        Optional[annotation],  # noqa: UP045 people still write it
        Annotated[annotation | None, Indexed],
        Annotated[annotation, 5] | None,
    ):
        assert (of(optional).sql_type, of(optional).nullable) == (kind, True)


@pytest.mark.parametrize(
    "annotation",
    [
        complex,
        object,
        Any,
        int | str,
        type,
        list[complex],
        dict[float, int],
        dict[bytes, int],
        dict[Address, int],
        enum.Flag("F", "A B"),
        enum.Enum("Mixed", {"A": 1, "B": "b"}),
        enum.Enum("Empty", {}),
        Literal["a", 1],
        Literal[True],
        Literal[b"x"],
        Literal["nul\x00"],
        list[Address | int],
        PrimaryKey,
        None,
        range,
        bytearray,
        memoryview,
        typing.Callable[[], int],
        typing.TypeVar("T"),
        list[list[object | complex]],
    ],
)
def test_an_unsupported_type_is_refused_with_class_and_field(annotation: Any) -> None:
    with pytest.raises(InvalidModelError, match=r"Made\.value"):
        of(annotation)


def test_the_type_is_named_with_what_would_be_right() -> None:
    with pytest.raises(InvalidModelError, match=r"Made\.value has the type complex; it must be one of str, int"):
        of(complex)
    with pytest.raises(InvalidModelError, match=r"Made\.value \(Box\.inner\) holds complex"):
        of(dataclasses.make_dataclass("Box", [("inner", complex)]))


@dataclass
class Marked:
    id: Annotated[int, PrimaryKey]
    name: Annotated[str, Unique, Indexed]
    secret: Annotated[str | None, OmitCache] = None
    text: Annotated[str | None, OmitL1] = None
    token: Annotated[str, Encrypted] = ""
    level: Annotated[int, Default(1)] = 1
    color: Annotated[Color, Default(Color.RED)] = Color.RED
    tags: Annotated[list[str], Default(["a"])] = field(default_factory=list)
    made: Annotated[datetime | None, AutoNowAdd, Default(sql="now()")] = None
    seen: Annotated[datetime, AutoNow] = datetime.min
    scratch: Annotated[object, Ignore] = None


def test_markers_become_facts_in_the_order_of_declaration() -> None:
    plan = compile_model(Marked)
    assert [item.name for item in plan.fields][-1] == "scratch"
    assert plan.column_names == tuple(item.name for item in plan.fields)[:-1]
    by_name = {item.name: item for item in plan.fields}
    assert by_name["id"].primary_key and plan.key.fields == (by_name["id"],)
    assert by_name["id"].kind is Kind.BIGINT
    assert by_name["name"].unique and by_name["name"].indexed
    assert by_name["secret"].omit_cache and by_name["text"].omit_l1 and by_name["token"].encrypted
    assert by_name["made"].auto_now_add and by_name["seen"].auto_now
    assert by_name["scratch"].ignore and by_name["scratch"].kind is None
    assert (plan.has_omitted_l1, plan.has_omitted_l2, plan.has_encrypted, plan.immutable) == (True, True, True, False)
    with pytest.raises(dataclasses.FrozenInstanceError):
        plan.fields[0].name = "other"  # type: ignore[misc]


def test_a_default_has_the_form_that_its_column_holds() -> None:
    defaults = {item.name: item.default for item in compile_model(Marked).columns if item.default}
    assert {name: (it.value, it.sql) for name, it in defaults.items()} == {
        "level": (1, None),
        "color": ("red", None),
        "tags": ('["a"]', None),
        "made": (None, "now()"),
    }


@pytest.mark.parametrize(
    "annotation",
    [
        Annotated[int, Default("one")],
        Annotated[str, Default(None)],
        Annotated[str, Default("nul\0")],
        Annotated[str, Default(1), Default(2)],
        Annotated[Color, Default("red")],
        Annotated[int, Encrypted],
        Annotated[str, Encrypted, Unique],
        Annotated[str, Encrypted, Indexed],
        Annotated[str, Encrypted, Default("")],
        Annotated[str, AutoNow],
        Annotated[date, AutoNowAdd],
        Annotated[datetime, AutoNow, AutoNowAdd],
        Annotated[int, Ignore],
        list[Annotated[int, Ignore]],
        list[Annotated[str, Encrypted]],
    ],
)
def test_a_marker_where_it_cannot_work_is_refused(annotation: Any) -> None:
    with pytest.raises(InvalidModelError, match="Made"):
        of(annotation)


@pytest.mark.parametrize(
    "annotation",
    [
        float,
        bool,
        bytes,
        Color,
        Literal["a"],
        list[int],
        str | None,
        Annotated[str, OmitCache],
        Annotated[int, OmitL1],
        Annotated[str, Encrypted],
    ],
)
def test_a_key_of_another_type_or_that_is_left_out_is_refused(annotation: Any) -> None:
    made = dataclasses.make_dataclass("Made", [("id", Annotated[annotation, PrimaryKey])])
    with pytest.raises(InvalidModelError, match=r"Made\.id is the primary key"):
        compile_model(made)


def test_an_encrypted_field_of_a_nested_class_is_refused() -> None:
    @dataclass
    class Card:
        number: Annotated[str, Encrypted]

    with pytest.raises(InvalidModelError, match=r"Card\.number.*nested"):
        of(list[Card])


def test_a_model_may_be_nested_in_another() -> None:
    @dataclass
    class Part:
        id: Annotated[str, PrimaryKey]
        name: Annotated[str, Unique, Indexed] = ""

    assert of(list[Part]).sql_type == "JSONB"


def test_a_model_without_a_key_is_refused() -> None:
    with pytest.raises(NoPrimaryKeyError, match=r"Address.*Annotated\[str, PrimaryKey\]"):
        compile_model(Address)


@pytest.mark.parametrize("model", [int, "Player", None, Address("a"), list[int], object(), enum.Enum, dict])
def test_what_is_no_dataclass_and_no_struct_is_refused(model: Any) -> None:
    with pytest.raises(InvalidModelError, match=r"a dataclass, a msgspec\.Struct or a pydantic\.BaseModel"):
        compile_model(model)


def test_an_init_var_is_refused_also_when_written_as_text() -> None:
    @dataclass
    class Early:
        id: Annotated[str, PrimaryKey]
        seed: InitVar[int] = 0

    with pytest.raises(InvalidModelError, match=r"Early\.seed is an InitVar"):
        compile_model(Early)
    late = dataclasses.make_dataclass("Late", [("id", Annotated[str, PrimaryKey]), ("seed", InitVar[int])])
    with pytest.raises(InvalidModelError, match=r"Late\.seed is an InitVar"):
        compile_model(late)


def test_class_variables_and_kw_only_marks_are_no_fields() -> None:
    @dataclass
    class Mixed:
        id: Annotated[str, PrimaryKey]
        table: ClassVar[str] = "x"
        _: KW_ONLY
        late: int = field(default=0, init=False)

    assert compile_model(Mixed).column_names == ("id", "late")


def test_fields_are_inherited() -> None:
    @dataclass
    class Base:
        id: Annotated[str, PrimaryKey]
        made: Annotated[datetime | None, AutoNowAdd] = None

    @dataclass
    class Child(Base):
        name: str = ""

    class Root(msgspec.Struct):
        id: Annotated[str, PrimaryKey]

    class Leaf(Root, kw_only=True):
        name: str

    assert compile_model(Child).column_names == ("id", "made", "name")
    assert compile_model(Leaf).column_names == ("id", "name")
    assert compile_model(Base) is not compile_model(Child)


def test_a_struct_renames_its_wire_names_and_not_its_columns() -> None:
    class Renamed(msgspec.Struct, rename="camel", tag=True, array_like=True):
        user_id: Annotated[int, PrimaryKey]
        first_name: str = ""

    assert compile_model(Renamed).column_names == ("user_id", "first_name")


def test_names_of_the_function_around_a_class_are_resolved() -> None:
    Score: TypeAlias = int

    @dataclass
    class Inner:
        score: Score
        parent: Inner | None = None

    @dataclass
    class Outer:
        id: Annotated[str, PrimaryKey]
        inner: Inner
        scores: list[Score]
        me: dict[str, Inner] = field(default_factory=dict)

    class Struct(msgspec.Struct):
        id: Annotated[str, PrimaryKey]
        inner: Inner | None = None

    assert compile_model(Outer).column_names == ("id", "inner", "scores", "me")
    assert compile_model(Struct).columns[1].nullable


def _made_elsewhere() -> type:
    @dataclass
    class Gone:
        id: Annotated[str, PrimaryKey]

    @dataclass
    class Lost:
        id: Annotated[str, PrimaryKey]
        gone: Gone

    return Lost


@dataclass
class Order:
    class State(enum.StrEnum):
        OPEN = "open"

    @dataclass
    class Line:
        article: str

    Color = State  # the module has another, which goes first, as it does in typing.get_type_hints

    id: Annotated[str, PrimaryKey]
    state: State = State.OPEN
    lines: list[Line] = field(default_factory=list)
    color: Color | None = None  # type: ignore[valid-type]
    date: date | None = None


class OrderStruct(msgspec.Struct):
    class State(enum.StrEnum):
        OPEN = "open"

    id: Annotated[str, PrimaryKey]
    state: State = State.OPEN


class Heir(Order):
    pass


def test_names_of_the_class_body_itself_are_resolved() -> None:
    for model in (Order, Heir):
        kinds = {item.name: item.annotation for item in compile_model(model).fields}
        assert kinds["state"] is Order.State
        assert kinds["lines"] == list[Order.Line]
        assert (kinds["color"], kinds["date"]) == (Color, date)
    assert compile_model(OrderStruct).fields[1].annotation is OrderStruct.State


def test_names_that_nobody_knows_any_more_are_an_invalid_model() -> None:
    with pytest.raises(InvalidModelError, match=r"Lost cannot be resolved.*Gone"):
        compile_model(_made_elsewhere())


def test_a_field_may_be_named_like_its_type() -> None:
    @dataclass
    class Day:
        id: Annotated[str, PrimaryKey]
        date: date | None = None

    assert compile_model(Day).columns[1].kind is Kind.DATE


def test_a_plan_is_made_once() -> None:
    assert compile_model(Marked) is compile_model(Marked)


@pytest.mark.parametrize("name", ["a", "_x", "A1_b", "x" * 63, "select"])
def test_an_identifier_is_accepted(name: str) -> None:
    assert check_identifier(name, "schema name") == name


@pytest.mark.parametrize("name", ["", "1a", "a-b", "a b", "é", "x" * 64, 'x"', "x;", "a\n", None, 5])
def test_what_is_no_identifier_is_refused(name: Any) -> None:
    with pytest.raises(InvalidModelError, match="schema name"):
        check_identifier(name, "schema name")


@pytest.mark.parametrize("name", ["_strata_version", "_STRATA", "naïve", "x" * 64])
def test_a_field_that_cannot_name_a_column_is_refused(name: str) -> None:
    made = dataclasses.make_dataclass("Made", [("id", Annotated[str, PrimaryKey]), (name, int)])
    with pytest.raises(InvalidModelError, match="Made"):
        compile_model(made)


def test_an_ignored_field_may_have_any_name_and_type() -> None:
    made = dataclasses.make_dataclass(
        "Made", [("id", Annotated[str, PrimaryKey]), ("_strata_x", Annotated[complex, Ignore], field(default=0j))]
    )
    assert compile_model(made).column_names == ("id",)


def test_an_abstract_class_is_refused() -> None:
    @dataclass
    class Abstract(abc.ABC):
        id: Annotated[str, PrimaryKey]

        @abc.abstractmethod
        def run(self) -> None: ...

    with pytest.raises(InvalidModelError, match="Abstract"):
        compile_model(Abstract)  # type: ignore[type-abstract]
