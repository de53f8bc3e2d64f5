"""Write-behind in L3: the highest version of every key wins, whatever the order and however often it is tried."""

from __future__ import annotations

import random
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any

import pytest

import strata
from strata.errors import ConstraintError, L3UnavailableError
from strata.l3.diagnosis import BatchError
from strata.l3.pool import Database
from strata.l3.sqlstates import Failure
from strata.l3.table import Table
from strata.l3.values import Applied, Change, Status
from tests.databases import NEWEST, VERSIONS
from tests.l3 import (
    NODE,
    NOW,
    change,
    deletion,
    fresh,
    make_table,
    partial,
    row,
    stamp,
)

LATER = NOW + timedelta(days=1)


@pytest.fixture(params=NEWEST)
def database(request: pytest.FixtureRequest) -> Iterator[Database]:
    with fresh(request.param, max_conns=20) as database:
        yield database


@pytest.fixture
def table(database: Database) -> Table:
    return make_table(database, deferred=True)


def apply(database: Database, table: Table, *changes: Change) -> list[Applied]:
    with database.transaction() as conn:
        return table.apply(conn, changes)


def statuses(database: Database, table: Table, *changes: Change) -> list[tuple[Status, int]]:
    return [(answer.status, answer.version) for answer in apply(database, table, *changes)]


def sizes(database: Database, table: Table) -> dict[str, int]:
    with database.connection() as conn:
        return {found.values[0]: found.values[2] for found in table.page(conn, None, 10_000)}


# -- one key ----------------------------------------------------------------------------------------------------


def test_nothing_to_apply_is_nothing_applied(database: Database, table: Table) -> None:
    assert apply(database, table) == []


def test_the_newer_change_wins_in_either_order(database: Database, table: Table) -> None:
    old, new = change("a", stamp(1), 1), change("a", stamp(2), 2)
    assert statuses(database, table, old) == [(Status.APPLIED, stamp(1))]
    assert statuses(database, table, new) == [(Status.APPLIED, stamp(2))]
    assert statuses(database, table, old) == [(Status.SUPERSEDED, stamp(2))]
    assert sizes(database, table) == {"a": 2}


def test_a_change_applied_again_is_applied(database: Database, table: Table) -> None:
    for _ in range(3):
        assert statuses(database, table, change("a", stamp(1))) == [(Status.APPLIED, stamp(1))]
        assert statuses(database, table, deletion("b", stamp(1))) == [(Status.APPLIED, stamp(1))]


def test_what_was_deleted_stays_deleted(database: Database, table: Table) -> None:
    apply(database, table, change("a", stamp(5)))
    assert statuses(database, table, deletion("a", stamp(9))) == [(Status.APPLIED, stamp(9))]
    for version in (5, 8, 9):
        assert statuses(database, table, change("a", stamp(version))) == [(Status.SUPERSEDED, stamp(9))]
    assert sizes(database, table) == {}
    assert statuses(database, table, change("a", stamp(10))) == [(Status.APPLIED, stamp(10))]


def test_a_deletion_does_not_touch_a_newer_row(database: Database, table: Table) -> None:
    apply(database, table, change("a", stamp(5), 1))
    assert statuses(database, table, deletion("a", stamp(4))) == [(Status.SUPERSEDED, stamp(5))]
    assert sizes(database, table) == {"a": 1}


def test_of_two_deletions_the_newer_one_counts(database: Database, table: Table) -> None:
    apply(database, table, deletion("a", stamp(9)))
    assert statuses(database, table, deletion("a", stamp(4))) == [(Status.SUPERSEDED, stamp(9))]
    assert statuses(database, table, change("a", stamp(7))) == [(Status.SUPERSEDED, stamp(9))]


def test_a_row_that_others_wrote_is_older_than_any_change(database: Database, table: Table) -> None:
    with database.connection() as conn:
        conn.execute("INSERT INTO items (id, name, size) VALUES ('a', 'b', 1), ('c', 'd', 1)")
    assert statuses(database, table, change("a", stamp(1), 2), deletion("c", 1)) == [
        (Status.APPLIED, stamp(1)),
        (Status.APPLIED, 1),
    ]
    assert sizes(database, table) == {"a": 2}


