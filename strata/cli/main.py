"""The commands, and how they fail: one clear line, exit status 1; 2 for wrong usage."""

from __future__ import annotations

import sys
from typing import Any

import click

import strata
from strata.cli.deadletters import dead_letters
from strata.cli.demo.command import demo
from strata.cli.dev import dev
from strata.cli.doctor import doctor
from strata.cli.store import migrate, stats, warm
from strata.errors import StrataError


class _Group(click.Group):
    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except StrataError as error:
            click.secho(f"{type(error).__name__}: {error}", fg="red", err=True)
            sys.exit(1)
        except KeyboardInterrupt:
            sys.exit(130)


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(strata.__version__, prog_name="strata")
def main() -> None:
    """Memory, Redis and PostgreSQL behind one API."""


for command in (dev, demo, migrate, warm, stats, doctor, dead_letters):
    main.add_command(command)
