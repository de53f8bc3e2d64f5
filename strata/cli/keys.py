"""`strata keys`: the keys of `Encrypted` fields."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence

import click
from rich.progress import Progress, TaskID

from strata.application import load_store
from strata.cli.app import AppGroup, app_option, json_option
from strata.cli.progress import progress_bars, wide_console
from strata.datastore import DataStore
from strata.maintenance.rotate_keys import KeyRotation


@click.group(cls=AppGroup)
def keys() -> None:
    """The keys that Encrypted fields are encrypted with."""


@keys.command()
@click.argument("schema", required=False)
@json_option
@app_option
def rotate(schema: str | None, as_json: bool, target: str) -> None:
    """Encrypt anew, under the current key, every row that is under another one (of SCHEMA, or of all).

    It may be stopped at any time: called again, it does what is left.
    """
    with load_store(target) as store, progress_bars(wide_console(stderr=True)) as bars:
        rotations = store.rotate_keys(schema, progress=_watch(store, bars))
    if as_json:
        click.echo(json.dumps([_plain(rotation) for rotation in rotations], indent=2))
    else:
        _show(rotations)
    if any(rotation.left for rotation in rotations):
        sys.exit(1)


def _watch(store: DataStore, bars: Progress) -> Callable[[str, int], None]:
    tasks: dict[str, TaskID] = {}

    def watch(name: str, done: int) -> None:
        if name not in tasks:
            tasks[name] = bars.add_task(f"looking at {name}", total=store.count(name))
        bars.update(tasks[name], completed=done)

    return watch


def _show(rotations: Sequence[KeyRotation]) -> None:
    for rotation in rotations:
        click.echo(f"{rotation.schema}: {rotation.rows} rows encrypted anew")
        for column, key_id, rows in rotation.left:
            why = "no ciphertext" if key_id is None else f"key {key_id!r} is missing, or is not the one it was"
            click.secho(f"  {column}: {rows} rows could not be decrypted ({why})", fg="red")
    if not rotations:
        click.echo("No schema has an Encrypted field in PostgreSQL.")


def _plain(rotation: KeyRotation) -> dict[str, object]:
    left = [item._asdict() for item in rotation.left]
    return {"schema": rotation.schema, "rows": rotation.rows, "left": left}
