"""Rows as a table to read and as JSON to keep."""

from __future__ import annotations

import dataclasses
import json
import platform
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from tests.benchmarks.harness import Row


def show(title: str, rows: list[Row], console: Console) -> None:
    """Print one benchmark's table of ratios with the targets beside."""
    table = Table(title=title, title_justify="left")
    for heading in ("path", "against"):
        table.add_column(heading)
    for heading in ("median", "quartiles", "reach", "aim"):
        table.add_column(heading, justify="right", no_wrap=True)
    for row in rows:
        table.add_row(*_cells(row))
    console.print(table)


def save(path: Path, results: dict[str, list[Row]]) -> None:
    """Write everything as JSON, with what it ran on."""
    data: dict[str, Any] = {
        "python": platform.python_version(),
        "machine": platform.machine(),
        "benchmarks": {name: [dataclasses.asdict(row) for row in rows] for name, rows in results.items()},
    }
    path.write_text(json.dumps(data, indent=2))


def _cells(row: Row) -> list[str]:
    cells = [row.what, row.against, _number(row.value, row.unit)]
    cells.append("" if row.low == row.high else f"{_number(row.low)} to {_number(row.high)}")
    if row.target is None:
        return [*cells, "", ""]
    sign = "≥" if row.target.more else "≤"
    color = "green" if row.target.met(row.value) else "red"
    cells.append(f"[{color}]{sign} {_number(row.target.reach, row.unit)}[/]")
    cells.append("" if row.target.aim is None else f"{sign} {_number(row.target.aim, row.unit)}")
    return cells


def _number(value: float, unit: str = "") -> str:
    return f"{value:.3g}{unit}" if abs(value) < 1000 else f"{value:.0f}{unit}"
