"""Keys of several fields on their way: the buffer, the ledger, workers, journals, SQL from outside, jobs, commands."""

from __future__ import annotations

import json
import shutil
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict

import strata
from strata import (
    Collection,
    Durability,
    EncryptionKeys,
    KeyRotation,
    MemPolicy,
    PostgresPolicy,
    Q,
    RedisPolicy,
    Schema,
    Undecrypted,
    WriteMode,
)
from strata.jobs import fleet
from strata.l3.layout import Layout
from strata.l3.reads import Reads
from strata.l3.statement import Statement
from strata.maintenance import warm
from strata.model import compile_model
from strata.testing import inspect
from tests.behind import Errors, client, comes_after, hand_off, idle, paced, persist, rows, run
from tests.commands import commands
from tests.composite import KEYS, Line, Secret, line
from tests.stores import MakeStore, sure
from tests.support import wait_until

L1, L2, L3 = MemPolicy(ttl=60), RedisPolicy(ttl=600), PostgresPolicy()
HOUR: dict[str, Any] = {"write_behind_flush_interval": 3600.0, "write_behind_flush_threshold": 10**9}
WATCHED = PostgresPolicy(watch=True)


def opened(make: MakeStore, model: Any = Line, *, by_hand: bool = False, **options: Any) -> Collection[Any]:
    """A schema in all tiers; `by_hand`: nothing is handed off or persisted unless the test does it."""
    store = make(**(HOUR if by_hand else {}) | options.pop("config", {}))
    paced(store)
    tiers: dict[str, Any] = {"l1": L1, "l2": L2, "l3": L3} | options
    lines = store.register(Schema(model, name="lines", **tiers))
    store.migrate()
    sure(store)
    if by_hand:
        idle(store)
    return lines


def deferred(make: MakeStore, **options: Any) -> Collection[Line]:
    return opened(make, by_hand=True, write_mode=WriteMode.WRITE_BEHIND, **options)


# -- write-behind -----------------------------------------------------------------------------------------------------


def test_what_was_handed_off_is_read_elsewhere_before_and_after_it_is_persisted(
    make: MakeStore, dsn: str, redis_addr: str
) -> None:
    one, other = deferred(make), deferred(make)
    for key in KEYS:
        one.set(key, line(key, 1))
    hand_off(one._store)
    assert rows(dsn, "SELECT count(*) FROM lines") == [(0,)]
    client(redis_addr).delete(*client(redis_addr).scan_iter("strata:lines:*"))
    assert other.get_many(KEYS) == {key: line(key, 1) for key in KEYS}
    assert persist(one._store, "lines") == len(KEYS)
    assert {key: other.get(key, force_l3=True) for key in KEYS} == {key: line(key, 1) for key in KEYS}
    assert one._store.stats().dirty_count == 0


def test_writes_of_parts_meet_in_the_ledger_and_at_the_row(make: MakeStore, dsn: str) -> None:
    one, other = deferred(make), deferred(make)
    key = ("a/b", 1)
    one.set(key, line(key, 0))
    one._store.flush_dirty(10)
    other.get(key)
    one.update(key, note="from one")
    comes_after(other._store, one._store)
    other.update(key, amount=7)
    hand_off(other._store), persist(other._store, "lines")  # the newer part first
    one._store.flush_dirty(10)
    assert rows(dsn, 'SELECT "order", number, amount, note FROM lines') == [("a/b", 1, 7, "from one")]
    assert other.get(key, force_l3=True).note == "from one"


def test_increments_of_two_processes_add_up_and_a_deletion_ends_them(make: MakeStore, dsn: str) -> None:
    one, other = deferred(make), deferred(make)
    keys = KEYS[:12]
    for turn in range(3):
        for key in keys:
            one.increment(key, default=line(key, 0), amount=1)
            other.increment(key, default=line(key, 0), amount=10)
        for lines in (one, other) if turn % 2 else (other, one):
            hand_off(lines._store)
        persist(one._store, "lines")
    assert {key: one.get(key, force_l3=True).amount for key in keys} == dict.fromkeys(keys, 33)
    comes_after(one._store, other._store)
    one.delete_many(keys)
    hand_off(one._store), persist(one._store, "lines")
    assert rows(dsn, "SELECT count(*) FROM lines") == [(0,)]
    tombs = {id for (id,) in rows(dsn, "SELECT id FROM _strata_tombstones WHERE schema = 'lines'")}
    assert tombs == {compile_model(Line).key_text(key) for key in keys}


