"""Markers are usable bare or called, and UNLOADED is one object for ever."""

from __future__ import annotations

import copy
import pickle
from dataclasses import dataclass
from typing import Annotated, Any

import pytest

from strata.errors import InvalidModelError
from strata.model import UNLOADED, Default, Indexed, PrimaryKey, Unique, compile_model


def test_unloaded_is_falsy_and_says_its_name() -> None:
    assert not UNLOADED
    assert repr(UNLOADED) == "UNLOADED"


@pytest.mark.parametrize(
    "clone",
    [copy.copy, copy.deepcopy, *(lambda it, p=p: pickle.loads(pickle.dumps(it, p)) for p in range(6))],
)
def test_unloaded_survives_copy_and_pickle_as_itself(clone: Any) -> None:
    assert clone(UNLOADED) is UNLOADED
    assert clone([UNLOADED])[0] is UNLOADED


def test_a_marker_works_as_a_class_and_as_an_instance() -> None:
    @dataclass
    class Bare:
        id: Annotated[str, PrimaryKey]
        name: Annotated[str, Unique, Indexed]

    @dataclass
    class Called:
        id: Annotated[str, PrimaryKey()]
        name: Annotated[str, Unique(), Indexed()]

    bare, called = compile_model(Bare), compile_model(Called)
    assert bare.columns == called.columns
    assert bare.key.names == ("id",)
    assert bare.columns[1].unique and bare.columns[1].indexed


def test_default_holds_a_literal_or_an_expression() -> None:
    assert (Default(1).value, Default(1).sql) == (1, None)
    assert (Default(None).value, Default(None).sql) == (None, None)
    assert Default(sql="now()").sql == "now()"
    assert repr(Default("x")) == "Default('x')"
    for arguments in ((), (1, 2)):
        with pytest.raises(TypeError):
            Default(*arguments)
    with pytest.raises(TypeError):
        Default(1, sql="now()")


def test_a_default_without_a_value_is_refused() -> None:
    @dataclass
    class Vague:
        id: Annotated[str, PrimaryKey]
        level: Annotated[int, Default] = 1

    with pytest.raises(InvalidModelError, match=r"Vague\.level.*Default\(1\)"):
        compile_model(Vague)


def test_foreign_metadata_is_left_alone() -> None:
    @dataclass
    class Documented:
        id: Annotated[str, "the id", PrimaryKey, 5]

    assert compile_model(Documented).key.names == ("id",)
