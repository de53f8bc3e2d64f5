"""`search_cached`: what the contract says of kept results, and those that a write drops."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Annotated, Any

import psycopg
import pytest

import strata
from strata import (
    DataStore,
    MemPolicy,
    PostgresPolicy,
    Q,
    RedisPolicy,
    Schema,
    SchemaHooks,
    SearchExpiry,
    WriteMode,
)
from strata.embedded import EmbeddedValkey
from strata.testing import inspect
from tests.behind import client, rows, run
from tests.models import Note
from tests.stores import MakeStore, schema, stores
from tests.support import wait_until

ON_WRITE = RedisPolicy(ttl=600, search_expiry=SearchExpiry.ON_WRITE)
ALL_NOTES = Q().order_by("id")


def notes_of(make: MakeStore, mode: WriteMode = WriteMode.WRITE_THROUGH, **options: Any) -> DataStore:
    """An instance with notes whose results are dropped on write, and others whose results are not."""
    store = make(write_behind_flush_interval=0.05)
    store.register(schema(Note, name="notes", l2=ON_WRITE, write_mode=mode, **options))
    store.register(schema(Note, name="others"))
    store.migrate()
    return store


def texts(store: DataStore, query: Q = ALL_NOTES) -> list[str]:
    return [note.text for note in store.search_cached("notes", query)]


def set_one(store: DataStore) -> None:
    store.set("notes", 1, Note(1, "new"))


def set_many(store: DataStore) -> None:
    store.set_many("notes", {1: Note(1, "new"), 2: Note(2, "new")})


def delete(store: DataStore) -> None:
    store.delete("notes", 1)


def delete_many(store: DataStore) -> None:
    store.delete_many("notes", [1, 2])


def transaction(store: DataStore) -> None:
    store.tx().set("others", 1, Note(1)).set("notes", 1, Note(1, "new")).commit()


WRITES = [set_one, set_many, delete, delete_many, transaction]


@pytest.mark.parametrize("mode", list(WriteMode), ids=lambda mode: mode.value)
@pytest.mark.parametrize("write", WRITES, ids=lambda write: write.__name__)
def test_kept_results_are_dropped_whatever_instance_writes(
    make: MakeStore, mode: WriteMode, write: Callable[[DataStore], None]
) -> None:
    writer, reader = notes_of(make, mode), notes_of(make, mode)
    writer.set_many("notes", {1: Note(1, "old"), 2: Note(2, "old")})
    assert texts(reader) == texts(writer) == ["old", "old"]
    write(writer)
    writer.flush_dirty()
    fresh = [note.text for note in writer.search("notes", ALL_NOTES)]
    assert fresh != ["old", "old"]
    assert texts(reader) == texts(writer) == fresh


def test_without_the_option_a_result_lives_until_its_ttl(make: MakeStore, redis_addr: str) -> None:
    store = notes_of(make)
    store.set("others", 1, Note(1, "old"))
    before = store.search_cached("others")
    store.set("others", 1, Note(1, "new"))
    assert store.search_cached("others") == before
    keys = client(redis_addr).keys("strata:{search}*")
    assert len(keys) == 1 and 0 < client(redis_addr).ttl(keys[0]) <= 600


def test_where_records_never_expire_a_write_ends_results_and_a_day_does(make: MakeStore, redis_addr: str) -> None:
    store = make()
    notes = store.register(schema(Note, name="notes", l2=RedisPolicy(ttl=0)))
    store.migrate()
    for number in (1, 2):
        notes.set(number, Note(number))
        assert len(notes.search_cached(Q())) == number
    held = client(redis_addr)
    left = [held.pttl(key) for key in held.keys("strata:{search}*w:*")]
    assert left
    assert all(0 < milliseconds <= 86_400_000 for milliseconds in left)


def test_a_kept_result_is_served_without_asking_the_database(make: MakeStore, dsn: str) -> None:
    store = notes_of(make)
    store.set("notes", 1, Note(1, "one"))
    assert texts(store) == ["one"]
    run(dsn, "UPDATE notes SET text = 'behind its back'")
    assert texts(store) == ["one"]
    assert texts(store, ALL_NOTES.limit(7)) == ["behind its back"]
    assert store.stats().by_schema["notes"]["l2_hits"] == 1


def test_writes_of_other_schemas_neither_drop_results_nor_send_anything_for_them(
    make: MakeStore, redis_addr: str
) -> None:
    store = notes_of(make)
    store.set("notes", 1, Note(1, "one"))
    texts(store)
    generation = client(redis_addr).get("strata:{search}:strata:notes:generation")
    store.set("others", 1, Note(1))
    store.set_many("others", {1: Note(1)})
    store.delete("others", 1)
    assert client(redis_addr).get("strata:{search}:strata:notes:generation") == generation
    assert client(redis_addr).keys("strata:{search}:strata:others:*") == []


def test_a_result_loaded_before_a_write_is_not_kept_after_it(make: MakeStore, dsn: str) -> None:
    reader, writer = notes_of(make), notes_of(make)
    writer.set("notes", 1, Note(1, "old"))
    # The query has its snapshot, and then waits for the lock.
    slow = Q().where("(SELECT pg_advisory_xact_lock(4711)::text) IS NOT NULL")
    with psycopg.connect(dsn) as blocker, ThreadPoolExecutor() as pool:
        blocker.execute("SELECT pg_advisory_lock(4711)")
        early = pool.submit(texts, reader, slow)
        waiting = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND objid = 4711 AND NOT granted"
        wait_until(lambda: rows(dsn, waiting) == [(1,)])
        writer.set("notes", 1, Note(1, "new"))
        blocker.execute("SELECT pg_advisory_unlock(4711)")
        assert early.result() == ["old"]
    assert texts(reader, slow) == ["new"]


def test_while_a_writer_is_about_to_commit_nothing_is_kept(make: MakeStore, dsn: str) -> None:
    reader, writer = notes_of(make), notes_of(make)
    writer.set("notes", 1, Note(1, "old"))
    with psycopg.connect(dsn) as blocker, ThreadPoolExecutor() as pool:
        blocker.execute("SELECT * FROM notes FOR UPDATE")
        late = pool.submit(set_one, writer)
        waiting = (
            "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
        )
        wait_until(lambda: rows(dsn, waiting) == [(1,)])
        assert texts(reader) == ["old"]
        run(dsn, "INSERT INTO notes (id, text, tags, meta) VALUES (2, 'sees L3', '[]', '{}')")
        assert texts(reader) == ["old", "sees L3"]
        blocker.commit()
        late.result()
    assert texts(reader) == ["new", "sees L3"]


def test_a_writer_that_never_comes_back_does_not_keep_results_away_for_ever(make: MakeStore, redis_addr: str) -> None:
    store = notes_of(make)
    kept = inspect(store).schemas["notes"].searches
    assert texts(store) == []
    kept.committing("killed", 0.3)
    kept.committing("slower", 30.0)
    kept.committed("slower")
    assert kept.find("0" * 32).generation is None
    wait_until(lambda: kept.find("0" * 32).generation is not None, what="the end of the killed writer's time")
    assert not client(redis_addr).exists("strata:{search}:strata:notes:writers")


def test_a_write_that_fails_leaves_results_as_good_as_they_were(make: MakeStore, dsn: str) -> None:
    store = notes_of(make)
    store.set("notes", 1, Note(1, "one"))
    run(dsn, "ALTER TABLE notes ADD CHECK (text <> 'refused')")
    for write in (
        lambda: store.set("notes", 1, Note(1, "refused")),
        lambda: store.set_many("notes", {1: Note(1, "refused")}),
    ):
        with pytest.raises(strata.ConstraintError):
            write()
        assert texts(store) == ["one"]
        run(dsn, "UPDATE notes SET meta = '{}'")
        hits = store.stats().by_schema["notes"]["l2_hits"]
        assert texts(store) == ["one"]
        assert store.stats().by_schema["notes"]["l2_hits"] == hits + 1


def test_an_invalidation_drops_results_too(make: MakeStore, dsn: str) -> None:
    reader, other = notes_of(make), notes_of(make)
    reader.set("notes", 1, Note(1, "old"))
    assert texts(reader) == ["old"]
    run(dsn, "UPDATE notes SET text = 'by hand'")
    other.invalidate("notes", 1)
    assert texts(reader) == ["by hand"]


def test_a_row_that_others_change_drops_results_where_the_table_is_watched(make: MakeStore, dsn: str) -> None:
    store = notes_of(make, l3=PostgresPolicy(watch=True))
    store.set("notes", 1, Note(1, "old"))
    assert texts(store) == ["old"]
    listener = inspect(store).listener
    wait_until(lambda: listener.connected, what="a listener")
    run(dsn, "UPDATE notes SET text = 'by hand'")
    wait_until(lambda: texts(store) == ["by hand"])


def test_a_result_that_is_dropped_on_write_comes_from_the_primary(make: MakeStore, dsn: str) -> None:
    lagging = "postgresql://nobody@127.0.0.1:1/nothing"
    store = notes_of(make, l3=PostgresPolicy(read_replica=lagging))
    store.set("notes", 1, Note(1, "one"))
    assert texts(store) == ["one"]
    with pytest.raises(strata.L3UnavailableError):
        store.search("notes")


def test_with_redis_away_results_come_from_the_database_and_are_dropped_afterwards(
    dsn: str, own_valkey: EmbeddedValkey
) -> None:
    with stores(dsn, own_valkey.addr) as make:
        writer, reader = notes_of(make), notes_of(make)
        writer.set("notes", 1, Note(1, "old"))
        assert texts(reader) == ["old"]
        own_valkey.freeze()
        try:
            writer.set("notes", 1, Note(1, "new"))
            assert texts(writer) == texts(reader) == ["new"]
        finally:
            own_valkey.thaw()
        wait_until(lambda: texts(reader) == ["new"] and texts(writer) == ["new"])
        wait_until(lambda: writer.count("notes") == 1 and not _repairs(dsn), what="the repair")
        assert texts(reader) == texts(writer) == ["new"]


def _repairs(dsn: str) -> list[tuple[Any, ...]]:
    with psycopg.connect(dsn) as conn:
        return conn.execute("SELECT * FROM _strata_repairs").fetchall()


def test_results_are_found_under_the_query_and_nothing_else(make: MakeStore) -> None:
    store = notes_of(make)
    store.set_many("notes", {n: Note(n, f"n{n}") for n in range(1, 5)})
    queries = [
        Q().where("id > $1", 1).order_by("id"),
        Q().where("id > $1", 2).order_by("id"),
        Q().where("id > $1", 1).order_by("id").desc(),
        Q().where("id > $1", 1).order_by("id").limit(1),
        Q().where("id > $1", 1).order_by("id").offset(1),
        Q().where("id > $1", 1).order_by("id").fields("id", "text"),
    ]
    first = [store.search_cached("notes", query) for query in queries]
    assert [store.search_cached("notes", query.build()) for query in queries] == first
    assert [store.search("notes", query) for query in queries] == first
    assert store.stats().by_schema["notes"]["l2_hits"] == len(queries)


def test_force_l2_may_answer_from_redis_and_force_l3_may_not(make: MakeStore, dsn: str, redis_addr: str) -> None:
    store = notes_of(make)
    store.set("notes", 1, Note(1, "old"))
    # Where Redis was slow to answer, a result is not kept; the next one is.
    wait_until(lambda: texts(store) and client(redis_addr).keys("strata:{search}:strata:notes:w:*"), what="a kept one")
    run(dsn, "UPDATE notes SET text = 'new'")
    assert texts(store, ALL_NOTES.force_l2()) == ["old"]
    assert texts(store, ALL_NOTES.force_l3()) == ["new"]


def test_a_corrupted_result_is_a_miss_counted_and_replaced(make: MakeStore, redis_addr: str) -> None:
    store = notes_of(make)
    store.set("others", 1, Note(1, "one"))
    expected = store.search_cached("others")
    (key,) = client(redis_addr).keys("strata:{search}:strata:others:*")
    client(redis_addr).set(key, b"\xff nonsense")
    assert store.search_cached("others") == expected
    assert store.stats().corrupt == 1
    assert store.search_cached("others") == expected
    assert store.stats().corrupt == 1


@pytest.mark.parametrize("expiry", list(SearchExpiry))
@pytest.mark.parametrize("ttl", [0, 60])
def test_the_number_of_kept_results_is_bounded_and_each_query_gets_its_own(
    make: MakeStore, redis_addr: str, expiry: SearchExpiry, ttl: float
) -> None:
    store = make()
    policy = RedisPolicy(ttl=ttl, search_expiry=expiry, max_searches=7)
    notes = store.register(schema(Note, name="notes", l2=policy))
    store.migrate()
    for round in range(3):
        notes.set_many({number: Note(number) for number in range(40)})
        for number in range(40):
            assert [note.id for note in notes.search_cached(Q().where("id = $1", number))] == [number], round
    kept = client(redis_addr).keys("strata:{search}:strata:notes:?:*")
    assert len(kept) == 7
    assert all(0 < client(redis_addr).ttl(key) <= 86_400 for key in kept)


def test_a_kept_result_is_the_callers_own(make: MakeStore) -> None:
    store = notes_of(make)
    store.set("notes", 1, Note(1, "one", ["a"]))
    for _ in range(3):
        (found,) = store.search_cached("notes")
        assert found.tags == ["a"]
        found.tags.append("mine")
        found.text = "changed"
    assert store.get("notes", 1).tags == ["a"]


def test_where_there_is_no_l2_it_is_a_search(make: MakeStore) -> None:
    store = make()
    notes = store.register(Schema(Note, name="notes", l1=MemPolicy(), l3=PostgresPolicy()))
    store.migrate()
    notes.set(1, Note(1, "one"))
    assert notes.search_cached() == [Note(1, "one")]


def test_hooks_of_reading_run_for_kept_records_too(make: MakeStore) -> None:
    ids: list[int] = []
    hooks = SchemaHooks(before_get=ids.append, after_get=lambda note: Note(note.id, note.text.upper()))
    store = notes_of(make, hooks=hooks)
    store.set("notes", 1, Note(1, "one"))
    assert texts(store) == texts(store) == ["ONE"]
    assert ids == [1, 1]


@dataclass
class Sealed:
    id: Annotated[str, strata.PrimaryKey]
    token: Annotated[str, strata.Encrypted]


def test_what_is_encrypted_stays_so_in_a_kept_result(make: MakeStore, redis_addr: str) -> None:
    store = make(encryption_key=b"k" * 32)
    sealed = store.register(schema(Sealed, name="sealed", l2=ON_WRITE))
    store.migrate()
    sealed.set("a", Sealed("a", "plain-token"))
    assert sealed.search_cached() == sealed.search_cached() == [Sealed("a", "plain-token")]
    (key,) = client(redis_addr).keys("strata:{search}:strata:sealed:w:*")
    assert b"plain-token" not in client(redis_addr).get(key)


def test_the_option_is_checked() -> None:
    with pytest.raises(strata.InvalidConfigError, match="SearchExpiry"):
        RedisPolicy(search_expiry="on_write")  # type: ignore[arg-type]
