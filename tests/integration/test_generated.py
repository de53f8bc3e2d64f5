"""`Generated` keys: the database assigns them, in every mode, over every set of tiers."""

from __future__ import annotations

import subprocess
import sys
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import msgspec
import psycopg
import pydantic
import pytest
from psycopg.conninfo import conninfo_to_dict, make_conninfo

import strata
from strata import (
    AlreadyExistsError,
    ConstraintError,
    DataStore,
    EncodeError,
    HookError,
    InvalidModelError,
    L3PoolConfig,
    L3UnavailableError,
    MemPolicy,
    MigrationError,
    MissingPrimaryKeyError,
    PostgresPolicy,
    RedisPolicy,
    Schema,
    SchemaHooks,
    StrataError,
    WriteMode,
)
from strata.l3.pool import Transaction
from strata.testing import Proxy, inspect
from tests.databases import VERSIONS, ThrowawayPostgres
from tests.stores import MakeStore, stores, sure
from tests.support import wait_until

pytestmark = pytest.mark.both_faces

L1, L2, L3 = MemPolicy(ttl=60), RedisPolicy(ttl=600), PostgresPolicy()
BEHIND = WriteMode.WRITE_BEHIND
TIERS: dict[str, dict[str, Any]] = {
    "through": {"l1": L1, "l2": L2, "l3": L3},
    "through, L1 later": {"l1": L1, "l2": L2, "l3": L3, "write_mode": WriteMode.WRITE_THROUGH_L1_ASYNC},
    "L1+L3": {"l1": L1, "l2": None, "l3": L3},
    "L2+L3": {"l1": None, "l2": L2, "l3": L3},
    "L3": {"l1": None, "l2": None, "l3": L3},
    "behind": {"l1": L1, "l2": L2, "l3": L3, "write_mode": BEHIND},
    "behind, no L2": {"l1": L1, "l2": None, "l3": L3, "write_mode": BEHIND},
}
KEY = b"0123456789abcdef0123456789abcdef"


@dataclass
class Post:
    title: str = ""
    id: Annotated[int | None, strata.PrimaryKey, strata.Generated] = None
    tags: list[str] = field(default_factory=list)
    made: Annotated[datetime | None, strata.AutoNowAdd] = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    id: Annotated[uuid.UUID | None, strata.PrimaryKey, strata.Generated] = None
    title: str = ""


class Struct(msgspec.Struct, frozen=True):
    title: str = ""
    id: Annotated[int | None, strata.PrimaryKey, strata.Generated] = None


class Validated(pydantic.BaseModel):
    id: Annotated[int | None, strata.PrimaryKey, strata.Generated] = None
    title: str = pydantic.Field("", max_length=10)


@dataclass
class Letter:
    """A ciphertext is bound to its record's key, and so made when that is known."""

    text: Annotated[str, strata.Encrypted]
    name: Annotated[str | None, strata.Unique] = None
    id: Annotated[int | None, strata.PrimaryKey, strata.Generated] = None


@dataclass
class Visit:
    at: datetime
    id: Annotated[int | None, strata.PrimaryKey, strata.Generated] = None


MODELS: list[Any] = [Post, Event, Struct, Validated]


@pytest.fixture
def conn(dsn: str) -> Iterator[psycopg.Connection]:
    with psycopg.connect(dsn, autocommit=True) as made:
        yield made


@pytest.fixture(params=TIERS)
def tiers(request: pytest.FixtureRequest) -> dict[str, Any]:
    return TIERS[request.param]


def store_of(make: MakeStore, model: Any = Post, tiers: dict[str, Any] | None = None, **options: Any) -> DataStore:
    tiers = tiers or TIERS["through"]
    store = make(**options.pop("config", {}))
    store.register(Schema(model, name="records", **(tiers | options)))
    store.migrate()
    if tiers["l2"] is not None:
        sure(store)
    return store


