"""`strata warm`."""

from __future__ import annotations

import time

import click
from rich.progress import Progress, TaskID

from strata.application import load_store
from strata.cli.app import app_option
from strata.cli.progress import progress_bars, wide_console
from strata.datastore import DataStore
from strata.jobs.job import Job, JobState

ENDED = (JobState.DONE, JobState.FAILED)
NO_WORKER = 5.0  # seconds after which a job that nobody took up is worth a word


@click.command()
@click.argument("name")
@click.option("--limit", type=click.IntRange(min=0), default=0, help="At most so many records (0 = all).")
@click.option("--background", is_flag=True, help="Hand it to the worker fleet, and watch.")
@app_option
def warm(name: str, limit: int, background: bool, target: str) -> None:
    """Load records of schema NAME into the caches."""
    with load_store(target) as store:
        with progress_bars(wide_console(stderr=True)) as bars:
            done = _on_fleet(store, name, limit, bars) if background else _here(store, name, limit, bars)
        click.echo(f"{done} records")


def _here(store: DataStore, name: str, limit: int, bars: Progress) -> int:
    rows = store.count(name)
    bar = bars.add_task(f"warming {name}", total=min(rows, limit) if limit else rows)
    return store.warm_cache(name, limit, progress=lambda done: bars.update(bar, completed=done))


def _on_fleet(store: DataStore, name: str, limit: int, bars: Progress) -> int:
    job = store.warm_cache(name, limit, background=True)
    _watch(job, bars, bars.add_task(f"warming {name} on the fleet", total=None))
    return job.wait()


def _watch(job: Job, bars: Progress, bar: TaskID) -> None:
    patience = time.monotonic() + NO_WORKER
    while (state := job.state) not in ENDED:
        if state is JobState.PENDING and time.monotonic() > patience:
            bars.console.print(f"job {job.id} waits for a worker; is one running? (strata doctor)")
            patience = float("inf")
        made = job.progress
        bars.update(bar, completed=made.done, total=made.total or None)
        time.sleep(0.1)
    made = job.progress
    bars.update(bar, completed=made.done, total=made.total)
