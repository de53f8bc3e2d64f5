"""Hooks of every kind, in every operation and write mode."""

from __future__ import annotations

import dataclasses
import json
import threading
from dataclasses import dataclass, field
from typing import Annotated, Any

import pytest

import strata
from strata import Collection, DataStore, HookError, MemPolicy, Q, Schema, SchemaHooks, WriteMode
from strata.testing import inspect
from tests.behind import run
from tests.lines import Log
from tests.models import Note, Point
from tests.stores import MakeStore, schema
from tests.support import wait_until

MODES = list(WriteMode)


class RefusedError(Exception):
    """What the hooks below raise."""


@dataclass
class Told:
    """What the hooks were called with, by name; those in `refusing` raise."""

    calls: list[tuple[str, Any]] = field(default_factory=list)
    refusing: set[str] = field(default_factory=set)

    def hooks(self) -> SchemaHooks:
        def before_set(note: Note) -> Note:
            self._note("before_set", note.id)
            return dataclasses.replace(note, text=note.text.upper())

        def after_get(note: Note) -> Note:
            self._note("after_get", note.id)
            return dataclasses.replace(note, meta={"computed": 1})

        return SchemaHooks(
            before_set=before_set,
            after_set=lambda note: self._note("after_set", note.id),
            before_get=lambda id: self._note("before_get", id),
            after_get=after_get,
            on_evict=lambda key, value: self._note("on_evict", key),
            on_write_error=lambda key, error: self._note("on_write_error", key),
        )

    def of(self, *names: str) -> list[tuple[str, Any]]:
        """The calls of these hooks since the last look."""
        found = [call for call in self.calls if call[0] in names]
        self.calls.clear()
        return found

    def _note(self, name: str, what: Any) -> None:
        self.calls.append((name, what))
        if name in self.refusing:
            raise RefusedError(name)


@pytest.fixture
def told() -> Told:
    return Told()


@pytest.fixture(params=MODES, ids=lambda mode: mode.value)
def store(request: pytest.FixtureRequest, make: MakeStore, told: Told) -> DataStore:
    store = make(write_behind_flush_interval=0.05)
    store.register(schema(Note, name="notes", write_mode=request.param, hooks=told.hooks()))
    store.migrate()
    return store


def test_before_set_replaces_and_after_set_is_told_in_every_write(store: DataStore, told: Told) -> None:
    given = Note(1, "text")
    assert store.set("notes", 1, given).text == "TEXT"
    assert told.of("before_set", "after_set") == [("before_set", 1), ("after_set", 1)]
    stored = store.set_many("notes", {1: given, 2: Note(2, "two")})
    assert [note.text for note in stored.values()] == ["TEXT", "TWO"]
    assert sorted(told.of("before_set", "after_set")) == [(h, n) for h in ("after_set", "before_set") for n in (1, 2)]
    tx = store.tx().set("notes", 3, Note(3, "three"))
    assert told.of("before_set", "after_set") == [("before_set", 3)]
    tx.commit()
    assert told.of("before_set", "after_set") == [("after_set", 3)]
    assert given.text == "text"
    store.flush_dirty()
    assert {note.text for note in store.search("notes")} == {"TEXT", "TWO", "THREE"}


def test_hooks_of_reading_run_per_record_in_every_read(store: DataStore, told: Told) -> None:
    store.set_many("notes", {n: Note(n) for n in (1, 2)})
    store.flush_dirty()
    told.calls.clear()
    both = [(hook, n) for n in (1, 2) for hook in ("before_get", "after_get")]
    reads: dict[str, Any] = {
        "get": lambda: [store.get("notes", 1), store.get("notes", 2)],
        "get from L2": lambda: [store.get("notes", n, force_l2=True) for n in (1, 2)],
        "get from L3": lambda: [store.get("notes", n, force_l3=True) for n in (1, 2)],
        "search": lambda: store.search("notes", Q().order_by("id")),
        "search_cached": lambda: store.search_cached("notes", Q().order_by("id")),
        "search_cached again": lambda: store.search_cached("notes", Q().order_by("id")),
        "search_iter": lambda: list(store.search_iter("notes", Q().order_by("id"))),
    }
    for name, read in reads.items():
        assert [note.meta for note in read()] == [{"computed": 1}] * 2, name
        assert told.of("before_get", "after_get") == both, name
    found = store.get_many("notes", [1, 2, 3])
    assert [note.meta for note in found.values()] == [{"computed": 1}] * 2
    assert sorted(told.of("before_get", "after_get")) == sorted([*both, ("before_get", 3)])


