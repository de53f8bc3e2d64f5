"""Transactions over several schemas."""

from __future__ import annotations

import psycopg
import pytest

import strata
from strata import DataStore, MemPolicy, RedisPolicy, Schema, WriteMode
from tests.models import Note, Player, Point
from tests.stores import MakeStore, schema


@pytest.fixture
def store(make: MakeStore) -> DataStore:
    store = make(write_behind_flush_interval=60)
    store.register(schema(Player, name="players"))
    store.register(schema(Note, name="notes", write_mode=WriteMode.WRITE_BEHIND))
    store.register(Schema(Point, name="points", l1=MemPolicy(), l2=RedisPolicy()))
    store.migrate()
    return store


def test_sets_and_deletes_of_several_schemas_commit_together(store: DataStore) -> None:
    store.set("players", "old", Player("old", "old"))
    store.tx().set(Player, "a", Player("a", "ann")).set("notes", 1, Note(1, "n")).set("points", "p", Point("p")).delete(
        "players", "old"
    ).commit()
    assert store.get("players", "a", force_l3=True).username == "ann"
    assert store.get("notes", 1, force_l3=True).text == "n"
    assert store.get("points", "p") == Point("p")
    assert store.get("players", "old", default=None) is None


def test_nothing_is_written_when_one_operation_fails(store: DataStore) -> None:
    store.set("players", "a", Player("a", "taken"))
    with pytest.raises(strata.TxFailedError) as caught:
        store.tx().set("notes", 1, Note(1)).set("players", "b", Player("b", "taken")).set(
            "points", "p", Point("p")
        ).commit()
    assert caught.value.sqlstate == "23505"
    assert store.count("notes") == 0
    assert store.get("notes", 1, default=None) is None
    assert store.get("players", "b", default=None) is None
    assert store.get("points", "p", default=None) is None


def test_as_a_context_manager_it_commits_or_drops(store: DataStore) -> None:
    with store.tx() as tx:
        tx.set("players", "a", Player("a", "ann"))
    assert store.get("players", "a", force_l3=True).username == "ann"
    with pytest.raises(RuntimeError), store.tx() as tx:
        tx.set("players", "b", Player("b", "bob"))
        raise RuntimeError
    assert store.get("players", "b", default=None) is None


def test_a_transaction_is_used_once(store: DataStore) -> None:
    tx = store.tx()
    tx.commit()
    for call in (tx.commit, lambda: tx.delete("players", "a")):
        with pytest.raises(strata.ClosedError):
            call()


def test_bad_records_are_refused_when_they_are_queued(store: DataStore) -> None:
    with pytest.raises(strata.EncodeError):
        store.tx().set("players", "a", Player("b", "x"))
    with pytest.raises(strata.SchemaNotFoundError):
        store.tx().delete("nope", "a")


def test_a_deadline_is_enforced_by_the_server(store: DataStore, dsn: str) -> None:
    with psycopg.connect(dsn) as blocker:
        store.set("players", "a", Player("a", "ann"))
        blocker.execute("SELECT * FROM players WHERE id = 'a' FOR UPDATE")
        with pytest.raises(strata.TxTimeoutError):
            store.tx(timeout=0.2).set("players", "a", Player("a", "late")).commit()
    assert store.get("players", "a").username == "ann"
    assert store.get("players", "a", force_l3=True).username == "ann"


def test_the_last_word_on_a_key_counts(store: DataStore) -> None:
    store.tx().set("players", "a", Player("a", "x")).delete("players", "a").commit()
    assert store.count("players") == 0
    store.tx().delete("players", "a").set("players", "a", Player("a", "y")).commit()
    assert store.get("players", "a").username == "y"


def test_a_transaction_is_newer_than_a_pending_write_before_it(store: DataStore) -> None:
    store.set("notes", 1, Note(1, "pending"))
    store.tx().set("notes", 1, Note(1, "synchronous")).commit()
    assert store.get("notes", 1).text == "synchronous"
    store.flush_dirty()
    assert store.get("notes", 1, force_l3=True).text == "synchronous"
    store.set("notes", 1, Note(1, "later"))
    store.flush_dirty()
    assert store.get("notes", 1, force_l3=True).text == "later"
