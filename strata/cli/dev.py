"""`strata dev`: everything an application needs, on this machine, until Ctrl-C."""

from __future__ import annotations

import shlex
import subprocess
import sys
import time
from collections.abc import Sequence

import click

from strata.cli.fleet import GRACE, LocalFleet
from strata.cli.servers import Servers
from strata.cli.signals import ending_in_order, undisturbed
from strata.errors import StrataError

EXAMPLE = "strata.cli.example:store"
LOOK = 0.5  # seconds between looks at the processes


@click.command(context_settings={"ignore_unknown_options": True})
@click.option("--app", "target", envvar="STRATA_APP", default=EXAMPLE, metavar="PACKAGE.MODULE:STORE",
              help="Your DataStore, for the worker (default: STRATA_APP, else a small example).")  # fmt: skip
@click.argument("command", nargs=-1, type=click.UNPROCESSED)
def dev(target: str, command: tuple[str, ...]) -> None:
    """Start PostgreSQL, a Redis-compatible server, a worker and Flower, until Ctrl-C.

    With a COMMAND (`strata dev -- python app.py`), run it in their environment, and end with it.
    """
    with ending_in_order(), Servers() as servers:
        servers.environment["STRATA_APP"] = target
        with LocalFleet(servers.inherited()) as fleet:
            fleet.start_worker()
            flower = fleet.start_flower()
            lines = _lines(servers, fleet, flower)
            # A command's output stays its own.
            click.echo("\n".join(lines), err=bool(command))
            status = _run(command, servers, fleet) if command else _watch(fleet)
    sys.exit(status)


def _lines(servers: Servers, fleet: LocalFleet, flower: str) -> list[str]:
    """What is running, in words that a shell can take as they are."""
    exports = {name: value for name, value in servers.environment.items() if name not in servers.given}
    return [
        *(f"# {name} is set: that server is used" for name in servers.given),
        "# For another terminal:",
        *(f"export {name}={shlex.quote(value)}" for name, value in exports.items()),
        *(["# STRATA_APP is a small example; --app names your store"] if exports.get("STRATA_APP") == EXAMPLE else []),
        f"# Flower: {flower}",
        f"# Logs: {fleet.logs}",
    ]


def _run(command: Sequence[str], servers: Servers, fleet: LocalFleet) -> int:
    try:
        process = subprocess.Popen(command, env=servers.inherited())
    except OSError as error:
        raise StrataError(f"{command[0]} cannot be run: {error.strerror}") from error
    try:
        status = process.wait()
    finally:
        with undisturbed():
            _end(process)
    for words in fleet.ended():  # whose logs go with the directory that they are in
        click.echo(f"# {words}", err=True)
    return status


def _end(process: subprocess.Popen[bytes]) -> None:
    """While its servers are there: what it has written behind is to be flushed."""
    process.terminate()  # which does nothing to one that has ended
    try:
        process.wait(GRACE)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _watch(fleet: LocalFleet) -> int:
    click.echo("# Ctrl-C stops everything.")
    try:
        while not (ended := fleet.ended()):
            time.sleep(LOOK)
    except KeyboardInterrupt:
        click.echo("# Stopping ...")
        return 0
    raise StrataError("; ".join(ended))
