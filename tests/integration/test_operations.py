"""Every operation, in every shape of schema and each synchronous write mode, on real servers."""

from __future__ import annotations

import dataclasses
from datetime import UTC, datetime
from typing import Any

import psycopg
import pytest

import strata
from strata import UNLOADED, MemPolicy, PostgresPolicy, RedisPolicy, Schema, SchemaHooks, WriteMode
from tests.models import Account, Note, Player, Point
from tests.stores import MakeStore, schema, sure

L1: dict[str, Any] = {"l1": MemPolicy(ttl=60)}
L2: dict[str, Any] = {"l2": RedisPolicy(ttl=600)}
L3: dict[str, Any] = {"l3": PostgresPolicy()}
SHAPES: dict[str, dict[str, Any]] = {
    "L1": L1,
    "L2": L2,
    "L3": L3,
    "L1+L2": L1 | L2,
    "L1+L3": L1 | L3,
    "L2+L3": L2 | L3,
    "L1+L2+L3": L1 | L2 | L3,
}
MODES = list(WriteMode)


@pytest.fixture(params=SHAPES)
def shaped(request: pytest.FixtureRequest, make: MakeStore) -> tuple[strata.DataStore, strata.Collection[Note]]:
    """A store with notes in one combination of tiers."""
    store = make()
    notes = store.register(Schema(Note, name="notes", **SHAPES[request.param]))
    if SHAPES[request.param].get("l3"):
        store.migrate()
    return store, notes


@pytest.fixture(params=MODES, ids=lambda mode: mode.value)
def notes(request: pytest.FixtureRequest, make: MakeStore) -> strata.Collection[Note]:
    """Notes in all tiers, in each write mode."""
    store = make()
    handle = store.register(schema(Note, name="notes", write_mode=request.param))
    store.migrate()
    return handle


def test_what_was_set_is_read_back_in_every_combination_of_tiers(shaped: Any) -> None:
    _, notes = shaped
    note = Note(1, "hello", ["a"], {"n": 1})
    assert notes.set(1, note) == note
    assert notes.get(1) == note
    assert notes.get_many([1, 2]) == {1: note}
    assert notes.exists(1) and not notes.exists(2)


def test_what_was_deleted_is_gone_in_every_combination_of_tiers(shaped: Any) -> None:
    _, notes = shaped
    notes.set(1, Note(1))
    notes.delete(1)
    assert notes.get(1, default=None) is None
    assert not notes.exists(1)
    notes.delete(1)
    notes.delete_many([1, 2, 3])
    notes.set(1, Note(1, "again"))
    assert notes.get(1).text == "again"


def test_set_many_stores_all_in_every_combination_of_tiers(shaped: Any) -> None:
    _, notes = shaped
    given = {n: Note(n, f"note {n}") for n in range(300)}
    assert notes.set_many(given) == given
    assert notes.get_many(range(300)) == given
    given[5].text = "changed after"
    assert notes.get(5).text == "note 5"


def test_a_missing_record_raises_or_gives_the_default_even_none(notes: strata.Collection[Note]) -> None:
    with pytest.raises(strata.NotFoundError, match="notes"):
        notes.get(404)
    with pytest.raises(LookupError):
        notes.get(404)
    assert notes.get(404, default=None) is None
    assert notes.get(404, default="x") == "x"


def test_reads_follow_writes_in_every_write_mode(notes: strata.Collection[Note]) -> None:
    for n in range(20):
        notes.set(1, Note(1, f"v{n}"))
        assert notes.get(1).text == f"v{n}"
        assert notes.get(1, force_l2=True).text == f"v{n}"
        assert notes.get_many([1])[1].text == f"v{n}"
    notes.delete(1)
    assert notes.get(1, default=None) is None
    assert notes.get(1, default=None, force_l2=True) is None
    assert notes.get_many([1]) == {}


def test_a_record_changed_after_set_or_get_leaves_the_cache_unchanged(notes: strata.Collection[Note]) -> None:
    given = Note(1, "kept", ["a"], {"n": 1})
    returned = notes.set(1, given)
    for record in (given, returned, notes.get(1), notes.get(1, force_l2=True), notes.get_many([1])[1]):
        record.text = "changed"
        record.tags.append("b")
        record.meta["n"] = 2
        assert notes.get(1) == Note(1, "kept", ["a"], {"n": 1})
        assert notes.get(1, force_l2=True) == Note(1, "kept", ["a"], {"n": 1})


def test_the_key_zero_is_a_key_and_the_empty_string_is_not(make: MakeStore) -> None:
    store = make()
    notes = store.register(schema(Note, name="notes"))
    points = store.register(schema(Point, name="points"))
    store.migrate()
    notes.set(0, Note(0, "zero"))
    assert notes.get(0).text == "zero"
    for call in (lambda: points.set("", Point("")), lambda: points.get(""), lambda: points.delete("")):
        with pytest.raises(strata.MissingPrimaryKeyError):
            call()


