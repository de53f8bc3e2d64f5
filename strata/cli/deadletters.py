"""`strata dead-letters`: what could not be written, and what to do about it."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import click
from rich.console import Console
from rich.table import Table

from strata.cli.app import app_option, load_store


@click.group("dead-letters")
def dead_letters() -> None:
    """Deferred writes that were given up."""


@dead_letters.command("list")
@click.option("--schema", help="Of this schema only.")
@click.option("--limit", type=click.IntRange(min=1), default=100, show_default=True)
@click.option("--json", "as_json", is_flag=True, help="As JSON.")
@app_option
def list_(schema: str | None, limit: int, as_json: bool, target: str) -> None:
    """List them, oldest first."""
    with load_store(target) as store:
        letters = [_plain(letter) for letter in store.dead_letters.list(schema, limit)]
    if as_json:
        click.echo(json.dumps(letters, indent=2, default=str))
        return
    table = Table("id", "schema", "key", "op", "sqlstate", "attempts", "last", "error")
    for letter in letters:
        cells = ("id", "schema", "key", "op", "sqlstate", "attempts", "last_at", "error")
        table.add_row(*(str(letter[cell]) for cell in cells))
    Console().print(table if letters else "No dead letters.")


@dead_letters.command()
@click.argument("id")
@click.option("--json", "as_json", is_flag=True, help="As JSON.")
@app_option
def show(id: str, as_json: bool, target: str) -> None:
    """Show one."""
    with load_store(target) as store:
        letter = _plain(store.dead_letters.show(id))
    if as_json:
        click.echo(json.dumps(letter, indent=2, default=str))
        return
    for name, value in letter.items():
        click.echo(f"{name:10} {value}")


@dead_letters.command()
@click.argument("ids", nargs=-1)
@click.option("--all", "every", is_flag=True, help="All of them.")
@app_option
def retry(ids: tuple[str, ...], every: bool, target: str) -> None:
    """Put them back into the ledger at their own version; a newer row is never overwritten."""
    if bool(ids) == every:
        raise click.UsageError("name the letters, or give --all")
    with load_store(target) as store:
        letters = store.dead_letters
        count = letters.retry(all=True) if every else letters.retry(*ids)
    click.echo(f"{count} put back")


@dead_letters.command()
@click.argument("ids", nargs=-1, required=True)
@app_option
def discard(ids: tuple[str, ...], target: str) -> None:
    """Forget them for good."""
    with load_store(target) as store:
        count = store.dead_letters.discard(*ids)
    click.echo(f"{count} discarded")


def _plain(letter: Any) -> dict[str, Any]:
    return {field.name: getattr(letter, field.name) for field in dataclasses.fields(letter)}
