"""What is added counts once, on top of what was written before it, in whatever order, and however often, it arrives."""

from __future__ import annotations

import json
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from strata.l3.standing import RowNote, Standing, counted_text, note_of
from strata.l3.values import Change
from strata.model.numbers import exact, exact_in
from strata.protocol.added import Added, Series, joined, total
from strata.protocol.versions import NODE_BITS

NAMES, KEY = ("id", "n"), ("id",)
numbers = st.integers(-1000, 1000)


@st.composite
def histories(draw: st.DrawFn) -> tuple[list[Change], int]:
    """Versions in order, each a write of the column or an increment by one of three processes, as the changes that
    tell of them, some of which tell of several points; and what the column comes to."""
    sums: dict[str, int] = {}
    series: dict[str, tuple[tuple[int, int], ...]] = {}
    changes: list[Change] = []
    value = 0
    for version in range(2, draw(st.integers(3, 12))):
        origin = draw(st.sampled_from(["", "a", "b", "c"]))
        number = draw(numbers)
        if not origin:
            value = number
            changes.append(Change(1, "1", version, names=NAMES, values=(1, number)))
            continue
        value += number
        before = series.get(origin, ((0, 0),))
        sums[origin] = sums.get(origin, 0) + number
        series[origin] = (*before, (version, sums[origin]))
        added: Added = (Series(origin, 1, "n", series[origin]),)
        changes.append(Change(1, "1", version, names=("id",), values=(1,), added=added))
    return changes, value


def brought(changes: list[Change]) -> Standing:
    """A row that gets them one after the other, and is read and noted anew each time."""
    row = Standing.of(NAMES, 1, (1, 0), None)
    for change in changes:
        row.lay(change, NAMES, KEY)
        assert row.values is not None
        counted = counted_text(row.base, row.added)
        noted = {"version": row.version, "base": row.base, "columns": row.columns, "changed": row.changed}
        note = note_of(json.dumps(noted | {"counted": json.loads(counted)}), {"n": int})
        row = Standing.of(NAMES, row.version, [row.values[name] for name in NAMES], note)
    return row


@given(histories(), st.randoms(use_true_random=False))
def test_a_row_comes_to_the_same_in_every_order_and_however_often(
    history: tuple[list[Change], int], chance: Any
) -> None:
    changes, value = history
    arrived = [*changes, *chance.choices(changes, k=len(changes))] if changes else []
    chance.shuffle(arrived)
    row = brought(arrived)
    assert row.values is not None and row.values["n"] == value


@given(histories(), st.randoms(use_true_random=False))
def test_points_join_in_any_order_and_any_grouping(history: tuple[list[Change], int], chance: Any) -> None:
    parts = [change.added for change in history[0] if change.adds]
    other = [*parts, *parts]
    chance.shuffle(other)
    one: Added = ()
    for added in parts:
        one = joined(one, added)
    two: Added = ()
    for added in other:
        two = joined(added, two)
    assert set(one) == set(two)
    assert total(one, "n", 0) == total(two, "n", 0)


def test_a_note_of_another_row_says_nothing_of_this_one() -> None:
    series = Series("a", 1, "n", ((0, 0), (5, 7)))
    row = Standing.of(NAMES, 9, (1, 100), RowNote(8, 1, {}, (series,)))
    assert (row.base, row.added) == (9, ())


def test_decimals_are_added_exactly() -> None:
    points = ((0, Decimal(0)), (5, Decimal("0.3")), (6, Decimal("0.300000000000000000000000000001")))
    row = Standing.of(NAMES, 1, (1, Decimal("1e20")), None)
    row.lay(Change(1, "1", 6, names=("id",), values=(1,), added=(Series("a", 1, "n", points),)), NAMES, KEY)
    assert row.values == {"id": 1, "n": Decimal("100000000000000000000.300000000000000000000000000001")}


def test_who_has_not_added_for_a_week_is_forgotten_in_the_row() -> None:
    week = 7 * 86_400_000_000 << NODE_BITS
    row = Standing({"id": 1, "n": 0}, 1, 1)
    for origin, version in (("gone", 2), ("there", week), ("now", week + 3)):
        added = (Series(origin, version, "n", ((0, 0), (version, 1))),)
        row.lay(Change(1, "1", version, names=("id",), values=(1,), added=added), NAMES, KEY)
    assert [series.origin for series in row.added] == ["now", "there"] and row.values == {"id": 1, "n": 3}


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_a_total_of_floats_comes_back_from_its_text_as_it_was(number: float) -> None:
    assert exact_in(float)(str(exact(number))) == exact(number)


@pytest.mark.parametrize("text", ["1e999999999", "1.5", "1/0", "1/-2", "", "nan", "1_0", "9" * 10_000])
def test_a_text_that_is_no_total_of_floats_is_refused_before_anything_is_made_of_it(text: str) -> None:
    with pytest.raises((ValueError, ArithmeticError)):
        exact_in(float)(text)