def test_a_synchronous_write_and_a_pending_one_obey_the_same_versions(database: Database, table: Table) -> None:
    apply(database, table, change("a", stamp(100), 1))
    with database.transaction() as conn:
        assert table.upsert(conn, row("a", 2), stamp(50), NODE).version == stamp(101)
    assert statuses(database, table, change("a", stamp(100), 3)) == [(Status.SUPERSEDED, stamp(101))]
    assert sizes(database, table) == {"a": 2}


# -- AutoNowAdd -------------------------------------------------------------------------------------------------


def test_what_the_first_insert_stamped_is_kept_and_reported(database: Database, table: Table) -> None:
    (first,) = apply(database, table, change("a", stamp(1), at=NOW))
    assert (first.kept, first.kept_names) == (None, ())
    (second,) = apply(database, table, change("a", stamp(2), at=LATER))
    assert (second.kept, second.kept_names) == ((NOW,), ("first",))
    (again,) = apply(database, table, change("a", stamp(2), at=LATER))
    assert (again.status, again.kept) == (Status.APPLIED, (NOW,))
    answers = apply(database, table, change("a", stamp(3), at=LATER), deletion("b", 1), change("c", stamp(3), at=LATER))
    assert [answer.kept for answer in answers] == [(NOW,), None, None]


# -- partial changes --------------------------------------------------------------------------------------------


def test_a_partial_change_writes_its_columns_only(database: Database, table: Table) -> None:
    apply(database, table, change("a", stamp(1), 1, note="kept"))
    (answer,) = apply(database, table, partial("a", stamp(2), size=2, first=LATER))
    assert (answer.status, answer.version, answer.kept) == (Status.APPLIED, stamp(2), (NOW,))
    with database.connection() as conn:
        assert table.get(conn, "a") == (stamp(2), row("a", 2, note="kept"))


def test_a_partial_change_that_carries_every_column_is_whole(database: Database, table: Table) -> None:
    values = row("a", 1)
    turned = Change(
        "a", "a", stamp(1), names=tuple(reversed(table.plan.column_names)), values=tuple(reversed(values))
    )  # fmt: skip
    given = Change("b", "b", stamp(1), names=table.plan.column_names, values=row("b"))
    assert statuses(database, table, turned, given) == [(Status.APPLIED, stamp(1))] * 2
    with database.connection() as conn:
        assert table.get(conn, "a") == (stamp(1), values)


def test_a_partial_change_without_a_row_is_told_apart(database: Database, table: Table) -> None:
    assert statuses(database, table, partial("a", stamp(2), size=2)) == [(Status.MISSING_ROW, 0)]
    apply(database, table, deletion("b", stamp(9)), deletion("c", stamp(1)))
    assert statuses(database, table, partial("b", stamp(2), size=2)) == [(Status.SUPERSEDED, stamp(9))]
    assert statuses(database, table, partial("c", stamp(2), size=2)) == [(Status.MISSING_ROW, stamp(1))]


def test_an_old_partial_change_is_superseded(database: Database, table: Table) -> None:
    apply(database, table, change("a", stamp(5), 5))
    assert statuses(database, table, partial("a", stamp(2), size=2)) == [(Status.SUPERSEDED, stamp(5))]
    assert sizes(database, table) == {"a": 5}


def swallow(database: Database, table: Table, events: str) -> None:
    with database.transaction() as conn:
        conn.command("CREATE FUNCTION nothing() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END'")
        conn.command(
            f'CREATE TRIGGER nothing BEFORE {events} ON "{table.name}" FOR EACH ROW EXECUTE FUNCTION nothing()'
        )
    table.changed()


def test_what_a_trigger_swallows_is_told_apart_from_what_is_older(database: Database, table: Table) -> None:
    apply(database, table, change("a", stamp(5), 5), change("b", stamp(5), 5), deletion("c", stamp(3)))
    swallow(database, table, "INSERT OR UPDATE OR DELETE")
    batch = [
        change("a", stamp(6)), change("a2", stamp(6)), change("b", stamp(4)), change("c", stamp(2)),
    ]  # fmt: skip
    assert statuses(database, table, *batch) == [
        (Status.SWALLOWED, stamp(5)), (Status.SWALLOWED, 0), (Status.SUPERSEDED, stamp(5)),
        (Status.SUPERSEDED, stamp(3)),
    ]  # fmt: skip
    batch = [deletion("a", stamp(5)), deletion("b", stamp(4)), deletion("gone", stamp(6))]
    assert statuses(database, table, *batch) == [
        (Status.SWALLOWED, stamp(5)), (Status.SUPERSEDED, stamp(5)), (Status.APPLIED, stamp(6)),
    ]  # fmt: skip
    assert statuses(database, table, partial("b", stamp(7), size=7), partial("gone", stamp(7), size=7)) == [
        (Status.SWALLOWED, stamp(5)), (Status.MISSING_ROW, stamp(6)),
    ]  # fmt: skip


