"""The text of a key of several fields: one for each key, and one key for each text."""

from __future__ import annotations

from dataclasses import make_dataclass
from typing import Annotated, Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from strata.errors import DecodeError
from strata.model import ModelPlan, PrimaryKey, compile_model
from strata.model.keys import shown_key

ALIKE = st.text("/~01a", min_size=1, max_size=6)  # of which escapes are made
TEXTS = ALIKE | st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=20)
VALUES: dict[Any, st.SearchStrategy[Any]] = {str: TEXTS, int: st.integers(-(2**63), 2**63 - 1), UUID: st.uuids()}
KINDS = st.lists(st.sampled_from([str, str, int, UUID]), min_size=2, max_size=4)


def plan(kinds: list[Any]) -> ModelPlan[Any]:
    return compile_model(
        make_dataclass("Made", [(f"f{place}", Annotated[kind, PrimaryKey]) for place, kind in enumerate(kinds)])
    )


def keys(kinds: list[Any]) -> st.SearchStrategy[tuple[Any, ...]]:
    return st.tuples(*(VALUES[kind] for kind in kinds))


@given(st.data(), KINDS)
def test_no_two_keys_have_one_text_and_the_text_gives_its_key_back(data: st.DataObject, kinds: list[Any]) -> None:
    made = plan(kinds)
    one, other = data.draw(keys(kinds)), data.draw(keys(kinds))
    assert (made.key_text(one) == made.key_text(other)) == (one == other)
    for key in (one, other):
        id, text = made.key_and_text(key)
        back = made.parse_key(text)
        assert back == id == key and [type(part) for part in back] == kinds
        assert shown_key(key) == text
        assert made.key.given(key) == dict(zip(made.column_names, key, strict=True))


@given(ALIKE | st.text(max_size=30), KINDS)
def test_a_text_is_read_as_the_key_that_has_it_or_as_none(text: str, kinds: list[Any]) -> None:
    made = plan(kinds)
    try:
        key = made.parse_key(text)
    except DecodeError:
        return
    assert made.key_text(key) == text


@pytest.mark.parametrize("text", ["", "a", "a/", "/a", "a/b/c", "a~/b", "a~2/b", "~/b"])
def test_other_texts_are_no_keys(text: str) -> None:
    with pytest.raises(DecodeError, match="a text cannot be read as"):
        plan([str, str]).parse_key(text)
