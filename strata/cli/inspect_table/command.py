"""The command: which database, which table, and its source on the terminal."""

from __future__ import annotations

import click

from strata.application import load_store
from strata.cli.inside import surveyed
from strata.cli.inspect_table.module import module
from strata.config import Config
from strata.datastore import DataStore


@click.command()
@click.argument("name")
@click.option("--app", "target", metavar="PACKAGE.MODULE:STORE", help="Where a DataStore on its database is.")
@click.option("--dsn", help="Its database (default: STRATA_POSTGRES_DSN).")
def inspect_table(name: str, target: str | None, dsn: str | None) -> None:
    """Print the record class and the Schema of a table that is there already, as Python source.

    NAME is that of the table as the catalog has it, or SCHEMA.NAME. Nothing in the database is changed.
    """
    if target and dsn:
        raise click.UsageError("--app and --dsn both name a database; give one of them")
    settings = {"postgres_dsn": dsn} if dsn else {}
    with load_store(target) if target else DataStore(Config.from_env(**settings)) as store:
        click.echo(module(surveyed(store, name)), nl=False)