def test_what_after_get_returns_is_not_cached(store: DataStore, told: Told) -> None:
    store.set("notes", 1, Note(1, "x", meta={"stored": 1}))
    store.get("notes", 1)
    inspect(store).schemas["notes"].hooks._hooks = SchemaHooks()
    for options in ({}, {"force_l2": True}):
        assert store.get("notes", 1, **options).meta == {"stored": 1}


def test_hooks_do_not_run_in_warming_exists_count_and_delete(store: DataStore, told: Told) -> None:
    store.set("notes", 1, Note(1))
    store.flush_dirty()
    told.calls.clear()
    store.warm_cache("notes")
    store.exists("notes", 1)
    store.count("notes")
    store.invalidate("notes", 1)
    store.delete("notes", 1)
    store.delete_many("notes", [1, 2])
    store.flush_dirty()
    assert told.calls == []


def test_what_before_set_raises_aborts_every_write_with_its_cause(store: DataStore, told: Told) -> None:
    told.refusing.add("before_set")
    for write in (
        lambda: store.set("notes", 1, Note(1)),
        lambda: store.set_many("notes", {1: Note(1)}),
        lambda: store.tx().set("notes", 1, Note(1)),
    ):
        with pytest.raises(HookError) as caught:
            write()
        assert isinstance(caught.value.__cause__, RefusedError)
    store.flush_dirty()
    assert store.count("notes") == 0 and not store.exists("notes", 1)
    assert store.stats().hook_errors == 3


def test_one_record_that_before_set_refuses_aborts_all_of_set_many(make: MakeStore) -> None:
    def refuse_two(note: Note) -> None:
        if note.id == 2:
            raise RefusedError

    store = make()
    notes = store.register(schema(Note, name="notes", hooks=SchemaHooks(before_set=refuse_two)))
    store.migrate()
    with pytest.raises(HookError):
        notes.set_many({n: Note(n) for n in (1, 2, 3)})
    assert notes.count() == 0


def test_what_before_get_raises_reaches_every_reader(store: DataStore, told: Told) -> None:
    store.set("notes", 1, Note(1))
    store.flush_dirty()
    told.refusing.add("before_get")
    for read in (
        lambda: store.get("notes", 1),
        lambda: store.get("notes", 1, force_l3=True, default=None),
        lambda: store.get_many("notes", [1]),
        lambda: store.search("notes"),
        lambda: store.search_cached("notes"),
        lambda: list(store.search_iter("notes")),
    ):
        with pytest.raises(HookError) as caught:
            read()
        assert isinstance(caught.value.__cause__, RefusedError)


def test_the_log_says_in_which_line_of_a_hook_an_error_came(make: MakeStore) -> None:
    def after_set(note: Note) -> None:
        json.loads("{")

    log = Log()
    store = make(logger=log)
    store.register(schema(Note, hooks=SchemaHooks(after_set=after_set)))
    store.migrate()
    store.set(Note, 1, Note(1))
    [line] = log.errors
    assert line["error"] == "JSONDecodeError"
    assert line["where"] == f"{__name__}:{after_set.__code__.co_firstlineno + 1}"


def test_what_the_other_hooks_raise_is_counted_and_hides_no_result(store: DataStore, told: Told) -> None:
    told.refusing |= {"after_set", "after_get", "on_evict"}
    assert store.set("notes", 1, Note(1, "a")).text == "A"
    assert store.set_many("notes", {1: Note(1, "b")})[1].text == "B"
    store.tx().set("notes", 1, Note(1, "c")).commit()
    store.flush_dirty()
    assert store.get("notes", 1).text == "C"
    assert store.get_many("notes", [1])[1].text == "C"
    assert store.search("notes")[0].text == "C"
    assert store.stats().hook_errors == 6


def test_before_set_gets_a_copy_that_it_may_change_in_place(make: MakeStore) -> None:
    def shout(note: Note) -> None:
        note.text = note.text.upper()
        note.tags.append("shouted")

    store = make()
    notes = store.register(schema(Note, name="notes", hooks=SchemaHooks(before_set=shout)))
    store.migrate()
    given = Note(1, "text", ["mine"])
    assert notes.set(1, given) == Note(1, "TEXT", ["mine", "shouted"])
    assert given == Note(1, "text", ["mine"])


@pytest.mark.parametrize("replacement", [Point("a"), "text", Note(2), Note(1, text=5)])  # type: ignore[arg-type]
def test_a_replacement_is_checked_like_what_a_caller_gives(make: MakeStore, replacement: Any) -> None:
    store = make()
    notes = store.register(schema(Note, name="notes", hooks=SchemaHooks(before_set=lambda note: replacement)))
    store.migrate()
    with pytest.raises(strata.EncodeError):
        notes.set(1, Note(1))
    assert notes.count() == 0