def test_a_late_change_in_part_that_a_trigger_swallows_is_refused(database: Database, table: Table) -> None:
    apply(database, table, change("a", stamp(1)))
    apply(database, table, partial("a", stamp(5), size=5))
    swallow(database, table, "UPDATE")
    with pytest.raises(ConstraintError, match="trigger or rule"):
        apply(database, table, partial("a", stamp(3), note="late"))


# -- batches ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("database", VERSIONS, indirect=True)
def test_answers_come_in_the_order_of_the_changes(database: Database, table: Table) -> None:
    apply(database, table, change("m", stamp(9)), change("p", stamp(1), 1))
    batch = [
        change("z", stamp(1)), deletion("k", stamp(2)), change("m", stamp(3)), partial("p", stamp(4), size=4),
        partial("q", stamp(4), note="x"), change("a", stamp(5)),
    ]  # fmt: skip
    for _ in range(2):
        answers = apply(database, table, *batch)
        assert [answer.key for answer in answers] == ["z", "k", "m", "p", "q", "a"]
        assert [answer.status.name for answer in answers] == [
            "APPLIED", "APPLIED", "SUPERSEDED", "APPLIED", "MISSING_ROW", "APPLIED",
        ]  # fmt: skip


def test_several_batches_of_one_transaction_do_not_mix(database: Database, table: Table) -> None:
    with database.transaction() as conn:
        first = table.apply(conn, [change(f"a{number}", stamp(1)) for number in range(5)])
        second = table.apply(conn, [change("b", stamp(1)), partial("a1", stamp(2), size=3)])
        table.set_many(conn, [row(f"c{number}") for number in range(50)], [stamp(1)] * 50, NODE)
    assert [answer.status for answer in [*first, *second]] == [Status.APPLIED] * 7
    assert len(sizes(database, table)) == 56


def test_a_batch_that_is_rolled_back_leaves_nothing(database: Database, table: Table) -> None:
    with pytest.raises(RuntimeError), database.transaction() as conn:
        table.apply(conn, [change("a", stamp(1)), deletion("b", stamp(1))])
        raise RuntimeError
    assert statuses(database, table, change("b", 1), change("a", 1)) == [(Status.APPLIED, 1)] * 2


def test_a_chain_of_renames_is_legal_as_a_whole(database: Database, table: Table) -> None:
    apply(database, table, *(change(key, stamp(1), name=f"n{key}") for key in "abc"))
    turned = [change(key, stamp(2), name=f"n{other}") for key, other in zip("abc", "bca", strict=True)]
    assert [answer.status for answer in apply(database, table, *turned)] == [Status.APPLIED] * 3


def test_a_value_freed_by_a_deletion_of_the_batch_can_be_taken(database: Database, table: Table) -> None:
    apply(database, table, change("z", stamp(1), name="taken"))
    answers = apply(database, table, change("a", stamp(2), name="taken"), deletion("z", stamp(2)))
    assert [answer.status for answer in answers] == [Status.APPLIED] * 2


# -- failures ---------------------------------------------------------------------------------------------------


def refused(database: Database, table: Table, *changes: Change) -> BatchError:
    with pytest.raises(BatchError) as caught:
        apply(database, table, *changes)
    return caught.value


def test_a_unique_value_that_is_taken_is_a_matter_of_order(database: Database, table: Table) -> None:
    apply(database, table, change("a", stamp(1), name="hush-hush"))
    error = refused(database, table, change("b", stamp(1), name="hush-hush"))
    assert error.diagnosis.failure is Failure.ORDER
    assert (error.diagnosis.sqlstate, error.diagnosis.constraint) == ("23505", "items_name_key")
    assert "hush-hush" not in f"{error}{error.diagnosis}{error.__cause__}{error.__cause__!r}"


