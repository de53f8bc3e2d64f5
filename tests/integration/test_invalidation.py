"""`invalidate` holds also where a transaction that was under way commits after it."""

from __future__ import annotations

import multiprocessing
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Any

import psycopg
import pytest
from psycopg import sql
from psycopg.conninfo import make_conninfo

from strata import DataStore
from strata.embedded import EmbeddedPostgres
from strata.engine import unfinished
from strata.testing import inspect
from tests.databases import login
from tests.held import Held, execute
from tests.models import Note
from tests.stores import MakeStore, schema, stores, sure
from tests.support import wait_until


def ready(make: MakeStore, **options: Any) -> DataStore:
    store = make()
    store.register(schema(Note, **options))
    store.migrate()
    sure(store)
    return store


@contextmanager
def changing(dsn: str, *ids: int) -> Iterator[None]:
    """A transaction of another program that has changed these rows, and commits at the end of the block."""
    with closing(psycopg.connect(dsn)) as conn:
        conn.execute("UPDATE note SET text = 'new' WHERE id = ANY(%s)", [list(ids)])
        yield
        conn.commit()


def comes(store: DataStore, id: int = 1) -> None:
    wait_until(lambda: store.get(Note, id) == Note(id, "new"))
    wait_until(lambda: not inspect(store).unfinished, what="the last look")


@pytest.mark.parametrize("missing", ["none", "l1", "l2"])
def test_it_is_repeated_when_the_transaction_has_ended(make: MakeStore, dsn: str, missing: str) -> None:
    store = ready(make, **({} if missing == "none" else {missing: None}))
    store.set(Note, 1, Note(1, "old"))
    with changing(dsn, 1):
        store.invalidate(Note, 1)
        assert store.get(Note, 1) == Note(1, "old")
    comes(store)


def test_nothing_is_repeated_where_no_transaction_is_under_way(make: MakeStore) -> None:
    store = ready(make)
    store.set(Note, 1, Note(1, "old"))
    store.invalidate(Note, 1)
    assert not inspect(store).unfinished


def test_each_of_several_transactions_is_awaited(make: MakeStore, dsn: str) -> None:
    store = ready(make)
    store.set_many(Note, {1: Note(1, "old"), 2: Note(2, "old")})
    with changing(dsn, 1):
        with changing(dsn, 2):
            for id in (1, 2):
                store.invalidate(Note, id)
                assert store.get(Note, id) == Note(id, "old")
        wait_until(lambda: store.get(Note, 2) == Note(2, "new"))
        assert store.get(Note, 1) == Note(1, "old")
        assert len(inspect(store).unfinished) == 2
    comes(store)


@pytest.mark.parametrize("missing", ["none", "l1", "l2"])
@pytest.mark.parametrize("call", ["search", "search_cached", "warm_cache"])
def test_rows_that_were_read_before_it_fill_nothing_after_it(
    make: MakeStore, dsn: str, call: str, missing: str
) -> None:
    store = ready(make, **({} if missing == "none" else {missing: None}))
    store.set(Note, 1, Note(1, "old"))
    store.invalidate(Note, 1)
    held = Held(store, "note")
    held.pause()
    thread = threading.Thread(target=getattr(store, call), args=(Note,))
    thread.start()
    assert held.arrived.wait(30)
    execute(dsn, "UPDATE note SET text = 'new' WHERE id = 1")
    store.invalidate(Note, 1)
    held.go()
    thread.join(30)
    assert store.get(Note, 1) == Note(1, "new")


def test_a_role_without_privileges_sees_the_transactions_of_others(make: MakeStore, dsn: str, redis_addr: str) -> None:
    owner = ready(make)
    owner.set(Note, 1, Note(1, "old"))
    with closing(psycopg.connect(dsn, autocommit=True)) as conn:
        role = sql.Identifier(f"plain_{conn.info.dbname}")
        conn.execute(sql.SQL("CREATE ROLE {} {}").format(role, login(dsn)))
        try:
            conn.execute(sql.SQL("GRANT ALL ON ALL TABLES IN SCHEMA public TO {}").format(role))
            with stores(make_conninfo(dsn, user=f"plain_{conn.info.dbname}"), redis_addr) as plain:
                store = plain()
                store.register(schema(Note))
                sure(store)
                with changing(dsn, 1):
                    store.invalidate(Note, 1)
                    assert store.get(Note, 1) == Note(1, "old")
                comes(store)
        finally:
            conn.execute(sql.SQL("DROP OWNED BY {}").format(role))
            conn.execute(sql.SQL("DROP ROLE {}").format(role))