def test_a_deletion_is_newer_than_what_comes_late(make: MakeStore, dsn: str) -> None:
    one, other = deferred(make), deferred(make)
    key = ("~", 1)
    one.set(key, line(key, 1))
    comes_after(other._store, one._store)
    other.delete(key)
    hand_off(other._store), persist(other._store, "lines")
    hand_off(one._store), persist(one._store, "lines")
    assert rows(dsn, "SELECT * FROM lines") == []
    assert other.get(key, default=None) is None


def test_a_write_that_is_refused_is_a_dead_letter_of_its_key(make: MakeStore, dsn: str) -> None:
    errors = Errors()
    lines = deferred(make, hooks=errors.hooks(), config={"write_behind_max_retry": 1})
    store = lines._store
    run(dsn, "ALTER TABLE lines ADD CONSTRAINT short CHECK (length(note) < 10)")
    good, bad = ("a/b", 1), ("a/b", 2)
    lines.set(good, Line(order="a/b", number=1, note="short"))
    lines.set(bad, Line(order="a/b", number=2, note="far too long for it"))
    hand_off(store)
    wait_until(lambda: persist(store, "lines") is not None and store.dead_letters.count() == 1)
    assert rows(dsn, "SELECT number FROM lines") == [(1,)]
    [letter] = store.dead_letters.list()
    assert letter.key == bad
    wait_until(lambda: errors.keys == [bad])
    run(dsn, "ALTER TABLE lines DROP CONSTRAINT short")
    store.dead_letters.retry(letter.id)
    wait_until(lambda: persist(store, "lines") is not None and len(rows(dsn, "SELECT * FROM lines")) == 2)


def test_what_a_killed_process_had_journalled_is_written_by_the_next(make: MakeStore, dsn: str, tmp_path: Path) -> None:
    journal = {"write_behind_durability": Durability.JOURNAL, "journal_dir": tmp_path}
    lines = deferred(make, config=journal)
    for key in KEYS:
        lines.set(key, line(key, 1))
    later = tmp_path / "later"  # as of a process that was killed now
    shutil.copytree(tmp_path, later)
    next_one = opened(
        make,
        write_mode=WriteMode.WRITE_BEHIND,
        config=journal | {"journal_dir": later, "write_behind_flush_interval": 0.05},
    )
    wait_until(lambda: rows(dsn, "SELECT count(*) FROM lines") == [(len(KEYS),)])
    assert next_one.get_many(KEYS) == {key: line(key, 1) for key in KEYS}


def test_the_fleet_s_own_walk_finds_what_is_stale(make: MakeStore, dsn: str) -> None:
    lines = opened(make)
    for key in KEYS[:10]:
        lines.set(key, line(key, 1))
    stale = KEYS[3]
    run(dsn, f"UPDATE lines SET note = 'outside', _strata_version = _strata_version + 99 WHERE {where(stale)}")
    report = lines._store.audit()
    assert {(found.tier, found.id) for found in report.stale} == {("l1", stale), ("l2", stale)}


def where(key: Any) -> str:
    order = key[0].replace("'", "''")
    return f"\"order\" = '{order}' AND number = {key[1]}"


# -- changes made outside ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", [WriteMode.WRITE_THROUGH, WriteMode.WRITE_BEHIND])
def test_changes_made_outside_are_seen_everywhere(make: MakeStore, dsn: str, mode: WriteMode) -> None:
    one, other = (opened(make, l3=WATCHED, write_mode=mode) for _ in range(2))
    both = (one, other)
    for key in KEYS:
        one.set(key, line(key, 1))
    one._store.flush_dirty()
    for lines in both:
        lines.get_many(KEYS)
    for key in KEYS:
        run(dsn, f"UPDATE lines SET note = 'outside' WHERE {where(key)}")
    for lines in both:
        wait_until(lambda lines=lines: {found.note for found in lines.get_many(KEYS).values()} == {"outside"})  # type: ignore[misc]
    moved, gone = KEYS[0], KEYS[1]
    run(dsn, f"UPDATE lines SET number = 77 WHERE {where(moved)}; DELETE FROM lines WHERE {where(gone)}")
    for lines in both:
        wait_until(lambda lines=lines: not lines.get_many([moved, gone]))  # type: ignore[misc]
        assert lines.get((moved[0], 77)).note == "outside"
        assert lines.get(("a", -1)).note == "outside"
    run(dsn, "TRUNCATE lines")
    for lines in both:
        wait_until(lambda lines=lines: not lines.get_many(KEYS))  # type: ignore[misc]


