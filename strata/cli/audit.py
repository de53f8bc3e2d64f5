"""`strata audit`."""

from __future__ import annotations

import dataclasses
import json
import sys

import click
from rich.table import Table

from strata.application import load_store
from strata.cli.app import app_option, json_option
from strata.cli.progress import wide_console
from strata.maintenance.audit import AuditReport
from strata.model.keys import shown_key


@click.command()
@click.argument("schema", required=False)
@click.option("--sample", type=click.IntRange(min=1), default=1000, show_default=True, help="Keys of each schema.")
@json_option
@app_option
def audit(schema: str | None, sample: int, as_json: bool, target: str) -> None:
    """How many cached copies agree with PostgreSQL, in nines; the stale ones by name."""
    with load_store(target) as store:
        report = store.audit(schema, sample=sample)
    if as_json:
        click.echo(json.dumps(_plain(report), indent=2, default=str))
    else:
        _show(report)
    if report.stale:
        sys.exit(1)


def _show(report: AuditReport) -> None:
    table = Table("schema", "compared", "pending", "stale", "agree", "nines")
    for item in report.schemas:
        share = f"{item.share:.4%}" if item.compared else "-"
        nines = f"{'' if item.stale else '≥ '}{item.nines:.1f}" if item.compared else "-"
        table.add_row(item.schema, str(item.compared), str(item.pending), str(len(item.stale)), share, nines)
    wide_console().print(table)
    for key in report.stale:
        where = f"{key.schema} {shown_key(key.id)} in {key.tier.upper()}"
        click.echo(f"{where}: {key.reason} (version {key.cached_version}, PostgreSQL {key.version})")


def _plain(report: AuditReport) -> dict[str, object]:
    return {
        "compared": report.compared,
        "share": report.share,
        "nines": report.nines,
        "schemas": [dataclasses.asdict(item) | {"share": item.share, "nines": item.nines} for item in report.schemas],
    }
