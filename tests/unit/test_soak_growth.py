"""The judge of the soak tells what grows from what only moves."""

from __future__ import annotations

import random

import pytest

from tests.soak.growth import judge


def grows(name: str, values: list[float]) -> bool:
    (verdict,) = judge([{name: value} for value in values])
    return verdict.grows


@pytest.mark.parametrize(
    ("name", "values", "expected"),
    [
        ("rows", [100.0 + 10 * step for step in range(30)], True),
        ("rows", [100.0 + 0.2 * step for step in range(30)], False),  # a few of anything are noise
        ("rows", [100.0] * 10 + [400.0] * 20, False),  # a step, and then rest
        ("rows", [100.0 if step % 2 else 400.0 for step in range(30)], False),
        ("rows", [400.0 - step for step in range(30)], False),
        ("memory (MB)", [100.0 + 3 * step for step in range(30)], True),
        ("memory (MB)", [100.0 + step for step in range(30)], False),
    ],
)
def test_what_rises_from_each_third_to_the_next_grows(name: str, values: list[float], expected: bool) -> None:
    assert grows(name, values) is expected


def test_growth_is_seen_through_noise_and_noise_is_no_growth() -> None:
    noise = random.Random(7)
    assert grows("rows", [100 + 20 * step + noise.gauss(0, 60) for step in range(60)])
    assert not grows("rows", [1_000 + noise.gauss(0, 60) for _ in range(60)])


def test_a_figure_that_a_sample_lacks_is_none_in_it() -> None:
    verdicts = judge([{}] * 10 + [{"orphans": 50.0}] * 10 + [{"orphans": 90.0}] * 10)
    assert [(verdict.name, verdict.thirds) for verdict in verdicts] == [("orphans", (0.0, 50.0, 90.0))]
    assert verdicts[0].grows


def test_too_few_samples_are_refused() -> None:
    with pytest.raises(ValueError, match="9 or more"):
        judge([{"rows": 1.0}] * 8)
