"""Triggers and rules of others that make a write vanish, or a row unreadable: such a write is refused, by itself."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Annotated, Any

import pytest

import strata
from strata import UNLOADED, ConstraintError, DataStore, DecodeError, TxFailedError, WriteMode
from strata.l3.actual import Actual
from strata.testing import inspect
from tests.behind import Errors, idle, paced, rows, run
from tests.stores import MakeStore, schema
from tests.support import wait_until


@dataclass
class Part:
    id: Annotated[str, strata.PrimaryKey]
    n: int = 0
    note: str | None = None


MODES = [WriteMode.WRITE_THROUGH, WriteMode.WRITE_BEHIND]
MANY = 40  # more than are written one by one
NOTHING = "CREATE FUNCTION nothing() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END'"
VANISHING = """CREATE TRIGGER vanish BEFORE {event} ON parts FOR EACH ROW WHEN ({row}.id = 'bad')
EXECUTE FUNCTION nothing()"""
UNREADABLE = """ALTER TABLE parts ALTER n DROP NOT NULL;
CREATE FUNCTION spoil() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN NEW.n := NULL; RETURN NEW; END';
CREATE TRIGGER spoil BEFORE INSERT OR UPDATE ON parts FOR EACH ROW WHEN (NEW.id = 'bad') EXECUTE FUNCTION spoil()"""


def two(make: MakeStore, mode: WriteMode = WriteMode.WRITE_BEHIND) -> tuple[DataStore, DataStore, Errors]:
    """Two instances over a table with a row `bad` and a row `good`, and what the hooks of the first were told."""
    errors, made = Errors(), []
    for hooks in (errors.hooks(), strata.SchemaHooks()):
        store = make(write_behind_max_retry=1)
        if mode is WriteMode.WRITE_BEHIND:
            paced(store)
        store.register(schema(Part, name="parts", write_mode=mode, hooks=hooks))
        made.append(store)
    made[0].migrate()
    for key in ("bad", "good"):
        made[0].set(Part, key, Part(key, 1))
    made[0].flush_dirty(20)
    return made[0], made[1], errors


def vanish(dsn: str, event: str) -> None:
    """From now on a row `bad` is neither inserted, updated nor deleted, going by `event`."""
    run(dsn, f"{NOTHING}; {VANISHING.format(event=event, row='OLD' if event == 'DELETE' else 'NEW')}")


def agree(stores: tuple[DataStore, ...], key: str, wanted: Any) -> None:
    """Every reader gets what L3 has."""
    for store in stores:
        assert store.get(Part, key, force_l3=True, default=None) == wanted
        wait_until(lambda: store.get(Part, key, default=None) == wanted)  # noqa: B023 it ends before


def seen(store: DataStore) -> Actual:
    """The table as it is, which the store has looked at again."""
    table = inspect(store).schemas["parts"].rows.table
    assert table is not None
    table.changed()
    store.set(Part, "good", Part("good", 1))
    store.flush_dirty(20)
    return table._writing.layout.actual


CHANGES: dict[str, tuple[str, Callable[[DataStore], Any]]] = {
    "an update": ("UPDATE", lambda store: store.set(Part, "bad", Part("bad", 2))),
    "an update in part": ("UPDATE", lambda store: store.set(Part, "bad", Part("bad", 2, UNLOADED))),
    "a deletion": ("DELETE", lambda store: store.delete(Part, "bad")),
}


@pytest.mark.parametrize("what", CHANGES)
def test_a_deferred_change_that_a_trigger_swallows_is_a_dead_letter(make: MakeStore, dsn: str, what: str) -> None:
    one, other, errors = two(make)
    event, change = CHANGES[what]
    vanish(dsn, event)
    change(one)
    one.set(Part, "good", Part("good", 2))
    one.flush_dirty(20)
    (letter,) = one.dead_letters.list()
    assert letter.key == "bad" and "a trigger or rule of table 'parts'" in letter.error
    wait_until(lambda: errors.keys == ["bad"])
    agree((one, other), "bad", Part("bad", 1))
    agree((one, other), "good", Part("good", 2))


def test_a_deletion_that_was_swallowed_leaves_no_tombstone(make: MakeStore, dsn: str) -> None:
    """It would keep out writes that are older than it, and newer than the row."""
    one, _, _ = two(make)
    vanish(dsn, "DELETE")
    one.delete(Part, "bad")
    one.flush_dirty(20)
    assert rows(dsn, "SELECT id FROM _strata_tombstones") == []


def test_a_swallowed_change_beneath_a_partial_record_fails_the_transaction(make: MakeStore, dsn: str) -> None:
    one, _, _ = two(make)
    vanish(dsn, "UPDATE")
    idle(one)
    one.set(Part, "bad", Part("bad", 2))
    with pytest.raises(ConstraintError, match="trigger or rule"):
        one.set_many(Part, {"bad": Part("bad", UNLOADED, "part")})
    assert rows(dsn, "SELECT n, note FROM parts WHERE id = 'bad'") == [(1, None)]


def test_deferred_writes_go_on_once_a_rule_that_swallowed_them_is_gone(make: MakeStore, dsn: str) -> None:
    """PostgreSQL keeps the plan of a statement that a rule made nothing of."""
    one, other, errors = two(make)
    run(dsn, "CREATE RULE nothing AS ON INSERT TO parts DO INSTEAD NOTHING")
    for key in ("good", "new"):
        one.set(Part, key, Part(key, 2))
    one.flush_dirty(20)
    assert sorted(letter.key for letter in one.dead_letters.list()) == ["good", "new"]
    wait_until(lambda: sorted(errors.keys) == ["good", "new"])
    run(dsn, "DROP RULE nothing ON parts")
    for n in (3, 4, 5):
        agree((one, other), "good", Part("good", n - 1 if n > 3 else 1))
        for key in ("good", "new", f"new{n}"):
            one.set(Part, key, Part(key, n))
        one.flush_dirty(20)
        agree((one, other), "good", Part("good", n))
        agree((one, other), "new", Part("new", n))
    assert rows(dsn, "SELECT count(*) FROM parts") == [(6,)]
    assert one.dead_letters.list() == []  # newer writes have made them void


def test_a_deletion_that_a_trigger_swallows_is_refused_as_a_write_is(make: MakeStore, dsn: str) -> None:
    for mode in MODES:
        run(dsn, "DROP TABLE IF EXISTS parts; DROP FUNCTION IF EXISTS nothing")
        one, other, _ = two(make, mode)
        vanish(dsn, "DELETE")
        if mode is WriteMode.WRITE_THROUGH:
            with pytest.raises(ConstraintError, match="trigger or rule"):
                one.delete(Part, "bad")
            with pytest.raises(ConstraintError, match="trigger or rule"):
                one.delete_many(Part, ["good", "bad"])
        with pytest.raises(TxFailedError, match="trigger or rule"), one.tx() as tx:
            tx.delete(Part, "good").delete(Part, "bad")
        agree((one, other), "bad", Part("bad", 1))
        one.delete(Part, "absent")
        one.flush_dirty(20)
    assert rows(dsn, "SELECT count(*) FROM parts WHERE id = 'bad'") == [(1,)]


def test_an_update_in_part_that_a_trigger_swallows_says_so(make: MakeStore, dsn: str) -> None:
    one, _, _ = two(make, WriteMode.WRITE_THROUGH)
    vanish(dsn, "UPDATE")
    part = Part("bad", 2, UNLOADED)
    more = {f"k{n}": Part(f"k{n}", n) for n in range(MANY)}
    one.set_many(Part, more)
    for write in (
        lambda: one.set(Part, "bad", part),
        lambda: one.set_many(Part, {"bad": part}),
        lambda: one.set_many(Part, {"bad": part} | {key: Part(key, 2, UNLOADED) for key in more}),
    ):
        with pytest.raises(ConstraintError, match="trigger or rule"):
            write()


def test_a_row_that_a_trigger_makes_unreadable_is_not_written(make: MakeStore, dsn: str) -> None:
    one, other, _ = two(make, WriteMode.WRITE_THROUGH)
    run(dsn, UNREADABLE)
    seen(one)
    bad, good = Part("bad", 5), Part("good", 5)
    for write in (
        lambda: one.set(Part, "bad", bad),
        lambda: one.set(Part, "bad", Part("bad", 5, UNLOADED)),
        lambda: one.set_many(Part, {"good": good, "bad": bad}),
    ):
        with pytest.raises(DecodeError, match=r"Part\.n is NULL.*nothing was written") as caught:
            write()
        assert (caught.value.schema, caught.value.column, caught.value.key) == ("parts", "n", "bad")
    with pytest.raises(TxFailedError, match=r"Part\.n is NULL"), one.tx() as tx:
        tx.set(Part, "good", good).set(Part, "bad", bad)
    for key in ("bad", "good"):
        agree((one, other), key, Part(key, 1))


def test_a_record_that_a_trigger_makes_unreadable_costs_its_neighbours_nothing(make: MakeStore, dsn: str) -> None:
    one, other, errors = two(make)
    run(dsn, UNREADABLE)
    seen(one)
    one.set(Part, "bad", Part("bad", 5))
    for number in range(100):
        one.set(Part, f"g{number}", Part(f"g{number}", 7))
    one.flush_dirty(20)
    assert rows(dsn, "SELECT count(*) FROM parts WHERE n = 7") == [(100,)]
    (letter,) = one.dead_letters.list()
    assert letter.key == "bad" and "Part.n is NULL" in letter.error
    wait_until(lambda: errors.keys == ["bad"])
    agree((one, other), "bad", Part("bad", 1))
    assert one.stats().dirty_count == 0


@pytest.mark.parametrize("mode", MODES, ids=lambda mode: mode.value)
@pytest.mark.parametrize(
    ("made", "freed"),
    [("GENERATED ALWAYS AS (7) STORED", "DROP EXPRESSION"), ("GENERATED ALWAYS AS IDENTITY", "DROP IDENTITY")],
    ids=["expression", "identity"],
)
def test_a_column_that_is_computed_no_more_takes_the_next_write(
    make: MakeStore, dsn: str, mode: WriteMode, made: str, freed: str
) -> None:
    one, other, _ = two(make, mode)
    run(dsn, f"ALTER TABLE parts DROP n; ALTER TABLE parts ADD n BIGINT {made}")
    assert "n" in seen(one).computed
    run(dsn, f"ALTER TABLE parts ALTER n {freed}")
    one.set(Part, "good", Part("good", 100))
    one.flush_dirty(20)
    agree((one, other), "good", Part("good", 100))


def test_many_records_take_a_column_that_is_computed_no_more(make: MakeStore, dsn: str) -> None:
    for count in (2, MANY):
        run(dsn, "DROP TABLE IF EXISTS parts")
        one, other, _ = two(make, WriteMode.WRITE_THROUGH)
        run(dsn, "ALTER TABLE parts DROP n; ALTER TABLE parts ADD n BIGINT GENERATED ALWAYS AS (7) STORED")
        assert "n" in seen(one).computed
        run(dsn, "ALTER TABLE parts ALTER n DROP EXPRESSION")
        one.set_many(Part, {f"k{n}": Part(f"k{n}", 100) for n in range(count)})
        agree((one, other), "k1", Part("k1", 100))


def test_a_column_that_comes_to_be_computed_refuses_no_write(make: MakeStore, dsn: str) -> None:
    for mode in MODES:
        run(dsn, "DROP TABLE IF EXISTS parts")
        one, other, _ = two(make, mode)
        run(dsn, "ALTER TABLE parts DROP n; ALTER TABLE parts ADD n BIGINT GENERATED ALWAYS AS (7) STORED")
        one.set(Part, "good", Part("good", 2))
        one.flush_dirty(20)
        agree((one, other), "good", Part("good", 7))


def test_a_deletion_that_meets_others_is_not_taken_for_a_swallowed_one(make: MakeStore) -> None:
    one, other, _ = two(make, WriteMode.WRITE_THROUGH)

    def come_and_go(store: DataStore) -> None:
        for n in range(150):
            store.set(Part, "good", Part("good", n))
            store.delete(Part, "good")
            store.delete(Part, "good")

    with ThreadPoolExecutor(4) as pool:
        for future in [pool.submit(come_and_go, store) for store in (one, other, one, other)]:
            future.result()
    assert not one.exists(Part, "good")
