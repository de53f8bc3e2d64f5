"""`strata migrate`."""

from __future__ import annotations

import textwrap

import click

from strata.application import load_store
from strata.cli.app import app_option
from strata.l3.report import MigrationReport


@click.command()
@app_option
@click.option("--from", "directory", type=click.Path(exists=True, file_okay=False), help="Apply the SQL files in here.")
@click.option("--status", is_flag=True, help="Only show what was applied, and when.")
@click.option("--sql", is_flag=True, help="Print nothing but what is left to you, for psql; what can wait as comments.")
def migrate(target: str, directory: str | None, status: bool, sql: bool) -> None:
    """Bring PostgreSQL to the registered schemas, or apply a directory of SQL files.

    Ends with status 1 where something is left to you without which the schemas do not work.
    """
    if sql and (status or directory is not None):
        raise click.UsageError("--sql is of what the schemas want; leave out --from and --status")
    with load_store(target) as store:
        if status:
            for record in store.migration_status():
                click.echo(f"{record.applied_at:%Y-%m-%d %H:%M:%S}  {record.checksum[:12]}  {record.file_name}")
        elif directory is not None:
            applied = store.migrate_from(directory)
            click.echo("\n".join(f"applied {name}" for name in applied) or "Nothing to apply.")
        else:
            report = store.migrate()
            _print(report) if sql else _show(report)
            if report.blocking:
                raise SystemExit(1)


def _show(report: MigrationReport) -> None:
    for statement in report.applied:
        click.echo(f"{statement};")
    nothing = "Nothing was applied." if report.manual else "Nothing to do."
    click.echo(f"{len(report.applied)} statements applied." if report.applied else nothing)
    for change in report.manual:
        click.secho(f"\nLeft to you: {change.text}", fg="yellow")
        if change.sql:
            click.echo(textwrap.indent(change.sql, "  "))
    if report.blocking:
        click.secho(f"\n{len(report.blocking)} of these must be done for the schemas to work.", fg="red", err=True)


def _print(report: MigrationReport) -> None:
    for change in report.manual:
        click.echo(_comment(change.text))
        click.echo(f"{change.sql}\n" if change in report.blocking else _comment(textwrap.indent(change.sql, "  ")))


def _comment(text: str) -> str:
    return "".join(f"-- {line}\n" for line in text.splitlines())
