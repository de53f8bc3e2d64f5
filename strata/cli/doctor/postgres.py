"""PostgreSQL: there, recent enough, on time, with tables that fit the schemas."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from strata.cli.doctor.clocks import clock
from strata.cli.doctor.finding import Finding, fail, good, refused, warn
from strata.cli.inside import ask_postgres, compared, pooled, schemas, tables
from strata.datastore import DataStore
from strata.errors import StrataError
from strata.l3.catalog import TableFacts
from strata.l3.changes import Plan
from strata.l3.layout import VERSION
from strata.l3.report import BlockingChange

OLDEST = 14
_VERSION = "SELECT current_setting('server_version_num')::int / 10000, pg_is_in_recovery()"
_NOW = "SELECT extract(epoch FROM clock_timestamp())::float8"
# What the role or the database has set: our own sessions have it otherwise.
_READ_ONLY = "SELECT reset_val = 'on' FROM pg_settings WHERE name = 'default_transaction_read_only'"
MIGRATE = "run `strata migrate`"


def postgres(store: DataStore) -> Iterator[Finding]:
    """The findings about the database and its replicas."""
    dsn = store.config.postgres_dsn
    if not dsn and not tables(store):
        return
    try:
        yield from _server(store, "PostgreSQL", dsn, writes=True)
        yield from _surroundings(store, dsn)
        yield from _tables(store)
    except StrataError as error:
        yield refused("PostgreSQL", error)
    for name, bound in schemas(store).items():
        replica = bound.schema.l3.read_replica if bound.schema.l3 else None
        if replica:
            try:
                yield from _server(store, f"replica of {name}", replica, writes=False)
            except StrataError as error:
                yield refused(f"replica of {name}", error)


def _server(store: DataStore, what: str, dsn: str, *, writes: bool) -> Iterator[Finding]:
    version, standby = ask_postgres(store, dsn, _VERSION)
    if version < OLDEST:
        yield fail(what, f"version {version}", f"use {OLDEST} or later")
    elif standby and writes:
        yield fail(what, f"version {version}, a standby that takes no writes", "let postgres_dsn lead to the primary")
    else:
        yield good(what, f"version {version}")
    yield clock(what, lambda: float(ask_postgres(store, dsn, _NOW)[0]))


def _surroundings(store: DataStore, dsn: str) -> Iterator[Finding]:
    """What stands between, and what the role has set."""
    there, shares = pooled(store, dsn)
    if there:
        found = "postgres_dsn leads through a connection pooler" + (" that shares sessions" if shares else "")
        if store.config.postgres_direct_dsn or not shares:
            yield good("pooler", found)
        else:
            advice = "set postgres_direct_dsn, so that migrations and watched tables have sessions of their own"
            yield warn("pooler", found, advice)
    if ask_postgres(store, dsn, _READ_ONLY)[0]:
        found = "default_transaction_read_only is on for the role or the database; Strata writes all the same"
        yield warn("PostgreSQL", found, "take the setting back, or let Strata use a role without it")


def _tables(store: DataStore) -> Iterator[Finding]:
    """What keeps records from being written, else what else `strata migrate` has to do."""
    try:
        facts, plan = compared(store)
    except StrataError as error:
        yield refused("tables", error)
        return
    found = [*_lacking(store, facts), *_blocking(plan)] or list(_pending(plan))
    if found:
        yield from found
    elif facts:
        yield good("tables", f"{len(facts)} of {len(facts)} there, and as their schemas want them")


def _lacking(store: DataStore, facts: Mapping[str, TableFacts]) -> Iterator[Finding]:
    missing = sorted(name for name in facts if not facts[name].kind)
    if missing:
        yield fail("tables", f"not there: {', '.join(missing)}", MIGRATE)
    for name, table in tables(store).items():
        lacks = [column for column in (*table.plan.column_names, VERSION) if column not in facts[name].columns]
        if lacks and name not in missing:
            yield fail("tables", f"{name} lacks {', '.join(lacks)}", MIGRATE)


def _blocking(plan: Plan) -> Iterator[Finding]:
    for change in plan.manual:
        if isinstance(change, BlockingChange):
            yield fail("tables", change.text, f"{MIGRATE}, which shows what to change by hand")


def _pending(plan: Plan) -> Iterator[Finding]:
    """What is needed for all that Strata promises, or makes it faster, or is needed only later."""
    needed = [*plan.statements, *(index.create for index in plan.late if index.manual.text)]
    later = [*plan.defaults, *(index.create for index in plan.late if not index.manual.text)]
    later += [f"partitions of {month.table.name}" for month in plan.months]
    for said, tell in ((needed, fail), (later, warn)):
        if said:
            yield tell("tables", f"{len(said)} change(s) not made yet, such as {' '.join(said[0].split())}", MIGRATE)
