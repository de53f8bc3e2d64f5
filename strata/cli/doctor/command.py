"""The command, and how its report looks."""

from __future__ import annotations

import dataclasses
import json
import sys

import click
from rich.table import Table
from rich.text import Text

from strata.application import load_store
from strata.cli.app import app_option, json_option
from strata.cli.doctor.compiled import compiled
from strata.cli.doctor.finding import Finding, FindingState
from strata.cli.doctor.fleet import fleet
from strata.cli.doctor.journal import journal
from strata.cli.doctor.pages import pages
from strata.cli.doctor.postgres import postgres
from strata.cli.doctor.redis import redis
from strata.cli.progress import wide_console

COLOURS = {FindingState.OK: "green", FindingState.WARN: "yellow", FindingState.FAIL: "red"}


@click.command()
@json_option
@app_option
def doctor(target: str, as_json: bool) -> None:
    """Check servers, eviction policy, workers, clocks, pending work and indexes; exit status 1 if something fails."""
    with load_store(target) as store:
        findings = [*postgres(store), *redis(store), *fleet(store), *journal(store), *pages(store), *compiled()]
    if as_json:
        click.echo(json.dumps([dataclasses.asdict(finding) for finding in findings], indent=2))
    else:
        wide_console().print(_table(findings))
    if any(finding.state is FindingState.FAIL for finding in findings):
        sys.exit(1)


def _table(findings: list[Finding]) -> Table:
    table = Table("what", "state", "found", "what to do")
    for finding in findings:
        state = Text(finding.state, style=COLOURS[finding.state])
        table.add_row(Text(finding.what), state, Text(finding.found), Text(finding.advice))
    return table
