"""`./ops/soak --minutes 15`: a mixed load with cuts and restarts; exit status 1 where something grows without end."""

from __future__ import annotations

import tempfile
from pathlib import Path

import click
from rich.console import Console
from rich.table import Table

from tests.soak.growth import Verdict
from tests.soak.run import Soak


@click.command()
@click.option("--minutes", default=15.0, show_default=True, help="How long there is load; faults in its first part.")
@click.option("--rate", default=150.0, show_default=True, help="Operations a second of each of two web processes.")
@click.option("--keep", type=click.Path(path_type=Path), help="A new directory for logs, which stays.")
def main(minutes: float, rate: float, keep: Path | None) -> None:
    """Every kind of operation, faults, then a steady load: nothing may still be growing after it has settled."""
    console = Console()
    with tempfile.TemporaryDirectory() as scratch:
        folder = keep or Path(scratch)
        folder.mkdir(parents=True, exist_ok=True)
        found = Soak(folder, minutes, rate, console.print).run()
    console.print(table(found.verdicts))
    console.print(f"{found.operations} operations")
    for line in found.wrong:
        console.print(f"[red]{line}")
    raise SystemExit(1 if found.wrong else 0)


def table(verdicts: list[Verdict]) -> Table:
    """Each figure in the three thirds of the settled time."""
    shown = Table(title="Medians of the settled part, in thirds")
    for name in ("figure", "first", "second", "last", ""):
        shown.add_column(name, justify="left" if name == "figure" else "right")
    for verdict in verdicts:
        shown.add_row(verdict.name, *(f"{value:,.0f}" for value in verdict.thirds), "grows" if verdict.grows else "")
    return shown


if __name__ == "__main__":
    main()
