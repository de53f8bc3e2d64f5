"""Rows changed outside of Strata are seen by every instance: with a raw connection, on each PostgreSQL supported."""

from __future__ import annotations

import json
import random
import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, Any

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

import strata
from strata import DataStore, EncryptionKeys, InvalidConfigError, MemPolicy, PostgresPolicy, RedisPolicy, Schema
from strata.l3.partition import months_from
from strata.testing import inspect
from tests.behind import client, comes_after, deferred, hand_off, idle, paced, persist
from tests.databases import NEWEST, VERSIONS
from tests.held import changing
from tests.l3 import fresh
from tests.models import Account, Note, Point
from tests.stores import MakeStore, schema, stores, sure
from tests.support import wait_until

WATCHED = PostgresPolicy(watch=True)
SLOW = {"write_behind_flush_interval": 3600.0, "write_behind_flush_threshold": 10**9}


@dataclass
class Tagged:
    """A record with a UUID for its key."""

    id: Annotated[uuid.UUID, strata.PrimaryKey]
    text: str = ""


@pytest.fixture(params=NEWEST, ids=lambda version: f"postgres{version}")
def outside_dsn(request: pytest.FixtureRequest) -> Iterator[str]:
    with fresh(request.param) as database:
        with database.connection() as conn:
            info = conn.info
            dsn = make_conninfo(info.dsn, password=info.password)
        yield dsn


@pytest.fixture
def make(outside_dsn: str, redis_addr: str) -> Iterator[MakeStore]:
    with stores(outside_dsn, redis_addr) as factory:
        yield factory


@pytest.fixture
def psql(outside_dsn: str) -> Iterator[psycopg.Connection[Any]]:
    with closing(psycopg.connect(outside_dsn, autocommit=True)) as conn:
        yield conn


def two(make: MakeStore, *schemas: Any, **config: Any) -> tuple[DataStore, DataStore]:
    """Two instances that listen."""
    made = []
    for _ in range(2):
        store = make(**config)
        for item in schemas:
            store.register(item)
        store.migrate()
        listens(store)
        sure(store)
        made.append(store)
    return made[0], made[1]


def listens(store: DataStore) -> None:
    inspect(store).listen()
    listener = inspect(store).listener
    wait_until(lambda: listener.connected, what="a listener")


def everywhere(stores: tuple[DataStore, ...], model: type, id: Any, expected: Any) -> None:
    """Every instance comes to read this record, or None."""
    for store in stores:
        wait_until(lambda store=store: store.get(model, id, default=None) == expected)  # type: ignore[misc]


def heard(stores: tuple[DataStore, ...], notices: int) -> None:
    """Every instance was told just so often of changes outside, the last of which each has heard of by then."""
    wait_until(lambda: all(inspect(store).outside.notices >= notices for store in stores), what="the notices")
    assert [inspect(store).outside.notices for store in stores] == [notices] * len(stores)


def version(psql: psycopg.Connection[Any], table: str, id: Any) -> int:
    row = psql.execute(f"SELECT _strata_version FROM {table} WHERE id = %s", [id]).fetchone()
    assert row is not None
    return int(row[0])


KEYS = [(Note, 1), (Point, 'p "1", ü'), (Tagged, uuid.UUID(int=7))]


@pytest.mark.parametrize("outside_dsn", VERSIONS, indirect=True)
@pytest.mark.parametrize("partitioned", [False, True], ids=["plain", "partitioned"])
@pytest.mark.parametrize(("model", "id"), KEYS, ids=["int", "str", "uuid"])
def test_a_row_that_psql_inserts_updates_and_deletes_is_seen_by_every_instance(
    make: MakeStore, psql: psycopg.Connection[Any], model: Any, id: Any, partitioned: bool
) -> None:
    policy = PostgresPolicy(watch=True, partition_by="id" if partitioned else None)
    both = two(make, schema(model, name="items", l3=policy))
    column = "x" if model is Point else "text"
    old, new = (1, 2) if model is Point else ("old", "new")
    both[0].set(model, id, model(id, old))
    everywhere(both, model, id, model(id, old))
    before = version(psql, "items", id)
    psql.execute(f"UPDATE items SET {column} = %s WHERE id = %s", [new, id])
    everywhere(both, model, id, model(id, new))
    assert version(psql, "items", id) > before
    psql.execute("DELETE FROM items WHERE id = %s", [id])
    everywhere(both, model, id, None)
    both[0].set(model, id, model(id, old))
    both[0].delete(model, id)
    everywhere(both, model, id, None)
    names = {Note: "id, text, tags, meta", Point: "id, x, y", Tagged: "id, text"}[model]
    values = {Note: "%s, %s, '[]', '{}'", Point: "%s, %s, 0", Tagged: "%s, %s"}[model]
    psql.execute(f"INSERT INTO items ({names}) VALUES ({values})", [id, new])
    everywhere(both, model, id, model(id, new))
    assert version(psql, "items", id) > before
    psql.execute("TRUNCATE items")
    everywhere(both, model, id, None)


