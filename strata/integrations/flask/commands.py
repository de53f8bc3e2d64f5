"""`flask strata ...`: Strata's command line on the application's store."""

from __future__ import annotations

from collections.abc import Callable

import click

from strata.datastore import DataStore


def commands(make: Callable[[], DataStore]) -> click.Command:
    """The command, which passes on all that follows it; `make` makes a store for it."""

    @click.command("strata", add_help_option=False, context_settings={"ignore_unknown_options": True})
    @click.argument("words", nargs=-1, type=click.UNPROCESSED)
    @click.pass_context
    def command(context: click.Context, words: tuple[str, ...]) -> None:
        """Strata's commands on this application's store."""
        from strata.cli.within import commands_on  # which no web process needs: 250 modules, 9 MB

        commands_on(make).main(list(words), prog_name=context.command_path)

    return command