@dataclass
class Item:
    name: Annotated[str, strata.PrimaryKey]
    amount: int = 0


@pytest.mark.parametrize("mode", [WriteMode.WRITE_THROUGH, WriteMode.WRITE_BEHIND])
@pytest.mark.parametrize(
    ("model", "columns", "keys", "key"),
    [(Item, "name TEXT", "name", "a"), (Line, '"order" TEXT, number BIGINT', '"order", number', ("a", 1))],
    ids=["one field", "several"],
)
def test_rows_without_a_key_are_the_business_of_others_alone(
    make: MakeStore, dsn: str, mode: WriteMode, model: Any, columns: str, keys: str, key: Any
) -> None:
    more = "" if model is Item else ", note TEXT DEFAULT '', tags JSONB"
    run(dsn, f"CREATE TABLE lines ({columns}, amount BIGINT{more}, UNIQUE ({keys}))")
    lines = opened(make, model, l3=WATCHED, write_mode=mode)
    for row in ("'a'", "NULL", "'b'") if model is Item else ("NULL, 1", "'a', NULL", "NULL, NULL", "'a', 1"):
        run(dsn, f"INSERT INTO lines ({keys}, amount) VALUES ({row}, 1)")
    assert lines.get(key).amount == 1
    run(dsn, "UPDATE lines SET amount = 2")
    wait_until(lambda: lines.get(key).amount == 2)
    found = rows(dsn, "SELECT id FROM _strata_partials UNION SELECT id FROM _strata_tombstones")
    assert {id for (id,) in found} <= {compile_model(model).key_text(key), "b"}
    run(dsn, "DELETE FROM lines")
    wait_until(lambda: not lines.exists(key))


def test_a_deferred_part_goes_beside_an_update_made_outside(make: MakeStore, dsn: str) -> None:
    lines = deferred(make, l3=WATCHED)
    key = ("a/b", 1)
    lines.set(key, line(key, 1))
    hand_off(lines._store), persist(lines._store, "lines")
    lines.update(key, amount=9)  # older than the update
    run(dsn, "UPDATE lines SET note = 'outside'")
    lines._store.flush_dirty(10)
    assert rows(dsn, "SELECT amount, note FROM lines") == [(9, "outside")]


# -- the text, in SQL and in Python -----------------------------------------------------------------------------------


def test_postgres_makes_the_text_that_python_makes(make: MakeStore, dsn: str) -> None:
    lines = opened(make, l3=WATCHED)
    run(dsn, "DELETE FROM _strata_repairs")
    text = compile_model(Line).key_text
    with psycopg.connect(dsn) as conn:
        for key in KEYS:
            conn.execute('INSERT INTO lines ("order", number, amount, note) VALUES (%s, %s, 0, %s)', (*key, ""))
        told = {id for (id,) in conn.execute("SELECT id FROM _strata_repairs").fetchall()}
        conn.commit()
    assert told - {""} == {text(key) for key in KEYS}
    assert lines.count() == len(KEYS)


# -- encrypted fields -------------------------------------------------------------------------------------------------

K1, K2 = b"1" * 32, b"2" * 32


def test_a_ciphertext_is_bound_to_the_whole_key_and_comes_under_a_new_one(make: MakeStore, dsn: str) -> None:
    secrets = opened(make, Secret, config={"encryption_key": K1})
    keys = [(tenant, number) for tenant in ("a", "b/c") for number in range(150)]
    secrets.set_many({key: Secret(*key, text=f"text of {key}") for key in keys})
    both = EncryptionKeys(current="k2", keys={"k1": K1, "k2": K2})
    later = opened(make, Secret, config={"encryption_key": both})
    [rotation] = later._store.rotate_keys()
    assert rotation.rows == len(keys)
    newest = opened(make, Secret, config={"encryption_key": EncryptionKeys(current="k2", keys={"k2": K2})})
    assert {key: newest.get(key, force_l3=True).text for key in keys} == {key: f"text of {key}" for key in keys}
    assert later.update_where(Q().where("number < $1", 3).build(), text="same") == 6
    assert {later.get(("b/c", number), force_l3=True).text for number in range(3)} == {"same"}
    assert len({text for (text,) in rows(dsn, "SELECT text FROM lines WHERE number < 3")}) == 6
    run(dsn, "UPDATE lines SET text = (SELECT text FROM lines WHERE tenant = 'a' AND number = 5) WHERE number = 6")
    with pytest.raises(strata.DecodeError) as caught:
        newest.get(("a", 6), force_l3=True)
    assert caught.value.key == ("a", 6)


