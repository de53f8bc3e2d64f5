"""`set_many` in L3: as `upsert` for each row, all or nothing, by COPY."""

from __future__ import annotations

import random
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import timedelta
from typing import Annotated, Any

import pytest

import strata
from strata import UNLOADED
from strata.errors import ConstraintError, EncodeError
from strata.l3 import bulk
from strata.l3.pool import Database
from strata.l3.table import Table
from strata.l3.writes import Written
from tests.databases import NEWEST, VERSIONS
from tests.l3 import NODE, NOW, deletion, fresh, make_table, row, stamp

LATER = NOW + timedelta(days=1)


@pytest.fixture(params=NEWEST)
def database(request: pytest.FixtureRequest) -> Iterator[Database]:
    with fresh(request.param) as database:
        yield database


@pytest.fixture(params=[False, True], ids=["write-through", "write-behind"])
def table(database: Database, request: pytest.FixtureRequest) -> Table:
    return make_table(database, deferred=request.param)


@pytest.fixture(params=[3, 100, 2500], ids=["few", "some", "in parts"])
def count(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(bulk, "PART", 1000)
    return int(request.param)


def set_many(database: Database, table: Table, rows: list[Any], version: int) -> list[Written]:
    with database.transaction() as conn:
        return table.set_many(conn, rows, [version] * len(rows), NODE)


def contents(database: Database, table: Table) -> dict[str, Any]:
    with database.connection() as conn:
        return {found.values[0]: found for found in table.page(conn, None, 100_000)}


def shuffled(count: int, size: int = 0, **options: Any) -> list[Any]:
    rows = [row(f"k{number:05}", size, **options) for number in range(count)]
    random.Random(count).shuffle(rows)
    return rows


def test_new_rows_are_inserted_at_their_stamps(database: Database, table: Table, count: int) -> None:
    rows = shuffled(count)
    assert set_many(database, table, rows, stamp(5)) == [Written(stamp(5))] * count
    assert contents(database, table) == {values[0]: (stamp(5), values) for values in rows}


def test_rows_that_are_there_are_updated_and_keep_their_first_stamp(
    database: Database, table: Table, count: int
) -> None:
    set_many(database, table, shuffled(count, 1, at=NOW), stamp(5))
    written = set_many(database, table, shuffled(count, 2, at=LATER), stamp(6))
    assert written == [Written(stamp(6), (NOW,), ("first",))] * count
    for version, values in contents(database, table).values():
        assert (version, values[2], values[4], values[5]) == (stamp(6), 2, NOW, LATER)


@pytest.mark.parametrize("database", VERSIONS, indirect=True)
def test_new_and_old_rows_mix(database: Database, table: Table, count: int) -> None:
    rows = shuffled(count)
    for old in (rows[::2], rows[1::2][:1]):
        set_many(database, table, old, stamp(5))
    mixed = shuffled(count, 2)
    written = set_many(database, table, mixed, stamp(6))
    assert [item.version for item in written] == [stamp(6)] * count
    assert {values[2] for _, values in contents(database, table).values()} == {2}
    assert len(contents(database, table)) == count


def test_rows_that_all_seem_known_may_hide_a_new_one(database: Database, table: Table, count: int) -> None:
    rows = sorted(shuffled(count))
    gone = rows[1] if count == 3 else rows[count // 2 + 1]
    set_many(database, table, [values for values in rows if values != gone], stamp(5))
    again = [row(values[0], 9) for values in rows]
    written = set_many(database, table, again, stamp(6))
    assert [item.version for item in written] == [stamp(6)] * count
    assert {values[2] for _, values in contents(database, table).values()} == {9}
    assert len(contents(database, table)) == count


def test_a_slow_clock_does_not_lose_a_row(database: Database, table: Table, count: int) -> None:
    set_many(database, table, shuffled(count), stamp(1000))
    written = set_many(database, table, shuffled(count, 2), stamp(10))
    assert {item.version for item in written} == {stamp(1001)}
    assert {version for version, _ in contents(database, table).values()} == {stamp(1001)}


def test_answers_are_in_the_order_of_the_rows(database: Database, table: Table, count: int) -> None:
    rows = shuffled(count)
    versions = [stamp(number + 1) for number in range(count)]
    for _ in range(2):
        with database.transaction() as conn:
            assert [item.version for item in table.set_many(conn, rows, versions, NODE)] == versions
        versions = [version + stamp(count) for version in versions]
    assert {key: found.version for key, found in contents(database, table).items()} == {
        values[0]: version - stamp(count) for values, version in zip(rows, versions, strict=True)
    }


def test_unloaded_columns_keep_what_their_rows_have(database: Database, table: Table, count: int) -> None:
    set_many(database, table, shuffled(count, 1, note="kept"), stamp(5))
    rows: list[Any] = []
    for number, values in enumerate(shuffled(count, 2)):
        key, name = values[:2]
        shapes = [values, (key, name, 3, UNLOADED, UNLOADED, LATER), (key, UNLOADED, UNLOADED, None, NOW, LATER)]
        rows.append(shapes[number % 3])
    written = set_many(database, table, rows, stamp(6))
    assert [dict(zip(item.names, item.values, strict=True)) for item in written[:3]] == [
        {},
        {"note": "kept", "first": NOW},
        {"name": f"name of {rows[2][0]}", "size": 1},
    ]
    found = contents(database, table)
    assert [found[key].values[2:4] for key, *_ in rows[:3]] == [(2, None), (3, "kept"), (1, None)]
    assert {version for version, _ in found.values()} == {stamp(6)}


def test_an_unloaded_column_without_a_row_fails_and_nothing_is_written(
    database: Database, table: Table, count: int
) -> None:
    rows = shuffled(count)
    set_many(database, table, rows[:1], stamp(1))
    rows[0] = (*rows[0][:3], UNLOADED, *rows[0][4:])
    rows[-1] = (*rows[-1][:3], UNLOADED, *rows[-1][4:])
    with pytest.raises(EncodeError, match="UNLOADED"):
        set_many(database, table, rows, stamp(6))
    assert len(contents(database, table)) == 1


@pytest.mark.parametrize("known", [False, True])
def test_a_row_that_is_refused_refuses_all(database: Database, table: Table, count: int, known: bool) -> None:
    if known:
        set_many(database, table, shuffled(count, 1), stamp(1))
    before = contents(database, table)
    rows = shuffled(count, 2)
    rows[count // 2] = (*rows[count // 2][:1], rows[0][1], *rows[count // 2][2:])
    with pytest.raises(ConstraintError) as caught:
        set_many(database, table, rows, stamp(6))
    assert caught.value.constraint == "items_name_key"
    assert contents(database, table) == before
    set_many(database, table, shuffled(count, 3), stamp(7))
    assert len(contents(database, table)) == count


def test_a_value_that_cannot_be_sent_refuses_all_and_keeps_the_connection(
    database: Database, table: Table, count: int
) -> None:
    set_many(database, table, shuffled(count, 1), stamp(1))
    rows = shuffled(count, 2)
    rows[-1] = (*rows[-1][:3], "nul\0", *rows[-1][4:])
    with pytest.raises(EncodeError):
        set_many(database, table, rows, stamp(6))
    assert {values[2] for _, values in contents(database, table).values()} == {1}
    assert database.counts().open == 1


def test_tombstones_and_horizon_raise_the_versions_of_new_rows(database: Database, count: int) -> None:
    table = make_table(database, deferred=True)
    with database.transaction() as conn:
        table.apply(conn, [deletion("k00001", stamp(1000))])
    written = set_many(database, table, sorted(shuffled(count)), stamp(10))
    assert [item.version for item in written[:3]] == [stamp(10), stamp(1001), stamp(10)]
    with database.transaction() as conn:
        table.apply(conn, [deletion("gone", stamp(2000))])
        conn.command("UPDATE _strata_tombstones SET deleted_at = '2000-01-01'")
        table.forget_tombstones(conn, NOW)
    fresh_rows = [row(f"n{number}") for number in range(count)]
    assert {item.version for item in set_many(database, table, fresh_rows, stamp(10))} == {stamp(2001)}


def test_a_trigger_that_drops_rows_is_found_out(database: Database) -> None:
    table = make_table(database)
    set_many(database, table, shuffled(50), stamp(1))
    with database.connection() as conn:
        conn.command(
            "CREATE FUNCTION swallow() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';"
            "CREATE TRIGGER swallow BEFORE INSERT OR UPDATE ON items FOR EACH ROW"
            " WHEN (NEW.size = 9) EXECUTE FUNCTION swallow()"
        )
    mixed = [*shuffled(40, 9), *(row(f"n{number}", 9) for number in range(40))]
    with pytest.raises(ConstraintError, match="trigger"):
        set_many(database, table, mixed, stamp(2))
    for key in ("new", mixed[0][0]):
        with pytest.raises(ConstraintError, match="trigger"):
            set_many(database, table, [row(key, 9)], stamp(2))


def test_rows_behind_a_row_level_policy_are_written_all_the_same(database: Database) -> None:
    table = make_table(database)
    with database.connection() as conn:
        conn.command(
            "ALTER TABLE items ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;"
            "CREATE POLICY all_of_them ON items USING (true);"
            "DO $$ BEGIN CREATE ROLE l3_plain LOGIN; EXCEPTION WHEN duplicate_object THEN NULL; END $$;"
            "GRANT ALL ON ALL TABLES IN SCHEMA public TO l3_plain"
        )
        conn.command("SET ROLE l3_plain")
    assert set_many(database, table, shuffled(100), stamp(1)) == [Written(stamp(1))] * 100
    assert len(contents(database, table)) == 100


def test_a_table_without_kept_columns_answers_with_versions(database: Database, count: int) -> None:
    @dataclass
    class Plain:
        id: Annotated[int, strata.PrimaryKey]
        size: int

    table = make_table(database, Plain)
    rows = [(number, number) for number in range(count)]
    for version in (1, 2):
        assert set_many(database, table, rows, stamp(version)) == [Written(stamp(version))] * count


@pytest.mark.parametrize("collation", ["C", "C.UTF-8"])
def test_overlapping_batches_of_many_writers_do_not_deadlock(collation: str) -> None:
    with fresh(collation=collation, max_conns=8) as database:
        table = make_table(database)
        keys = [f"{prefix}{number}" for number in range(150) for prefix in ("a", "B", "ä", "_")]

        def write(seed: int) -> None:
            rng = random.Random(seed)
            for turn in range(8):
                chosen = rng.sample(keys, rng.choice([10, 100, 400]))
                set_many(database, table, [row(key, seed) for key in chosen], stamp(seed * 100 + turn))

        with ThreadPoolExecutor(4) as pool:
            for done in [pool.submit(write, seed) for seed in range(4)]:
                done.result()
        assert len(contents(database, table)) == len(keys)