def test_a_statement_that_names_a_partition_of_which_nobody_has_told_strata_is_seen_too(
    make: MakeStore, psql: psycopg.Connection[Any]
) -> None:
    psql.execute(
        "CREATE TABLE note (id bigint PRIMARY KEY, text text, tags jsonb, meta jsonb, _strata_version bigint NOT NULL"
        " DEFAULT 0) PARTITION BY RANGE (id); CREATE TABLE early PARTITION OF note FOR VALUES FROM (0) TO (100)"
    )
    policy = PostgresPolicy(watch=True, managed=False)
    store = make()
    store.register(schema(Note, l3=policy))
    for change in store.migrate().manual:
        psql.execute(change.sql.encode())
    both = two(make, schema(Note, l3=policy))
    psql.execute("CREATE TABLE late PARTITION OF note FOR VALUES FROM (100) TO (200)")
    for sql in ("UPDATE late SET text = 'new' WHERE id = 101", "DELETE FROM late"):
        both[0].set(Note, 101, Note(101, "old"))
        everywhere(both, Note, 101, Note(101, "old"))
        psql.execute(sql.encode())
        everywhere(both, Note, 101, Note(101, "new") if "UPDATE" in sql else None)


@pytest.mark.parametrize("names", [("one.item", "two.item"), ("Item", "item")], ids=["schemas", "capitals"])
def test_a_statement_that_changes_two_tables_of_almost_one_name_is_seen_of_both(
    outside_dsn: str, make: MakeStore, psql: psycopg.Connection[Any], names: tuple[str, str]
) -> None:
    stores: list[DataStore] = []
    for name in names:
        space, _, table = name.rpartition(".")
        psql.execute(f"CREATE SCHEMA IF NOT EXISTS {space or 'public'}".encode())
        dsn = make_conninfo(outside_dsn, options=f"-csearch_path={space or 'public'}")
        store = make(postgres_dsn=dsn, namespace=f"n{len(stores)}")
        store.register(schema(Point, name=f"of_{space}{table}", l3=PostgresPolicy(watch=True, table_name=table)))
        store.migrate()
        assert store.migrate().applied == ()
        listens(store)
        store.set(Point, "a", Point("a", 1))
        stores.append(store)
    upper, lower = (".".join(f'"{part}"' for part in name.split(".")) for name in names)
    psql.execute(f"ALTER TABLE {lower} ADD FOREIGN KEY (id) REFERENCES {upper} ON DELETE CASCADE".encode())
    for store in stores:
        assert store.get(Point, "a") == Point("a", 1)
    psql.execute(f"DELETE FROM {upper}".encode())
    for store in stores:
        everywhere((store,), Point, "a", None)


def test_a_statement_that_names_a_partition_is_seen_too(make: MakeStore, psql: psycopg.Connection[Any]) -> None:
    both = two(make, schema(Note, l3=PostgresPolicy(watch=True, partition_by="id")))
    both[0].set(Note, 1, Note(1, "old"))
    everywhere(both, Note, 1, Note(1, "old"))
    row = psql.execute("SELECT tableoid::regclass::text FROM note").fetchone()
    assert row is not None
    psql.execute(f"UPDATE {row[0]} SET text = 'new'")
    everywhere(both, Note, 1, Note(1, "new"))
    psql.execute(f"TRUNCATE {row[0]}")
    everywhere(both, Note, 1, None)


def test_a_bulk_change_is_told_in_few_small_messages_and_beyond_that_in_one(
    make: MakeStore, psql: psycopg.Connection[Any], outside_dsn: str, redis_addr: str
) -> None:
    both = two(make, schema(Point, l3=WATCHED))
    ids = [f"{number:0200}" for number in range(5_000)]  # so long that a message has room for some thirty
    both[0].set_many(Point, {id: Point(id, 7) for id in ids})
    with closing(psycopg.connect(outside_dsn, autocommit=True)) as ear:
        ear.execute("LISTEN strata_outside")
        psql.execute("UPDATE point SET x = 8 WHERE id < %s", [ids[160]])
        psql.execute("UPDATE point SET x = 9")
        with pytest.raises(psycopg.errors.DivisionByZero):
            psql.execute("UPDATE point SET x = 1 / (id::int - 999)")
        psql.execute("UPDATE point SET x = 10 WHERE id = %s", [ids[5]])
        told: list[dict[str, Any]] = []
        for notice in ear.notifies(timeout=20):
            assert len(notice.payload) < 8000
            told.append(json.loads(notice.payload))
            if list(told[-1].get("keys", {})) == [ids[5]]:
                break
    at = next(place for place, item in enumerate(told) if len({k for t in told[: place + 1] for k in t["keys"]}) == 160)
    assert at < 10
    assert [item for item in told if "keys" not in item] == [{"table": "point"}]
    assert len(told) < 120
    everywhere(both, Point, ids[5], Point(ids[5], 10))
    everywhere(both, Point, ids[-1], Point(ids[-1], 9))
    wait_until(lambda: psql.execute("SELECT count(*) FROM _strata_repairs").fetchone() == (0,))
    redis = client(redis_addr)
    assert not [key for key in redis.scan_iter("strata:point:*") if b'"x":7' in (redis.get(key) or b"")]


