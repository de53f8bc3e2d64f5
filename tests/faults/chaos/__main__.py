"""`./ops/chaos --minutes 10 --seed 7`: a long run, a table of what happened, and exit status 1 where a key is wrong."""

from __future__ import annotations

import random
import tempfile
from pathlib import Path

import click
from rich.console import Console

from tests.faults.chaos.report import table
from tests.faults.chaos.run import Plan, run


@click.command()
@click.option("--minutes", default=3.0, show_default=True, help="How long faults are injected.")
@click.option("--seed", type=int, help="Decides the faults and their order; drawn at random without it.")
@click.option("--writers", default=2, show_default=True, help="Writer processes for each durability level.")
@click.option("--workers", default=2, show_default=True, help="Celery workers, of two children each.")
@click.option("--keys", default=3_000, show_default=True, help="Keys of each writer.")
@click.option("--apart", is_flag=True, help="Cache and ledger on Redis servers of their own.")
@click.option("--lose-ledger", is_flag=True, help="Empty Redis too; kill no writer then, since it has the only copy.")
@click.option("--pooler", is_flag=True, help="PostgreSQL through a PgBouncer in transaction mode, killed as well.")
@click.option("--namespace", default="", help="Everything in Redis under this namespace.")
@click.option("--keep", type=click.Path(path_type=Path), help="A new directory for diaries and logs, which stays.")
def main(
    minutes: float,
    seed: int | None,
    writers: int,
    workers: int,
    keys: int,
    apart: bool,
    lose_ledger: bool,
    pooler: bool,
    namespace: str,
    keep: Path | None,
) -> None:
    """Write behind while workers, writers, Redis and PostgreSQL are killed, frozen, restarted
    and sown with garbage at random."""
    console = Console()
    plan = Plan(
        seconds=minutes * 60,
        seed=random.SystemRandom().randrange(10_000) if seed is None else seed,
        per_level=writers,
        workers=workers,
        keys=keys,
        apart=apart,
        losing=lose_ledger,
        pooler=pooler,
        namespace=namespace,
    )
    with tempfile.TemporaryDirectory() as scratch:
        folder = keep or Path(scratch)
        folder.mkdir(parents=True, exist_ok=True)
        outcome = run(plan, folder, console.print)
    console.print(table(plan, outcome))
    for line in outcome.verdict.wrong[:50]:
        console.print(f"[red]{line}")
    raise SystemExit(1 if outcome.verdict.wrong else 0)


if __name__ == "__main__":
    main()