def test_a_record_that_no_column_holds_is_refused_without_a_word_of_it(database: Database) -> None:
    @dataclass
    class Doc:
        id: Annotated[str, strata.PrimaryKey]
        body: dict[str, Any]

    table = make_table(database, Doc, deferred=True)
    good = [Change(key, key, stamp(1), values=(key, '{"a": 1}')) for key in ("z", "b", "a")]
    bad = Change("m", "m", stamp(1), values=("m", '{"a": "\\u0000hush"}'))
    error = refused(database, table, good[0], good[1], bad, good[2])
    assert (error.diagnosis.failure, error.diagnosis.sqlstate) == (Failure.PERMANENT, "22P05")
    assert "hush" not in f"{error}{error.diagnosis}{error.__cause__!r}"
    assert [answer.status for answer in apply(database, table, *good)] == [Status.APPLIED] * 3


def test_a_value_that_no_server_takes_is_refused_without_a_word_of_it(database: Database, table: Table) -> None:
    error = refused(database, table, change("z", 1), change("a", 1, note="nul\0hush"), change("b", 1))
    assert error.diagnosis.failure is Failure.PERMANENT
    assert "hush" not in f"{error}{error.__cause__!r}"
    assert statuses(database, table, change("z", 1)) == [(Status.APPLIED, 1)]


def test_a_null_that_the_table_refuses_is_permanent(database: Database, table: Table) -> None:
    error = refused(database, table, Change("a", "a", 1, values=("a", None, 0, None, NOW, NOW)))
    assert (error.diagnosis.failure, error.diagnosis.sqlstate) == (Failure.PERMANENT, "23502")


def test_a_missing_parent_is_a_matter_of_order(database: Database, table: Table) -> None:
    with database.connection() as conn:
        conn.command("ALTER TABLE items ADD FOREIGN KEY (note) REFERENCES items (id)")
    child = change("child", 1, note="parent")
    assert refused(database, table, child).diagnosis.failure is Failure.ORDER
    assert statuses(database, table, child, change("parent", 1)) == [(Status.APPLIED, 1)] * 2


def test_a_lock_held_too_long_is_a_timeout() -> None:
    with fresh(lock_timeout=0.2) as database:
        table = make_table(database, deferred=True)
        apply(database, table, change("a", stamp(1)))
        with database.transaction() as conn:
            conn.command("SELECT * FROM items FOR UPDATE")
            error = refused(database, table, change("a", stamp(2)))
        assert (error.diagnosis.failure, error.diagnosis.sqlstate) == (Failure.TIMEOUT, "55P03")
        assert statuses(database, table, change("a", stamp(2))) == [(Status.APPLIED, stamp(2))]


def test_a_table_that_is_not_there_is_not_ready(database: Database, table: Table) -> None:
    with database.connection() as conn:
        conn.command("DROP TABLE items")
    assert refused(database, table, change("a", stamp(1))).diagnosis.failure is Failure.NOT_READY


def test_a_connection_that_is_lost_is_an_outage(database: Database, table: Table) -> None:
    with pytest.raises(L3UnavailableError) as caught, database.transaction() as conn:
        with database.connection() as other:
            other.execute("SELECT pg_terminate_backend($1)", (conn.info.backend_pid,))
        table.apply(conn, [change("a", stamp(1))])
    assert not caught.value.outcome_unknown
    assert sizes(database, table) == {}


# -- tombstones -------------------------------------------------------------------------------------------------


def forget(database: Database, table: Table, before: datetime, limit: int = 100) -> int:
    with database.transaction() as conn:
        return table.forget_tombstones(conn, before, limit)


def test_below_the_horizon_nothing_is_inserted_and_rows_are_still_updated(database: Database, table: Table) -> None:
    apply(database, table, deletion("a", stamp(50)), change("b", stamp(10)))
    soon = datetime.now(UTC) + timedelta(minutes=1)
    assert forget(database, table, soon - timedelta(hours=1)) == 0
    assert forget(database, table, soon) == 1
    assert statuses(
        database, table, change("a", stamp(40)), change("c", stamp(50)), change("b", stamp(20)), change("d", stamp(51))
    ) == [
        (Status.BELOW_HORIZON, 0),
        (Status.BELOW_HORIZON, 0),
        (Status.APPLIED, stamp(20)),
        (Status.APPLIED, stamp(51)),
    ]
    assert statuses(database, table, deletion("e", stamp(3))) == [(Status.APPLIED, stamp(3))]
    assert sizes(database, table).keys() == {"b", "d"}