def test_what_is_rolled_back_to_a_savepoint_is_not_told(make: MakeStore, psql: psycopg.Connection[Any]) -> None:
    both = two(make, schema(Note, l3=WATCHED))
    both[0].set_many(Note, {id: Note(id, "old") for id in range(3)})
    with psql.transaction():
        psql.execute("UPDATE note SET text = 'new' WHERE id = 0")
        psql.execute("SAVEPOINT here")
        psql.execute("UPDATE note SET text = 'undone' WHERE id = 1")
        psql.execute("ROLLBACK TO here")
        psql.execute("UPDATE note SET text = 'new' WHERE id = 2")
        told = psql.execute("SELECT id FROM _strata_repairs ORDER BY 1").fetchall()
    assert told == [("0",), ("2",)]
    everywhere(both, Note, 0, Note(0, "new"))
    everywhere(both, Note, 2, Note(2, "new"))


def unseen(make: MakeStore, records: int) -> None:
    """Rows of which caches know, and no process that looks after them."""
    store = make()
    store.register(schema(Note, l3=WATCHED))
    store.migrate()
    store.set_many(Note, {id: Note(id, "old") for id in range(records)})
    store.warm_cache(Note)
    store.close()


def repairs(conn: psycopg.Connection[Any]) -> list[str]:
    return [key for (key,) in conn.execute("SELECT id FROM _strata_repairs ORDER BY 1").fetchall()]


