"""Two applications in one database, with tables of their own under schemas of one name: neither touches the other's."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from typing import Any

import psycopg
import pytest

from strata import DataStore, PostgresPolicy, WriteMode
from strata.testing import inspect
from tests.behind import hand_off, idle, persist
from tests.models import Note
from tests.stores import MakeStore, schema, sure
from tests.support import wait_until


@pytest.fixture
def psql(dsn: str) -> Iterator[psycopg.Connection[Any]]:
    with closing(psycopg.connect(dsn, autocommit=True)) as conn:
        yield conn


def application(make: MakeStore, name: str, mode: WriteMode = WriteMode.WRITE_THROUGH, **options: Any) -> DataStore:
    """A store of this namespace, whose notes are in a table of its own."""
    store = make(namespace=name, **options)
    store.register(
        schema(Note, name="notes", write_mode=mode, l3=PostgresPolicy(table_name=f"{name}_notes", watch=True))
    )
    store.migrate()
    return store


def test_what_was_changed_outside_waits_for_the_application_whose_table_it_is(
    make: MakeStore, psql: psycopg.Connection[Any]
) -> None:
    one, other = application(make, "one"), application(make, "other")
    one.set("notes", 1, Note(1, "old"))
    assert one.get("notes", 1) == Note(1, "old")
    one.close()
    other.set("notes", 2, Note(2, "old"))
    sure(other)
    psql.execute("UPDATE one_notes SET text = 'new'")
    psql.execute("UPDATE other_notes SET text = 'new'")

    def waiting() -> list[str]:
        return [id for (id,) in psql.execute("SELECT id FROM _strata_repairs ORDER BY 1").fetchall()]

    wait_until(lambda: "2" not in waiting(), what="the repair of the neighbour's own row")
    assert waiting() == ["1"]
    again = application(make, "one")
    wait_until(lambda: again.get("notes", 1) == Note(1, "new"))
    wait_until(lambda: waiting() == [])


def test_a_neighbour_that_is_gone_keeps_nobody_looking(make: MakeStore, psql: psycopg.Connection[Any]) -> None:
    application(make, "one").close()
    other = application(make, "other")
    other.set("notes", 2, Note(2))
    psql.execute("INSERT INTO one_notes (id, text) VALUES (1, '')")
    assert psql.execute("SELECT id FROM _strata_repairs").fetchall() == [("1",)]
    sure(other)
    listener, repairs = inspect(other).listener, inspect(other).repairs
    wait_until(lambda: listener.connected)
    wait_until(lambda: not repairs._busy)
    woken: list[None] = []
    looked: list[None] = []
    outside = inspect(other).outside
    tables = outside.tables

    def look() -> list[Any]:
        looked.append(None)
        return tables()

    outside.waiting = lambda: woken.append(None)  # type: ignore[method-assign]
    outside.tables = look  # type: ignore[method-assign]
    wait_until(lambda: len(looked) > 1, what="two looks of the listener")
    assert woken == []


@pytest.mark.parametrize("change", ["DELETE FROM one_notes", "TRUNCATE one_notes"], ids=["deleted", "truncated"])
def test_what_goes_from_one_table_ends_no_deferred_write_to_the_other(
    make: MakeStore, psql: psycopg.Connection[Any], change: str
) -> None:
    one = application(make, "one", WriteMode.WRITE_BEHIND)
    other = application(make, "other", WriteMode.WRITE_BEHIND, write_behind_flush_interval=3600.0)
    one.set_many("notes", {1: Note(1, "theirs")})
    idle(other)
    other.set("notes", 1, Note(1, "ours"))
    hand_off(other)
    psql.execute(change)
    persist(other, "notes")
    assert psql.execute("SELECT id, text FROM other_notes").fetchall() == [(1, "ours")]


def test_migrate_asks_nobody_to_end_what_tells_another_application(make: MakeStore) -> None:
    one = application(make, "one")
    other = application(make, "other")
    assert one.migrate().manual == ()
    assert other.migrate().manual == ()