def test_the_horizon_only_rises_and_is_its_schemas_own(database: Database, table: Table) -> None:
    soon = datetime.now(UTC) + timedelta(minutes=1)
    apply(database, table, deletion("a", stamp(50)))
    forget(database, table, soon)
    apply(database, table, deletion("b", stamp(20)))
    assert forget(database, table, soon) == 1
    other = make_table(database, deferred=True, name="others")
    with database.connection() as conn:
        assert (table.horizon(conn), other.horizon(conn)) == (stamp(50), 0)


def test_tombstones_are_forgotten_some_at_a_time(database: Database, table: Table) -> None:
    apply(database, table, *(deletion(f"k{number}", stamp(number)) for number in range(25)))
    soon = datetime.now(UTC) + timedelta(minutes=1)
    assert [forget(database, table, soon, 10) for _ in range(4)] == [10, 10, 5, 0]


# -- everybody at once ------------------------------------------------------------------------------------------

KEYS, ROUNDS, WRITERS = 60, 12, 4


@pytest.mark.parametrize("database", VERSIONS, indirect=True)
def test_hammered_by_many_writers_every_key_ends_at_its_highest_version(database: Database, table: Table) -> None:
    """Sets and deletes shuffled, duplicated, late and concurrent: no deadlock, nothing resurrected."""
    rng = random.Random(7)
    everything: list[Change] = [change(f"k{key:02}", stamp(1), 0) for key in range(KEYS)]
    for version in range(2, ROUNDS + 2):
        for key in rng.sample(range(KEYS), KEYS):
            at = stamp(version * 1000 + key)
            if rng.random() < 0.3:
                everything.append(deletion(f"k{key:02}", at))
            else:
                everything.append(change(f"k{key:02}", at, version))
    late = rng.sample(everything, len(everything) // 3)
    work = [*everything, *late, *late]
    rng.shuffle(work)
    parts = [work[number::WRITERS] for number in range(WRITERS)]
    barrier = threading.Barrier(WRITERS)

    def write(part: list[Change]) -> None:
        barrier.wait()
        while part:
            batch: dict[str, Change] = {}
            while part and len(batch) < 25 and part[-1].key not in batch:
                item = part.pop()
                batch[item.key] = item
            apply(database, table, *batch.values())

    with ThreadPoolExecutor(WRITERS) as pool:
        for done in [pool.submit(write, part) for part in parts]:
            done.result()
    last = {item.key: item for item in sorted(everything, key=lambda item: item.version)}
    expected = {key: item.values[2] for key, item in last.items() if item.values is not None}
    assert sizes(database, table) == expected
    with database.connection() as conn:
        versions = {key: row.version for key, row in table.get_many(conn, list(last)).items()}
    assert versions == {key: last[key].version for key in expected}


def test_synchronous_and_pending_writes_meet_without_deadlock(database: Database, table: Table) -> None:
    keys = [f"k{number:02}" for number in range(40)]
    clock = iter(range(1, 1_000_000))
    lock = threading.Lock()

    def tick() -> int:
        with lock:
            return stamp(next(clock))

    def pending(seed: int) -> None:
        rng = random.Random(seed)
        for _ in range(25):
            chosen = rng.sample(keys, 20)
            batch = [deletion(key, tick()) if rng.random() < 0.2 else change(key, tick(), 1) for key in chosen]
            apply(database, table, *batch)

    def synchronous(seed: int) -> None:
        rng = random.Random(seed)
        for _ in range(25):
            chosen = rng.sample(keys, 20)
            with database.transaction() as conn:
                written = table.set_many(conn, [row(key, 2) for key in chosen], [tick() for _ in chosen], NODE)
            assert len(written) == 20

    with ThreadPoolExecutor(4) as pool:
        for done in [pool.submit(job, seed) for seed, job in enumerate([pending, synchronous] * 2)]:
            done.result()