def test_with_postgres_away_it_is_repeated_once_postgres_is_back(
    own_postgres: EmbeddedPostgres, redis_addr: str
) -> None:
    with stores(own_postgres.dsn, redis_addr) as make:
        store = ready(make)
        store.set(Note, 1, Note(1, "old"))
        own_postgres.kill()
        store.invalidate(Note, 1)
        assert len(inspect(store).unfinished) == 1
        own_postgres.restart()
        wait_until(lambda: not inspect(store).unfinished)
        assert store.get(Note, 1) == Note(1, "old")


def test_beyond_a_limit_the_whole_schema_is_invalidated(
    make: MakeStore, dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(unfinished, "LIMIT", 3)
    store, other = ready(make), ready(make)
    store.set_many(Note, {id: Note(id, "old") for id in range(1, 9)})
    with changing(dsn, *range(1, 9)):
        for id in range(1, 9):
            store.invalidate(Note, id)
        assert len(inspect(store).unfinished) == 4
        for instance in (store, other):
            assert [instance.get(Note, id).text for id in range(1, 9)] == ["old"] * 8
    for id in range(1, 9):
        comes(store, id)
        comes(other, id)


def test_a_store_that_is_closed_right_after_the_commit_has_repeated_it(
    make: MakeStore, dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(unfinished, "SOONEST", 60.0)  # no look comes before the end
    store, other = ready(make), ready(make)
    for id in range(1, 20):
        store.set(Note, id, Note(id, "old"))
    with changing(dsn, *range(1, 20)):
        for id in range(1, 20):
            store.invalidate(Note, id)
            assert other.get(Note, id) == Note(id, "old")
    store.close()
    for id in range(1, 20):
        wait_until(lambda id=id: other.get(Note, id).text == "new")  # type: ignore[misc]


def test_a_process_that_ends_right_after_the_commit_has_repeated_it(make: MakeStore, dsn: str) -> None:
    store, other = ready(make), ready(make)
    store.set(Note, 1, Note(1, "old"))

    def child() -> None:
        with changing(dsn, 1):
            store.invalidate(Note, 1)
            invalidated.set()
            assert read.wait(20)

    context = multiprocessing.get_context("fork")
    invalidated, read = context.Event(), context.Event()
    process = context.Process(target=child)
    process.start()
    assert invalidated.wait(20)
    assert other.get(Note, 1) == Note(1, "old")
    read.set()
    process.join(20)
    assert process.exitcode == 0
    wait_until(lambda: other.get(Note, 1).text == "new")


def test_one_that_is_broken_off_keeps_no_later_one_from_being_repeated(
    make: MakeStore, dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Alarm(BaseException):
        """What a signal's handler raises."""

    def broken_off(*_: Any) -> bool:
        raise Alarm

    store = ready(make)
    store.set(Note, 1, Note(1, "old"))
    with changing(dsn, 1):
        with monkeypatch.context() as patched, pytest.raises(Alarm):
            patched.setattr(inspect(store).background, "submit", broken_off)
            store.invalidate(Note, 1)
        store.invalidate(Note, 1)
        assert store.get(Note, 1) == Note(1, "old")
    comes(store)


def test_a_child_of_a_fork_has_invalidations_of_its_own(make: MakeStore, dsn: str) -> None:
    store = ready(make)
    store.set(Note, 1, Note(1, "old"))

    def child() -> None:
        assert not inspect(store).unfinished
        store.invalidate(Note, 1)
        assert len(inspect(store).unfinished) == 1
        assert store.get(Note, 1) == Note(1, "old")
        go.set()
        comes(store)

    context = multiprocessing.get_context("fork")
    go = context.Event()
    with changing(dsn, 1):
        store.invalidate(Note, 1)
        process = context.Process(target=child)
        process.start()
        assert go.wait(20)
    process.join(20)
    assert process.exitcode == 0
    comes(store)
