"""What a model's outline tells apart: two releases whose kept rows differ, and nothing else."""

from __future__ import annotations

import enum
from dataclasses import dataclass, field, make_dataclass
from typing import Annotated, Any, Literal

import pytest

from strata import Encrypted, Indexed, OmitCache, OmitL1, PrimaryKey
from strata.model import compile_model


class Old(enum.Enum):
    RED = "red"


class Renamed(enum.Enum):
    RED = "red"


class Grown(enum.Enum):
    RED = "red"
    BLUE = "blue"


@dataclass
class Line:
    name: str


@dataclass
class LongLine:
    name: str
    size: int = 0


@dataclass
class Tree:
    branches: list[Tree] = field(default_factory=list)


@dataclass
class Left:
    right: Right | None = None


@dataclass
class Right:
    left: Left | None = None
    again: Left | None = None


def outline(*fields: tuple[str, Any], name: str = "Record") -> str:
    return compile_model(make_dataclass(name, [("id", Annotated[str, PrimaryKey]), *fields])).outline


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ([("a", int)], []),
        ([("a", int)], [("b", int)]),
        ([("a", int)], [("a", str)]),
        ([("a", int)], [("a", int | None)]),
        ([("a", str)], [("a", Annotated[str, Encrypted])]),
        ([("a", str)], [("a", Annotated[str, OmitCache])]),
        ([("a", Old)], [("a", Grown)]),
        ([("a", Literal["x"])], [("a", Literal["x", "y"])]),
        ([("a", list[int])], [("a", list[str])]),
        ([("a", list[Line])], [("a", list[LongLine])]),
        ([("a", dict[str, Line])], [("a", dict[str, Line | None])]),
        ([("a", Left)], [("a", Right)]),
    ],
)
def test_models_whose_kept_rows_differ_have_outlines_of_their_own(one: Any, other: Any) -> None:
    assert outline(*one) != outline(*other)


def test_neither_the_order_of_fields_nor_names_of_classes_nor_what_is_not_kept_matter() -> None:
    base = outline(("a", int), ("b", Old))
    assert base == outline(("b", Renamed), ("a", int), name="Other")
    assert base == outline(("a", Annotated[int, Indexed]), ("b", Annotated[Old, OmitL1]))


def test_records_that_hold_themselves_or_each_other_have_an_outline() -> None:
    assert outline(("a", Tree)) == outline(("a", Tree))
    assert outline(("a", Left), ("b", Right)) == outline(("b", Right), ("a", Left))