def test_stamps_are_set_by_the_store_and_come_back_from_set(make: MakeStore) -> None:
    store = make()
    players = store.register(schema(Player, name="players"))
    store.migrate()
    wrong = datetime(2001, 1, 1, tzinfo=UTC)
    first = players.set("p1", Player("p1", "andrew", created_at=wrong, updated_at=wrong))
    assert first.created_at is not None and first.updated_at is not None and first.created_at > wrong
    second = players.set("p1", Player("p1", "andrew", level=2))
    assert second.created_at == first.created_at
    assert second.updated_at is not None and second.updated_at > first.updated_at
    for force in ({}, {"force_l2": True}, {"force_l3": True}):
        assert players.get("p1", **force) == second


def test_each_tier_answers_when_those_above_it_are_empty(make: MakeStore, dsn: str) -> None:
    store = make()
    notes = store.register(schema(Note, name="notes"))
    store.migrate()
    notes.set(1, Note(1, "one"))
    sure(store)
    store.invalidate("notes", 1)
    before = store.stats()
    assert notes.get(1).text == "one"
    assert notes.get(1, force_l2=True).text == "one"
    assert notes.get(1).text == "one"
    after = store.stats()
    assert after.l3_hits - before.l3_hits == 1
    assert after.l2_hits - before.l2_hits == 1
    assert after.l1_hits - before.l1_hits == 1
    with psycopg.connect(dsn, autocommit=True) as conn:
        conn.execute("UPDATE notes SET text = 'outside' WHERE id = 1")
    assert notes.get(1).text == "one"
    assert notes.get(1, force_l3=True).text == "outside"
    assert notes.get(1).text == "one"
    notes.invalidate(1)
    assert notes.get(1).text == "outside"


def test_fields_that_a_tier_does_not_hold_are_unloaded_and_never_written_back(make: MakeStore) -> None:
    store = make(encryption_key=b"k" * 32)
    accounts = store.register(schema(Account, name="accounts"))
    store.migrate()
    sure(store)
    accounts.set("a", Account("a", "Ann", secret="s", biography="b", token="t", scratch=9))
    memory = accounts.get("a")
    assert (memory.secret, memory.biography, memory.token, memory.scratch) == (UNLOADED, UNLOADED, "t", 0)
    redis = accounts.get("a", force_l2=True)
    assert (redis.secret, redis.biography) == (UNLOADED, "b")
    whole = accounts.get("a", force_l3=True)
    assert (whole.secret, whole.biography) == ("s", "b")
    memory.name = "Anna"
    accounts.set("a", memory)
    assert accounts.get("a", force_l3=True) == dataclasses.replace(whole, name="Anna")
    assert accounts.get("a", force_l2=True).biography == "b"


def test_a_partial_record_without_a_row_fails(make: MakeStore) -> None:
    store = make(encryption_key=b"k" * 32)
    accounts = store.register(schema(Account, name="accounts"))
    store.migrate()
    with pytest.raises(strata.EncodeError, match="row"):
        accounts.set("a", Account("a", "Ann", secret=UNLOADED))
    assert accounts.get("a", default=None) is None


def test_encrypted_fields_are_ciphertext_in_the_database(make: MakeStore, dsn: str) -> None:
    store = make(encryption_key=b"k" * 32)
    accounts = store.register(schema(Account, name="accounts"))
    store.migrate()
    accounts.set("a", Account("a", "Ann", token="plain-token"))
    accounts.set("b", Account("b", "Bob", token="plain-token"))
    with psycopg.connect(dsn) as conn:
        rows = conn.execute("SELECT token FROM accounts ORDER BY id").fetchall()
    assert all("plain-token" not in token for (token,) in rows)
    assert rows[0] != rows[1]
    with psycopg.connect(dsn, autocommit=True) as conn:
        conn.execute("UPDATE accounts SET token = (SELECT token FROM accounts WHERE id = 'a') WHERE id = 'b'")
    with pytest.raises(strata.DecodeError, match="token"):
        accounts.get("b", force_l3=True)


def test_unique_violations_raise_and_leave_every_tier_as_it_was(make: MakeStore) -> None:
    store = make()
    players = store.register(schema(Player, name="players"))
    store.migrate()
    players.set("a", Player("a", "same"))
    with pytest.raises(strata.ConstraintError) as caught:
        players.set("b", Player("b", "same"))
    assert caught.value.sqlstate == "23505"
    with pytest.raises(strata.ConstraintError):
        players.set_many({"c": Player("c", "c"), "d": Player("d", "same")})
    assert set(players.get_many(list("abcd"))) == {"a"}