def test_while_nobody_looks_a_key_has_one_repair_however_often_it_is_changed(
    make: MakeStore, psql: psycopg.Connection[Any], outside_dsn: str
) -> None:
    unseen(make, 3)
    with psycopg.connect(outside_dsn, autocommit=True) as other:
        other.execute("SET SESSION CHARACTERISTICS AS TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        other.execute("BEGIN")
        other.execute("SELECT count(*) FROM note")  # its snapshot
        for number in range(30):
            psql.execute("UPDATE note SET text = %s WHERE id < 2", [str(number)])
        assert repairs(psql) == ["0", "1"]
        # What another transaction is about to replace is not waited for; and a snapshot that is older fails nobody.
        with psql.transaction():
            psql.execute("UPDATE note SET text = 'new' WHERE id = 0")
            other.execute("UPDATE note SET text = 'new' WHERE id = 2")
            other.execute("COMMIT")
        assert repairs(psql) == ["0", "1", "2"]
    everywhere(two(make, schema(Note, l3=WATCHED)), Note, 1, Note(1, "29"))
    wait_until(lambda: not repairs(psql), what="repairs")


def test_while_nobody_looks_many_repairs_become_one_for_everything(
    make: MakeStore, psql: psycopg.Connection[Any], redis_addr: str
) -> None:
    unseen(make, 100)
    psql.execute("SET strata.most_repairs = 20")
    for number in range(100):
        psql.execute("UPDATE note SET text = 'new' WHERE id = %s", [number])
    left = repairs(psql)
    assert left.count("") == 1 and len(left) <= 22
    everywhere(two(make, schema(Note, l3=WATCHED)), Note, 1, Note(1, "new"))
    wait_until(lambda: not repairs(psql), what="repairs")
    assert not [key for key in client(redis_addr).scan_iter("strata:note:*") if b"old" in client(redis_addr).get(key)]


def test_the_longest_key_goes_through_every_table_and_one_that_others_made_longer_is_found(
    make: MakeStore, psql: psycopg.Connection[Any], redis_addr: str
) -> None:
    store = make()
    store.register(deferred(Point, l3=WATCHED))
    store.migrate()
    letters = random.Random(1)
    id = "".join(letters.choices('abc"\\01é', k=4_000)).encode()[:2_048].decode(errors="replace")[:-1] + "x"
    assert 2_040 <= len(id.encode()) <= 2_048
    store.set_many(Point, {id: Point(id, 1)})
    psql.execute("UPDATE point SET x = 2")
    wait_until(lambda: store.get(Point, id).x == 2)
    store.delete(Point, id)
    store.flush_dirty()
    assert psql.execute("SELECT id FROM _strata_tombstones").fetchall() == [(id,)]
    with pytest.raises(strata.EncodeError, match="2,048"):
        store.set(Point, id + "123456789", Point(id + "123456789"))
    longer = id + "123456789"
    psql.execute("INSERT INTO point (id, x, y) VALUES (%s, 1, 1)", [longer])
    assert [point.id for point in store.search(Point)] == [longer]
    assert store.warm_cache(Point) == 1
    assert client(redis_addr).keys("strata:point:*123456789") == []


@pytest.mark.parametrize("strange", ["", "-1", "many", "99999999999"])
def test_a_setting_that_is_no_number_fails_no_statement(
    make: MakeStore, psql: psycopg.Connection[Any], strange: str
) -> None:
    unseen(make, 1)
    psql.execute("SELECT set_config('strata.most_repairs', %s, false)", [strange])
    psql.execute("UPDATE note SET text = 'new'")
    assert repairs(psql) == ["0"]


def test_a_changed_key_is_two_changes(make: MakeStore, psql: psycopg.Connection[Any]) -> None:
    both = two(make, schema(Note, l3=WATCHED))
    both[0].set(Note, 1, Note(1, "moved"))
    everywhere(both, Note, 1, Note(1, "moved"))
    psql.execute("UPDATE note SET id = 2")
    everywhere(both, Note, 1, None)
    everywhere(both, Note, 2, Note(2, "moved"))


@pytest.mark.parametrize("behind", [False, True], ids=["through", "behind"])
def test_own_writes_tell_nothing(make: MakeStore, psql: psycopg.Connection[Any], behind: bool) -> None:
    kind = deferred if behind else schema
    both = two(make, kind(Note, l3=WATCHED))
    store = both[0]
    store.set_many(Note, {id: Note(id, "copied") for id in range(100)})
    for id in range(5):
        store.set(Note, id, Note(id, "set"))
        store.flush_dirty(10)
    store.delete(Note, 1)
    store.delete_many(Note, [2, 3])
    with store.tx() as tx:
        tx.set(Note, 5, Note(5, "tx")).delete(Note, 6)
    store.flush_dirty(10)
    psql.execute("UPDATE note SET text = 'outside' WHERE id = 7")
    everywhere(both, Note, 7, Note(7, "outside"))
    heard(both, 1)


@dataclass
class Dated:
    """A record whose row moves between partitions."""

    id: Annotated[int, strata.PrimaryKey]
    at: datetime
    text: str = ""
    token: Annotated[str | None, strata.Encrypted] = None


THEN = datetime(2001, 2, 3, tzinfo=UTC)


@pytest.mark.parametrize("outside_dsn", VERSIONS, indirect=True)
@pytest.mark.parametrize("behind", [False, True], ids=["through", "behind"])
def test_own_rows_that_move_between_partitions_tell_nothing(
    make: MakeStore, psql: psycopg.Connection[Any], behind: bool
) -> None:
    kind, now = deferred if behind else schema, datetime.now(UTC)
    both = two(make, kind(Dated, l3=PostgresPolicy(watch=True, partition_by="at")), encryption_key=b"1" * 32)
    store = both[0]
    store.set_many(Dated, {id: Dated(id, THEN, "set") for id in range(40)})
    store.set_many(Dated, {id: Dated(id, now, "moved") for id in range(60)})
    for at in (THEN, now):
        store.set(Dated, 1, Dated(1, at, "set"))
        store.flush_dirty(10)
    partial = store.search(Dated, strata.Q().where("id = $1", 2).fields("id"))[0]
    partial.at = THEN
    store.set(Dated, 2, partial)
    store.flush_dirty(10)
    assert psql.execute("SELECT count(*) FROM _strata_tombstones").fetchone() == (0,)
    psql.execute("UPDATE dated SET text = 'outside', at = %s WHERE id = 7", [THEN])
    everywhere(both, Dated, 7, Dated(7, THEN, "outside"))
    heard(both, 1)
    store.set(Dated, 7, Dated(7, now, "own again"))
    store.flush_dirty(10)
    everywhere(both, Dated, 7, Dated(7, now, "own again"))


def test_partitions_that_are_made_later_move_rows_silently_and_tell_as_the_others(
    make: MakeStore, psql: psycopg.Connection[Any]
) -> None:
    both = two(make, schema(Dated, l3=PostgresPolicy(watch=True, partition_by="at")), encryption_key=b"1" * 32)
    last = months_from(datetime.now(UTC))[-1]
    psql.execute(f"DROP TABLE dated_{last.suffix}")
    both[0].set(Dated, 1, Dated(1, last.start, "old"))
    before = version(psql, "dated", 1)
    assert both[0].fleet.make_partitions() > 0
    assert both[0].migrate() == strata.MigrationReport()
    assert psql.execute("SELECT tableoid::regclass::text FROM dated").fetchone() == (f"dated_{last.suffix}",)
    assert version(psql, "dated", 1) == before
    assert [inspect(item).outside.notices for item in both] == [0, 0]
    everywhere(both, Dated, 1, Dated(1, last.start, "old"))
    psql.execute(f"UPDATE dated_{last.suffix} SET text = 'new'")
    everywhere(both, Dated, 1, Dated(1, last.start, "new"))


def test_a_rotation_of_keys_tells_nothing(make: MakeStore, psql: psycopg.Connection[Any]) -> None:
    old, new = bytes(range(32)), bytes(range(1, 33))
    store, _ = two(make, schema(Account, l3=WATCHED), encryption_key=EncryptionKeys("k1", {"k1": old}))
    store.set(Account, "a", Account("a", "ann", None, None, "t0ken"))
    before = version(psql, "account", "a")
    later = make(encryption_key=EncryptionKeys("k2", {"k1": old, "k2": new}))
    later.register(schema(Account, l3=WATCHED))
    assert [item.rows for item in later.rotate_keys()] == [1]
    assert version(psql, "account", "a") == before
    assert inspect(store).outside.notices == 0


def test_a_deletion_by_cascade_is_told_although_strata_deleted_the_parent(
    make: MakeStore, psql: psycopg.Connection[Any]
) -> None:
    both = two(make, schema(Note, l3=WATCHED), schema(Tagged, l3=WATCHED))
    psql.execute("ALTER TABLE tagged ADD COLUMN note bigint REFERENCES note ON DELETE CASCADE")
    key = uuid.UUID(int=1)
    both[0].set(Note, 1, Note(1, "parent"))
    both[0].set(Tagged, key, Tagged(key, "child"))
    psql.execute("UPDATE tagged SET note = 1")
    everywhere(both, Tagged, key, Tagged(key, "child"))
    both[1].delete(Note, 1)
    everywhere(both, Tagged, key, None)


@dataclass
class Node:
    id: Annotated[int, strata.PrimaryKey]
    parent: int | None = None
    children: int = 0


SET_OFF = {
    "cascade": ("ALTER TABLE node ADD FOREIGN KEY (parent) REFERENCES node ON DELETE CASCADE", 1, 2, None),
    "set null": ("ALTER TABLE node ADD FOREIGN KEY (parent) REFERENCES node ON DELETE SET NULL", 1, 2, Node(2, None)),
    "trigger": (
        """CREATE FUNCTION less() RETURNS trigger LANGUAGE plpgsql AS
        $$BEGIN UPDATE node SET children = children - 1 WHERE id = OLD.parent; RETURN NULL; END$$;
        CREATE TRIGGER less AFTER DELETE ON node FOR EACH ROW EXECUTE FUNCTION less()""",
        2,
        1,
        Node(1, None, 0),
    ),
}


@pytest.mark.parametrize("behind", [False, True], ids=["through", "behind"])
@pytest.mark.parametrize("what", SET_OFF)
def test_what_strata_s_deletion_sets_off_in_other_rows_of_its_table_is_told(
    make: MakeStore, psql: psycopg.Connection[Any], what: str, behind: bool
) -> None:
    statement, deleted, other, left = SET_OFF[what]
    made = deferred(Node, name="node", l3=WATCHED) if behind else schema(Node, name="node", l3=WATCHED)
    one, another = two(make, made)
    psql.execute(statement)
    one.set_many(Node, {1: Node(1, None, 1), 2: Node(2, 1)})
    for store in (one, another):
        assert store.get(Node, other).id == other
    one.delete(Node, deleted)
    one.flush_dirty()
    for store in (one, another):
        wait_until(lambda store=store: store.get(Node, other, default=None) == left)  # type: ignore[misc]


def test_a_change_made_while_nobody_listened_is_repaired_by_the_first_who_does(
    make: MakeStore, psql: psycopg.Connection[Any]
) -> None:
    first = make()
    first.register(schema(Note, l3=WATCHED))
    first.migrate()
    first.set(Note, 1, Note(1, "old"))
    assert first.get(Note, 1) == Note(1, "old")
    first.close()
    psql.execute("UPDATE note SET text = 'new'")
    second = make()
    second.register(schema(Note, l3=WATCHED))
    wait_until(lambda: second.get(Note, 1) == Note(1, "new"))


def test_a_listener_that_lost_its_connection_trusts_nothing_that_it_had(
    make: MakeStore, psql: psycopg.Connection[Any]
) -> None:
    policy = {"l2": None, "l3": WATCHED, "l1": MemPolicy(ttl=0)}
    both = two(make, schema(Note, **policy))
    both[0].set(Note, 1, Note(1, "old"))
    everywhere(both, Note, 1, Note(1, "old"))
    with psql.transaction():
        # The notification is sent when those who would hear it are gone already.
        psql.execute("UPDATE note SET text = 'new'")
        psql.execute(
            "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE application_name = 'strata-listener'"
        )
    everywhere(both, Note, 1, Note(1, "new"))


def test_a_redis_that_was_away_is_repaired_when_it_is_back(
    outside_dsn: str, psql: psycopg.Connection[Any], own_valkey: Any
) -> None:
    with stores(outside_dsn, own_valkey.addr) as make:
        store, _ = two(make, schema(Note, l3=WATCHED))
        store.set(Note, 1, Note(1, "old"))
        own_valkey.freeze()
        try:
            psql.execute("UPDATE note SET text = 'new'")
        finally:
            own_valkey.thaw()
        wait_until(lambda: store.get(Note, 1) == Note(1, "new"))
        wait_until(lambda: psql.execute("SELECT count(*) FROM _strata_repairs").fetchone() == (0,))


# -- written behind -------------------------------------------------------------------------------------------------


def by_hand(make: MakeStore, model: type = Note) -> tuple[DataStore, DataStore]:
    """Two instances of a write-behind schema of which nothing moves by itself."""
    made = []
    for _ in range(2):
        store = make(**SLOW)
        paced(store)
        store.register(deferred(model, l3=WATCHED))
        store.migrate()
        listens(store)
        sure(store)
        idle(store)
        made.append(store)
    return made[0], made[1]


def test_a_change_made_outside_is_newer_than_a_deferred_write_before_it(
    make: MakeStore, psql: psycopg.Connection[Any]
) -> None:
    both = by_hand(make)
    both[0].set_many(Note, {1: Note(1, "first")})
    both[0].set(Note, 1, Note(1, "pending"))
    hand_off(both[0])
    everywhere(both, Note, 1, Note(1, "pending"))
    psql.execute("UPDATE note SET text = 'outside'")
    everywhere(both, Note, 1, Note(1, "outside"))
    persist(both[1], "note")
    everywhere(both, Note, 1, Note(1, "outside"))
    both[0].flush_dirty(10)
    assert psql.execute("SELECT text FROM note").fetchall() == [("outside",)]


@contextmanager
def worker_waiting(dsn: str, sql: str, work: Callable[[], object]) -> Iterator[psycopg.Connection[Any]]:
    """A transaction of this statement, which is committed at the end of the block, and a worker that waits for it."""
    worker = threading.Thread(target=work)
    with changing(dsn, sql) as held:
        worker.start()
        wait_until(held.waiting, what="the worker at the row's lock")
        yield held.conn
    worker.join(20)


@pytest.mark.parametrize("route", ["ledger", "direct"])
def test_a_deferred_write_before_a_change_made_outside_keeps_the_columns_that_it_left_alone(
    make: MakeStore, psql: psycopg.Connection[Any], route: str
) -> None:
    both = by_hand(make)
    both[0].set_many(Note, {1: Note(1, "first", ["a"])})
    both[0].set(Note, 1, Note(1, "pending", ["a", "b"], {"n": 1}))
    if route == "ledger":
        hand_off(both[0])
    psql.execute("UPDATE note SET text = 'outside', tags = tags")  # as an ORM saves a whole object
    psql.execute("""UPDATE note SET meta = '{"n": 7}'""")
    heard = [Note(1, "outside", ["a"], {"n": 7}), Note(1, "outside", ["a", "b"], {"n": 7})]
    wait_until(lambda: both[0].get(Note, 1) in heard)
    if route == "ledger":
        persist(both[1], "note")
    both[0].flush_dirty(10)
    row = "SELECT text, tags::text, meta::text FROM note"
    assert psql.execute(row).fetchall() == [("outside", '["a", "b"]', '{"n": 7}')]
    everywhere(both, Note, 1, Note(1, "outside", ["a", "b"], {"n": 7}))
    assert both[0].dead_letters.list() == []


def test_what_is_handed_off_while_an_older_write_meets_a_change_made_outside_is_not_taken_for_persisted(
    make: MakeStore, psql: psycopg.Connection[Any], outside_dsn: str
) -> None:
    both = by_hand(make)
    both[0].set_many(Note, {1: Note(1, "first", ["a"])})
    both[0].set(Note, 1, Note(1, "second", ["b"]))
    hand_off(both[0])
    with worker_waiting(outside_dsn, "UPDATE note SET text = 'outside'", lambda: persist(both[1], "note")) as conn:
        both[0].set(Note, 1, Note(1, "third", ["c"]))
        hand_off(both[0])
        conn.execute("""UPDATE note SET meta = '{"n": 7}'""")
    inspect(both[0]).outcomes.collect()
    persist(both[1], "note")
    everywhere(both, Note, 1, Note(1, "third", ["c"], {"n": 7}))
    assert psql.execute("SELECT text, tags::text, meta::text FROM note").fetchall() == [("third", '["c"]', '{"n": 7}')]


@pytest.mark.parametrize("kind", ["a part", "an increment", "a part of one, another whole"])
def test_a_deferred_write_that_waits_for_a_change_made_outside_keeps_its_columns(
    make: MakeStore, psql: psycopg.Connection[Any], outside_dsn: str, kind: str
) -> None:
    both = by_hand(make, Point)
    both[0].set_many(Point, {id: Point(id, 1, 1) for id in "ab"})
    if kind == "an increment":
        both[0].increment(Point, "b", x=6)
    else:
        both[0].update(Point, "b", x=7)
    if kind == "a part of one, another whole":
        both[0].set(Point, "a", Point("a", 7, 1))
    hand_off(both[0])
    with worker_waiting(outside_dsn, "UPDATE point SET y = 9", lambda: persist(both[1], "point")):
        pass
    assert psql.execute("SELECT x, y FROM point WHERE id = 'b'").fetchall() == [(7, 9)]
    both[0].flush_dirty(10)
    everywhere(both, Point, "b", Point("b", 7, 9))


def test_a_change_made_outside_over_one_that_is_newer_than_a_deferred_write_keeps_both(
    make: MakeStore, psql: psycopg.Connection[Any]
) -> None:
    both = by_hand(make)
    both[0].set_many(Note, {1: Note(1, "first", ["a"])})
    both[0].set(Note, 1, Note(1, "pending", ["b"]))
    comes_after(both[1], both[0])
    both[1].set_many(Note, {1: Note(1, "whole", ["c"])})
    psql.execute("UPDATE note SET text = 'outside'")
    both[0].flush_dirty(10)
    assert psql.execute("SELECT text, tags::text FROM note").fetchall() == [("outside", '["c"]')]


def test_a_deferred_write_after_a_change_made_outside_is_newer(make: MakeStore, psql: psycopg.Connection[Any]) -> None:
    both = by_hand(make)
    both[0].set_many(Note, {1: Note(1, "first")})
    psql.execute("UPDATE note SET text = 'outside'")
    everywhere(both, Note, 1, Note(1, "outside"))
    both[0].set(Note, 1, Note(1, "later"))
    hand_off(both[0])
    everywhere(both, Note, 1, Note(1, "later"))
    persist(both[1], "note")
    both[0].flush_dirty(10)
    assert psql.execute("SELECT text FROM note").fetchall() == [("later",)]


def test_what_was_deleted_outside_stays_deleted(make: MakeStore, psql: psycopg.Connection[Any]) -> None:
    both = by_hand(make)
    both[0].set_many(Note, {1: Note(1, "first")})
    both[0].set(Note, 1, Note(1, "pending"))
    hand_off(both[0])
    psql.execute("DELETE FROM note")
    persist(both[1], "note")
    everywhere(both, Note, 1, None)
    assert psql.execute("SELECT * FROM note").fetchall() == []
    both[0].flush_dirty(10)
    comes_after(both[1], both[0])
    both[1].set(Note, 1, Note(1, "again"))
    both[1].flush_dirty(10)
    assert psql.execute("SELECT text FROM note").fetchall() == [("again",)]


AGAIN = """
CREATE FUNCTION again() RETURNS trigger LANGUAGE plpgsql AS
    $$BEGIN UPDATE counted SET seen = seen + 1 WHERE id = NEW.id; RETURN NULL; END$$;
CREATE TRIGGER again AFTER UPDATE ON counted FOR EACH ROW WHEN (pg_trigger_depth() = 0) EXECUTE FUNCTION again()"""


@dataclass
class Counted:
    """A record of which a trigger counts the changes."""

    id: Annotated[str, strata.PrimaryKey]
    x: int = 0
    y: int = 0
    z: int = 0
    seen: int = 0


@pytest.mark.parametrize("call", ["increment", "update"])
def test_a_trigger_that_updates_the_row_once_more_costs_no_deferred_write(
    make: MakeStore, psql: psycopg.Connection[Any], call: str
) -> None:
    writers = dict(zip("xyz", (*by_hand(make, Counted), by_hand(make, Counted)[0]), strict=True))
    writers["x"].set_many(Counted, {"a": Counted("a")})
    psql.execute(AGAIN)
    for number in (1, 2, 3):
        for column, store in writers.items():
            getattr(store, call)(Counted, "a", **{column: number})
        for store in reversed(writers.values()):  # first what was written last
            hand_off(store)
            persist(store, "counted")
    for store in writers.values():
        store.flush_dirty(10)
        assert store.dead_letters.list() == []
    wanted = 6 if call == "increment" else 3
    assert psql.execute("SELECT x, y, z FROM counted").fetchall() == [(wanted,) * 3]


OWNERS = """
CREATE FUNCTION owner_s() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN
    IF TG_OP = 'DELETE' OR NEW.y < 0 THEN RETURN NULL; END IF;
    NEW.x := NEW.x + 100;
    RETURN NEW;
END$$;
CREATE TRIGGER zzz BEFORE UPDATE OR DELETE ON point FOR EACH ROW EXECUTE FUNCTION owner_s()"""


@pytest.mark.parametrize("change", ["UPDATE point SET y = -1", "DELETE FROM point"])
def test_what_a_trigger_of_the_owner_s_takes_back_is_no_change(
    make: MakeStore, psql: psycopg.Connection[Any], change: str
) -> None:
    both = by_hand(make, Point)
    both[0].set_many(Point, {"a": Point("a", 1, 1)})
    psql.execute(OWNERS)
    before = version(psql, "point", "a")
    both[0].increment(Point, "a", x=5)
    hand_off(both[0])
    psql.execute(change)
    assert version(psql, "point", "a") == before
    assert psql.execute("SELECT FROM _strata_tombstones").fetchall() == []
    psql.execute("DROP TRIGGER zzz ON point")
    persist(both[1], "point")
    assert psql.execute("SELECT x, y FROM point").fetchall() == [(6, 1)]
    everywhere(both, Point, "a", Point("a", 6, 1))


def test_what_a_trigger_of_the_owner_s_changes_besides_counts_as_changed(
    make: MakeStore, psql: psycopg.Connection[Any]
) -> None:
    both = by_hand(make, Point)
    both[0].set_many(Point, {"a": Point("a", 1, 1)})
    both[0].update(Point, "a", x=5)
    hand_off(both[0])
    psql.execute(OWNERS)
    psql.execute("UPDATE point SET y = 2")
    psql.execute("DROP TRIGGER zzz ON point")
    persist(both[1], "point")
    assert psql.execute("SELECT x, y FROM point").fetchall() == [(101, 2)]
    everywhere(both, Point, "a", Point("a", 101, 2))


def test_what_was_written_before_a_truncation_is_a_dead_letter(make: MakeStore, psql: psycopg.Connection[Any]) -> None:
    both = by_hand(make)
    both[0].set_many(Note, {1: Note(1, "first")})
    both[0].set(Note, 1, Note(1, "pending"))
    hand_off(both[0])
    psql.execute("TRUNCATE note")
    persist(both[1], "note")
    assert psql.execute("SELECT * FROM note").fetchall() == []
    assert [letter.key for letter in both[0].dead_letters.list("note")] == [1]
    everywhere(both, Note, 1, None)


# -- migration ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("partitioned", [False, True], ids=["plain", "partitioned"])
def test_migrate_installs_it_once_also_on_a_table_that_is_there(make: MakeStore, partitioned: bool) -> None:
    by = "id" if partitioned else None
    before = make()
    before.register(schema(Note, l3=PostgresPolicy(partition_by=by)))
    before.migrate()
    after = make()
    after.register(schema(Note, l3=PostgresPolicy(watch=True, partition_by=by)))
    report = after.migrate()
    assert report.applied and not report.manual
    again = after.migrate()
    assert not again.applied and not again.manual


def test_migrate_says_how_to_end_it_where_the_option_was_turned_off(
    make: MakeStore, psql: psycopg.Connection[Any]
) -> None:
    watched = make()
    watched.register(schema(Note, l3=WATCHED))
    watched.register(schema(Tagged, l3=WATCHED))
    watched.migrate()
    plain = make()
    plain.register(schema(Note))
    plain.register(schema(Tagged))
    report = plain.migrate()
    assert not report.applied
    assert len(report.manual) == 2
    for change in report.manual:
        assert "watch" in change.text
        psql.execute(change.sql)
    assert not plain.migrate().manual
    plain.set(Note, 1, Note(1, "x"))
    psql.execute("UPDATE note SET text = 'y'")
    psql.execute("INSERT INTO note (id, text, tags, meta) VALUES (2, '', '[]', '{}')")
    assert version(psql, "note", 2) == 0


@pytest.mark.parametrize("lacking", ["no triggers", "triggers of another write mode", "a part without them"])
def test_a_watched_table_that_does_not_tell_of_all_its_changes_is_logged(
    make: MakeStore, psql: psycopg.Connection[Any], caplog: pytest.LogCaptureFixture, lacking: str
) -> None:
    caplog.set_level("INFO", "strata")
    by = "id" if lacking == "a part without them" else None
    before, watched = make(), PostgresPolicy(watch=True, partition_by=by)
    before.register(schema(Note, l3=PostgresPolicy() if lacking == "no triggers" else watched))
    before.migrate()
    if by:
        part = psql.execute("SELECT inhrelid::regclass::text FROM pg_inherits WHERE inhparent = 'note'::regclass")
        psql.execute(f"DROP TRIGGER _strata_outside_statement ON {part.fetchall()[0][0]}")
    mode = strata.WriteMode.WRITE_BEHIND if lacking == "triggers of another write mode" else None
    store = make()
    store.register(schema(Note, l3=watched, write_mode=mode))
    listens(store)
    wait_until(lambda: untold(caplog), what="the warning")
    [said] = untold(caplog)
    assert "table='note'" in said and "`strata migrate`" in said
    assert ("other schemas over it" in said) is (lacking != "no triggers")


def test_a_watched_table_that_tells_of_its_changes_is_not_logged_also_where_a_schema_comes_later(
    make: MakeStore, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "strata")
    store = make()
    store.register(schema(Note, l3=WATCHED))
    store.migrate()
    listens(store)
    store.register(schema(Tagged, l3=WATCHED))
    wait_until(lambda: untold(caplog), what="the warning")
    [said] = untold(caplog)
    assert "table='tagged'" in said


def untold(caplog: pytest.LogCaptureFixture) -> list[str]:
    """What was logged of tables that do not tell of changes."""
    told = [record for record in caplog.records if "may go unseen" in record.message]
    assert all(record.levelname == "WARNING" for record in told)
    return [record.message for record in told]


def test_another_role_needs_no_rights_but_those_on_the_table(make: MakeStore, psql: psycopg.Connection[Any]) -> None:
    both = two(make, schema(Note, l3=WATCHED))
    both[0].set(Note, 1, Note(1, "old"))
    role = f"someone_{uuid.uuid4().hex[:8]}"
    psql.execute(f"CREATE ROLE {role}")
    psql.execute(f"GRANT SELECT, UPDATE, DELETE ON note TO {role}")
    psql.execute(f"SET ROLE {role}")
    psql.execute("UPDATE note SET text = 'new'")
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        psql.execute("SELECT _strata_tell('place', 'note', '{}', '{note}', true)")
    psql.execute("RESET ROLE")
    everywhere(both, Note, 1, Note(1, "new"))
    psql.execute(f"DROP OWNED BY {role}; DROP ROLE {role}")


def test_watch_must_be_a_boolean() -> None:
    with pytest.raises(InvalidConfigError, match="watch"):
        PostgresPolicy(watch="yes")  # type: ignore[arg-type]


def test_notifications_that_cannot_be_read_cost_l1_and_nothing_else(
    make: MakeStore, psql: psycopg.Connection[Any]
) -> None:
    store, _ = two(make, Schema(Note, l1=MemPolicy(), l2=RedisPolicy(), l3=WATCHED))
    store.set(Note, 1, Note(1, "kept"))
    for text in ("", "{", '{"table": 1}', '{"table": "other"}', '{"table": "note", "keys": {"x": 1}}'):
        psql.execute("SELECT pg_notify('strata_outside', %s)", [text])
    wait_until(lambda: inspect(store).outside.notices == 5)
    assert inspect(store).outside.unreadable == 4
    assert store.get(Note, 1) == Note(1, "kept")
