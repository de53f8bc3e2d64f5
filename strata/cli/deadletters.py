"""`strata dead-letters`: what could not be written, and what to do about it."""

from __future__ import annotations

import contextlib
import dataclasses
import json
from collections.abc import Mapping
from typing import Any

import click
from rich.table import Table
from rich.text import Text

from strata.application import load_store
from strata.cli.app import AppGroup, app_option, json_option
from strata.cli.progress import wide_console
from strata.datastore import DataStore
from strata.errors import FlushTimeoutError, NotFoundError
from strata.model.keys import shown_key
from strata.writebehind.persist.dead_letters import DeadLetter

COLUMNS = ("id", "schema", "key", "op", "sqlstate", "attempts", "last_at", "error")
SOON = 5.0  # seconds for letters that are retried to arrive, or die again


@click.group("dead-letters", cls=AppGroup)
def dead_letters() -> None:
    """Deferred writes that were given up."""


@dead_letters.command("list")
@click.option("--schema", help="Of this schema only.")
@click.option("--limit", type=click.IntRange(min=1), default=100, show_default=True)
@click.option("--waiting", is_flag=True, help="Those instead that wait for a newer release; `discard` takes their ids.")
@json_option
@app_option
def list_(schema: str | None, limit: int, waiting: bool, as_json: bool, target: str) -> None:
    """List them, newest first."""
    with load_store(target) as store:
        found = store.dead_letters.waiting if waiting else store.dead_letters.list
        letters = [_plain(letter) for letter in found(schema, limit)]
        total = len(letters) if waiting else store.dead_letters.count(schema)
    if as_json:
        click.echo(_json(letters))
    elif letters:
        wide_console().print(_table(letters))
        click.echo(f"{len(letters)} of {total}")
    else:
        click.echo("Nothing waits." if waiting else "No dead letters.")


@dead_letters.command()
@click.argument("id")
@json_option
@app_option
def show(id: str, as_json: bool, target: str) -> None:
    """Show one, with the values that were to be written (ciphertext for Encrypted fields)."""
    with load_store(target) as store:
        letter = _plain(store.dead_letters.show(id))
    if as_json:
        click.echo(_json(letter))
        return
    values = letter.pop("values")
    for name, value in (letter | {"key": shown_key(letter["key"])}).items():
        click.echo(f"{name:10} {value}")
    for name, value in (values or {}).items():
        click.echo(f"  {name} = {value!r}")


@dead_letters.command()
@click.argument("ids", nargs=-1)
@click.option("--all", "every", is_flag=True, help="All of them.")
@app_option
def retry(ids: tuple[str, ...], every: bool, target: str) -> None:
    """Put them back into the ledger at their own version; a newer row is never overwritten."""
    _one_way(ids, every)
    with load_store(target) as store:
        count = store.dead_letters.retry(*ids, all=every)
        with contextlib.suppress(FlushTimeoutError):  # what is not known by then the workers' log tells
            store.flush_dirty(SOON)
        left = store.dead_letters.count() if every else sum(_is_there(store, id) for id in ids)
    said = f", {left} left, which died again, cannot be read or do not fit the schema: see `strata dead-letters list`"
    click.echo(f"{count} put back" + (said if left else ""))


@dead_letters.command()
@click.argument("ids", nargs=-1)
@click.option("--all", "every", is_flag=True, help="All of them.")
@app_option
def discard(ids: tuple[str, ...], every: bool, target: str) -> None:
    """Forget them for good."""
    _one_way(ids, every)
    with load_store(target) as store:
        count = store.dead_letters.discard(*ids, all=every)
    click.echo(f"{count} discarded")


def _is_there(store: DataStore, id: str) -> bool:
    try:
        store.dead_letters.show(id)
    except NotFoundError:
        return False
    return True


def _table(letters: list[dict[str, Any]]) -> Table:
    table = Table()
    for name in COLUMNS:
        table.add_column(name.replace("_", " "), no_wrap=name == "id")  # an id is there to be copied
    for letter in letters:
        shown = {**letter, "key": shown_key(letter["key"]), "last_at": f"{letter['last_at']:%Y-%m-%d %H:%M:%S}"}
        table.add_row(*(Text(str(shown[name])) for name in COLUMNS))
    return table


def _one_way(ids: tuple[str, ...], every: bool) -> None:
    if bool(ids) == every:
        raise click.UsageError("name the letters, or give --all")


def _plain(letter: DeadLetter) -> dict[str, Any]:
    found = {field.name: getattr(letter, field.name) for field in dataclasses.fields(letter)}
    return {name: dict(value) if isinstance(value, Mapping) else value for name, value in found.items()}


def _json(value: Any) -> str:
    return json.dumps(value, indent=2, default=str)
