"""The commands, and how they fail: one clear line, exit status 1; 2 for wrong usage."""

from __future__ import annotations

import io
import logging
import signal
import sys
from typing import Any

import click

import strata
from strata.cli.adopt import adopt
from strata.cli.app import AppGroup
from strata.cli.audit import audit
from strata.cli.deadletters import dead_letters
from strata.cli.demo.command import demo
from strata.cli.dev import dev
from strata.cli.doctor.command import doctor
from strata.cli.inspect_table.command import inspect_table
from strata.cli.keys import keys
from strata.cli.migrate import migrate
from strata.cli.signals import Ended
from strata.cli.stats import stats
from strata.cli.warm import warm
from strata.errors import StrataError


class StrataGroup(AppGroup):
    """Commands that fail as Strata's do."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except StrataError as error:
            click.secho(f"{type(error).__name__}: {error}", fg="red", err=True)
            sys.exit(1)
        except KeyboardInterrupt as error:
            click.echo("Stopped.", err=True)
            sys.exit(128 + (error.number if isinstance(error, Ended) else signal.SIGINT))


@click.group(cls=StrataGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(strata.__version__, prog_name="strata")
def main() -> None:
    """Memory, Redis and PostgreSQL behind one API."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal without µ shows ? and does not end the command
    # What a command finds it says itself; the log is for applications that set one up.
    logging.getLogger("strata").addHandler(logging.NullHandler())


for command in (dev, demo, migrate, warm, stats, audit, doctor, dead_letters, keys, adopt, inspect_table):
    main.add_command(command)