def test_a_row_whose_key_is_none_is_left_under_its_old_key(make: MakeStore, dsn: str) -> None:
    secrets = opened(make, Secret, config={"encryption_key": K1})
    secrets.set(("a", 1), Secret("a", 1, "text"))
    run(dsn, "INSERT INTO lines (tenant, number, text) SELECT '', n, 'plain' FROM generate_series(1, 3) n")
    later = opened(make, Secret, config={"encryption_key": EncryptionKeys(current="k2", keys={"k1": K1, "k2": K2})})
    assert later._store.rotate_keys() == [KeyRotation("lines", 1, (Undecrypted("text", None, 3),))]


# -- warming, and the whole table -------------------------------------------------------------------------------------


@pytest.fixture
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(warm, "PART", 40)
    monkeypatch.setattr(warm, "MOST", 20)


@pytest.mark.parametrize("counted", [10_000, 50], ids=["counted", "by a sample"])
def test_a_large_table_is_warmed_in_parts_that_leave_nothing_out(
    make: MakeStore, small_parts: None, monkeypatch: pytest.MonkeyPatch, counted: int
) -> None:
    monkeypatch.setattr(warm, "COUNTED", counted)
    lines = opened(make)
    given = {(f"o{n % 17}", n): line((f"o{n % 17}", n), 1) for n in range(400)}
    lines.set_many(given)
    lines.invalidate_many(given)
    run_of = lines._store.warm_cache("lines")
    assert run_of == 400
    before = lines._store.stats().l3_hits
    assert lines.get_many(given) == given
    assert lines._store.stats().l3_hits == before
    division = lines._store._warmer.divide(inspect(lines._store).schemas["lines"], 0)
    assert len(division.spans) > 3
    assert {found.order for found in lines.search_iter()} == {f"o{n}" for n in range(17)}


@dataclass
class Place:
    region: Annotated[str, strata.PrimaryKey]
    name: Annotated[str, strata.PrimaryKey]
    note: str = ""


WAYS = "CASE n % 4 WHEN 0 THEN '' WHEN 1 THEN 'x' WHEN 3 THEN repeat('y', 3000) END"  # of which one is a key's


@pytest.mark.parametrize("limit", [0, 150])
def test_a_job_goes_on_after_keys_that_other_programs_have_made(
    make: MakeStore, dsn: str, small_parts: None, limit: int
) -> None:
    run(dsn, "CREATE TABLE lines (region TEXT, name TEXT, note TEXT)")
    places = opened(make, Place)
    run(dsn, "ALTER TABLE lines ALTER COLUMN name DROP NOT NULL")
    run(dsn, f"INSERT INTO lines SELECT 'r' || lpad(n::text, 4, '0'), {WAYS}, '' FROM generate_series(1, 200) n")
    bound, warmer = inspect(places._store).schemas["lines"], places._store._warmer
    for span in warmer.divide(bound, limit).spans:
        assert fleet._span_of(bound, fleet._part_of(bound, span)) == span
        for left, _ in warmer.run(bound, span):
            assert left is None or fleet._span_of(bound, fleet._part_of(bound, left)) == left
    assert len(bound.l1.entries) >= (limit or 200) // 4


def test_rows_without_a_key_end_the_walk(make: MakeStore, dsn: str, small_parts: None) -> None:
    run(dsn, "CREATE TABLE lines (name TEXT UNIQUE, amount BIGINT)")
    items = opened(make, Item)
    run(dsn, "INSERT INTO lines SELECT NULL, n FROM generate_series(1, 100) n; INSERT INTO lines VALUES ('a', 1)")
    assert items._store.warm_cache("lines") == 1
    assert set(inspect(items._store).schemas["lines"].l1.entries) == {"a"}


# -- plans -----------------------------------------------------------------------------------------------------------


def plans(dsn: str, statement: Statement, *given: str) -> str:
    """How PostgreSQL runs a statement of these parameters, as SQL."""
    sql = statement.sql
    for number, value in reversed(list(enumerate(given, 1))):
        sql = sql.replace(f"${number}", value)
    return str(rows(dsn, f"EXPLAIN {sql}"))


