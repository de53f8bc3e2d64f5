"""Roles and databases with settings, and without rights, that Strata does not get by default."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from typing import Annotated, Any

import psycopg
import pytest
from psycopg import sql
from psycopg.conninfo import make_conninfo

import strata
from strata import DataStore, L3PoolConfig, L3UnavailableError, PostgresPolicy, Q, WriteMode
from strata.embedded import EmbeddedStandby
from tests.databases import ThrowawayPostgres, login
from tests.stores import MakeStore, schema
from tests.support import wait_until

AT = datetime(2026, 3, 1, 23, 30, tzinfo=UTC)
_names = itertools.count()


@dataclass
class Event:
    """A column of each type whose text depends on a setting."""

    id: Annotated[str, strata.PrimaryKey]
    at: datetime = AT
    day: date = date(2026, 3, 2)
    hour: time = time(12, 30)
    span: timedelta = timedelta(days=-1, hours=3)
    amount: Decimal = Decimal("1.50")
    data: bytes = b"\\x00\xff"
    text: str = "a \\ b ' c"
    ratio: float = 0.1 + 0.2
    tags: dict[str, Any] = field(default_factory=lambda: {"a": "\\"})
    first: Annotated[datetime | None, strata.AutoNowAdd] = None


@contextmanager
def role(dsn: str, *settings: str, temporary: bool = True) -> Iterator[str]:
    """A DSN of a role of its own with these settings."""
    name = f"role_{next(_names)}"
    with psycopg.connect(dsn, autocommit=True) as conn:
        database = conn.info.dbname

        def run(statement: str) -> None:
            conn.execute(statement.encode())

        conn.execute(sql.SQL("CREATE ROLE {} {}").format(sql.Identifier(name), login(dsn)))
        run(f"GRANT CREATE, USAGE ON SCHEMA public TO {name}")
        if not temporary:
            run(f"REVOKE TEMPORARY ON DATABASE {database} FROM PUBLIC")
        for setting in settings:
            run(f"ALTER ROLE {name} SET {setting}")
    try:
        yield make_conninfo(dsn, user=name)
    finally:
        with psycopg.connect(dsn, autocommit=True) as conn:
            conn.execute(f"DROP OWNED BY {name} CASCADE; DROP ROLE {name}".encode())


def stored(store: DataStore) -> DataStore:
    """The whole of what is stored and read, in both modes."""
    store.register(schema(Event, name="events", l1=None, indexes=[strata.Index(["day"])]))
    store.register(schema(Event, name="later", l1=None, write_mode=WriteMode.WRITE_BEHIND))
    store.register(schema(Event, name="monthly", l1=None, l3=PostgresPolicy(partition_by="at")))
    assert store.migrate().manual == ()
    assert store.migrate().applied == ()
    assert store.migration_status() != []
    for name in ("events", "later", "monthly"):
        one = store.set(name, "1", Event("1"))
        many = {str(key): Event(str(key)) for key in range(2, 40)}
        store.set_many(name, many)
        store.set_many(name, many)
        store.flush_dirty(20)
        held = store.get(name, "1", force_l3=True)
        assert held == one
        assert held.at.tzinfo is UTC
        assert len(store.get_many(name, list(many))) == 38
        # As text of a statement, which has the meaning of the session.
        assert store.count(name, Q().where("at = '2026-03-01 23:30:00' AND text = 'a \\ b '' c'")) == 39
        assert store.count(name, Q().where("day = '2026-03-02' AND at::date = '2026-03-01'")) == 39
        assert len(store.search(name, Q().where("span = $1", timedelta(days=-1, hours=3)))) == 39
        # A backslash is a character like any other, as the scanner of conditions takes it to be.
        assert store.count(name, Q().where(r"id <> '\' AND id <> '\' || $1", "'")) == 39
        # As a token has the values of a page's last row.
        found: list[Event]
        for query in (
            Q().order_by("at").order_by("day").desc(),
            Q().order_by("span").order_by("data").order_by("text"),
        ):
            query, found, after = query.order_by("hour").order_by("ratio").limit(20), [], None
            while after or not found:
                page = store.search_page(name, query, after=after)
                found, after = [*found, *page.records], page.next
                assert len(found) <= 39
            assert sorted(found, key=lambda event: event.id) == found and len(found) == 39
        store.delete(name, "1")
        with store.tx(timeout=10) as tx:
            tx.set(name, "x", Event("x")).delete(name, "2")
    for key in range(200):
        store.set("later", str(key), Event(str(key)))
    store.flush_dirty(20)
    assert store.count("later") == 201
    return store


SETTINGS = {
    "German": (
        "DateStyle = 'German, DMY'", "IntervalStyle = sql_standard", "TimeZone = 'Asia/Kathmandu'",
        "standard_conforming_strings = off", "escape_string_warning = off", "quote_all_identifiers = on",
        "extra_float_digits = -15",
    ),
    "serializable": (
        "default_transaction_isolation = serializable", "default_transaction_deferrable = on",
        "DateStyle = 'SQL, MDY'", "IntervalStyle = iso_8601", "bytea_output = escape",
    ),
    "read only": ("default_transaction_read_only = on", 'search_path = "$user", nowhere, public'),
    "impatient": ("lock_timeout = '1ms'", "idle_in_transaction_session_timeout = '1ms'"),
}  # fmt: skip


@pytest.mark.parametrize("pool", [L3PoolConfig(), L3PoolConfig(prepared=False)], ids=["own session", "shared session"])
@pytest.mark.parametrize("name", SETTINGS)
def test_a_role_with_settings_of_its_own(dsn: str, make: MakeStore, name: str, pool: L3PoolConfig) -> None:
    with role(dsn, *SETTINGS[name]) as own:
        stored(make(postgres_dsn=own, l3_pool=pool)).close()


def test_a_role_that_may_not_make_temporary_tables(dsn: str, make: MakeStore) -> None:
    with role(dsn, temporary=False) as own:
        with psycopg.connect(own) as conn, pytest.raises(psycopg.errors.InsufficientPrivilege):
            conn.execute("CREATE TEMP TABLE t (a int)")
        stored(make(postgres_dsn=own)).close()


def test_a_standby_is_told_as_one_whatever_the_role_says(make: MakeStore) -> None:
    with ThrowawayPostgres() as primary, role(primary.dsn, "default_transaction_read_only = on") as own:
        registered = make(postgres_dsn=own)
        registered.register(schema(Event, name="events"))
        registered.migrate()
        registered.set("events", "1", Event("1"))
        with EmbeddedStandby(primary) as standby:
            own = make_conninfo(own, port=standby.port)
            for pool in (L3PoolConfig(), L3PoolConfig(prepared=False)):
                _only_reads(make(postgres_dsn=own, l3_pool=pool))


def _only_reads(store: DataStore) -> None:
    store.register(schema(Event, name="events"))
    wait_until(lambda: store.get("events", "1", default=None, force_l3=True))
    assert len(store.search("events")) == 1
    with pytest.raises(L3UnavailableError, match="25006"):
        store.set("events", "1", Event("1"))
