"""`strata migrate`, `strata warm`, `strata stats`."""

from __future__ import annotations

import dataclasses
import json
import time

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from strata.cli.app import app_option, load_store
from strata.cli.inside import pending
from strata.engine.jobs import JobState
from strata.observe.counters import Stats


@click.command()
@app_option
@click.option("--from", "directory", type=click.Path(exists=True, file_okay=False), help="Apply the SQL files in here.")
def migrate(target: str, directory: str | None) -> None:
    """Bring PostgreSQL to the registered schemas, or apply a directory of SQL files."""
    with load_store(target) as store:
        if directory is not None:
            applied = store.migrate_from(directory)
            click.echo("\n".join(f"applied {name}" for name in applied) or "Nothing to apply.")
            return
        report = store.migrate()
        click.echo("\n".join(f"{statement};" for statement in report.applied) or "Nothing to do.")
        for change in report.manual:
            click.secho(f"\nBy hand: {change.text}", fg="yellow")
            click.echo(f"  {change.sql}")


@click.command()
@click.argument("name")
@click.option("--limit", type=click.IntRange(min=0), default=0, help="At most so many records (0 = all).")
@click.option("--background", is_flag=True, help="Hand it to the worker fleet, and watch.")
@app_option
def warm(name: str, limit: int, background: bool, target: str) -> None:
    """Load records of schema NAME into L1 and L2."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with load_store(target) as store, Progress(*columns, console=Console(stderr=True)) as progress:
        rows = store.count(name)
        bar = progress.add_task(f"warming {name}", total=min(rows, limit) if limit else rows)
        if not background:
            done = store.warm_cache(name, limit, progress=lambda count: progress.update(bar, completed=count))
        else:
            job = store.warm_cache(name, limit, background=True)
            while job.state not in (JobState.DONE, JobState.FAILED):
                progress.update(bar, completed=job.progress.done)
                time.sleep(0.2)
            done = job.wait()
        progress.update(bar, completed=done)
    click.echo(f"{done} records")


@click.command()
@app_option
@click.option("--json", "as_json", is_flag=True, help="As JSON.")
def stats(target: str, as_json: bool) -> None:
    """What the write-behind ledger holds, for each schema, and this process's counters."""
    with load_store(target) as store:
        waiting = pending(store)
        counted = store.stats()
    if as_json:
        click.echo(json.dumps({"pending": waiting, "process": _plain(counted)}, indent=2))
        return
    table = Table("schema", "pending", "oldest (s)", title="Write-behind ledger")
    for name, (entries, age) in waiting.items():
        table.add_row(name, str(entries), f"{age:.1f}")
    Console().print(table if waiting else "No schema is written behind.")


def _plain(counted: Stats) -> dict[str, object]:
    return {
        field.name: value
        for field in dataclasses.fields(counted)
        if isinstance(value := getattr(counted, field.name), int)
    }
