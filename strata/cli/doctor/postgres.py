"""PostgreSQL: there, recent enough, on time, with the tables of the schemas."""

from __future__ import annotations

from collections.abc import Iterator

from strata.cli.doctor.clocks import clock
from strata.cli.doctor.finding import Finding, fail, good, warn
from strata.cli.inside import ask_postgres, pooled, schemas
from strata.datastore import DataStore
from strata.errors import InvalidConfigError, StrataError

OLDEST = 14
_VERSION = "SELECT current_setting('server_version_num')::int / 10000, pg_is_in_recovery()"
_NOW = "SELECT extract(epoch FROM clock_timestamp())::float8"
# What the role or the database has set: our own sessions have it otherwise.
_READ_ONLY = "SELECT reset_val = 'on' FROM pg_settings WHERE name = 'default_transaction_read_only'"
_TABLE = "SELECT to_regclass('{}') IS NOT NULL"


def postgres(store: DataStore) -> Iterator[Finding]:
    """The findings about the database and its replicas."""
    dsn = store.config.postgres_dsn
    if not dsn:
        return
    try:
        yield from _server(store, "PostgreSQL", dsn, writes=True)
        yield from _surroundings(store, dsn)
        yield from _tables(store, dsn)
    except InvalidConfigError as error:
        yield fail("PostgreSQL", str(error), "see the runbook's page on connection poolers")
    except StrataError as error:
        yield fail("PostgreSQL", str(error), "start it, or correct postgres_dsn")
    for name, bound in schemas(store).items():
        replica = bound.schema.l3.read_replica if bound.schema.l3 else None
        if replica:
            try:
                yield from _server(store, f"replica of {name}", replica, writes=False)
            except StrataError as error:
                yield fail(f"replica of {name}", str(error), "start it, or correct read_replica")


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
    if pooled(store, dsn):
        found = "postgres_dsn leads through a connection pooler"
        if store.config.postgres_direct_dsn:
            yield good("pooler", found)
        else:
            advice = "set postgres_direct_dsn, so that migrations and watched tables have sessions of their own"
            yield warn("pooler", found, advice)
    if ask_postgres(store, dsn, _READ_ONLY)[0]:
        found = "default_transaction_read_only is on for the role or the database; Strata writes all the same"
        yield warn("PostgreSQL", found, "take the setting back, or let Strata use a role without it")


def _tables(store: DataStore, dsn: str) -> Iterator[Finding]:
    tables = {bound.table.name for bound in schemas(store).values() if bound.table is not None}
    missing = sorted(name for name in tables if not ask_postgres(store, dsn, _TABLE.format(name))[0])
    if missing:
        yield fail("tables", f"not there: {', '.join(missing)}", "run `strata migrate`")
    elif tables:
        yield good("tables", f"{len(tables)} of {len(tables)} there")
