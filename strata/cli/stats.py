"""`strata stats`."""

from __future__ import annotations

import json
from typing import Any

import click
from rich.table import Table

from strata.application import load_store
from strata.bound import Bound
from strata.cli.app import app_option, json_option
from strata.cli.inside import ask_postgres, defers, instances, pending, schemas
from strata.cli.progress import wide_console
from strata.datastore import DataStore
from strata.errors import L3UnavailableError
from strata.writebehind.ledger.lag import PendingStats

NOTHING = PendingStats()
# The planner's estimate: counting a large table would take long. -1 where it was never analysed, NULL where it is not.
# A partitioned table has no estimate of its own: those of its partitions are added up.
_ROWS = """
SELECT CASE WHEN c.relkind <> 'p' THEN c.reltuples ELSE (
    SELECT CASE WHEN max(part.reltuples) < 0 THEN -1 ELSE sum(greatest(part.reltuples, 0)) END
    FROM pg_partition_tree(c.oid) AS tree JOIN pg_class AS part ON part.oid = tree.relid WHERE tree.isleaf
) END::bigint FROM pg_class c WHERE c.oid = to_regclass('{}')
"""


@click.command()
@app_option
@json_option
def stats(target: str, as_json: bool) -> None:
    """Tiers, rows and pending writes of each schema, and how many processes share them."""
    with load_store(target) as store:
        found = {name: _of(store, bound) for name, bound in schemas(store).items()}
        if defers(store):
            for name, waiting in pending(store).items():
                found[name] |= _waiting(waiting)
        listening = instances(store)
    if as_json:
        click.echo(json.dumps({"instances": listening, "schemas": found}, indent=2))
        return
    columns = list(next(iter(found.values()), {"schema": ""}))
    table = Table("schema", *(column.replace("_", " ") for column in columns))
    for name, values in found.items():
        table.add_row(name, *("-" if value is None else str(value) for value in values.values()))
    wide_console().print(table)
    click.echo(f"processes that listen for changes: {listening}")


def _of(store: DataStore, bound: Bound) -> dict[str, Any]:
    tiers = [tier for tier, there in (("L1", bound.schema.l1), ("L2", bound.l2), ("L3", bound.l3)) if there]
    return {
        "tiers": "+".join(tiers),
        "writes": bound.mode.value,
        "rows_about": _rows(store, bound),
        **_waiting(NOTHING),
    }


def _waiting(item: PendingStats) -> dict[str, Any]:
    return {"pending": item.pending, "oldest_s": round(item.oldest_age, 1), "dead_letters": item.dead}


def _rows(store: DataStore, bound: Bound) -> int | None:
    if bound.l3 is None or not store.config.postgres_dsn:
        return None
    try:
        row = ask_postgres(store, store.config.postgres_dsn, _ROWS.format(bound.rows.table.name))
    except L3UnavailableError:
        return None
    return None if row is None or row[0] is None or row[0] < 0 else int(row[0])
