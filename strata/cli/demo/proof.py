"""The proofs: plain SQL, with nothing of Strata in the way."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import psycopg
from rich.progress import Progress

from strata.cli.demo.model import Place
from strata.cli.demo.report import Line

COLUMNS = ("name", "country", "latitude", "longitude", "population", "timezone", "region", "alternate_names")
SHOWN = 5  # rows that a failing proof names
_ALL = f"SELECT id, visits, _strata_version, {', '.join(COLUMNS)} FROM places"

Rows = dict[int, tuple[Any, ...]]


def rows(dsn: str) -> Rows:
    """All rows by id: visits, version, and the columns of the input."""
    with psycopg.connect(dsn) as conn:
        return {row[0]: row[1:] for row in conn.execute(_ALL)}


def prove_stored(found: Mapping[int, Place], now: Rows, bars: Progress) -> Line:
    """Every row of the input is there, column by column, and no other."""
    bar = bars.add_task("comparing with plain SQL", total=len(found))
    wrong = [f"{id} should not be there" for id in now.keys() - found.keys()]
    for id, place in found.items():
        wrong += _differences(id, place, now.get(id))
        bars.advance(bar)
    names = sum(len(row[-1]) for row in now.values())
    return _line("rows equal to the input, by plain SQL", f"{len(now):,} rows, {names:,} alternate names", wrong)


def prove_updated(found: Mapping[int, Place], last: Mapping[int, int | None], before: Rows, now: Rows) -> list[Line]:
    """Every updated row is at its last value and a later version, deleted ones are gone, others as they were."""
    updated = {id: visits for id, visits in last.items() if visits is not None}
    deleted = [id for id, visits in last.items() if visits is None]
    wrong = [text for id, visits in updated.items() for text in _stale(found[id], visits, before[id], now.get(id))]
    back = [f"{id} is there" for id in deleted if id in now]
    others = [f"{id} changed" for id, row in before.items() if id not in last and now.get(id) != row]
    return [
        _line("updated rows: last value, later version", f"{len(updated):,} rows by plain SQL", wrong),
        _line("deleted rows: gone", f"{len(deleted):,} rows by plain SQL", back),
        _line("all other rows: as they were", f"{len(before) - len(last):,} rows by plain SQL", others),
    ]


def _stale(place: Place, visits: int, before: tuple[Any, ...], row: tuple[Any, ...] | None) -> list[str]:
    if row is None:
        return [f"{place.id} is missing"]
    wrong = _differences(place.id, place, row)
    if row[0] != visits:
        wrong.append(f"{place.id} has visits {row[0]}, not {visits}")
    if row[1] <= before[1]:
        wrong.append(f"{place.id} is still at version {row[1]}")
    return wrong


def _differences(id: int, place: Place, row: tuple[Any, ...] | None) -> list[str]:
    if row is None:
        return [f"{id} is missing"]
    values = dict(zip(COLUMNS, row[2:], strict=True))
    return [f"{id} has another {name}" for name in COLUMNS if values[name] != getattr(place, name)]


def _line(what: str, found: str, wrong: list[str]) -> Line:
    if not wrong:
        return Line(what, found, True)
    more = f", and {len(wrong) - SHOWN} more" if len(wrong) > SHOWN else ""
    return Line(what, f"{found}; wrong: {', '.join(wrong[:SHOWN])}{more}", False)
