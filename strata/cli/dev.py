"""`strata dev`: everything an application needs, on this machine, until Ctrl-C."""

from __future__ import annotations

import signal

import click

from strata.cli.processes import Fleet, terminating

EXAMPLE = "strata.cli.demo.app:store"


@click.command()
@click.option("--app", "target", envvar="STRATA_APP", default=EXAMPLE, metavar="PACKAGE.MODULE:STORE",
              help="Your DataStore, for the worker (default: the demo's).")  # fmt: skip
def dev(target: str) -> None:
    """Start PostgreSQL, a Redis-compatible server, a worker and Flower; stop them with Ctrl-C."""
    with terminating(), Fleet(target) as fleet:
        fleet.start_worker()
        flower = fleet.start_flower()
        click.echo("Running until Ctrl-C. In another terminal:\n")
        for name, value in fleet.environment.items():
            click.echo(f"  export {name}={value}")
        click.echo(f"\nFlower: {flower}")
        try:
            while True:
                signal.pause()
        except KeyboardInterrupt:
            click.echo("Stopping ...")
