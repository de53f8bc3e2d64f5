"""`strata demo`: servers, worker and Flower from pip wheels, and the main job on them."""

from __future__ import annotations

import os
import sys
import time

import click
from rich.console import Console
from rich.progress import Progress

from strata.application import load_store
from strata.cli.demo.coherence import time_coherence
from strata.cli.demo.data import load_places
from strata.cli.demo.deferred import PLACES as FEWEST
from strata.cli.demo.deferred import write_behind
from strata.cli.demo.flower import prove_monitored
from strata.cli.demo.model import Place
from strata.cli.demo.proof import prove_stored, prove_updated, rows
from strata.cli.demo.report import Line, failed, table
from strata.cli.demo.storing import store_places
from strata.cli.demo.tiers import time_tiers
from strata.cli.fleet import LocalFleet
from strata.cli.progress import progress_bars, wide_console
from strata.cli.servers import DSN, Servers
from strata.cli.signals import ending_in_order
from strata.datastore import DataStore

APP = "strata.cli.demo.app:store"


@click.command()
@click.option("--keep", is_flag=True, help="Keep servers, worker and Flower running afterwards, until Ctrl-C.")
@click.option("--places", type=click.IntRange(min=FEWEST), help="Take no more places than that; else all, some 34,000.")
def demo(keep: bool, places: int | None) -> None:
    """Load the places of GeoNames, read them through every tier, update them write-behind, kill a worker, prove it."""
    console = wide_console()
    began = time.perf_counter()
    found = load_places(places)
    with ending_in_order(), Servers(private=True) as servers:
        servers.environment["STRATA_APP"] = APP
        environment = servers.inherited()
        with LocalFleet(environment) as fleet:
            flower = fleet.start_flower()
            console.print(f"{len(found):,} places to store. Flower: {flower}")
            _become(environment)
            with load_store(APP) as store, progress_bars(console) as bars:
                lines = _stages(store, found, fleet, environment, bars)
            lines.append(prove_monitored(flower, "worker2"))
            console.print(table(lines, f"Strata demo, {time.perf_counter() - began:.0f} s"))
            wrong = failed(lines)
            console.print(f"{len(wrong)} proofs failed." if wrong else "All proofs hold.")
            if keep:
                _wait(servers, flower, console)
    if wrong:
        sys.exit(1)


def _stages(
    store: DataStore, found: dict[int, Place], fleet: LocalFleet, environment: dict[str, str], bars: Progress
) -> list[Line]:
    dsn = environment[DSN]
    bars.console.print(f"migrate() applied {len(store.migrate().applied)} statements")
    lines = store_places(store, found, bars)
    before = rows(dsn)
    lines.append(prove_stored(found, before, bars))
    lines += time_tiers(store, found, bars)
    lines += time_coherence(store, next(iter(found.values())), environment, bars)
    before = rows(dsn)
    updates, measured = write_behind(store, found, fleet, bars)
    return lines + measured + prove_updated(found, updates.last, before, rows(dsn))


def _become(environment: dict[str, str]) -> None:
    """The store of this process is that of the workers: made from the same environment."""
    for name in [name for name in os.environ if name.startswith("STRATA_") and name not in environment]:
        del os.environ[name]
    os.environ.update(environment)


def _wait(servers: Servers, flower: str, console: Console) -> None:
    for name, value in servers.environment.items():
        click.echo(f"export {name}={value}")
    console.print(f"Flower: {flower}. Ctrl-C stops everything.")
    try:
        while True:
            time.sleep(60)
    except KeyboardInterrupt:
        pass