def test_hooks_run_where_the_contract_says(make: MakeStore) -> None:
    seen: list[tuple[str, Any]] = []

    def before_set(note: Note) -> Note:
        if note.text == "refused":
            raise ValueError("no")
        return dataclasses.replace(note, text=note.text.upper())

    def before_get(id: int) -> None:
        if id == 13:
            raise ValueError("unlucky")

    def after_get(note: Note) -> Note:
        return dataclasses.replace(note, meta={"computed": 1})

    def after_set(note: Note) -> None:
        seen.append(("after_set", note.text))
        raise RuntimeError("never hides a result")

    store = make()
    hooks = SchemaHooks(before_set=before_set, before_get=before_get, after_get=after_get, after_set=after_set)
    notes = store.register(schema(Note, name="notes", hooks=hooks))
    store.migrate()
    given = Note(1, "text")
    assert notes.set(1, given).text == "TEXT"
    assert given.text == "text"
    assert notes.get(1).meta == {"computed": 1}
    assert notes.get(1, force_l3=True).meta == {"computed": 1}
    with pytest.raises(strata.HookError) as caught:
        notes.set(2, Note(2, "refused"))
    assert isinstance(caught.value.__cause__, ValueError)
    assert notes.get(2, default=None) is None
    with pytest.raises(strata.HookError):
        notes.get(13)
    assert seen == [("after_set", "TEXT")]
    assert store.stats().hook_errors >= 3


def test_on_evict_runs_for_capacity(make: MakeStore) -> None:
    gone: list[Any] = []
    store = make()
    points = store.register(
        Schema(
            Point,
            name="points",
            l1=MemPolicy(max_entries=1),
            hooks=SchemaHooks(on_evict=lambda key, value: gone.append((key, value))),
        )
    )
    for n in range(300):
        points.set(f"p{n}", Point(f"p{n}", n))
    assert store.stats().l1_entries == 256
    assert len(gone) == 44
    assert all(isinstance(value, Point) and value.id == key for key, value in gone)


def test_an_immutable_record_is_handed_out_as_it_is(make: MakeStore) -> None:
    store = make()
    points = store.register(Schema(Point, name="points", l1=MemPolicy()))
    points.set("a", Point("a", 1))
    assert points.get("a") is points.get("a")


def test_stats_count_what_happened(make: MakeStore) -> None:
    store = make()
    notes = store.register(schema(Note, name="notes"))
    store.migrate()
    notes.set(1, Note(1))
    notes.set_many({2: Note(2), 3: Note(3)})
    notes.get(1)
    notes.get(9, default=None)
    notes.delete(3)
    with pytest.raises(strata.EncodeError):
        notes.get("x")
    stats = store.stats()
    assert (stats.gets, stats.sets, stats.deletes, stats.errors, stats.misses) == (2, 3, 1, 1, 1)
    assert stats.l1_entries == 2
    assert stats.dirty_count == 0
    assert stats.by_schema["notes"]["sets"] == 3


def test_a_closed_store_refuses_everything_but_close_and_stats(make: MakeStore) -> None:
    store = make()
    notes = store.register(schema(Note, name="notes"))
    store.migrate()
    notes.set(1, Note(1))
    store.close()
    store.close()
    assert store.stats().sets == 1
    for call in (
        lambda: notes.get(1),
        lambda: notes.set(1, Note(1)),
        lambda: notes.delete(1),
        lambda: notes.get_many([1]),
        lambda: store.search("notes"),
        lambda: store.count("notes"),
        lambda: store.tx(),
        lambda: store.migrate(),
        lambda: store.flush_dirty(),
        lambda: store.register(schema(Point, name="points")),
    ):
        with pytest.raises(strata.ClosedError):
            call()


def test_a_second_schema_of_one_class_is_reached_by_name(make: MakeStore) -> None:
    store = make()
    store.register(Schema(Point, name="first", l1=MemPolicy()))
    store.register(Schema(Point, name="second", l1=MemPolicy()))
    store.set("second", "a", Point("a", 2))
    assert store.get(Point, "a", default=None) is None
    assert store.get("second", "a").x == 2


def test_ids_with_colons_newlines_and_emoji_simply_work(make: MakeStore) -> None:
    store = make()
    points = store.register(schema(Point, name="points"))
    store.migrate()
    ids = ["a:b", "x\ny", "🦊", "{slot}", "%s", "$1", "'; DROP TABLE points; --", " "]
    for n, id in enumerate(ids):
        points.set(id, Point(id, n))
    for force in ({}, {"force_l2": True}, {"force_l3": True}):
        assert [points.get(id, **force).x for id in ids] == list(range(len(ids)))