def test_walks_in_the_order_of_the_keys_sort_nothing_in_a_table_of_narrower_columns(make: MakeStore, dsn: str) -> None:
    run(dsn, 'CREATE TABLE lines ("order" VARCHAR(80), number INT, amount INT, note TEXT, tags JSONB)')
    run(dsn, 'ALTER TABLE lines ADD PRIMARY KEY ("order", number)')
    opened(make)
    run(dsn, "INSERT INTO lines SELECT 'a', n, 0, '', NULL FROM generate_series(1, 5000) n; ANALYZE lines")
    reads = Reads(Layout(compile_model(Line), "lines", "lines", deferred=False))
    key, last = ("'a'", "100"), ("'a'", "4000")
    given = [("50",), (*key, "50"), (*last, "50"), (*key, *last, "50")]
    walks = [*zip(reads._pages, given, strict=True), *zip(reads._key_pages, given, strict=True)]
    walks += [(bound, ()) for bound in reads._bounds]
    for statement, args in walks:
        assert "Sort" not in plans(dsn, statement, *args)


@pytest.mark.parametrize("by", ["order", "number"])
def test_many_rows_of_a_divided_table_are_found_by_its_indexes(make: MakeStore, dsn: str, by: str) -> None:
    opened(make, l3=PostgresPolicy(partition_by=by))
    run(dsn, "INSERT INTO lines SELECT n, 'o' || n, '', n, NULL FROM generate_series(1, 20000) n; ANALYZE lines")
    reads = Reads(Layout(compile_model(Line), "lines", "lines", deferred=False))
    plan = plans(dsn, reads._get_many, f"ARRAY{[f'o{n}' for n in range(100)]}", f"ARRAY{[*range(100)]}::bigint[]")
    assert "Index Scan" in plan and "Seq Scan" not in plan


@pytest.mark.parametrize("by", ["order", "number"])
def test_rows_of_a_divided_table_are_changed_by_a_query_that_waits_for_others(
    make: MakeStore, dsn: str, by: str
) -> None:
    name = conninfo_to_dict(dsn)["dbname"]
    for way in ("enable_hashjoin", "enable_mergejoin", "enable_seqscan"):  # as in a table of any size
        run(dsn, f"ALTER DATABASE {name} SET {way} = off")
    lines = opened(make, l3=PostgresPolicy(partition_by=by))
    lines.set_many({key: line(key, 1) for key in KEYS[:8]})
    waiting = "SELECT FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
    with psycopg.connect(dsn) as conn, ThreadPoolExecutor(1) as pool:
        conn.execute("UPDATE lines SET note = 'outside'")
        changed = pool.submit(lines.update_where, Q().where("amount = $1", 1).build(), amount=7)
        wait_until(lambda: rows(dsn, waiting))
        conn.commit()
        assert changed.result() == 8
    assert {(found.amount, found.note) for found in lines.search()} == {(7, "outside")}


# -- commands ---------------------------------------------------------------------------------------------------------

APP = """
from strata import *
from tests.commands import commands
from tests.composite import Line

store = DataStore(Config.from_env(write_behind_max_retry=1, write_behind_flush_interval=0.05))
tiers = {"l1": MemPolicy(), "l2": RedisPolicy(), "l3": PostgresPolicy()}
store.register(Schema(Line, name="lines", write_mode=WriteMode.WRITE_BEHIND, **tiers))
"""


def test_the_commands_name_a_key_by_its_text(
    make: MakeStore, tmp_path: Path, dsn: str, redis_addr: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = commands(tmp_path, monkeypatch, "composite_shop", APP, dsn, redis_addr)
    assert command("migrate").exit_code == 0
    lines = deferred(make, config={"write_behind_max_retry": 1})
    lines.set(("a/b", 1), line(("a/b", 1), 1))
    run(dsn, "ALTER TABLE lines ADD CONSTRAINT short CHECK (length(note) < 10)")
    lines.set(("a/b", 2), Line(order="a/b", number=2, note="far too long for it"))
    hand_off(lines._store)
    wait_until(lambda: persist(lines._store, "lines") is not None and lines._store.dead_letters.count() == 1)
    assert "a~1b/2" in command("dead-letters", "list").output
    [letter] = json.loads(command("dead-letters", "list", "--json").output)
    assert letter["key"] == ["a/b", 2]
    assert "a~1b/2" in command("dead-letters", "show", letter["id"]).output
    lines.get(("a/b", 1))
    run(dsn, "UPDATE lines SET amount = 9, _strata_version = _strata_version + 99")
    assert "a~1b/1" in command("audit").output
    assert command("warm", "lines").exit_code == 0