# -- what is stored ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("model", MODELS)
def test_insert_returns_the_record_with_its_key(make: MakeStore, tiers: dict[str, Any], model: Any) -> None:
    store = store_of(make, model, tiers)
    given = [model(title=title) for title in "ab"]
    stored = [store.insert("records", record) for record in given]
    assert [record.title for record in stored] == ["a", "b"]
    assert len({record.id for record in stored}) == 2
    assert {type(record.id) for record in stored} == {uuid.UUID if model is Event else int}
    assert all(record.id is None for record in given)
    for record in stored:
        assert type(record) is model
        assert store.get("records", record.id) == record == store.get("records", record.id, force_l3=True)


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("count", [2, 40])
def test_insert_many_returns_the_records_with_their_keys_in_the_order_given(
    make: MakeStore, tiers: dict[str, Any], model: Any, count: int
) -> None:
    store = store_of(make, model, tiers)
    stored = store.insert_many("records", (model(title=str(number)) for number in range(count)))
    assert [record.title for record in stored] == [str(number) for number in range(count)]
    keys = [record.id for record in stored]
    assert len(set(keys)) == count
    if model is not Event:
        assert keys == list(range(1, count + 1))
    assert store.get_many("records", keys) == {record.id: record for record in stored}
    assert store.count("records") == count


def test_records_with_keys_and_without_go_together(make: MakeStore, tiers: dict[str, Any]) -> None:
    store = store_of(make, Post, tiers)
    given = [Post("a"), Post("b", 2), Post("c"), Post("d", 1), Post("e"), Post("f", 99)]
    stored = store.insert_many("records", given)
    assert [post.title for post in stored] == list("abcdef")
    assert [post.id for post in stored] == [3, 2, 4, 1, 5, 99]
    assert store.insert("records", Post("g")).id == 6


def test_a_record_with_a_key_of_its_own_keeps_it(make: MakeStore, tiers: dict[str, Any]) -> None:
    store = store_of(make, Post, tiers)
    assert store.insert("records", Post("a", 7)).id == 7
    with pytest.raises(AlreadyExistsError) as raised:
        store.insert("records", Post("b", 7))
    assert raised.value.key == 7


def test_fields_that_are_encrypted_or_unique_or_stamped(make: MakeStore, tiers: dict[str, Any]) -> None:
    store = store_of(make, Letter, tiers, config={"encryption_key": KEY})
    letter = store.insert("records", Letter("secret", "one"))
    many = store.insert_many("records", [Letter(f"secret {number}") for number in range(20)])
    for stored in [letter, *many]:
        assert store.get("records", stored.id, force_l3=True) == stored
    with pytest.raises(ConstraintError) as raised:
        store.insert("records", Letter("other", "one"))
    assert not isinstance(raised.value, AlreadyExistsError)
    assert store.count("records") == 21


def test_hooks_see_a_record_without_key_before_and_with_it_after(make: MakeStore, tiers: dict[str, Any]) -> None:
    seen: list[Any] = []

    def before(post: Post) -> Post | None:
        seen.append(post.id)
        if post.title == "refuse":
            raise ValueError
        return Post(post.title, 50) if post.title == "given" else None

    hooks = SchemaHooks(before_set=before, after_set=lambda post: seen.append(post.id))
    store = store_of(make, Post, tiers, hooks=hooks)
    store.insert("records", Post("a"))
    store.insert_many("records", [Post("b")])
    assert store.insert("records", Post("given")).id == 50
    with pytest.raises(HookError):
        store.insert("records", Post("refuse"))
    assert seen == [None, 1, None, 2, None, 50, None]


def test_an_assigned_key_ends_an_absence_that_is_remembered(make: MakeStore) -> None:
    remembering = {"l1": MemPolicy(ttl=60, negative_ttl=60), "l2": RedisPolicy(ttl=60, negative_ttl=60), "l3": L3}
    pair = [store_of(make, Post, remembering) for _ in range(2)]
    for store in pair:
        assert store.get("records", 1, default=None) is None
    assert pair[0].insert("records", Post("a")).id == 1
    assert pair[0].get("records", 1).title == "a"
    wait_until(lambda: pair[1].get("records", 1, default=None) is not None, what="that the other hears of it")
    assert pair[1].get("records", 1).title == "a"


def test_every_other_call_needs_the_key(make: MakeStore, tiers: dict[str, Any]) -> None:
    store = store_of(make, Post, tiers)
    for call in (
        lambda: store.set("records", 1, Post("a")),
        lambda: store.set_many("records", {1: Post("a")}),
        lambda: store.tx().set("records", 1, Post("a")),
        lambda: store.get_or_set("records", 1, lambda: Post("a")),
    ):
        with pytest.raises(MissingPrimaryKeyError, match=r"Post\.id is None; use insert, by which the database"):
            call()
    with pytest.raises(StrataError):
        store.get("records", None)  # type: ignore[call-overload]
    assert store.set("records", 1, Post("a", 1)).id == 1


