"""`strata adopt`: what a Redis holds becomes this database's, after the data was moved."""

from __future__ import annotations

import click

from strata.application import load_store
from strata.cli.app import app_option
from strata.cli.inside import ownership, redis_servers, schemas
from strata.datastore import DataStore
from strata.errors import InvalidConfigError


@click.command()
@click.option("--yes", is_flag=True, help="Do not ask.")
@app_option
def adopt(target: str, yes: bool) -> None:
    """Let the Redis of this app belong to the database that postgres_dsn leads to now.

    For data that was moved: a dump restored on another server, pg_upgrade, logical replication. Stop the application
    and its workers first. What is cached is dropped; what was written behind and did not reach the old database is
    written to the new one.
    """
    with load_store(target) as store:
        mine = ownership(store)
        servers = redis_servers(store)
        if mine is None or not servers:
            raise InvalidConfigError("this app keeps nothing of a database in a Redis; there is nothing to adopt")
        own = mine.own()
        owners = {what: mine.owner(server) for what, (server, _) in servers.items()}
        for what, owner in owners.items():
            click.echo(f"{what} belongs to {'nobody' if owner is None else f'the {owner}'}.")
        if all(owner == own for owner in owners.values()):
            click.echo("That is this database: nothing to do.")
            return
        if not yes:
            click.confirm(f"Is the application stopped, and shall it belong to the {own}?", abort=True)
        for server, _ in servers.values():
            mine.adopt(server, _caches(store))
    click.echo(f"It belongs to the {own} now, and the caches are empty.")


def _caches(store: DataStore) -> list[str]:
    """The beginnings of the keys of what is a copy of L3."""
    found = []
    keys = store.config.keyspace
    for bound in schemas(store).values():
        if bound.schema.l2 is not None and bound.l3 is not None:
            prefix = bound.schema.l2.key_prefix or bound.name
            found += [keys.records(prefix), keys.results(prefix)]
    return found
