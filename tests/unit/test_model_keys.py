"""Keys have one canonical text each."""

from __future__ import annotations

import enum
from dataclasses import make_dataclass
from typing import Annotated, Any
from uuid import UUID

import pytest

from strata.errors import DecodeError, EncodeError, MissingPrimaryKeyError
from strata.model import UNLOADED, ModelPlan, PrimaryKey, compile_model


class Text(enum.StrEnum):
    A = "a"


class Number(enum.IntEnum):
    ONE = 1


def plan(kind: Any) -> ModelPlan[Any]:
    return compile_model(make_dataclass("Made", [("id", Annotated[kind, PrimaryKey])]))


@pytest.mark.parametrize(
    ("kind", "key", "text"),
    [
        (str, "p1", "p1"),
        (str, "é 💥:{}\n", "é 💥:{}\n"),
        (int, 0, "0"),
        (int, -1, "-1"),
        (int, 2**63 - 1, "9223372036854775807"),
        (int, -(2**63), "-9223372036854775808"),
        (UUID, UUID(int=10), "00000000-0000-0000-0000-00000000000a"),
    ],
)
def test_a_key_has_a_text_and_the_text_gives_it_back(kind: Any, key: Any, text: str) -> None:
    assert plan(kind).key_text(key) == text
    back = plan(kind).parse_key(text)
    assert back == key and type(back) is kind


class Loud(str):
    def __str__(self) -> str:
        return "loud"


@pytest.mark.parametrize("key", [Text.A, Loud("a")])
def test_a_text_of_a_class_of_its_own_is_the_key_that_it_spells(key: str) -> None:
    id, text = plan(str).key_and_text(key)
    assert (id, text) == ("a", "a") and type(id) is str and type(text) is str


@pytest.mark.parametrize(
    ("kind", "key"),
    [
        (str, 1),
        (str, b"p1"),
        (str, None),
        (str, "nul\0"),
        (str, "\ud800"),
        (str, UNLOADED),
        (int, True),
        (int, 1.0),
        (int, "1"),
        (int, Number.ONE),
        (int, 2**63),
        (int, -(2**63) - 1),
        (int, []),
        (UUID, str(UUID(int=1))),
        (UUID, 1),
    ],
)
def test_what_is_no_key_is_refused_without_being_shown(kind: Any, key: Any) -> None:
    with pytest.raises(EncodeError, match="a key of Made") as caught:
        plan(kind).key_text(key)
    shown = repr(key) if key is UNLOADED else str(key)
    assert shown not in str(caught.value) or shown in ("1", "a", "None", "", "UNLOADED")


@pytest.mark.parametrize("letter", ["a", "é", "💥"])
def test_a_key_may_have_2048_bytes_whatever_its_letters(letter: str) -> None:
    most = letter * (2048 // len(letter.encode()))
    assert plan(str).key_text(most) == most
    with pytest.raises(EncodeError, match="2,048") as caught:
        plan(str).key_text(most + "a")
    assert most not in str(caught.value)


def test_the_empty_key_is_missing() -> None:
    with pytest.raises(MissingPrimaryKeyError, match="Made"):
        plan(str).key_text("")


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        (str, ""),
        (int, ""),
        (int, "x"),
        (int, "+1"),
        (int, "01"),
        (int, " 1"),
        (int, "1_0"),
        (int, "١"),
        (int, "-0"),
        (int, str(2**63)),
        (UUID, ""),
        (UUID, "x"),
        (UUID, UUID(int=10).hex),
        (UUID, str(UUID(int=10)).upper()),
        (UUID, "{" + str(UUID(int=10)) + "}"),
    ],
)
def test_a_text_that_is_not_canonical_is_no_key(kind: Any, text: str) -> None:
    with pytest.raises(DecodeError, match="Made"):
        plan(kind).parse_key(text)


def test_key_of_reads_the_record() -> None:
    made = plan(int)
    assert made.key_of(made.model(0)) == 0