def test_mistakes_are_told_before_a_key_is_drawn(make: MakeStore) -> None:
    store = store_of(make, Validated)
    for wrong in (Validated.model_construct(title=7), Validated.model_construct(title="x" * 11), Post("a")):
        with pytest.raises(EncodeError):
            store.insert("records", wrong)
        with pytest.raises(EncodeError):
            store.insert_many("records", [Validated(title="b"), wrong])
    assert store.insert("records", Validated(title="a")).id == 1


# -- keys of their own ------------------------------------------------------------------------------------------------


def test_an_assigned_key_is_none_that_a_record_was_written_with(make: MakeStore, tiers: dict[str, Any]) -> None:
    store = store_of(make, Post, tiers)
    store.set("records", 1, Post("set", 1))
    store.set_many("records", {number: Post("set_many", number) for number in range(2, 40)})
    store.insert("records", Post("insert", 40))
    store.insert_many("records", [Post("insert_many", number) for number in range(41, 80)])
    with store.tx() as tx:
        tx.set("records", 80, Post("tx", 80))
    store.flush_dirty()
    store.set("records", 81, Post("pending", 81))
    assert store.insert("records", Post("assigned")).id == 82
    assert [post.id for post in store.insert_many("records", [Post(), Post()])] == [83, 84]
    store.flush_dirty()
    assert store.count("records") == 84
    assert store.get("records", 81).title == "pending"


def test_keys_far_ahead_and_near_the_end_leave_room(make: MakeStore, conn: psycopg.Connection) -> None:
    store = store_of(make)
    store.set_many("records", {id: Post("", id) for id in (1, 2, 1_000_000, 2**63 - 1, -5)})
    assert [store.insert("records", Post()).id for _ in range(2)] == [1_000_001, 1_000_002]


def test_many_pending_keys_of_a_deferred_schema_are_passed_by(make: MakeStore) -> None:
    store = store_of(make, Post, TIERS["behind"])
    for number in range(1, 300):
        store.set("records", number, Post("pending", number))
    assigned = store.insert("records", Post("assigned")).id
    assert assigned is not None and assigned >= 300
    store.flush_dirty()
    assert store.count("records") == 300


_WRITER = """
import sys
sys.path.insert(0, sys.argv[3])
from strata import Config, DataStore, MemPolicy, PostgresPolicy, RedisPolicy, Schema, AlreadyExistsError
from tests.integration.test_generated import Post
store = DataStore(Config(postgres_dsn=sys.argv[1], redis_addr=sys.argv[2]))
store.register(Schema(Post, name="records", l1=MemPolicy(), l2=RedisPolicy(), l3=PostgresPolicy()))
own = int(sys.argv[4])
sys.stdin.readline()
for number in range(40):
    print(store.insert("records", Post("assigned")).id)
    try:
        print(store.insert("records", Post("own", own + number * 3)).id)
    except AlreadyExistsError:
        pass
    for post in store.insert_many("records", [Post("assigned") for _ in range(20 if number % 10 == 0 else 2)]):
        print(post.id)
store.close()
"""


