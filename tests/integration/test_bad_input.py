"""Wrong input gets the named error before any tier is touched."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Annotated, Any

import pytest
import redis

import strata
from strata import Config, DataStore, MemPolicy, PostgresPolicy, RedisPolicy, Schema, WriteMode
from strata.testing import inspect
from tests.behind import deferred
from tests.models import Account, Note, Player, Point
from tests.stores import MakeStore, schema


@pytest.fixture
def store(make: MakeStore) -> DataStore:
    store = make()
    store.register(schema(Note, name="notes"))
    store.register(schema(Player, name="players"))
    store.migrate()
    return store


def test_an_unknown_schema_is_named(store: DataStore) -> None:
    for call in (lambda: store.get("nope", 1), lambda: store.set(Point, "a", Point("a")), lambda: store.get([], 1)):  # type: ignore[call-overload]
        with pytest.raises(strata.SchemaNotFoundError, match="registered"):
            call()


def test_a_schema_is_registered_once(store: DataStore) -> None:
    with pytest.raises(strata.SchemaDuplicateError, match="notes"):
        store.register(schema(Note, name="notes"))


def test_two_schemas_may_share_a_table_only_if_its_columns_and_partitions_are_the_same(make: MakeStore) -> None:
    @dataclass
    class Other:
        id: Annotated[int, strata.PrimaryKey]
        text: str

    store = make()
    store.register(schema(Note, name="one", l3=PostgresPolicy(table_name="notes")))
    store.register(schema(Note, name="same", l3=PostgresPolicy(table_name="notes")))
    with pytest.raises(strata.InvalidModelError, match="'one' and 'two' have other columns but the same table 'notes'"):
        store.register(schema(Other, name="two", l3=PostgresPolicy(table_name="notes")))
    with pytest.raises(strata.InvalidModelError, match="'one' and 'two' have another partition_by but the same table"):
        store.register(schema(Note, name="two", l3=PostgresPolicy(table_name="notes", partition_by="id")))
    with pytest.raises(strata.InvalidModelError, match="one of them is written behind"):
        store.register(deferred(Note, name="two", l3=PostgresPolicy(table_name="notes")))
    assert not store.migrate().manual


def test_a_model_needs_a_key(store: DataStore) -> None:
    @dataclass
    class Keyless:
        name: str

    with pytest.raises(strata.NoPrimaryKeyError, match="Keyless"):
        store.register(schema(Keyless))


@pytest.mark.parametrize("model", [int, None, "Note", object()])
def test_what_is_not_a_model_is_refused(store: DataStore, model: Any) -> None:
    with pytest.raises(strata.InvalidModelError):
        store.register(Schema(model, name="x", l1=MemPolicy()))


def test_an_unsupported_type_is_named_with_class_and_field(store: DataStore) -> None:
    @dataclass
    class Odd:
        id: Annotated[str, strata.PrimaryKey]
        worse: complex = 0j

    with pytest.raises(strata.InvalidModelError, match=r"Odd.*worse.*complex|worse.*Odd"):
        store.register(schema(Odd))


@pytest.mark.parametrize("name", ["bad-name", "1st", "a b", 'x"; DROP TABLE y', "x" * 64, "ä"])
def test_a_name_that_is_no_identifier_is_refused(store: DataStore, name: str) -> None:
    with pytest.raises(strata.InvalidModelError):
        store.register(schema(Point, name=name))
    with pytest.raises(strata.InvalidModelError):
        store.register(Schema(Point, name="ok", l3=PostgresPolicy(table_name=name)))


@pytest.mark.parametrize(
    ("id", "value"),
    [
        (1, Player("1", "x")),
        (1, {"id": 1}),
        (1, None),
        (2, Note(1)),
        ("1", Note(1)),
        (True, Note(1)),
        (1.0, Note(1)),
        (1, Note(1, text=5)),  # type: ignore[arg-type]
        (1, Note(1, text="nul\0")),
        (1, Note(1, text="\ud800")),
        (1, Note(1, meta={"n": float("nan")})),  # type: ignore[dict-item]
        (2**63, Note(2**63)),
        (None, Note(1)),
        ([], Note(1)),
    ],
)
def test_a_wrong_value_is_an_encode_error_and_nothing_is_written(
    store: DataStore, redis_addr: str, id: Any, value: Any
) -> None:
    with pytest.raises(strata.EncodeError):
        store.set("notes", id, value)
    with pytest.raises(strata.EncodeError):
        store.set_many("notes", {3: Note(3), **({id: value} if not isinstance(id, list) else {4: Note(5)})})
    assert store.count("notes") == 0
    host, port = redis_addr.rsplit(":", 1)
    assert redis.Redis(host=host, port=int(port)).keys("strata:notes:*") == []


def test_an_encrypted_field_without_a_key_is_an_encode_error(make: MakeStore) -> None:
    store = make()
    store.register(schema(Account, name="accounts"))
    store.migrate()
    with pytest.raises(strata.EncodeError, match="encryption_key"):
        store.set("accounts", "a", Account("a", "Ann", token="t"))
    assert store.count("accounts") == 0


@pytest.mark.parametrize("key", [b"short", b"x" * 31, b"x" * 33, "x" * 32])
def test_a_key_of_the_wrong_length_is_refused_and_not_printed(key: Any) -> None:
    with pytest.raises(strata.InvalidConfigError, match="32") as caught:
        Config(encryption_key=key)
    assert "xxx" not in str(caught.value)


@pytest.mark.parametrize("dsn", ["nonsense", "postgres://u:hunter2@host:port/x", "host=a password=hunter2 nope"])
def test_a_wrong_dsn_is_refused_without_its_password(dsn: str) -> None:
    with pytest.raises(strata.InvalidConfigError, match="postgres_dsn") as caught:
        DataStore(Config(postgres_dsn=dsn)).register(Schema(Point, name="p", l3=PostgresPolicy()))
    assert "hunter2" not in str(caught.value) + repr(caught.value.__cause__)


def test_a_schema_needs_a_tier() -> None:
    with DataStore(Config()) as store, pytest.raises(strata.InvalidConfigError, match="tier"):
        store.register(Schema(Point))


def test_write_behind_needs_a_database(redis_addr: str) -> None:
    with DataStore(Config(redis_addr=redis_addr)) as store:
        with pytest.raises(strata.InvalidConfigError, match="L3"):
            store.register(Schema(Point, name="points", l2=RedisPolicy(), write_mode=strata.WriteMode.WRITE_BEHIND))


def test_servers_that_are_not_there_raise_the_error_of_their_tier(dsn: str, redis_addr: str) -> None:
    nowhere = "postgres://nobody@127.0.0.1:1/nothing"
    with DataStore(Config(postgres_dsn=nowhere, redis_addr=redis_addr)) as store:
        points = store.register(schema(Point, name="points"))
        for call in (lambda: points.get("a"), lambda: points.set("a", Point("a")), lambda: store.migrate()):
            with pytest.raises(strata.L3UnavailableError):
                call()
    with DataStore(Config(postgres_dsn=dsn, redis_addr="127.0.0.1:1")) as store:
        points = store.register(Schema(Point, name="points", l1=MemPolicy(), l2=RedisPolicy()))
        with pytest.raises(strata.L2UnavailableError):
            points.set("a", Point("a"))
        with pytest.raises(strata.L2UnavailableError):
            points.get("a")
    with DataStore(Config(postgres_dsn=nowhere, redis_addr="127.0.0.1:1")) as store:
        points = store.register(schema(Point, name="points"))
        with pytest.raises(strata.UnavailableError):
            points.get("a")


def test_a_config_prints_no_secret() -> None:
    config = Config(
        postgres_dsn="postgres://me:hunter2@host/db?password=hunter2",
        redis_addr="redis://:hunter2@host:1/0",
        redis_password="hunter2",
        broker_url="amqp://me:hunter2@host//",
        encryption_key=b"hunter2-" * 4,
    )
    assert "hunter2" not in repr(config)


def test_config_reads_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STRATA_POSTGRES_DSN", "postgres://x/y")
    monkeypatch.setenv("STRATA_WRITE_BEHIND_MAX_RETRY", "7")
    monkeypatch.setenv("STRATA_DEFAULT_WRITE_MODE", "write_behind")
    monkeypatch.setenv("STRATA_ENCRYPTION_KEY", "a2tra2tra2tra2tra2tra2tra2tra2tra2tra2tra2s=")
    monkeypatch.setenv("STRATA_L3_POOL", "max_conns=3")
    config = Config.from_env(redis_addr="h:1")
    assert config.postgres_dsn == "postgres://x/y"
    assert (config.write_behind_max_retry, config.l3_pool.max_conns, config.redis_addr) == (7, 3, "h:1")
    assert config.default_write_mode is WriteMode.WRITE_BEHIND
    assert config.encryption_key == b"k" * 32
    monkeypatch.setenv("STRATA_REDIS_DB", "many")
    with pytest.raises(strata.InvalidConfigError, match="STRATA_REDIS_DB"):
        Config.from_env()


class Unhashed:
    def __hash__(self) -> int:
        raise ValueError("no hash")


class Unequal:
    def __hash__(self) -> int:
        return hash(1)

    def __eq__(self, other: object) -> bool:
        raise ValueError("not to be compared")


class Text(enum.StrEnum):
    A = "a"


@pytest.mark.parametrize("id", [Unhashed(), Unequal()])
def test_a_key_that_cannot_be_looked_up_is_an_encode_error(store: DataStore, id: Any) -> None:
    for call in (store.get, store.exists, store.delete, store.invalidate):
        with pytest.raises(strata.EncodeError, match="key of Note"):
            call("notes", id)
    with pytest.raises(strata.EncodeError, match="key of Note"):
        store.get_many("notes", [id])
    with pytest.raises(strata.EncodeError, match="key of Note"):
        store.set("notes", id, Note(1))


def test_a_key_that_cannot_be_looked_up_is_refused_where_l1_has_one_of_its_hash(make: MakeStore) -> None:
    store = make()
    notes = store.register(schema(Note, name="notes", l2=None, l3=None))
    notes.set(1, Note(1))
    ids: tuple[Any, ...] = (Unhashed(), Unequal())
    for id in ids:
        with pytest.raises(strata.EncodeError, match="key of Note"):
            notes.get(id, default=None)
        with pytest.raises(strata.EncodeError, match="key of Note"):
            store.get(Note, id)


def test_a_record_whose_field_cannot_be_read_is_an_encode_error(make: MakeStore) -> None:
    @dataclass
    class Shy:
        id: Annotated[str, strata.PrimaryKey]
        level: int = 0

        def __getattribute__(self, name: str) -> Any:
            if name == "level" and shy:
                raise RuntimeError("not today")
            return object.__getattribute__(self, name)

    shy = False
    things = make().register(schema(Shy, name="things", l2=None, l3=None))
    record = Shy("a")
    shy = True
    for call in (lambda: things.set("a", record), lambda: things.set_many({"a": record})):
        with pytest.raises(strata.EncodeError, match=r"Shy\.level") as caught:
            call()
        assert isinstance(caught.value.__cause__, RuntimeError)


@pytest.mark.parametrize("mode", [WriteMode.WRITE_THROUGH, WriteMode.WRITE_BEHIND])
def test_a_member_of_an_enum_of_texts_is_the_key_that_it_spells(make: MakeStore, mode: WriteMode) -> None:
    store = make()
    points = store.register(schema(Point, name="points", write_mode=mode))
    store.migrate()
    points.set(Text.A, Point(Text.A, 1))
    for _ in range(2):  # out of L1, and from below
        assert points.get(Text.A).id == "a" and points.exists(Text.A)
        assert points.get_many([Text.A]) == {"a": points.get("a")}
        store.flush_dirty(10)
        points.invalidate(Text.A)
    assert type(points.get(Text.A).id) is str
    points.set_many({Text.A: Point("a", 2)})
    assert points.get("a").x == 2
    with store.tx() as tx:
        tx.set(Point, Text.A, Point("a", 3))
    assert points.get("a").x == 3
    points.delete(Text.A)
    assert points.get("a", default=None) is None
    points.delete_many([Text.A])
    assert all(type(key) is str for key in inspect(store).schemas["points"].l1.entries)


def test_a_word_is_no_flag_of_dead_letters(make: MakeStore) -> None:
    store = make()
    store.register(schema(Note, name="notes", write_mode=WriteMode.WRITE_BEHIND))
    for call in (store.dead_letters.retry, store.dead_letters.discard):
        with pytest.raises(strata.InvalidConfigError, match="all"):
            call(all="yes")  # type: ignore[arg-type]