@dataclass
class Locked:
    id: Annotated[int, strata.PrimaryKey]
    lock: Annotated[Any, strata.Ignore] = None


def test_a_record_that_cannot_be_copied_for_before_set_is_an_encode_error(make: MakeStore) -> None:
    store = make()
    hooks = SchemaHooks(before_set=lambda record: None)
    locked = store.register(Schema(Locked, name="locked", l1=MemPolicy(), hooks=hooks))
    with pytest.raises(strata.EncodeError, match="before_set"):
        locked.set(1, Locked(1, threading.Lock()))


def test_a_hook_may_use_the_store(make: MakeStore) -> None:
    store = make()
    log = store.register(Schema(Point, name="log", l1=MemPolicy()))

    def after_set(note: Note) -> None:
        log.set("last", Point("last", note.id))

    def before_get(id: int) -> None:
        notes.exists(id)

    def before_set(note: Note) -> None:
        log.get("last", default=None)

    hooks = SchemaHooks(
        before_set=before_set,
        after_set=after_set,
        after_get=lambda note: dataclasses.replace(note, meta={"last": log.get("last").x}),
        before_get=before_get,
    )
    notes: Collection[Note] = store.register(schema(Note, name="notes", hooks=hooks))
    store.migrate()
    notes.set(7, Note(7))
    assert notes.get(7).meta == {"last": 7}


@pytest.mark.parametrize("policy", list(strata.EvictionPolicy), ids=lambda policy: policy.value)
def test_on_evict_is_told_of_capacity_with_key_and_value(make: MakeStore, policy: strata.EvictionPolicy) -> None:
    gone: dict[str, Any] = {}
    store = make()
    hooks = SchemaHooks(on_evict=gone.__setitem__)
    l1 = MemPolicy(max_entries=1, eviction=policy)
    points = store.register(Schema(Point, name="points", l1=l1, hooks=hooks))
    for n in range(300):
        points.set(f"p{n}", Point(f"p{n}", n))
    assert len(gone) == 44 and store.stats().evictions == 44
    assert all(value == Point(key, int(key[1:])) for key, value in gone.items())


def test_an_on_evict_that_makes_others_leave_is_not_told_of_those(make: MakeStore) -> None:
    gone: list[str] = []
    store = make()

    def on_evict(key: str, value: Point) -> None:
        gone.append(key)
        points.set(f"again {key}", value.__class__(f"again {key}"))

    hooks = SchemaHooks(on_evict=on_evict)
    points = store.register(Schema(Point, name="points", l1=MemPolicy(max_entries=1), hooks=hooks))
    for n in range(300):
        points.set(f"p{n}", Point(f"p{n}", n))
    stats = store.stats()
    assert len(gone) == 44 and stats.evictions == 88
    assert not stats.by_schema["points"]["hook_errors"]


def test_on_evict_is_told_of_expiry_and_of_nothing_else(make: MakeStore) -> None:
    gone: list[Any] = []
    store = make()
    hooks = SchemaHooks(on_evict=lambda key, value: gone.append((key, value)))
    notes = store.register(schema(Note, name="notes", l1=MemPolicy(ttl=0.05), hooks=hooks))
    store.migrate()
    notes.set(1, Note(1, "old"))
    notes.delete(1)
    notes.set(2, Note(2, "two"))
    notes.invalidate(2)
    assert gone == []
    notes.set(3, Note(3, "three"))

    def swept() -> bool:
        inspect(store).sweeper.sweep()
        return bool(gone)

    wait_until(swept)
    assert gone == [(3, Note(3, "three"))]
    assert store.stats().expirations == 1
    assert notes.get(3).text == "three"


def test_on_write_error_is_told_the_id_and_why(make: MakeStore, dsn: str) -> None:
    told: list[tuple[Any, Exception]] = []
    store = make(write_behind_max_retry=1, write_behind_flush_interval=0.05)
    hooks = SchemaHooks(on_write_error=lambda key, error: told.append((key, error)))
    notes = store.register(schema(Note, name="notes", write_mode=WriteMode.WRITE_BEHIND, hooks=hooks))
    store.migrate()
    run(dsn, "ALTER TABLE notes ADD CHECK (text <> 'refused')")
    notes.set(1, Note(1, "refused"))
    notes.set(2, Note(2, "taken"))
    wait_until(lambda: told, timeout=30)
    ((key, error),) = told
    assert key == 1 and isinstance(error, strata.WriteBehindMaxRetryError)
    assert error.sqlstate == "23514" and "refused" not in str(error)
    store.flush_dirty()
    assert notes.get(2, force_l3=True).text == "taken"
    assert notes.get(1, default=None) is None