def test_two_processes_never_get_one_key(make: MakeStore, dsn: str, redis_addr: str) -> None:
    """Each also inserts keys of its own, right in the way of the sequence."""
    store = store_of(make)
    root = str(Path(__file__).parents[2])
    command = [sys.executable, "-c", _WRITER, dsn, redis_addr, root]
    writers = [
        subprocess.Popen([*command, str(own)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for own in (5, 7)
    ]
    for writer in writers:
        assert writer.stdin is not None
        writer.stdin.write("go\n")
        writer.stdin.flush()
    got = [int(line) for writer in writers for line in writer.communicate(timeout=50)[0].split()]
    assert [writer.returncode for writer in writers] == [0, 0]
    assert len(got) == len(set(got)) >= 2 * (40 + 36 * 2 + 4 * 20)
    assert store.count("records") == len(got)
    assert set(store.get_many("records", got)) == set(got)


def test_threads_never_get_one_key(make: MakeStore, tiers: dict[str, Any]) -> None:
    pair = [store_of(make, Post, tiers) for _ in range(2)]

    def insert(number: int) -> list[Any]:
        store = pair[number % 2]
        return [store.insert("records", Post()).id, *(post.id for post in store.insert_many("records", [Post()] * 20))]

    with ThreadPoolExecutor(4) as pool:
        got = [id for ids in pool.map(insert, range(8)) for id in ids]
    assert len(set(got)) == len(got) == 8 * 21 == pair[0].count("records")


# -- outages ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("many", [False, True], ids=["insert", "insert_many"])
def test_of_an_unknown_outcome_the_error_has_the_keys_and_nothing_is_inserted_twice(
    make: MakeStore, dsn: str, many: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = conninfo_to_dict(dsn)
    with Proxy(f"{place['host']}:{place['port']}") as link:
        through_link = make_conninfo(dsn, host="127.0.0.1", port=link.port)
        impatient = L3PoolConfig(statement_timeout=1.0, lock_timeout=1.0, connect_timeout=2.0)
        store = store_of(make, Post, config={"postgres_dsn": through_link, "l3_pool": impatient})
        store.insert("records", Post("first"))
        commit = Transaction._commit

        def late(transaction: Transaction) -> None:
            link.stall()
            commit(transaction)

        monkeypatch.setattr(Transaction, "_commit", late)
        with pytest.raises(L3UnavailableError) as raised:
            store.insert_many("records", [Post("x"), Post("y")])
        assert raised.value.outcome_unknown and raised.value.keys == (2, 3)
        monkeypatch.setattr(Transaction, "_commit", commit)
        link.resume()
        again = [Post("x", raised.value.keys[0]), Post("y", raised.value.keys[1])]
        try:
            store.insert_many("records", again)
        except AlreadyExistsError:
            pass
        assert store.count("records") == 3
        assert store.get("records", 2).title == "x"


def test_while_l3_is_away_nothing_is_written_and_the_outcome_is_known(make: MakeStore, dsn: str) -> None:
    place = conninfo_to_dict(dsn)
    with Proxy(f"{place['host']}:{place['port']}") as link:
        store = store_of(make, Post, config={"postgres_dsn": make_conninfo(dsn, host="127.0.0.1", port=link.port)})
        store.insert("records", Post())
        link.refuse()
        for call in (lambda: store.insert("records", Post()), lambda: store.insert_many("records", [Post()] * 2)):
            with pytest.raises(L3UnavailableError) as raised:
                call()
            assert not raised.value.outcome_unknown and raised.value.keys == ()


# -- tables -----------------------------------------------------------------------------------------------------------

_SHAPE = """
SELECT a.attname::text, format_type(a.atttypid, a.atttypmod), a.attnotnull, a.attidentity::text,
       pg_get_expr(d.adbin, d.adrelid)
FROM pg_attribute a LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
WHERE a.attrelid = 'records'::regclass AND a.attnum > 0 AND NOT a.attisdropped ORDER BY a.attname
"""


@dataclass
class PlainPost:
    """As an earlier release had it."""

    id: Annotated[int, strata.PrimaryKey]
    title: str = ""
    tags: list[str] = field(default_factory=list)
    made: Annotated[datetime | None, strata.AutoNowAdd] = None


@dataclass
class PlainEvent:
    id: Annotated[uuid.UUID, strata.PrimaryKey]
    title: str = ""


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("partitioned", [False, True], ids=["whole", "partitioned"])
@pytest.mark.parametrize(("before", "model"), [(PlainPost, Post), (PlainEvent, Event)])
@pytest.mark.parametrize("filled", [False, True], ids=["empty", "filled"])
def test_a_migrated_table_is_as_a_fresh_one_and_counts_on(
    redis_addr: str, version: int, partitioned: bool, before: Any, model: Any, filled: bool
) -> None:
    l3 = PostgresPolicy(partition_by="id") if partitioned else L3
    shapes = []
    with ThrowawayPostgres(version) as server:
        for name in ("fresh", "migrated"):
            with stores(server.create_database(name), redis_addr) as make:
                if name == "migrated":
                    old = make(namespace=name)
                    old.register(Schema(before, name="records", l3=l3))
                    old.migrate()
                    ids = [uuid.uuid4() for _ in range(9)] if before is PlainEvent else list(range(1, 10))
                    if filled:
                        old.set_many("records", {id: before(id) for id in ids})
                store = make(namespace=name)
                store.register(Schema(model, name="records", l3=l3))
                report = store.migrate()
                assert report.applied and not report.blocking
                again = make(namespace=name)
                again.register(Schema(model, name="records", l3=l3))
                assert not again.migrate().applied
                stored = store.insert("records", model(title="new"))
                if model is Post:
                    assert stored.id == (10 if name == "migrated" and filled else 1)
                assert len(store.insert_many("records", [model() for _ in range(30)])) == 30
                with psycopg.connect(store.config.postgres_dsn) as conn:
                    shapes.append(conn.execute(_SHAPE).fetchall())
    assert shapes[0] == shapes[1]
    key = next(row for row in shapes[0] if row[0] == "id")
    if model is Event:
        assert key[4] == ("uuidv7()" if version >= 18 else "gen_random_uuid()")
    else:
        assert key[3] == ("d" if not partitioned or version >= 17 else "")


@pytest.mark.parametrize("version", VERSIONS)
def test_keys_of_a_table_that_is_partitioned_by_month(redis_addr: str, version: int) -> None:
    l3 = PostgresPolicy(partition_by="at")
    now, past = datetime.now(UTC), datetime(2001, 2, 3, tzinfo=UTC)
    with ThrowawayPostgres(version) as server, stores(server.dsn, redis_addr) as make:
        store = store_of(make, Visit, l3=l3)
        store.set("records", 2, Visit(past, 2))
        assert [store.insert("records", Visit(at)).id for at in (now, past)] == [1, 3]
        assert [visit.id for visit in store.insert_many("records", [Visit(now)] * 20)] == list(range(4, 24))
        assert not store.migrate().applied


FOREIGN = {
    "serial": "id SERIAL PRIMARY KEY",
    "always": "id BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY",
    "by default": "id INTEGER GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY",
    "a sequence of its own": "id BIGINT PRIMARY KEY DEFAULT nextval('numbers')",
    "a function": "id BIGINT PRIMARY KEY DEFAULT next_number()",
}


@pytest.mark.parametrize("column", FOREIGN.values(), ids=FOREIGN)
def test_a_table_of_others_makes_keys_by_its_own_default(
    make: MakeStore, conn: psycopg.Connection, column: str
) -> None:
    conn.execute('CREATE SEQUENCE numbers START 500; CREATE SEQUENCE "Other Numbers" START 900')
    conn.execute("CREATE FUNCTION next_number() RETURNS BIGINT LANGUAGE sql AS 'SELECT nextval(''\"Other Numbers\"'')'")
    version = "_strata_version BIGINT NOT NULL DEFAULT 0"
    conn.execute(f"CREATE TABLE records ({column}, title TEXT NOT NULL, {version})")
    store = make()
    store.register(Schema(Struct, name="records", l1=L1, l2=L2, l3=PostgresPolicy(managed=False)))
    assert not store.migrate().blocking
    first = store.insert("records", Struct("a")).id
    assert first is not None
    store.set("records", first + 1, Struct("own", first + 1))
    assert [struct.id for struct in store.insert_many("records", [Struct("b")] * 20)] == [*range(first + 2, first + 22)]
    conn.execute("DROP SEQUENCE numbers CASCADE")


def test_a_table_without_a_default_is_told_in_the_report_and_at_the_insert(
    make: MakeStore, conn: psycopg.Connection
) -> None:
    conn.execute("CREATE TABLE records (id BIGINT PRIMARY KEY, title TEXT NOT NULL,"
                 " _strata_version BIGINT NOT NULL DEFAULT 0)")  # fmt: skip
    store = make()
    store.register(Schema(Struct, name="records", l1=L1, l2=L2, l3=PostgresPolicy(managed=False)))
    report = store.migrate()
    assert "ADD GENERATED BY DEFAULT AS IDENTITY" in report.blocking[0].sql
    for call in (lambda: store.insert("records", Struct()), lambda: store.insert_many("records", [Struct()])):
        with pytest.raises(MigrationError, match="column 'id' of table 'records' has no DEFAULT of which a key can be"):
            call()
    assert store.insert("records", Struct("own", 1)).id == 1
    conn.execute(report.blocking[0].sql)
    inspect(store).schemas["records"].rows.table.changed()
    assert store.insert("records", Struct()).id == 2


def test_before_there_is_a_table_the_error_says_to_migrate(make: MakeStore) -> None:
    store = make()
    store.register(Schema(Post, name="records", l3=L3))
    with pytest.raises(MigrationError, match=r"run migrate\(\)"):
        store.insert("records", Post())


def test_a_key_that_may_be_null_is_left_to_be_done_by_hand(make: MakeStore, conn: psycopg.Connection) -> None:
    conn.execute("CREATE TABLE records (id BIGINT UNIQUE, title TEXT NOT NULL)")
    store = make()
    store.register(Schema(Struct, name="records", l3=L3))
    blocking = store.migrate().blocking
    assert len(blocking) == 1 and "SET NOT NULL" in blocking[0].sql
    conn.execute(blocking[0].sql)
    assert not store.migrate().blocking
    assert store.insert("records", Struct()).id == 1


def test_a_default_that_makes_no_new_key_is_told(make: MakeStore, conn: psycopg.Connection) -> None:
    conn.execute("CREATE TABLE records (id BIGINT PRIMARY KEY DEFAULT 7, title TEXT NOT NULL)")
    store = store_of(make, Struct)
    assert store.insert("records", Struct()).id == 7
    with pytest.raises(MigrationError, match="makes keys that have rows already"):
        store.insert("records", Struct())


def test_a_sequence_that_may_not_be_set_is_passed_step_by_step(make: MakeStore, conn: psycopg.Connection) -> None:
    store = store_of(make)
    role = conn.execute("SELECT 'writer_' || pg_backend_pid()").fetchone()[0]  # type: ignore[index]
    conn.execute(f"CREATE ROLE {role} LOGIN PASSWORD 'w'")
    try:
        conn.execute(f"GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO {role};"
                     f" GRANT USAGE ON ALL SEQUENCES IN SCHEMA public TO {role}")  # fmt: skip
        store.set_many("records", {number: Post("", number) for number in range(1, 200)})
        other = make(postgres_dsn=make_conninfo(store.config.postgres_dsn, user=role, password="w"))
        other.register(Schema(Post, name="records", l1=L1, l2=L2, l3=L3))
        assert other.insert("records", Post()).id >= 200  # type: ignore[operator]
        other.close()
    finally:
        conn.execute(f"DROP OWNED BY {role}; DROP ROLE {role}")


# -- models -----------------------------------------------------------------------------------------------------------


@dataclass
class NotTheKey:
    id: Annotated[int, strata.PrimaryKey]
    other: Annotated[int | None, strata.Generated] = None


@dataclass
class TextKey:
    id: Annotated[str | None, strata.PrimaryKey, strata.Generated] = None


@dataclass
class NeverNone:
    id: Annotated[int, strata.PrimaryKey, strata.Generated]


@dataclass
class WithDefault:
    id: Annotated[int | None, strata.PrimaryKey, strata.Generated, strata.Default(1)] = None


@dataclass
class NoneByDefault:
    id: Annotated[int, strata.PrimaryKey, strata.Generated] = None  # type: ignore[assignment]
    title: str = ""


REFUSED = {
    NotTheKey: r"NotTheKey\.other is Generated and of type int \| None, but not the key",
    TextKey: r"TextKey\.id is Generated and of type str \| None; the database assigns keys of int and UUID",
    NeverNone: r"NeverNone\.id is Generated and of type int, which has no value before it is assigned",
    WithDefault: r"WithDefault\.id is Generated, and has a Default",
}


@pytest.mark.parametrize("model", REFUSED)
def test_what_cannot_be_assigned_is_refused_at_register(make: MakeStore, model: Any) -> None:
    with pytest.raises(InvalidModelError, match=REFUSED[model]):
        make().register(Schema(model, name="records", l3=L3))


def test_without_l3_there_is_nobody_to_assign_a_key(make: MakeStore) -> None:
    with pytest.raises(InvalidModelError, match=r"Post\.id is Generated and of type int \| None, but schema 'records'"):
        make().register(Schema(Post, name="records", l1=L1, l2=L2))


def test_a_key_may_be_none_by_its_default_alone(make: MakeStore) -> None:
    assert store_of(make, NoneByDefault).insert("records", NoneByDefault(title="a")) == NoneByDefault(1, "a")


def test_a_row_always_has_its_key(make: MakeStore) -> None:
    store = store_of(make)
    store.insert("records", Post("a"))
    assert [post.id for post in store.search("records")] == [1]
    assert store.update("records", 1, title="b").id == 1
    assert store.modify("records", 1, lambda post: Post("c", post.id)).title == "c"
